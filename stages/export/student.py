"""A trained student with its encoder and its confidence, and running it in PyTorch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.acoustic.checkpoint import Checkpoint
from stages.acoustic.encoding import (
    FrozenEncoder,
    encode,
    feature_header,
    load_encoder,
)
from stages.acoustic.params import AcousticParams
from stages.cache.format import Header
from stages.core.errors import CacheError
from stages.core.labels import Labels, segments
from stages.core.results import require
from stages.core.runtime import one_thread
from stages.export.graph import Confidence, student_graph
from stages.inference.classifier import IntentClassifier, OnnxSession, Outputs
from stages.student.model import AcousticLinguisticNetwork, load_student
from stages.student.selection import choose_student
from stages.student.trained import load_networks

REJECTION_FIX = "run `dvc repro rejection`"


@dataclass(frozen=True)
class Trained:
    """A student, or several seeds of one that answer together.

    Attributes:
        name: `baseline2` or `aln-0.8`.
        seeds: of the networks.
        networks: frozen, on the CPU.
        encoder: that makes their features.
        header: of these features.
        labels: of the corpus.
        measured: what the rejection stage found of them.
    """

    name: str
    seeds: list[int]
    networks: list[AcousticLinguisticNetwork]
    encoder: FrozenEncoder
    header: Header
    labels: Labels
    measured: Mapping[str, Any]

    @property
    def confidence(self) -> Confidence:
        """How logits become probabilities and a score."""
        return Confidence(self.measured["temperature"], self.measured["score"])


def load_trained(
    folder: Path, acoustic: AcousticParams, rejection: Path, *, ensemble: bool = False
) -> Trained:
    """The best seed of a student on valid, or all of them, with what belongs to it.

    Args:
        folder: the student, named after itself.
        acoustic: its encoder.
        rejection: folder of the rejection stage, which was made from this student.
        ensemble: all seeds instead of the best.

    Raises:
        CacheError: a result that is missing, damaged or made from something else.
        InputError: the encoder cannot be loaded.
    """
    name = folder.resolve().name
    found = json.loads((rejection / "rejection.json").read_text("utf-8"))
    entry = found["students"][name]
    _, best = choose_student({name: folder})
    encoder = load_encoder(acoustic)
    header = feature_header(encoder, acoustic)
    _, about = load_student(folder / f"model-{best}.safetensors")
    labels = Labels.from_json(about["intents"])
    networks = {
        seed: network
        for _, seed, network in load_networks({name: folder}, labels, header)
    }
    seeds = sorted(networks) if ensemble else [best]
    measured = entry["ensemble"] if ensemble else entry["seeds"][str(best)]
    return Trained(
        name=name,
        seeds=seeds,
        networks=[networks[seed] for seed in seeds],
        encoder=encoder,
        header=header,
        labels=labels,
        measured={**measured, "share": found["share"]},
    )


@torch.inference_mode()
def probabilities(trained: Trained, wave: np.ndarray) -> np.ndarray:
    """The probabilities (values of all slots,) of a wave, by the paper's equations."""
    features = torch.from_numpy(_features(trained.encoder, wave))[None]
    lengths = torch.tensor([features.shape[1]])
    each = [network(features, lengths).logits for network in trained.networks]
    logits, sizes = each[0], trained.labels.sizes
    if len(each) > 1:
        logits = torch.stack([_softmax(one, sizes) for one in each]).mean(0).log()
    return _softmax(logits / trained.confidence.temperature, sizes)[0].numpy()


def _softmax(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Of each slot: (batch, values of all slots)."""
    return torch.cat([part.softmax(1) for part in segments(logits, sizes)], dim=1)


def student_classifier(
    folder: Path, acoustic: AcousticParams, rejection: Path, longest_seconds: float
) -> IntentClassifier:
    """A classifier whose encoder runs in PyTorch, for what cannot be exported.

    Args:
        folder: the student.
        acoustic: its encoder.
        rejection: folder of the rejection stage.
        longest_seconds: the longest recording that is accepted.

    Raises:
        PipelineError: as `load_trained`.
    """
    made_from = {f"student {folder.resolve().name}": folder}
    require(rejection, made_from, fix=REJECTION_FIX)
    trained = load_trained(folder, acoustic, rejection)
    if trained.header.frame_step is None:
        raise CacheError("features without a frame step", path=folder)
    about = {**describe(trained, longest_seconds), "batches": False}
    return IntentClassifier(folder, model=TorchModel(trained), about=about)


def describe(trained: Trained, longest_seconds: float) -> dict[str, Any]:
    """What a classifier must know of a model; part of model.json."""
    window = getattr(trained.encoder, "longest_seconds", None)
    return {
        "intents": trained.labels.to_json(),
        "frame_step": trained.header.frame_step,
        "longest_seconds": min(longest_seconds, window or longest_seconds),
        "batches": isinstance(trained.encoder, Checkpoint),
        "temperature": trained.measured["temperature"],
        "rejection": {
            key: trained.measured[key]
            for key in ("score", "threshold", "quietest", "share")
        },
    }


class TorchModel:
    """The encoder in PyTorch, the student in ONNX Runtime."""

    def __init__(self, trained: Trained) -> None:
        self._encoder = trained.encoder
        graph = student_graph(trained.networks, trained.header.dim, trained.confidence)
        self._session = OnnxSession(graph.SerializeToString())

    def __call__(self, waves: Sequence[np.ndarray]) -> Outputs:
        """The outputs for one wave, (samples,) float32 at 16 kHz, not empty."""
        (wave,) = waves
        return self._session.run({"features": _features(self._encoder, wave)[None]})


def _features(encoder: FrozenEncoder, wave: np.ndarray) -> np.ndarray:
    """The frames (frames, D) of a wave."""
    if not isinstance(encoder, Checkpoint):
        return encoder.encode([wave])[0]
    with one_thread():
        return encode(encoder.encoder, [wave])[0]
