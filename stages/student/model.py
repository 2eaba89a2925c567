"""The networks of section 2 of the paper, their loss, and the file a student is in.

Three systems share one module. All read only acoustic features, e_acoust:

    baseline2       e_acoust ─────────────────────────────► intent layer
    aln_linguistic  e_acoust ─► transfer ─► ê_lang ───────► intent layer
    aln             e_acoust ─► transfer ─► ê_lang ─► mapping ─► key, value ┐
                        └──────────────────────────────────────────► query ┴► z
                                                                  z ─► intent layer

That is `transfer: frames`, the paper's: Ê_lang, which learns from the teacher, is the
mean of ê_lang. With `transfer: utterance` it is a linear map of what the intent layer
classifies, the pooled GRU outputs, and a second classifier may take it:

    pooled GRU outputs ─┬─────────────────────────► classifier ─────────┐
                        └► projection ─► Ê_lang ─► teacher classifier ──┴► + ─► logits

A student's file is safetensors: the weights by name, and in its metadata under
`student` one JSON object, whose `network` has the arguments of `build`. (One object,
because safetensors writes several entries in random order.)
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

from stages.core.errors import CacheError
from stages.core.labels import Labels, segments
from stages.student.params import SYSTEMS, Architecture

ATTENTION_LAYERS = ("mapping", "query", "key", "value")
"""What only `aln` has."""


class Output(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor  # (batch, values of all slots)
    pooled: Tensor | None  # Ê_lang (batch, H); None for baseline2
    own: Tensor  # of `logits`, those of the classifier
    taught: Tensor | None = None  # and those of the teacher classifier; None for none


class Losses(NamedTuple):
    """The terms of eq. 4, scalars; `total` also has what the paper has not."""

    total: Tensor
    transfer: Tensor | None  # None for baseline2
    intent: Tensor


class Affine(NamedTuple):
    """An affine map x -> weight · x + bias."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out)


Map = nn.Linear | Affine


