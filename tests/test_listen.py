"""`listen`: utterances are found in a stream, once each, and classified as they end."""

import importlib.util
import io
import json
import sys
import time
import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.inference.listen import listen as command
from stages.core.errors import ConfigurationError, InputError
from stages.inference import listening
from stages.inference.classifier import Prediction
from stages.inference.listening import RATES, Resampler, listen, read_pcm
from stages.inference.segmentation import WINDOW, Rules, Segmenter, Utterance
from stages.inference.speech_detector import SpeechDetector
from stages.speech.loading import SAMPLE_RATE, resample
from stages.speech.synthesis import SAMPLE_RATE as SPOKEN_RATE
from stages.speech.synthesis import Voice, speak

TEXTS = ("turn the kitchen lights on", "skip this song", "make the bedroom warmer")
GAPS = (1.0, 1.5, 0.8, 1.2)
"""Seconds before, between and after the commands."""


class LoudOrLong:
    """A stand-in for a classifier, whose answer depends on the whole recording."""

    about = {"longest_seconds": 20.0, "frame_step": 2560}  # noqa: RUF012
    intents = ("long", "short")

    def __call__(
        self, samples: np.ndarray, sample_rate: int, *, reject: bool = True
    ) -> Prediction:
        assert sample_rate == SAMPLE_RATE
        share = float(np.clip(len(samples) / SAMPLE_RATE / 4, 0, 1))
        ranked = sorted(
            [("long", share), ("short", 1 - share)], key=lambda one: -one[1]
        )
        rejected = reject and float(np.abs(samples).max()) < 0.5
        intent = "none" if rejected else ranked[0][0]
        seconds, frames = len(samples) / SAMPLE_RATE, -(-len(samples) // 2560)
        attention = np.full(frames, 1 / frames, np.float32)
        return Prediction(
            intent, ranked[0][1], rejected, {}, ranked, seconds, attention
        )


@pytest.fixture(scope="module")
def stream() -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Commands with silence and noise between them, and when each is spoken."""
    spoken = speak(Voice("en-us", "f2"), TEXTS, seed=1)
    noise = np.random.default_rng(1)
    parts, places, at = [], [], 0.0
    for number, gap in enumerate(GAPS):
        # Silence and noise in turn.
        level = 0.01 * (number % 2)
        parts.append(level * noise.standard_normal(int(gap * SAMPLE_RATE)))
        at += gap
        if number < len(spoken):
            wave = resample(spoken[number].samples.astype(np.float32), SPOKEN_RATE)
            wave = 0.7 * wave / np.abs(wave).max()
            loud = np.flatnonzero(np.abs(wave) > 0.02) / SAMPLE_RATE
            places.append((at + float(loud[0]), at + float(loud[-1])))
            at += len(wave) / SAMPLE_RATE
            parts.append(wave)
    return np.concatenate(parts).astype(np.float32), places


def chunked(wave: np.ndarray, sizes: Callable[[], int]) -> Iterator[np.ndarray]:
    while len(wave):
        size = sizes()
        yield wave[:size]
        wave = wave[size:]


def pcm(wave: np.ndarray) -> bytes:
    return (np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes()


def run(
    monkeypatch: pytest.MonkeyPatch, given: bytes, *arguments: str
) -> list[dict[str, float]]:
    """The lines that the command prints as JSON for PCM on standard input."""
    monkeypatch.setattr(
        "pipeline.inference.listen.load_model", lambda folder: LoudOrLong()
    )
    arguments = ("--model", ".", "--stdin", "--format", "jsonl", *arguments)
    result = CliRunner().invoke(command, arguments, input=given)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_each_command_in_a_stream_gives_a_line(
    rate: int,
    stream: tuple[np.ndarray, list[tuple[float, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wave, places = stream
    if rate != SAMPLE_RATE:
        time = np.arange(int(len(wave) * rate / SAMPLE_RATE)) * SAMPLE_RATE / rate
        wave = np.interp(time, np.arange(len(wave)), wave)
    lines = run(monkeypatch, pcm(wave), "--rate", str(rate))
    assert len(lines) == len(TEXTS)
    for line, (start, end) in zip(lines, places, strict=True):
        assert line["start"] == pytest.approx(start, abs=0.2)
        # In noise, silero-vad finds the end of speech some tenths of a second late.
        assert end - 0.1 < line["end"] < end + 0.5
        assert 0 <= line["delay"] < 1


def test_intents_are_those_of_the_recordings_cut_out(
    stream: tuple[np.ndarray, list[tuple[float, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wave = np.frombuffer(pcm(stream[0]), "<i2").astype(np.float32) / 32768
    segmenter = Segmenter(SpeechDetector())
    utterances = segmenter.feed(wave) + segmenter.finish()
    classifier = LoudOrLong()
    wanted = [classifier(one.samples, SAMPLE_RATE).as_dict() for one in utterances]
    lines = run(monkeypatch, pcm(stream[0]))
    for line, one in zip(lines, wanted, strict=True):
        assert {key: line[key] for key in one} == one
    # An utterance is the part of the stream around its speech.
    for one in utterances:
        first = round(one.start * SAMPLE_RATE) - round(0.1 * SAMPLE_RATE / WINDOW) * 512
        cut = wave[first : first + len(one.samples)]
        np.testing.assert_array_equal(one.samples, cut)


def test_silence_and_noise_are_no_utterances(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 0.05 * np.random.default_rng(2).standard_normal(3 * SAMPLE_RATE)
    assert run(monkeypatch, pcm(noise)) == []
    assert run(monkeypatch, b"") == []


def test_a_stream_that_ends_in_speech_ends_the_utterance(
    stream: tuple[np.ndarray, list[tuple[float, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wave, ((start, end), *_) = stream
    # One byte of the next sample has come.
    lines = run(monkeypatch, pcm(wave[: int((end - 0.2) * SAMPLE_RATE)]) + b"\0")
    assert len(lines) == 1
    assert lines[0]["start"] == pytest.approx(start, abs=0.2)
    assert lines[0]["end"] == pytest.approx(end - 0.2, abs=0.05)


def test_the_detector_is_that_of_silero(
    stream: tuple[np.ndarray, list[tuple[float, float]]],
) -> None:
    torch = pytest.importorskip("torch")
    silero = pytest.importorskip("silero_vad")
    theirs, ours = silero.load_silero_vad(onnx=True), SpeechDetector()
    for window in stream[0][: 100 * WINDOW].reshape(-1, WINDOW):
        wanted = theirs(torch.from_numpy(window), SAMPLE_RATE).item()
        assert ours(window) == pytest.approx(wanted, abs=1e-6)


def loudness(window: np.ndarray) -> float:
    """Stands for a detector: a window's level."""
    return float(np.abs(window).mean())


def windows(levels: list[tuple[int, float]]) -> np.ndarray:
    """A stream of so many windows of each level, with a ramp to tell samples apart."""
    wave = np.concatenate([np.full(count * WINDOW, level) for count, level in levels])
    return (wave + np.linspace(0, 1e-3, len(wave))).astype(np.float32)


# 32 ms each; padding is 3 windows, the silence that ends an utterance 13.
LEVELS = [(20, 0.0), (30, 0.9), (5, 0.0), (10, 0.9), (12, 0.4), (8, 0.1), (4, 0.9)]
LEVELS += [(30, 0.0), (100, 0.8), (14, 0.2), (9, 0.9)]


@pytest.mark.parametrize("seed", range(5))
def test_the_size_of_chunks_changes_nothing(seed: int) -> None:
    wave = windows(LEVELS)[:-100]
    rules = Rules(longest=64 * WINDOW / SAMPLE_RATE)

    def found(chunks: Iterator[np.ndarray]) -> list[Utterance]:
        segmenter = Segmenter(loudness, rules)
        utterances = [one for chunk in chunks for one in segmenter.feed(chunk)]
        return utterances + segmenter.finish()

    whole = found(iter([wave]))
    generator = np.random.default_rng(seed)
    sizes = [1, 100, 511, 512, 513, 5000]
    pieces = found(chunked(wave, lambda: int(generator.choice(sizes))))
    seconds = WINDOW / SAMPLE_RATE
    # The pause of 5 windows and the level of 0.4 do not end the first. Where it is too
    # long, silence has begun; the next 4 windows are too short. 100 are cut in two.
    bounds = [(round(one.start / seconds), round(one.end / seconds)) for one in whole]
    assert bounds == [(20, 77), (119, 180), (180, 219), (233, 242)]
    for one, other in zip(whole, pieces, strict=True):
        assert (one.start, one.end) == (other.start, other.end)
        np.testing.assert_array_equal(one.samples, other.samples)
        assert len(one.samples) <= 64 * WINDOW


@pytest.mark.parametrize("rate", RATES)
def test_a_stream_is_resampled_as_a_recording(rate: int) -> None:
    generator = np.random.default_rng(rate)
    wave = generator.standard_normal(rate // 2 + 7).astype(np.float32)

    def found(chunks: Iterator[np.ndarray]) -> np.ndarray:
        resampler = Resampler(rate)
        return np.concatenate([*map(resampler.feed, chunks), resampler.finish()])

    pieces = found(chunked(wave, lambda: int(generator.integers(1, 3000))))
    np.testing.assert_array_equal(pieces, found(iter([wave])))
    np.testing.assert_allclose(pieces, resample(wave, rate), atol=1e-5)


def test_the_delay_counts_from_the_end_of_speech(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    wave = windows([(10, 0.0), (30, 0.9), (30, 0.0)])

    def live() -> Iterator[listening.Chunk]:
        for chunk in chunked(wave, lambda: WINDOW):
            clock[0] += WINDOW / SAMPLE_RATE
            yield chunk, clock[0]

    (heard,) = listen(LoudOrLong(), loudness, live(), SAMPLE_RATE)
    # 13 windows of silence decide.
    assert heard.delay == pytest.approx(13 * WINDOW / SAMPLE_RATE, abs=1e-3)


def test_input_that_is_no_pcm() -> None:
    with pytest.raises(InputError, match="WAV"):
        next(read_pcm(io.BytesIO(b"RIFF" + bytes(100)), 16_000))
    with pytest.raises(ConfigurationError, match="44100"):
        next(read_pcm(io.BytesIO(bytes(100)), 1000))


class PortAudioError(Exception):
    pass


def microphone(monkeypatch: pytest.MonkeyPatch, wave: np.ndarray | None) -> None:
    """Replace sounddevice; the only microphone, at 48 kHz, hears `wave`."""
    devices = [] if wave is None else [{"name": "USB", "max_input_channels": 2}]

    def query(device: str | int | None = None, kind: str | None = None) -> object:
        if kind is None:
            return devices
        if wave is None or device not in (None, 0, "USB"):
            raise ValueError(f"No input device matching {device!r}")
        return {**devices[0], "index": 0, "default_samplerate": 48_000.0}

    def check(device: int, channels: int, samplerate: int) -> None:
        if samplerate != 48_000:
            raise PortAudioError("Invalid sample rate")

    class InputStream:
        def __init__(self, *, callback: Callable, samplerate: int, **how: object):
            assert samplerate == 48_000
            for chunk in chunked(wave, lambda: 1536):
                callback(chunk[:, None], len(chunk), None, None)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    module = types.SimpleNamespace(
        PortAudioError=PortAudioError,
        query_devices=query,
        check_input_settings=check,
        InputStream=InputStream,
    )
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = np.random.default_rng(3).standard_normal(48_000).astype(np.float32)
    microphone(monkeypatch, wave)
    monkeypatch.setattr(listening, "_STOPPED_SECONDS", 0.01)
    chunks, rate = listening.open_microphone("USB")
    found = []
    with pytest.raises(ConfigurationError, match="stopped"):
        found.extend(chunk for chunk, _ in chunks)
    assert rate == 48_000
    np.testing.assert_array_equal(np.concatenate(found) if found else [], wave)


@pytest.mark.parametrize(
    ("there", "device", "named"),
    [(True, "Bluetooth", "0 «USB»"), (False, None, "--stdin")],
)
def test_a_microphone_that_is_not_there(
    there: bool, device: str | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    microphone(monkeypatch, np.zeros(1) if there else None)
    with pytest.raises(ConfigurationError, match=named):
        listening.open_microphone(device)


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigurationError, match=r"sounddevice.*\[listen\]"):
        listening.open_microphone(None)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "stages.inference.speech_detector.find_spec",
        lambda name: None if name == "silero_vad" else found(name),
    )
    with pytest.raises(ConfigurationError, match=r"silero-vad.*\[listen\]"):
        SpeechDetector()
