"""Cutting a stream of audio into utterances, by how likely each window is speech."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stages.speech.loading import SAMPLE_RATE

WINDOW = 512
"""Samples of a window, 32 ms."""

Detector = Callable[[np.ndarray], float]
"""Gets consecutive windows, (WINDOW,) float32 at 16 kHz; returns how likely each is
speech, 0 to 1."""


@dataclass(frozen=True)
class Rules:
    """When an utterance begins and ends.

    Attributes:
        threshold: speech begins with a window that is at least so likely speech.
        low: silence is what is less likely speech than that. Both are silero-vad's
            defaults.
        silence: seconds of silence that end an utterance.
        shortest: seconds of speech below which a sound is ignored.
        longest: seconds, padding included, at which an utterance is cut in two.
        padding: seconds of audio to keep before and after the speech.
    """

    threshold: float = 0.5
    low: float = 0.35
    silence: float = 0.4
    shortest: float = 0.2
    longest: float = 30.0
    padding: float = 0.1


@dataclass(frozen=True)
class Utterance:
    """Speech between silences.

    Attributes:
        samples: (samples,) float32 at 16 kHz, with the padding.
        start: of the speech in the stream, seconds.
        end: the same.
    """

    samples: np.ndarray
    start: float
    end: float


@dataclass
class Segmenter:
    """Finds the utterances in a stream, whatever the size of its chunks.

    Args:
        detector: is called once for each window.
        rules: for the utterances.
    """

    detector: Detector
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        self._rest = np.empty(0, np.float32)  # less than a window
        self._windows: list[np.ndarray] = []  # kept, the first is number `_first`
        self._first = 0
        # Numbers of windows: where the speech began, and where the silence that
        # follows it began.
        self._start: int | None = None
        self._silence: int | None = None
        self._padding = round(self.rules.padding * SAMPLE_RATE / WINDOW)
        self._longest = int(self.rules.longest * SAMPLE_RATE / WINDOW)

    def feed(self, samples: np.ndarray) -> list[Utterance]:
        """The utterances that end in `samples`, (samples,) float32 at 16 kHz."""
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) // WINDOW * WINDOW
        self._rest = joined[whole:]
        found = [self._add(window) for window in joined[:whole].reshape(-1, WINDOW)]
        return [one for one in found if one is not None]

    def finish(self) -> list[Utterance]:
        """The utterances that the end of the stream ends."""
        found: list[Utterance | None] = []
        if len(self._rest):
            # Zeros to the end of the window.
            found += self.feed(np.zeros(WINDOW - len(self._rest), np.float32))
        if self._start is not None:
            end = self._first + len(self._windows)
            found.append(self._end(end if self._silence is None else self._silence))
        return [one for one in found if one is not None]

    def _add(self, window: np.ndarray) -> Utterance | None:
        """The utterance that the next window ends."""
        likely = self.detector(window)
        self._windows.append(window)
        end = self._first + len(self._windows)
        if self._start is None:
            if likely < self.rules.threshold:
                self._forget(end - self._padding)
                return None
            self._start = end - 1
        if likely >= self.rules.threshold:
            self._silence = None
        elif likely < self.rules.low and self._silence is None:
            self._silence = end - 1
        if self._silence is not None:
            quiet = (end - self._silence) * WINDOW / SAMPLE_RATE
            if quiet >= self.rules.silence:
                return self._end(self._silence)
        if len(self._windows) >= self._longest:
            return self._end(end if self._silence is None else self._silence)
        return None

    def _end(self, end: int) -> Utterance | None:
        """The utterance, unless it is too short; what follows is silence.

        Args:
            end: number of the window after the speech.
        """
        assert self._start is not None
        start, self._start, self._silence = self._start, None, None
        seconds, after = WINDOW / SAMPLE_RATE, end + self._padding
        found = None
        if (end - start) * seconds >= self.rules.shortest:
            samples = np.concatenate(self._windows[: after - self._first])
            found = Utterance(samples, start * seconds, end * seconds)
            # What was in an utterance is not in the next one.
            self._forget(after)
        self._forget(self._first + len(self._windows) - self._padding)
        return found

    def _forget(self, first: int) -> None:
        """Keep the windows from number `first`."""
        gone = min(max(first - self._first, 0), len(self._windows))
        del self._windows[:gone]
        self._first += gone