class AcousticLinguisticNetwork(nn.Module):
    """The acoustic-linguistic network (ALN) and what it is compared with.

    Args:
        system: one of `SYSTEMS`.
        acoustic_dim: D, values in a frame of e_acoust.
        linguistic_dim: H, values in E_lang; None for baseline2.
        values: how many each slot has; without slots, one number of intents.
        architecture: what the paper leaves open.
    """

    transfer: nn.Linear
    mapping: nn.Linear | None
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        *,
        system: str,
        acoustic_dim: int,
        linguistic_dim: int | None,
        values: Sequence[int],
        architecture: Architecture,
    ) -> None:
        super().__init__()
        if system not in SYSTEMS or (linguistic_dim is None) != (system == "baseline2"):
            raise ValueError(f"{system!r} with linguistic_dim {linguistic_dim}")
        self.system = system
        self.frame_pooling = architecture.frame_pooling
        self.attention = architecture.attention
        self.by_frame = architecture.transfer == "frames"
        self.values = tuple(values)
        self.scale = math.sqrt(acoustic_dim) if architecture.scaling else 1.0
        width = acoustic_dim
        if linguistic_dim is not None:
            self.transfer = nn.Linear(acoustic_dim, linguistic_dim)
            width = linguistic_dim
        if system == "aln":
            self.mapping = None
            if self.attention == "self":
                width = acoustic_dim
            elif architecture.mapping == "before":
                self.mapping = nn.Linear(width, acoustic_dim)
                width = acoustic_dim
            if self.attention != "none":
                self.query = nn.Linear(acoustic_dim, acoustic_dim)
                self.key = nn.Linear(width, acoustic_dim)
                self.value = nn.Linear(width, acoustic_dim)
            width = acoustic_dim
        self.gru = nn.GRU(
            width,
            architecture.gru_width,
            batch_first=True,
            bidirectional=architecture.gru_bidirectional,
        )
        self.dropout = nn.Dropout(architecture.dropout)
        directions = 1 + architecture.gru_bidirectional
        width = architecture.gru_width * directions
        if self.frame_pooling == "attention":
            # The score of a frame for each slot; a bias would cancel in the softmax.
            self.frame_scores = nn.Linear(width, len(values), bias=False)
        # A linear classifier of each slot, side by side.
        self.classifier = nn.Linear(width, sum(values))
        self.projection: nn.Linear | None = None
        self.teacher_classifier: nn.Linear | None = None
        if linguistic_dim is not None and not self.by_frame:
            self.projection = nn.Linear(width, linguistic_dim)
            if architecture.teacher_classifier:
                self.teacher_classifier = nn.Linear(linguistic_dim, sum(values))
        if architecture.initialisation == "aligned":
            self._align()

    @torch.no_grad()
    def _align(self) -> None:
        """Initialise the maps so that attention starts with each frame on itself.

        With PyTorch's initialisation, three maps in a row leave scores near zero: every
        z_t is the mean of all values, the order of the frames is lost, and the intent
        layer learns from a bag of frames until attention sharpens. Here all maps keep
        lengths and angles, mapping undoes transfer, and query and key are equal. Each
        frame then attends mostly to itself, and the network starts nearly as
        `aln_linguistic`. The paper leaves the initialisation open.
        """
        if self.system == "baseline2":
            return
        nn.init.orthogonal_(self.transfer.weight)
        nn.init.zeros_(self.transfer.bias)
        if self.system == "aln_linguistic":
            return
        undone = self.transfer.weight.T  # (D, H)
        if self.mapping is not None:
            self.mapping.weight.copy_(undone)
            nn.init.zeros_(self.mapping.bias)
        if self.attention == "none":
            return
        nn.init.orthogonal_(self.query.weight)
        key, value = self.query.weight, torch.empty_like(self.query.weight)
        nn.init.orthogonal_(value)
        if self.attention == "cross" and self.mapping is None:
            key, value = key @ undone, value @ undone
        self.key.weight.copy_(key)
        self.value.weight.copy_(value)
        for one in (self.query, self.key, self.value):
            nn.init.zeros_(one.bias)

    def forward(self, features: Tensor, lengths: Tensor) -> Output:
        """The equations as in the paper.

        Args:
            features: e_acoust (batch, frames, D), padded on the right with any
                finite values.
            lengths: frames of each utterance (batch), at least 1, int64 on the CPU.
        """
        if self.system == "baseline2":
            return self._answer(self._classify(features, lengths))
        present = frame_mask(lengths, features)  # (batch, frames)
        linguistic = self.transfer(features)  # ê_lang (batch, frames, H)
        total = (linguistic * present[..., None]).sum(1)  # (batch, H)
        mean = total / present.sum(1, keepdim=True)
        if self.system == "aln_linguistic":
            return self._answer(self._classify(linguistic, lengths), mean)
        # Keys and values are made from it. (batch, frames, D); H without mapping.
        source = features if self.attention == "self" else linguistic
        if self.mapping is not None:
            source = self.mapping(source)
        if self.attention == "none":
            return self._answer(self._classify(source, lengths), mean)
        # z (batch, frames, D)
        attended = attend(
            self.query(features),
            self.key(source),
            self.value(source),
            present,
            self.scale,
        )
        return self._answer(self._classify(attended, lengths), mean)

    def folded(self, features: Tensor, means: Tensor, lengths: Tensor) -> Output:
        """`forward` in fewer operations, equal to it up to rounding.

        Between the features x and the gates of the GRU everything but the softmax is
        linear. So the matrices are multiplied with each other once per step instead of
        with every frame; with the paper's sizes that is about half the work:

        - The mean of affine images is the affine image of the mean, so Ê_lang needs
          only the mean features, which never change.
        - Keys and values are affine in x: k_j = K x_j + b, v_j = V x_j + c. In
          q_i · k_j = (Kᵀ q_i) · x_j + q_i · b the last term is the same for every j and
          cancels in the softmax, so scores compare Kᵀ q_i with the features. (The key's
          bias therefore has no gradient: here None, in `forward` zero up to rounding.)
        - Softmax weights sum to 1, so z_i = V (Σ_j a_ij x_j) + c, and V and c are
          merged into the input weights of the GRU, as is the transfer layer in
          `aln_linguistic`.

        Args:
            features: as in `forward`.
            means: of each utterance's features over its frames (batch, D).
            lengths: as in `forward`.
        """
        mean = None
        if self.system != "baseline2" and self.by_frame:
            mean = self.transfer(means)
        queries, before = self.fold()
        if queries is not None:
            # Kᵀ f_q(x) (batch, frames, D)
            asked = functional.linear(features, queries.weight, queries.bias)
            present = frame_mask(lengths, features)
            features = attend(asked, features, features, present, self.scale)
        return self._answer(self._classify(features, lengths, before), mean)

    def folded_scores(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The scores of eq. 2, of a network that attends, without q_i · b.

        Returns:
            (real frames of all utterances, frames), -inf at padded frames.
        """
        queries, _ = self.fold()
        assert queries is not None
        asked = functional.linear(features, queries.weight, queries.bias)
        present = frame_mask(lengths, features)
        return score(asked, features, present, self.scale)[present]

    def fold(self) -> tuple[Affine | None, Map | None]:
        """The merged matrices of `folded`.

        Returns:
            The map from features to the queries that are compared with features, None
            without attention; and the map of every frame before the GRU, None for none.
        """
        if self.system == "baseline2":
            return None, None
        # From the features to the source of keys and values.
        source: Map = self.transfer
        if self.system == "aln_linguistic":
            return None, source
        if self.mapping is not None:
            source = compose(self.mapping, source)
        if self.attention == "none":
            return None, source
        keys = self.key.weight  # K (D, D)
        values: Map = self.value  # V
        if self.attention == "cross":
            keys, values = keys @ source.weight, compose(values, source)
        queries = Affine(keys.T @ self.query.weight, self.query.bias @ keys)
        return queries, values

    def fold_classifiers(self) -> tuple[Affine, Tensor | None]:
        """Both classifiers as one, since both are linear in the pooled GRU outputs.

        Returns:
            The map of a slot's pooled outputs; and, where each slot pools by itself,
            what the teacher classifier takes of their mean (values of all slots,
            directions · width), else None.
        """
        own = self.classifier
        if self.teacher_classifier is None or self.projection is None:
            return Affine(own.weight, own.bias), None
        taught = compose(self.teacher_classifier, self.projection)
        bias = own.bias + taught.bias
        if self.frame_pooling == "attention":
            return Affine(own.weight, bias), taught.weight
        return Affine(own.weight + taught.weight, bias), None

    def _answer(
        self, classified: tuple[Tensor, Tensor], mean: Tensor | None = None
    ) -> Output:
        """What a forward pass gives.

        Args:
            classified: logits, and the pooled outputs of the GRU.
            mean: of ê_lang (batch, H).
        """
        logits, state = classified
        if self.projection is None:
            return Output(logits, mean, own=logits)
        pooled = self.projection(state)
        if self.teacher_classifier is None:
            return Output(logits, pooled, own=logits)
        taught = self.teacher_classifier(pooled)
        # A softmax of the sum is the normalised product of both probabilities.
        return Output(logits + taught, pooled, own=logits, taught=taught)

    def _classify(
        self, sequence: Tensor, lengths: Tensor, before: Map | None = None
    ) -> tuple[Tensor, Tensor]:
        """f(z) of eq. 3: GRU, pooling over frames, linear.

        Args:
            sequence: (batch, frames, F), padded on the right.
            lengths: (batch).
            before: an affine map of every frame, merged into the GRU.

        Returns:
            Logits (batch, values of all slots), and the pooled outputs
            (batch, directions · width); of slots that pool by themselves, the mean.
        """
        packed = pack_padded_sequence(
            sequence, lengths, batch_first=True, enforce_sorted=False
        )
        outputs = self.gru(packed)[0] if before is None else self._run(packed, before)
        # (batch, frames, directions · width); padding must never be the maximum
        states, _ = pad_packed_sequence(
            outputs,
            batch_first=True,
            padding_value=-math.inf if self.frame_pooling == "max" else 0.0,
        )
        if self.frame_pooling == "attention":
            return self._classify_slots(states, lengths)
        if self.frame_pooling == "mean":
            pooled = states.sum(1) / lengths.to(states.device)[:, None]
        else:
            pooled = states.amax(1)
        pooled = self.dropout(pooled)
        return self.classifier(pooled), pooled

    def _classify_slots(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `_classify`, with each slot's own weights of frames.

        Args:
            states: of the GRU (batch, frames, directions · width), padded with 0.
            lengths: (batch).
        """
        scores = self.frame_scores(states)  # (batch, frames, slots)
        present = frame_mask(lengths, states)[..., None]
        weights = scores.masked_fill(~present, -math.inf).softmax(1)
        pooled = self.dropout(weights.mT @ states)  # (batch, slots, directions · width)
        maps = zip(
            pooled.unbind(1),
            self.classifier.weight.split(self.values),
            self.classifier.bias.split(self.values),
            strict=True,
        )
        logits = torch.cat([functional.linear(*one) for one in maps], dim=1)
        return logits, pooled.mean(1)

    def gru_maps(self, before: Map) -> list[tuple[Affine, Affine]]:
        """Of each direction of the GRU, the map of the inputs and of the state.

        Args:
            before: an affine map of every frame, merged into that of the inputs.
        """
        maps = []
        for suffix in ("_l0", "_l0_reverse")[: 1 + self.gru.bidirectional]:
            inputs, recurrent = (
                Affine(
                    getattr(self.gru, f"weight_{kind}{suffix}"),
                    getattr(self.gru, f"bias_{kind}{suffix}"),
                )
                for kind in ("ih", "hh")
            )
            maps.append((compose(inputs, before), recurrent))
        return maps

    def _run(self, packed: PackedSequence, before: Map) -> PackedSequence:
        """The GRU on frames mapped by `before`, without computing the mapped frames."""
        weights = []
        for inputs, recurrent in self.gru_maps(before):
            weights += [inputs.weight, recurrent.weight, inputs.bias, recurrent.bias]
        directions = len(weights) // 4
        start = packed.data.new_zeros(
            directions, int(packed.batch_sizes[0]), self.gru.hidden_size
        )
        outputs, _ = torch.gru(
            packed.data,
            packed.batch_sizes,
            start,
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=self.gru.bidirectional,
        )
        return packed._replace(data=outputs)


def frame_mask(lengths: Tensor, features: Tensor) -> Tensor:
    """Which frames of `features` (batch, frames, …) are real: bool (batch, frames)."""
    frames = torch.arange(features.shape[1], device=features.device)
    return frames < lengths.to(features.device)[:, None]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, present: Tensor, scale: float
) -> Tensor:
    """Eq. 2, one head with d_k = D; padded frames get no weight.

    Args:
        queries: (batch, frames, D).
        keys: (batch, frames, D).
        values: (batch, frames, D).
        present: (batch, frames), which frames are real.
        scale: √d_k, by which scores are divided.

    Returns:
        z (batch, frames, D), undefined at padded frames.
    """
    return score(queries, keys, present, scale).softmax(-1) @ values


