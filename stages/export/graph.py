"""The ONNX graph of an exported model: from a waveform to probabilities.

    waveform       (batch, samples) float32 at 16 kHz, full scale at 1
    lengths        (batch,) int64, the samples of each utterance; what is beyond them is
                   ignored
    probabilities  (batch, intents) float32, calibrated; or each slot's, side by side
    score          (batch,) float32, higher for a more likely command; below the
                   threshold in model.json an utterance is none of the intents
    attention      (batch, frames) float32: the share of each frame in the answer

The student is folded as in `AcousticLinguisticNetwork.folded`; its constants are
computed in double precision.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from stages.acoustic.encoder import Encoder
from stages.acoustic.frames import FRAME_STEP, LEAST_FRAMES
from stages.acoustic.graph import EncoderGraph
from stages.acoustic.graph_builder import GraphBuilder
from stages.student.model import AcousticLinguisticNetwork, Affine, Map

_LOWEST = float(np.finfo(np.float32).min)  # so that padding is never the maximum


@dataclass(frozen=True)
class Confidence:
    """How logits become probabilities and a score.

    Attributes:
        temperature: by which logits are divided.
        score: max_probability or energy.
    """

    temperature: float
    score: str


def whole_graph(
    encoder: Encoder,
    networks: Sequence[AcousticLinguisticNetwork],
    confidence: Confidence,
) -> onnx.ModelProto:
    """The model of a phoneme/word encoder and one student, or the mean of several."""
    graph = EncoderGraph(encoder)
    waves = _padded(graph, "waveform", "lengths")
    sequence, count = graph.encode(waves, "lengths")
    _answer(graph, sequence, count, networks, confidence)
    return graph.model(
        "intents",
        [
            ("waveform", TensorProto.FLOAT, ["batch", "samples"]),
            ("lengths", TensorProto.INT64, ["batch"]),
        ],
        _outputs(networks),
    )


def student_graph(
    networks: Sequence[AcousticLinguisticNetwork], dim: int, confidence: Confidence
) -> onnx.ModelProto:
    """The model of students alone: from `features` (1, frames, dim) to the answer."""
    graph = GraphBuilder()
    sequence = graph.add("Transpose", "features", perm=[1, 0, 2])
    shape = graph.add("Shape", sequence)
    count = graph.add("Gather", shape, graph.integers(0))
    _answer(graph, sequence, count, networks, confidence)
    return graph.model(
        "student",
        [("features", TensorProto.FLOAT, [1, "frames", dim])],
        _outputs(networks),
    )


def _outputs(
    networks: Sequence[AcousticLinguisticNetwork],
) -> list[tuple[str, int, list[str | int]]]:
    intents = networks[0].classifier.out_features
    return [
        ("probabilities", TensorProto.FLOAT, ["batch", intents]),
        ("score", TensorProto.FLOAT, ["batch"]),
        ("attention", TensorProto.FLOAT, ["batch", "frames"]),
    ]


def _padded(graph: GraphBuilder, waves: str, lengths: str) -> str:
    """Zero beyond each length, with as many samples as the encoder's graph expects."""
    waves = graph.add("Unsqueeze", waves, graph.integers(1))
    waves = graph.add("Squeeze", graph.masked(waves, lengths), graph.integers(1))
    samples = graph.add("Gather", graph.add("Shape", waves), graph.integers(1))
    frames = graph.halved(samples, FRAME_STEP)
    frames = graph.add("Max", frames, graph.integers(LEAST_FRAMES))
    whole = graph.add("Mul", frames, graph.integers(FRAME_STEP))
    missing = graph.add("Sub", whole, samples)
    ends = graph.add("Concat", graph.integers(0, 0, 0), missing, axis=0)
    return graph.add("Pad", waves, ends)


