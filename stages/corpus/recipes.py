"""Recordings of sentences by synthetic voices, and what decides their samples.

A recording's recipe is a hash of all that decides its samples. With
`sessions: utterance` that is its voice, text and condition, so that a new sentence
changes no other recording. With `sessions: speaker` it is all that the speaker says.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.hashing import fingerprint
from stages.corpus.draws import number
from stages.corpus.params import REVISION, CorpusParams
from stages.corpus.voices import Speaker
from stages.speech import engines
from stages.speech.recording import CONDITIONS, record, record_crowd
from stages.speech.sentences import sentence
from stages.speech.synthesis import Voice

_CROWD_SENTENCES = 20
# Of full scale. flite is not quite silent where it says nothing; speech is above 0.1.
_SILENCE = 0.01


@dataclass(frozen=True)
class Crowd:
    """The background speech.

    Attributes:
        texts: what it says.
        voices: who speaks, with seeds of their own.
        seed: of all.
        folder: of piper's voices.
    """

    texts: Sequence[str]
    voices: Sequence[tuple[int, Voice]]
    seed: int
    folder: str

    @cached_property
    def identity(self) -> str:
        """A hash of all that decides its samples."""
        own = {
            "texts": list(self.texts),
            "voices": [(seed, asdict(voice)) for seed, voice in self.voices],
            "versions": [engines.version(one, self.folder) for _, one in self.voices],
        }
        return fingerprint({**own, "seed": self.seed})

    @cached_property
    def tracks(self) -> np.ndarray:
        """Its speech, (voices, samples)."""
        return record_crowd(self.texts, self.voices, seed=self.seed, folder=self.folder)


def general_sentences(seed: int) -> list[str]:
    """What the crowd says that knows no corpus."""
    generator = np.random.default_rng(seed)
    return [sentence(generator) for _ in range(_CROWD_SENTENCES)]


def say(
    params: CorpusParams, speaker: Speaker, rows: pd.DataFrame, crowd: Crowd
) -> Iterator[np.ndarray]:
    """The recordings of `rows` by a speaker, each (samples,) int16 at 16 kHz.

    Args:
        params: seed, sessions and silence.
        speaker: who speaks.
        rows: columns text, condition, recipe, file and row.
        crowd: of the babble.

    Raises:
        InputError: a text of which nothing is spoken; names the row.
    """
    texts, conditions = list(rows["text"]), list(rows["condition"])
    together = params.sessions == "speaker"
    spoken = engines.speak(
        speaker.voice,
        texts,
        seed=params.seed + speaker.number * together,
        folder=params.piper_voices,
        apart=not together,
    )
    for wave, row in zip(spoken, rows.itertuples(), strict=True):
        if len(wave) == 0 or np.abs(wave).max() < _SILENCE:
            raise InputError(
                f"{row.row} cannot be spoken by {speaker.voice.engine}",
                path=row.file,
                found=repr(row.text),
                fix="write it in words",
            )
    babble = crowd.tracks if "babble" in conditions else np.zeros((0, 0))
    if together:
        generator = np.random.default_rng((params.seed, speaker.number, 1))
        yield from record(spoken, conditions, babble, generator, silence=params.silence)
        return
    for wave, row in zip(spoken, rows.itertuples(), strict=True):
        generator = np.random.default_rng(int(row.recipe, 16))
        yield from record(
            [wave], [row.condition], babble, generator, silence=params.silence
        )


def made_by(params: CorpusParams, speaker: Speaker) -> dict[str, Any]:
    """What decides the samples of a speaker's recordings besides what is said."""
    return {
        "version": REVISION,
        "voice": asdict(speaker.voice),
        "synthesiser": engines.version(speaker.voice, params.piper_voices),
        "seed": params.seed,
        "silence": float(params.silence),
        "speaker": speaker.number if params.sessions == "speaker" else speaker.name,
    }


def made_apart(
    params: CorpusParams,
    speaker: Speaker,
    rows: pd.DataFrame,
    times: Sequence[int],
    crowd: Crowd,
) -> pd.DataFrame:
    """`rows` with the columns condition and recipe, each whatever the others are.

    Args:
        params: seed, silence and how often each condition is drawn.
        speaker: who speaks.
        rows: column text.
        times: how often the speaker said each before.
        crowd: of the babble.
    """
    voice = made_by(params, speaker)
    conditions = _conditions(params, speaker, rows["text"], times)
    recipes = [
        fingerprint(
            {
                **voice,
                "text": text,
                "condition": condition,
                "time": time,
                "crowd": crowd.identity if condition == "babble" else "",
            }
        )
        for text, condition, time in zip(rows["text"], conditions, times, strict=True)
    ]
    return rows.assign(condition=conditions, recipe=recipes)


def _conditions(
    params: CorpusParams, speaker: Speaker, texts: Sequence[str], times: Sequence[int]
) -> list[str]:
    """A condition of each recording, whatever the others are."""
    kinds = np.repeat(CONDITIONS, weights(params))
    own = (params.seed, speaker.split, speaker.name, "condition")
    return [
        str(kinds[number(*own, text, time) % len(kinds)])
        for text, time in zip(texts, times, strict=True)
    ]


def weights(params: CorpusParams) -> list[int]:
    """How often a recording has each of `CONDITIONS`."""
    return [getattr(params, name) for name in CONDITIONS]


def check_letters(said: pd.DataFrame, engine: str) -> None:
    """Check that English voices, which spell out other scripts, can say the texts.

    Raises:
        InputError: they cannot; names the row.
    """
    if engine == "piper":
        return
    for row in said.itertuples():
        for letter in row.text:
            # From there on, scripts other than Latin are possible.
            if (
                letter >= "\u0370"
                and letter.isalpha()
                and "LATIN" not in unicodedata.name(letter, "")
            ):
                raise InputError(
                    f"{row.row} cannot be spoken by {engine}, which speaks English",
                    path=row.file,
                    found=repr(row.text),
                    fix="write it in Latin letters, or use voices of piper",
                )
