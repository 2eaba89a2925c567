"""Intents of the utterances in a stream: a microphone, or PCM on standard input."""

import math
import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from stages.core.errors import ConfigurationError, InputError, needs_extra
from stages.inference.classifier import IntentClassifier, Prediction
from stages.inference.segmentation import Detector, Rules, Segmenter, Utterance
from stages.speech.loading import SAMPLE_RATE, resample

RATES = (8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
"""Sample rates of a stream, hertz."""

_CHUNK_SECONDS = 0.032

_STOPPED_SECONDS = 5
"""A microphone that gives nothing for so long was disconnected."""

_FROM_PIPE = "arecord -q -t raw -f S16_LE -r 16000 | aln-pipeline listen --stdin …"

Chunk = tuple[np.ndarray, float]
"""Samples, (samples,) float32 with full scale at 1, and when they arrived, seconds."""


@dataclass(frozen=True)
class Heard:
    """The intent of an utterance.

    Attributes:
        start: of the speech in the stream, seconds.
        end: the same.
        delay: seconds from the arrival of the end of the speech to the answer. It
            contains the silence that ended the utterance.
        prediction: of the classifier.
    """

    start: float
    end: float
    delay: float
    prediction: Prediction

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        times = {"start": self.start, "end": self.end, "delay": self.delay}
        rounded = {name: round(value, 3) for name, value in times.items()}
        return rounded | self.prediction.as_dict()

    def __str__(self) -> str:
        return (
            f"{self.start:.2f}–{self.end:.2f} s  {self.prediction.intent}  "
            f"{self.prediction.probability:.2f}  delay {self.delay:.2f} s"
        )


def listen(
    classifier: IntentClassifier,
    detector: Detector,
    chunks: Iterable[Chunk],
    rate: int,
    *,
    reject: bool = True,
) -> Iterator[Heard]:
    """The intent of each utterance, as soon as it ends.

    Args:
        classifier: of the utterances.
        detector: of speech.
        chunks: of the stream.
        rate: of the stream, one of `RATES`.
        reject: whether an intent can be `none`.
    """
    longest = min(Rules.longest, classifier.about["longest_seconds"])
    segmenter = Segmenter(detector, Rules(longest=longest))
    resampler = Resampler(rate)
    # Seconds of the stream that had arrived at a time, of the chunks not yet answered.
    arrivals: deque[tuple[float, float]] = deque()
    samples = 0

    def heard(utterances: list[Utterance]) -> Iterator[Heard]:
        for one in utterances:
            found = classifier(one.samples, SAMPLE_RATE, reject=reject)
            while len(arrivals) > 1 and arrivals[0][0] < one.end:
                arrivals.popleft()
            delay = time.monotonic() - arrivals[0][1]
            yield Heard(one.start, one.end, delay, found)

    for chunk, arrived in chunks:
        samples += len(chunk)
        arrivals.append((samples / rate, arrived))
        yield from heard(segmenter.feed(resampler.feed(chunk)))
        while samples / rate - arrivals[0][0] > longest + 1:
            arrivals.popleft()
    yield from heard(segmenter.feed(resampler.finish()))
    yield from heard(segmenter.finish())


class Resampler:
    """`resample` for a stream: the same samples, whatever the size of its chunks.

    It works on blocks of about 20 ms, each with 10 ms of what is before and after, and
    so far does the kernel not reach.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        # A rate has a whole number of samples in each of so many blocks a second.
        blocks = math.gcd(rate, SAMPLE_RATE)
        step = rate // blocks
        self._context = step * -(-blocks // 100)
        self._block = step * -(-blocks // 50)
        self._held = np.zeros(self._context, np.float32)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """(samples,) at the stream's rate -> what is known of it at 16 kHz."""
        if self._rate == SAMPLE_RATE:
            return samples
        self._held = np.concatenate([self._held, samples])
        size = self._block + 2 * self._context
        found = [np.empty(0, np.float32)]
        while len(self._held) >= size:
            found.append(self._resample(self._held[:size], self._block))
            self._held = self._held[self._block :]
        return np.concatenate(found)

    def finish(self) -> np.ndarray:
        """The rest, when the stream has ended."""
        return self._resample(self._held, len(self._held) - self._context)

    def _resample(self, samples: np.ndarray, count: int) -> np.ndarray:
        """The part of `samples` after the context, `count` long, at 16 kHz."""
        start = self._context * SAMPLE_RATE // self._rate
        length = -(-count * SAMPLE_RATE // self._rate)
        return resample(samples, self._rate)[start : start + length]


def read_pcm(stream: BinaryIO, rate: int) -> Iterator[Chunk]:
    """Chunks of signed 16-bit little-endian mono.

    Raises:
        ConfigurationError: not one of `RATES`.
        InputError: the stream is a WAV file.
    """
    if rate not in RATES:
        raise ConfigurationError(
            "this sample rate is not supported",
            found=rate,
            expected=f"one of {', '.join(map(str, RATES))}",
        )
    size = 2 * int(rate * _CHUNK_SECONDS)
    rest, first = b"", True
    while data := stream.read(size):
        arrived = time.monotonic()
        data = rest + data
        if first and data.startswith(b"RIFF"):
            raise InputError(
                "standard input is a WAV file",
                expected="samples without a header",
                fix="sox FILE.wav -t raw -r 16000 -e signed -b 16 -c 1 - | "
                "aln-pipeline listen --stdin …",
            )
        whole = len(data) // 2 * 2
        rest, first = data[whole:], False
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768, arrived


def open_microphone(device: str | int | None) -> tuple[Iterator[Chunk], int]:
    """Chunks of a microphone, without end, and their rate.

    Args:
        device: name, part of a name or number; None for the system's default.

    Raises:
        ConfigurationError: sounddevice or PortAudio is not installed, there is no such
            microphone, or it cannot be opened.
    """
    sounddevice = _import_sounddevice()
    try:
        found = sounddevice.query_devices(device, "input")
        number: int = found["index"]
        rate = _rate(sounddevice, number, int(found["default_samplerate"]))
    except (ValueError, sounddevice.PortAudioError) as error:
        raise ConfigurationError(
            "no such microphone" if device is not None else "no microphone was found",
            found=str(error),
            expected=_listed(sounddevice),
            fix=f"choose one with --device, or pipe audio: {_FROM_PIPE}",
        ) from None
    return _record(sounddevice, number, rate), rate


def _import_sounddevice() -> Any:
    try:
        with needs_extra("listen"):
            import sounddevice
    except OSError as error:
        raise ConfigurationError(
            "sounddevice cannot load PortAudio",
            found=str(error),
            fix=f"apt install libportaudio2, or pipe audio: {_FROM_PIPE}",
        ) from None
    return sounddevice


def _rate(sounddevice: Any, device: int, default: int) -> int:
    """16 kHz if the device has it, else its default rate."""
    try:
        sounddevice.check_input_settings(device, channels=1, samplerate=SAMPLE_RATE)
    except sounddevice.PortAudioError:
        if default not in RATES:
            raise
        return default
    return SAMPLE_RATE


def _listed(sounddevice: Any) -> str:
    inputs = [
        f"{number} «{one['name']}»"
        for number, one in enumerate(sounddevice.query_devices())
        if one["max_input_channels"] > 0
    ]
    return (
        f"one of {', '.join(inputs)}" if inputs else "at least one, but there is none"
    )


def _record(sounddevice: Any, device: int, rate: int) -> Iterator[Chunk]:
    arrived: queue.SimpleQueue[Chunk] = queue.SimpleQueue()

    def receive(samples: np.ndarray, frames: int, when: Any, status: Any) -> None:
        arrived.put((samples[:, 0].copy(), time.monotonic()))

    try:
        with sounddevice.InputStream(
            samplerate=rate,
            blocksize=int(rate * _CHUNK_SECONDS),
            device=device,
            channels=1,
            dtype="float32",
            callback=receive,
        ):
            while True:
                yield arrived.get(timeout=_STOPPED_SECONDS)
    except queue.Empty:
        raise ConfigurationError(
            "the microphone stopped",
            found=f"no samples for {_STOPPED_SECONDS} s",
            fix="connect it again, then run the command again",
        ) from None
    except sounddevice.PortAudioError as error:
        raise ConfigurationError(
            "the microphone cannot be opened",
            found=str(error),
            fix="close programs that use it, or choose another with --device",
        ) from None