def _answer(
    graph: GraphBuilder,
    sequence: str,
    count: str,
    networks: Sequence[AcousticLinguisticNetwork],
    confidence: Confidence,
) -> None:
    """Add the students, and the three outputs.

    Several students answer with the mean of their probabilities.

    Args:
        graph: to which the nodes are added.
        sequence: e_acoust (frames, batch, D).
        count: (batch,) frames of each utterance.
        networks: the students.
        confidence: how logits become probabilities and a score.
    """
    found = [_Student(graph, one).run(sequence, count) for one in networks]
    sizes = networks[0].values
    logits, attention = found[0]
    if len(found) > 1:
        each = [_softmax(graph, logits, sizes) for logits, _ in found]
        logits = graph.add("Log", graph.add("Mean", *each))
        attention = graph.add("Mean", *(attention for _, attention in found))
    temperature = graph.constant(np.array(confidence.temperature, np.float32))
    scaled = graph.add("Div", logits, temperature)
    probabilities = _softmax(graph, scaled, sizes, output="probabilities")
    if confidence.score == "energy":
        energies = [_energy(graph, logits, sizes) for logits, _ in found]
        graph.add("Mean", *energies, output="score")
    else:
        _largest(graph, probabilities, sizes, output="score")
    graph.add("Identity", attention, output="attention")


def _softmax(
    graph: GraphBuilder, logits: str, sizes: Sequence[int], output: str = ""
) -> str:
    """The probabilities of each slot's values, side by side."""
    if len(sizes) == 1:
        return graph.add("Softmax", logits, axis=1, output=output)
    each = [graph.add("Softmax", part, axis=1) for part in _parts(graph, logits, sizes)]
    return graph.add("Concat", *each, axis=1, output=output)


def _energy(graph: GraphBuilder, logits: str, sizes: Sequence[int]) -> str:
    """The logarithm of the sum of each slot's exponentiated logits, summed: (batch)."""
    each = [
        graph.add("ReduceLogSumExp", part, axes=[1], keepdims=0)
        for part in _parts(graph, logits, sizes)
    ]
    return each[0] if len(each) == 1 else graph.add("Sum", *each)


def _largest(
    graph: GraphBuilder, probabilities: str, sizes: Sequence[int], output: str
) -> None:
    """The product of each slot's largest probability: (batch)."""
    if len(sizes) == 1:
        graph.add("ReduceMax", probabilities, axes=[1], keepdims=0, output=output)
        return
    each = [
        graph.add("ReduceMax", part, axes=[1], keepdims=1)
        for part in _parts(graph, probabilities, sizes)
    ]
    together = graph.add("Concat", *each, axis=1)
    graph.add("ReduceProd", together, axes=[1], keepdims=0, output=output)


def _parts(graph: GraphBuilder, values: str, sizes: Sequence[int]) -> list[str]:
    """Each slot's part of (batch, values of all slots)."""
    if len(sizes) == 1:
        return [values]
    return [
        graph.add("Slice", values, *map(graph.integers, (start, stop, 1)))
        for start, stop in pairwise(accumulate(sizes, initial=0))
    ]


