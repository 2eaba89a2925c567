"""Classifying many recordings: a line each, and a line for each that cannot be read."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from stages.core.errors import PipelineError
from stages.core.labels import SEPARATOR
from stages.inference.classifier import IntentClassifier, Prediction
from stages.inference.recordings import Recording

FORMATS = ("text", "csv", "jsonl")

_AT_ONCE = 32
"""Recordings read before the first is classified."""

Answer = tuple[Recording, Prediction]


@dataclass
class Counts:
    """What happened so far.

    Attributes:
        slots: right values by slot, of the `in_slots` recordings with a label of all.
    """

    slots: dict[str, int] = field(default_factory=dict)
    classified: int = 0
    rejected: int = 0
    failed: int = 0
    labelled: int = 0
    right: int = 0
    in_slots: int = 0

    def __str__(self) -> str:
        """One line for the end."""
        parts = [f"{self.classified:,} classified"]
        if self.rejected:
            parts.append(f"{self.rejected:,} of them none of the intents")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.labelled:
            share = 100 * self.right / self.labelled
            parts.append(f"{share:.2f}% of {self.labelled:,} as the table has it")
        if self.in_slots:
            parts += [
                f"{slot} {100 * right / self.in_slots:.2f}%"
                for slot, right in self.slots.items()
            ]
        return ", ".join(parts)

    def add(self, recording: Recording, prediction: Prediction) -> None:
        """Count an answer."""
        self.classified += 1
        self.rejected += prediction.rejected
        if recording.intent:
            self.labelled += 1
            self.right += prediction.intent == recording.intent
            values = recording.intent.split(SEPARATOR)
            if len(values) == len(self.slots):
                self.in_slots += 1
                for slot, value in zip(self.slots, values, strict=True):
                    self.slots[slot] += prediction.slots.get(slot) == value


def predict(
    classifier: IntentClassifier,
    recordings: Iterable[Recording | PipelineError],
    *,
    reject: bool,
    failed: Callable[[PipelineError], None],
    counts: Counts,
) -> Iterator[Answer]:
    """Classify recordings, in their order.

    Args:
        classifier: the model.
        recordings: from `find_recordings`.
        reject: whether an answer can be `none`.
        failed: called for each recording that cannot be classified.
        counts: advanced.
    """
    remaining = iter(recordings)
    while some := list(islice(remaining, _AT_ONCE)):
        loaded = []
        for one in some:
            try:
                if isinstance(one, PipelineError):
                    raise one
                wave = classifier.load(one.path if one.data is None else one.data)
                loaded.append((one, wave))
            except PipelineError as error:
                counts.failed += 1
                failed(error)
        waves = [wave for _, wave in loaded]
        predictions = classifier.classify(waves, reject=reject)
        for (recording, _), prediction in zip(loaded, predictions, strict=True):
            counts.add(recording, prediction)
            yield recording, prediction


def header(kind: str, top: int, slots: Iterable[str]) -> str | None:
    """The first line of the output; None if the format has none."""
    if kind != "csv":
        return None
    more = [
        f"{name}_{n}" for n in range(2, top + 1) for name in ("intent", "probability")
    ]
    # A slot can be called `intent`.
    columns = ["id", "intent", "probability", *(f"slots.{slot}" for slot in slots)]
    return _csv_line([*columns, *more])


def line(answer: Answer, kind: str, top: int, slots: Iterable[str]) -> str:
    """An answer as a line of the format `kind`, with the `top` intents.

    Probabilities have six digits, beyond which processors differ.
    """
    recording, prediction = answer
    if kind == "jsonl":
        values = {"id": recording.id, **prediction.as_dict(top)}
        return json.dumps(_rounded(values), ensure_ascii=False)
    first = (prediction.intent, prediction.probability)
    start = 0 if prediction.rejected else 1
    others = prediction.ranked[start:][: top - 1]
    digits = 6 if kind == "csv" else 3
    cells = [recording.id]
    for intent, probability in (first, *others):
        cells += [intent, f"{probability:.{digits}f}"]
    if kind == "csv":
        cells[3:3] = [prediction.slots.get(slot, "") for slot in slots]
    return _csv_line(cells) if kind == "csv" else "  ".join(cells)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def _csv_line(cells: list[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()