def score(queries: Tensor, keys: Tensor, present: Tensor, scale: float) -> Tensor:
    """The scores of eq. 2 (batch, frames, frames), -inf at padded frames."""
    scores = queries @ keys.mT / scale
    return scores.masked_fill(~present[:, None], -math.inf)


def compose(outer: Map, inner: Map) -> Affine:
    """The map x -> outer(inner(x))."""
    bias = functional.linear(inner.bias, outer.weight, outer.bias)
    return Affine(outer.weight @ inner.weight, bias)


def intent_loss(logits: Tensor, labels: Tensor, values: Sequence[int]) -> Tensor:
    """Eq. 3: cross-entropy, the mean over utterances; summed over slots.

    Args:
        logits: (batch, sum of `values`).
        labels: y (batch, slots), class numbers; or each slot's probabilities, side by
            side, as `logits`.
        values: how many each slot has.
    """
    soft = labels.is_floating_point()
    own = segments(labels, values) if soft else labels.unbind(1)
    parts = zip(segments(logits, values), own, strict=True)
    return torch.stack([functional.cross_entropy(*part) for part in parts]).sum()


def losses(
    output: Output,
    labels: Tensor,
    targets: Tensor | None,
    alpha: float | None,
    values: Sequence[int],
) -> Losses:
    """Eq. 4: α · transfer loss + (1 - α) · intent loss; for baseline2 the intent loss.

    The cross-entropy of a teacher classifier is added to it.

    Args:
        output: of the network.
        labels: as `intent_loss` takes them.
        targets: E_lang (batch, H); None for baseline2.
        alpha: α; None for baseline2.
        values: how many each slot has.
    """
    intent = intent_loss(output.own, labels, values)
    if output.pooled is None:
        return Losses(intent, None, intent)
    assert targets is not None and alpha is not None
    transfer = functional.mse_loss(output.pooled, targets)  # eq. 1
    total = alpha * transfer + (1 - alpha) * intent
    if output.taught is not None:
        total = total + intent_loss(output.taught, labels, values)
    return Losses(total, transfer, intent)


