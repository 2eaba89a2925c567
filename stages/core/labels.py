"""What a corpus's utterances are labelled with: one intent, or a value of every slot.

An intent is often a combination, such as action, object and location. A corpus that
names slots has one classifier for each, side by side in one linear layer: its logits
(…, width), one for every value, are cut into a segment per slot. A corpus without slots
has a single one, `intent`. The values of an utterance, joined by `|`, are its frame; it
is right if all slots are.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from stages.core.hashing import fingerprint

INTENT = "intent"
"""The only slot of a corpus without slots."""
NONE = "none"
"""The value of a slot that an utterance does not mention."""
SEPARATOR = "|"
"""Between the values of a frame; no value contains it."""


@dataclass(frozen=True)
class Labels:
    """The values of each slot, sorted; the index of a value is its class number."""

    slots: dict[str, list[str]]

    @classmethod
    def of(cls, frames: Iterable[str], slots: Sequence[str] = ()) -> "Labels":
        """The labels in `frames`; without slots each is an intent."""
        every = cls({slot: [] for slot in slots or [INTENT]}).values(frames)
        return cls({slot: sorted(set(values)) for slot, values in every.items()})

    @classmethod
    def from_json(cls, value: Any) -> "Labels":
        """Labels as `to_json` gives them."""
        if isinstance(value[0], str):
            return cls({INTENT: value})
        return cls({one["slot"]: one["values"] for one in value})

    def to_json(self) -> list[Any]:
        """The sorted intents; or of each slot, in order, its name and its values."""
        if not self.has_slots:
            return self.slots[INTENT]
        return [{"slot": name, "values": own} for name, own in self.slots.items()]

    @property
    def fingerprint(self) -> str:
        """A hash of all of them."""
        return fingerprint({"labels": self.to_json()})

    @property
    def has_slots(self) -> bool:
        """Whether the corpus names slots."""
        return list(self.slots) != [INTENT]

    @property
    def sizes(self) -> list[int]:
        """The number of values of each slot."""
        return [len(values) for values in self.slots.values()]

    @property
    def starts(self) -> list[int]:
        """The place of each slot's first value among the values of all slots."""
        return list(accumulate(self.sizes, initial=0))[:-1]

    def numbers(self, frames: Iterable[str]) -> np.ndarray:
        """Class numbers (U, slots) int64 of frames (U).

        Raises:
            KeyError: a value that is not one of its slot's.
        """
        columns = []
        for slot, values in self.values(frames).items():
            places = {value: number for number, value in enumerate(self.slots[slot])}
            columns.append([places[value] for value in values])
        return np.array(columns, np.int64).T

    def frames(self, numbers: np.ndarray) -> list[str]:
        """The frames (U) of class numbers (U, slots)."""
        columns = [
            [values[number] for number in column]
            for values, column in zip(self.slots.values(), numbers.T, strict=True)
        ]
        return [SEPARATOR.join(row) for row in zip(*columns, strict=True)]

    def values(self, frames: Iterable[str]) -> dict[str, list[str]]:
        """The values of each slot (U) in `frames`."""
        if not self.has_slots:
            return {INTENT: list(frames)}
        rows = [frame.split(SEPARATOR) for frame in frames]
        return {
            slot: [row[place] for row in rows] for place, slot in enumerate(self.slots)
        }

    def untrained(
        self, frames: Sequence[str], in_train: Sequence[bool]
    ) -> Iterator[tuple[int, str, str]]:
        """Place, slot and value of what no frame (U) of train has, slot by slot."""
        for slot, values in self.values(frames).items():
            trained = {
                one for one, known in zip(values, in_train, strict=True) if known
            }
            for place, value in enumerate(values):
                if value not in trained:
                    yield place, slot, value

    def choose(self, logits: np.ndarray) -> np.ndarray:
        """The class numbers (U, slots) of the largest logits (U, width)."""
        parts = segments(logits, self.sizes)
        return np.stack([part.argmax(1) for part in parts], axis=1)

    def confidence(self, probabilities: np.ndarray) -> np.ndarray:
        """The probability (U) of the most probable frame, slots being independent.

        Args:
            probabilities: of each slot's values, side by side (U, width).
        """
        parts = segments(probabilities, self.sizes)
        return np.prod([part.max(1) for part in parts], axis=0)


def segments(logits: Any, sizes: Sequence[int]) -> Iterator[Any]:
    """The logits (…, values) of each slot in `logits` (…, width), array or tensor."""
    for start, stop in pairwise(accumulate(sizes, initial=0)):
        yield logits[..., start:stop]
