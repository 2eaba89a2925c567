"""From recordings to intents, with the folder that `aln-pipeline export` wrote.

    from pipeline import IntentClassifier

    classify = IntentClassifier("model/")
    answer = classify("command.wav")
    print(answer.intent, answer.probability)

A recording whose score is below the model's threshold, or that is much quieter than any
command, is none of the intents: it is rejected, and its intent is `none`.

With slots, an intent is the value of every slot, joined by `|`, and `answer.slots` has
them by name. The slots are independent: a probability is the product of theirs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np

from stages.core.checksums import read_sealed
from stages.core.errors import CacheError, RecordingError
from stages.core.hashing import hash_bytes
from stages.core.labels import INTENT, Labels, segments
from stages.core.runtime import open_onnx
from stages.speech.loading import (
    SAMPLE_RATE,
    average,
    check_samples,
    decode_audio,
    level,
    load_audio,
    resample,
)

FORMAT = "acoustic-linguistic network"
VERSION = 1
MODEL, ABOUT = "model.onnx", "model.json"

NONE = "none"
"""The answer for what is none of the intents."""

RANKED = 100
"""With slots, most intents in a ranking."""

_BATCH_SECONDS = 15.0
"""Of audio and padding in a batch."""

_FIX = "run `aln-pipeline export DIR`"
_ARRAY = "the array"

Audio = str | Path | bytes | np.ndarray
"""A file or its bytes, or (samples,) or (samples, channels) with full scale at 1."""

Batch = list[str] | list[Path] | list[bytes] | list[np.ndarray]


@dataclass(frozen=True)
class Outputs:
    """What a model gives for a batch."""

    probabilities: np.ndarray  # (batch, values of all slots) float32
    scores: np.ndarray  # (batch) float32, higher for a more likely command
    attention: np.ndarray  # (batch, frames) float32, sums to 1


class Model(Protocol):
    """Runs on a batch of waves."""

    def __call__(self, waves: Sequence[np.ndarray]) -> Outputs:
        """The outputs for waves, each (samples,) float32 at 16 kHz, not empty."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    Attributes:
        intent: the most probable intent, or `none` if the recording was rejected.
        probability: of the most probable intent, calibrated.
        rejected: whether it is none of the intents.
        slots: value by slot, `none` included; empty if the recording was rejected or
            the corpus has no slots.
        ranked: every intent with its probability, the most probable first; with slots
            the first `RANKED`.
        seconds: duration of the audio.
        attention: (frames,) share of each frame in the answer; sums to 1.
    """

    intent: str
    probability: float
    rejected: bool
    slots: dict[str, str]
    ranked: list[tuple[str, float]]
    seconds: float
    attention: np.ndarray

    def as_dict(self, top: int | None = None) -> dict[str, Any]:
        """All but the attention, as plain values; the `top` intents, or all."""
        return {
            "intent": self.intent,
            "probability": self.probability,
            "rejected": self.rejected,
            "slots": self.slots,
            "seconds": self.seconds,
            "ranked": [
                {"intent": intent, "probability": probability}
                for intent, probability in self.ranked[:top]
            ],
        }


class IntentClassifier:
    """Classifies recordings with an exported model.

    Args:
        folder: that `aln-pipeline export` wrote.
        model: runs instead of the folder's `model.onnx`, with `about`.
        about: instead of the folder's `model.json`.

    Attributes:
        about: what is known of the model; the content of `model.json`.
        intents: that it tells apart; empty with slots.
        slots: the values of each slot; empty if the corpus has none.
        longest: number of intents in `ranked`.
        model: runs on a batch of waves.

    Raises:
        CacheError: the folder is not an exported model, or its files are damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        model: Model | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        folder = Path(folder)
        self.about = _read_about(folder) if about is None else about
        self._labels = Labels.from_json(self.about["intents"])
        slots = self._labels.slots
        self.slots = slots if self._labels.has_slots else {}
        self.intents = [] if self.slots else slots[INTENT]
        frames = math.prod(self._labels.sizes)
        self.longest = min(frames, RANKED) if self.slots else frames
        # As the model's scores, so that the threshold itself is accepted.
        self._threshold = np.float32(self.about["rejection"]["threshold"])
        self._quietest: float = self.about["rejection"]["quietest"]
        self.model = model or OnnxModel(folder / MODEL, self.about["model_sha256"])

    @overload
    def __call__(
        self, audio: Audio, sample_rate: int | None = None, *, reject: bool = True
    ) -> Prediction: ...

    @overload
    def __call__(
        self, audio: Batch, sample_rate: int | None = None, *, reject: bool = True
    ) -> list[Prediction]: ...

    def __call__(
        self,
        audio: Audio | Batch,
        sample_rate: int | None = None,
        *,
        reject: bool = True,
    ) -> Prediction | list[Prediction]:
        """The intent of a recording, or of each of several.

        Args:
            audio: a file, an array, or a list of them.
            sample_rate: of the arrays, hertz.
            reject: whether the answer can be `none`.

        Raises:
            RecordingError: not audio, damaged, empty or too long.
            InputError: a file that cannot be read.
        """
        if isinstance(audio, str | Path | bytes | np.ndarray):
            return self.classify([self.load(audio, sample_rate)], reject=reject)[0]
        if not isinstance(audio, list | tuple):
            raise TypeError(f"expected a recording or a list, not {type(audio)}")
        waves = [self.load(one, sample_rate) for one in audio]
        return self.classify(waves, reject=reject)

    def load(self, audio: Audio, sample_rate: int | None = None) -> np.ndarray:
        """(samples,) float32 at 16 kHz, checked; raises as a call does."""
        if isinstance(audio, np.ndarray):
            wave, name = _from_array(audio, sample_rate), _ARRAY
        elif isinstance(audio, bytes):
            wave, name = decode_audio(audio, "the recording"), "the recording"
        else:
            wave, name = load_audio(Path(audio)), str(audio)
        seconds, longest = len(wave) / SAMPLE_RATE, self.about["longest_seconds"]
        if seconds > longest:
            raise RecordingError(
                "the recording is too long",
                path=name,
                found=f"{seconds:.1f} s",
                expected=f"at most {longest:g} s",
                fix="cut it into utterances; `aln-pipeline listen` does so",
            )
        return wave

    def classify(
        self, waves: Sequence[np.ndarray], *, reject: bool = True
    ) -> list[Prediction]:
        """The intent of each wave that `load` returned."""
        found: dict[int, Prediction] = {}
        for places in _batches([len(wave) for wave in waves], self.about["batches"]):
            outputs = self.model([waves[place] for place in places])
            for row, place in enumerate(places):
                found[place] = self._prediction(
                    outputs.probabilities[row],
                    outputs.attention[row],
                    reject and self._is_none(outputs.scores[row], waves[place]),
                    len(waves[place]),
                )
        return [found[place] for place in range(len(waves))]

    def _is_none(self, score: np.ndarray, wave: np.ndarray) -> bool:
        """Whether a wave with this score is none of the intents, or silence."""
        return bool(score < self._threshold) or level(wave) < self._quietest

    def _prediction(
        self,
        probabilities: np.ndarray,
        attention: np.ndarray,
        rejected: bool,
        samples: int,
    ) -> Prediction:
        parts = list(segments(probabilities, self._labels.sizes))
        numbers, products = _rank(parts, self.longest)
        frames = self._labels.frames(numbers)
        ranked = list(zip(frames, products.tolist(), strict=True))
        intent, probability = ranked[0]
        values = self._labels.values([intent]) if self.slots and not rejected else {}
        return Prediction(
            intent=NONE if rejected else intent,
            probability=probability,
            rejected=rejected,
            slots={slot: value for slot, (value,) in values.items()},
            ranked=ranked,
            seconds=samples / SAMPLE_RATE,
            attention=attention[: -(-samples // self.about["frame_step"])],
        )


class OnnxModel:
    """A `model.onnx` in ONNX Runtime.

    Args:
        path: of the file.
        sha256: expected hash of its bytes; None for any.

    Raises:
        CacheError: it is missing or damaged.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CacheError(
                "the model cannot be read", path=path, found=error.strerror, fix=_FIX
            ) from None
        if sha256 is not None and hash_bytes(data) != sha256:
            raise CacheError("not the file that was exported", path=path, fix=_FIX)
        self._session = OnnxSession(data)

    def __call__(self, waves: Sequence[np.ndarray]) -> Outputs:
        """The outputs for waves, each (samples,) float32 at 16 kHz, not empty."""
        lengths = np.array([len(wave) for wave in waves], np.int64)
        batch = np.zeros((len(waves), lengths.max()), np.float32)
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = wave
        return self._session.run({"waveform": batch, "lengths": lengths})


class OnnxSession:
    """A serialised graph with the three outputs, on one thread of a CPU."""

    def __init__(self, graph: bytes) -> None:
        self._session = open_onnx(graph)

    def run(self, inputs: dict[str, np.ndarray]) -> Outputs:
        """The outputs for the graph's inputs."""
        names = ["probabilities", "score", "attention"]
        return Outputs(*self._session.run(names, inputs))


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        about = read_sealed(path)
        found = (about["format"], about["version"])
    except OSError as error:
        reason = f"not an exported model: {error.strerror}"
        raise CacheError(reason, path=path, fix=_FIX) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"not the description of an exported model ({error!r})"
        raise CacheError(reason, path=path, fix=_FIX) from None
    if found != (FORMAT, VERSION):
        raise CacheError(
            "a model of another format",
            path=path,
            found="{} version {}".format(*found),
            expected=f"{FORMAT} version {VERSION}",
            fix=_FIX,
        )
    return about


def _from_array(audio: np.ndarray, sample_rate: int | None) -> np.ndarray:
    """An array as (samples,) float32 at 16 kHz, channels averaged."""
    if not isinstance(sample_rate, int | np.integer) or sample_rate < 1:
        raise TypeError(f"an array needs sample_rate, in hertz, not {sample_rate!r}")
    if not np.issubdtype(audio.dtype, np.floating):
        raise TypeError(
            f"samples must be floats with full scale at 1, not {audio.dtype}; divide "
            "16-bit integers by 32768"
        )
    channels = audio[:, None] if audio.ndim == 1 else audio
    if channels.ndim != 2 or channels.size == 0 or channels.shape[1] > len(channels):
        raise RecordingError(
            "not a recording",
            path=_ARRAY,
            found=f"shape {audio.shape}",
            expected="(samples,) or (samples, channels)",
        )
    check_samples(channels, int(sample_rate), _ARRAY)
    return resample(average(channels, _ARRAY), int(sample_rate))


def _rank(parts: Sequence[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The most probable combinations of a value of each slot, the best first.

    What the best ones have in the first slots is among the best of these, so no more
    than `most` are kept after each.

    Args:
        parts: probabilities (values,) of each slot.
        most: at most so many.

    Returns:
        Class numbers (n, slots) and probabilities (n,).
    """
    numbers, products = np.empty((1, 0), np.int64), np.ones(1)
    for part in parts:
        every = np.outer(products, part)  # (n, values)
        order = np.argsort(-every, axis=None, kind="stable")[:most]
        before, value = np.unravel_index(order, every.shape)
        numbers = np.column_stack([numbers[before], value])
        products = every.ravel()[order]
    return numbers, products


def _batches(lengths: Sequence[int], together: bool) -> list[list[int]]:
    """Places in `lengths`, shortest first, in batches of similar length if `together`.

    A batch has at most `_BATCH_SECONDS` of audio and padding.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        most = _BATCH_SECONDS * SAMPLE_RATE
        if together and batches and (len(batches[-1]) + 1) * lengths[place] <= most:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