def build(network: Mapping[str, Any]) -> AcousticLinguisticNetwork:
    """The network from its arguments as plain values, as a student's file has them."""
    architecture = Architecture(**network["architecture"])
    return AcousticLinguisticNetwork(**{**network, "architecture": architecture})


def save_student(
    path: Path, weights: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Write `weights` and `metadata` (JSON-able, with `network`) to `path`."""
    text = json.dumps(metadata, sort_keys=True)
    save_file(weights, path, metadata={"student": text})


def load_student(path: Path) -> tuple[AcousticLinguisticNetwork, dict[str, Any]]:
    """The network in `path`, in `eval()`, and its metadata.

    Metadata: system, alpha, seed, epoch, parameters, intents (as in intents.json),
    acoustic_encoder, acoustic_fingerprint, targets_encoder and
    targets_fingerprint (the last two None for baseline2), and network, the arguments of
    `build`.

    Raises:
        CacheError: the file is missing, not a student, or its weights do not fit.
    """
    fix = "run `aln-pipeline train-student`"
    if not path.is_file():
        raise CacheError("no student there", path=path, fix=fix)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["student"])
            names = file.keys()
            weights = {name: file.get_tensor(name) for name in names}
        model = build(metadata["network"])
        if list(model.values) != Labels.from_json(metadata["intents"]).sizes:
            raise ValueError("its classes are not its intents")
        model.load_state_dict(weights)
    # SafetensorError: another kind of file; RuntimeError: names or shapes do not fit.
    except (KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise CacheError(f"not a student ({why})", path=path, fix=fix) from error
    return model.eval(), metadata
