"""What is none of the intents: other speech, noise and silence.

    speech    general sentences by the demo's voices, in the demo's conditions; or the
              recordings in a folder
    noise     white, pink, with the spectrum of speech, and babble, without a command
    silence   digital zeros, and a faint hiss

There are two sides: `valid`, by which the score is chosen, and `test`, on which it is
measured. They have no voice, recording or noise in common. Noise and silence are as
long as recordings of the same split, and noise is as loud.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.hashing import fingerprint, hash_file
from stages.core.text import normalise_text
from stages.rejection.params import GENERAL, NOISES, NONE, SAMPLES, RejectionParams
from stages.speech import synthesis
from stages.speech.engines import speak
from stages.speech.loading import SAMPLE_RATE, load_audio
from stages.speech.noise import (
    Draw,
    choose_noise,
    load_sound,
    power,
    read_folder,
)
from stages.speech.recording import (
    NOISY,
    crowd_of,
    read_sentences,
    read_voices,
    record,
    record_crowd,
    voice_of,
)
from stages.speech.sentences import sentence

SIDES = ("valid", "test")

# Root mean square of the hiss, in decibels below full scale: from the least significant
# of 16 bits to a noisy microphone in a quiet room.
_HISS = (-90, -50)

_LONGEST_SECONDS = 120


@dataclass(frozen=True)
class Clip:
    """One recording that is none of the intents.

    Attributes:
        kind: speech, noise or silence.
        side: valid or test.
        identity: all that decides its samples.
        make: its samples, (samples,) float32, from a generator seeded by the identity.
    """

    kind: str
    side: str
    identity: dict[str, Any]
    make: Callable[[np.random.Generator], np.ndarray]

    @cached_property
    def key(self) -> str:
        """A hash of everything that decides its samples."""
        place = {"revision": SAMPLES, "kind": self.kind, "side": self.side}
        return fingerprint({**place, **self.identity})

    @property
    def id(self) -> str:
        """Its name in the cache."""
        return f"{self.kind}/{self.side}/{self.key[:16]}"

    def wave(self) -> np.ndarray:
        """Its samples, (samples,) float32."""
        generator = np.random.default_rng(int(self.key, 16))
        return self.make(generator).astype(np.float32)


def make_clips(
    params: RejectionParams, table: pd.DataFrame, audio: Path, demo: Path
) -> list[Clip]:
    """All recordings that the parameters ask for; none is read or spoken yet.

    Args:
        params: which.
        table: the manifest without quarantined rows.
        audio: the folder that its paths are relative to.
        demo: the folder with the demo's sentences and voices.

    Raises:
        ConfigurationError: speech that is neither a known value nor a folder.
        InputError: a folder with fewer than two recordings, or no demo.
    """
    clips: list[Clip] = []
    if params.speech == GENERAL:
        clips += _general_speech(params, demo)
    elif params.speech != NONE:
        clips += _speech_in(params.speech)
    for side in SIDES:
        clips += _noise(params, table, audio, side)
        clips += _silence(params, table, side)
    return clips


def _general_speech(params: RejectionParams, demo: Path) -> Iterator[Clip]:
    phrases = read_sentences(demo / "sentences.csv")
    voices = read_voices(demo / "voices.csv")
    identity = {
        "sentences": hash_file(demo / "sentences.csv"),
        "voices": hash_file(demo / "voices.csv"),
        "synthesiser": synthesis.version(),
        "seed": params.seed,
    }
    said = list(phrases.loc[phrases["split"] == "", "text"])
    crowd = cache(
        partial(record_crowd, said, crowd_of(voices), seed=params.seed, folder="")
    )
    commands = {normalise_text(text) for text in phrases["text"]}
    rows = list(voices.itertuples(index=False))

    # A voice speaks all its sentences in one process, and its clips are in a row.
    @lru_cache(maxsize=1)
    def spoken(number: int) -> list[np.ndarray]:
        generator = np.random.default_rng((params.seed, number, 2))
        texts = general_sentences(params.sentences, commands, generator)
        conditions = [
            str(generator.choice(NOISY)) if place % 2 else "clean"
            for place in range(len(texts))
        ]
        seed = params.seed + number
        voice = voice_of(rows[number])
        waves = speak(voice, texts, seed=seed)
        found = record(waves, conditions, crowd(), generator)
        return [samples / np.float32(32768) for samples in found]

    def make(number: int, place: int, generator: np.random.Generator) -> np.ndarray:
        return spoken(number)[place]

    for number, row in enumerate(rows):
        if row.split in SIDES:
            for place in range(params.sentences):
                # What is drawn for one sentence depends on how many there are.
                own = {**identity, "of": params.sentences}
                own |= {"speaker": row.speaker, "number": place}
                yield Clip("speech", row.split, own, partial(make, number, place))


def general_sentences(
    count: int, commands: set[str], generator: np.random.Generator
) -> list[str]:
    """Sentences of the grammar that are not among `commands`, normalised texts."""
    found: list[str] = []
    while len(found) < count:
        text = sentence(generator)
        if normalise_text(text) not in commands:
            found.append(text)
    return found


def _speech_in(folder: str) -> Iterator[Clip]:
    files = read_folder("rejection.speech", folder, f"{GENERAL}, {NONE}")
    if len(files) < 2:
        raise InputError(
            "too few recordings: half choose the score, half measure it",
            path=folder,
            found=len(files),
            expected="at least 2 with different contents",
        )
    for place, (path, sha256) in enumerate(files):
        yield Clip(
            "speech",
            SIDES[place % 2],
            {"recording": sha256},
            partial(_load, path, sha256),
        )


def _load(path: Path, sha256: str, generator: np.random.Generator) -> np.ndarray:
    wave = load_sound(path, sha256, "rejection")
    if len(wave) > _LONGEST_SECONDS * SAMPLE_RATE:
        raise InputError(
            "too long for one utterance",
            path=path,
            found=f"{len(wave) / SAMPLE_RATE:.0f} s",
            expected=f"at most {_LONGEST_SECONDS} s",
            fix="cut it into utterances; finished extraction is kept",
        )
    return wave


def _noise(
    params: RejectionParams, table: pd.DataFrame, audio: Path, side: str
) -> Iterator[Clip]:
    for name in NOISES:
        draw, identity = choose_noise(name, table, audio)
        for number, row in enumerate(_some(table, side, params.noises)):
            own = {**identity, "like": row.audio_sha256}
            own |= {"seed": params.seed, "number": number}
            like = partial(_noise_like, draw, audio / row.path, row.audio_sha256)
            yield Clip("noise", side, own, like)


def _noise_like(
    draw: Draw, path: Path, sha256: str, generator: np.random.Generator
) -> np.ndarray:
    """Noise of the length and power of a recording."""
    wave = load_audio(path, sha256).astype(np.float64)
    noise = draw(len(wave), generator)
    return noise * np.sqrt(power(wave) / power(noise))


def _silence(params: RejectionParams, table: pd.DataFrame, side: str) -> Iterator[Clip]:
    for name, make in (("zeros", _zeros), ("hiss", _hiss)):
        for number, row in enumerate(_some(table, side, params.noises)):
            samples = max(1, round(row.seconds * SAMPLE_RATE))
            own = {"silence": name, "samples": samples}
            own |= {"seed": params.seed, "number": number}
            yield Clip("silence", side, own, partial(make, samples))


def _zeros(samples: int, generator: np.random.Generator) -> np.ndarray:
    return np.zeros(samples)


def _hiss(samples: int, generator: np.random.Generator) -> np.ndarray:
    level = 10 ** (generator.uniform(*_HISS) / 20)
    return level * generator.standard_normal(samples)


def _some(table: pd.DataFrame, split: str, count: int) -> list[Any]:
    """So many rows of a split, in the order of their hashes, from the first again."""
    rows = table[table["split"] == split].drop_duplicates("audio_sha256")
    rows = rows.sort_values("audio_sha256")
    found = list(rows.itertuples(index=False))
    return [found[place % len(found)] for place in range(count)]