class _Student:
    """Adds the nodes of one student."""

    def __init__(self, graph: GraphBuilder, network: AcousticLinguisticNetwork) -> None:
        self.graph = graph
        self.network = copy.deepcopy(network).double().eval().requires_grad_(False)
        self.classifier, self.of_mean = self.network.fold_classifiers()

    def run(self, sequence: str, count: str) -> tuple[str, str]:
        """Logits (batch, values of all slots) and attention (batch, frames)."""
        queries, before = self.network.fold()
        if queries is None:
            return self.classify(sequence, count, before)
        context, weights = self.attend(sequence, count, queries)
        logits, shares = self.classify(context, count, before)
        # (batch, 1, frames) · (batch, frames, frames)
        one = self.graph.integers(1)
        shares = self.graph.add("Unsqueeze", shares, one)
        shares = self.graph.add("MatMul", shares, weights)
        return logits, self.graph.add("Squeeze", shares, one)

    def attend(self, sequence: str, count: str, queries: Affine) -> tuple[str, str]:
        """Eq. 2 on e_acoust: (frames, batch, D), and the weights of each frame.

        Args:
            sequence: e_acoust (frames, batch, D).
            count: (batch,) frames.
            queries: the map from features to what is compared with them.
        """
        graph, scale = self.graph, self.network.scale
        frames = graph.add("Transpose", sequence, perm=[1, 0, 2])
        matrix = self.constant(queries.weight.T / scale)
        asked = graph.add("MatMul", frames, matrix)
        asked = graph.add("Add", asked, self.constant(queries.bias / scale))
        across = graph.add("Transpose", frames, perm=[0, 2, 1])
        scores = graph.add("MatMul", asked, across)  # (batch, frames, frames)
        inside = graph.inside(scores, count)  # (batch, frames)
        inside = graph.add("Unsqueeze", inside, graph.integers(1))
        scores = graph.add("Where", inside, scores, self.number(_LOWEST))
        weights = graph.add("Softmax", scores, axis=2)
        context = graph.add("MatMul", weights, frames)
        return graph.add("Transpose", context, perm=[1, 0, 2]), weights

    def classify(
        self, sequence: str, count: str, before: Map | None
    ) -> tuple[str, str]:
        """Eq. 3: logits (batch, values of all slots), each frame's share in pooling.

        Args:
            sequence: (frames, batch, values).
            count: (batch,) frames.
            before: an affine map of every frame, merged into the GRU.
        """
        graph, network = self.graph, self.network
        inputs = None
        if before is not None:
            inputs = [inputs for inputs, _ in network.gru_maps(before)]
        states = graph.gru(sequence, count, network.gru, inputs)
        # (frames, batch, values) -> (batch, values, frames)
        states = graph.add("Transpose", states, perm=[1, 2, 0])
        inside = graph.inside(states, count)  # (batch, frames)
        if network.frame_pooling == "attention":
            return self.classify_slots(states, inside)
        if network.frame_pooling == "mean":
            number = graph.add("Cast", count, to=TensorProto.FLOAT)
            number = graph.add("Unsqueeze", number, graph.integers(1))
            # The GRU's states are zero beyond an utterance.
            total = graph.add("ReduceSum", states, graph.integers(2), keepdims=0)
            pooled = graph.add("Div", total, number)
            shares = graph.add("Cast", inside, to=TensorProto.FLOAT)
            shares = graph.add("Div", shares, number)
        else:
            inside = graph.add("Unsqueeze", inside, graph.integers(1))
            states = graph.add("Where", inside, states, self.number(_LOWEST))
            pooled = graph.add("ReduceMax", states, axes=[2], keepdims=0)
            shares = self.maxima(states)
        logits = graph.add("MatMul", pooled, self.constant(self.classifier.weight.T))
        return graph.add("Add", logits, self.constant(self.classifier.bias)), shares

    def classify_slots(self, states: str, inside: str) -> tuple[str, str]:
        """Logits and shares where each slot has its own weights of frames.

        Args:
            states: of the GRU (batch, values, frames).
            inside: whether a frame is in its utterance (batch, frames).
        """
        graph, network = self.graph, self.network
        scores, classifier = network.frame_scores, self.classifier
        # (slots, values) · (batch, values, frames)
        found = graph.add("MatMul", self.constant(scores.weight), states)
        inside = graph.add("Unsqueeze", inside, graph.integers(1))
        found = graph.add("Where", inside, found, self.number(_LOWEST))
        weights = graph.add("Softmax", found, axis=2)  # (batch, slots, frames)
        across = graph.add("Transpose", states, perm=[0, 2, 1])
        pooled = graph.add("MatMul", weights, across)  # (batch, slots, values)
        logits = []
        parts = classifier.weight.split(network.values)
        for place, part in enumerate(parts):
            own = graph.add("Gather", pooled, graph.integers(place), axis=1)
            own = graph.add("Squeeze", own, graph.integers(1))
            logits.append(graph.add("MatMul", own, self.constant(part.T)))
        together = graph.add("Concat", *logits, axis=1)
        if self.of_mean is not None:
            mean = graph.add("ReduceMean", pooled, axes=[1], keepdims=0)
            taught = graph.add("MatMul", mean, self.constant(self.of_mean.T))
            together = graph.add("Add", together, taught)
        shares = graph.add("ReduceMean", weights, axes=[1], keepdims=0)
        return graph.add("Add", together, self.constant(classifier.bias)), shares

    def maxima(self, states: str) -> str:
        """The share of the values, (batch, values, frames), largest at each frame."""
        graph = self.graph
        places = graph.add("ArgMax", states, axis=2, keepdims=0)  # (batch, values)
        frames = graph.add("Gather", graph.add("Shape", states), graph.integers(2))
        one_hot = graph.add(
            "OneHot", places, frames, graph.constant(np.array([0, 1], np.float32))
        )  # (batch, values, frames)
        return graph.add("ReduceMean", one_hot, axes=[1], keepdims=0)

    def constant(self, values: Tensor) -> str:
        return self.graph.constant(values.to(torch.float32).numpy())

    def number(self, value: float) -> str:
        return self.graph.constant(np.array(value, np.float32))
