"""The embedded corpus: smart-home commands, synthesised with espeak-ng.

Reads `data/demo/phrases.csv` (action, object, location, text, and `heard` for a wording
in all splits or `unseen` for one in test only) and `data/demo/voices.csv` (the speakers
of each split, and those of the background babble). Writes 16 kHz mono 16-bit WAV files.
Each recording has a condition:

    clean      none of the following
    babble     other speakers in the background, 5 to 15 dB below
    room       a reverberant room, one per speaker
    telephone  300 to 3,400 Hz, 8-bit mu-law

In each split, every other utterance has one of the last three. All recordings start and
end with silence and have a faint hiss. The same parameters give the same bytes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from scipy import signal

from stages.core.errors import InputError
from stages.core.files import write_text
from stages.core.hashing import fingerprint, hash_file
from stages.core.manifest import check_columns
from stages.core.runtime import progress
from stages.corpus.params import REVISION, CorpusParams
from stages.speech import effects, synthesis

_PHRASE_COLUMNS = ("action", "object", "location", "text", "wording")
_VOICE_COLUMNS = (
    "speaker",
    "split",
    "accent",
    "variant",
    "rate",
    "pitch",
    "pitch_range",
)
_NOISY = ("babble", "room", "telephone")
_CROWD = "crowd"
_RECIPE_FILE = "recipe.txt"

# Silence before and after the words, in seconds; level of the hiss below the recording.
_MARGIN = (0.1, 0.4)
_HISS_DECIBELS = (30, 50)


def read_demo(
    params: CorpusParams, data: Path, audio: Path, workers: int
) -> pd.DataFrame:
    """Synthesise the recordings that are missing or have changed.

    Args:
        params: numbers of utterances, and the seed.
        data: the folder with `phrases.csv` and `voices.csv`.
        audio: folder of the recordings.
        workers: number of parallel synthesisers.

    Returns:
        path, split, speaker, text, intent and condition of each recording.
    """
    phrases = _read_table(data / "phrases.csv", _PHRASE_COLUMNS)
    voices = _read_table(data / "voices.csv", _VOICE_COLUMNS)
    sources = {
        "version": REVISION,
        "synthesiser": synthesis.version(),
        "phrases": hash_file(data / "phrases.csv"),
        "voices": hash_file(data / "voices.csv"),
        "utterances": [
            params.train_utterances,
            params.valid_utterances,
            params.test_utterances,
        ],
        "seed": params.seed,
    }
    recipe = fingerprint(sources)
    plans = [
        _plan(params, phrases, row, number)
        for number, row in enumerate(voices.itertuples(index=False))
        if row.split != _CROWD
    ]
    unspoken = [
        number
        for number, plan in enumerate(plans)
        if not _is_spoken(audio, plan, recipe)
    ]
    if unspoken:
        crowd = _crowd(params, phrases, voices)

        def speak(number: int) -> None:
            _speak(params, plans[number], crowd, audio, number, recipe)

        with ThreadPoolExecutor(workers) as pool:
            list(
                progress(
                    pool.map(speak, unspoken),
                    total=len(unspoken),
                    description="speaking",
                    unit="speaker",
                )
            )
    return pd.concat([rows for _, rows in plans], ignore_index=True)


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise InputError("missing from the embedded corpus", path=path)
    table = pd.read_csv(path)
    check_columns(path, table, columns)
    return table


def _plan(
    params: CorpusParams, phrases: pd.DataFrame, voice: tuple, number: int
) -> tuple[synthesis.Voice, pd.DataFrame]:
    """The voice of a speaker, and the texts and conditions of the recordings."""
    split = voice.split  # type: ignore[attr-defined]
    speaker = voice.speaker  # type: ignore[attr-defined]
    generator = np.random.default_rng((params.seed, number))
    allowed = phrases if split == "test" else phrases[phrases["wording"] == "heard"]
    count = {
        "train": params.train_utterances,
        "valid": params.valid_utterances,
        "test": params.test_utterances,
    }[split]
    intents = allowed.groupby(["action", "object", "location"]).indices
    order = [list(intents)[i] for i in generator.permutation(len(intents))]
    rows = []
    for place in range(count):
        # All intents in turn, in the speaker's order, each in a random wording.
        choice = generator.choice(intents[order[place % len(order)]])
        phrase = allowed.iloc[int(choice)]
        noisy = place % 2 == 1
        rows.append(
            {
                "path": f"{split}/{speaker}/{place:03d}.wav",
                "split": split,
                "speaker": speaker,
                "text": phrase["text"],
                "intent": f"{phrase['action']}|{phrase['object']}|{phrase['location']}",
                "condition": str(generator.choice(_NOISY)) if noisy else "clean",
            }
        )
    return _voice(voice), pd.DataFrame(rows)


def _voice(row: tuple) -> synthesis.Voice:
    return synthesis.Voice(
        row.accent,  # type: ignore[attr-defined]
        row.variant,  # type: ignore[attr-defined]
        int(row.rate),  # type: ignore[attr-defined]
        int(row.pitch),  # type: ignore[attr-defined]
        int(row.pitch_range),  # type: ignore[attr-defined]
    )


def _is_spoken(
    audio: Path, plan: tuple[synthesis.Voice, pd.DataFrame], recipe: str
) -> bool:
    paths = [audio / path for path in plan[1]["path"]]
    note = paths[0].with_name(_RECIPE_FILE)
    return (
        note.is_file()
        and all(path.is_file() for path in paths)
        and note.read_text("utf-8") == _note(recipe, paths)
    )


def _note(recipe: str, paths: Sequence[Path]) -> str:
    """The recipe and the hash of a speaker's recordings, to detect changes."""
    return f"{recipe}\n{fingerprint({path.name: hash_file(path) for path in paths})}\n"


def _speak(
    params: CorpusParams,
    plan: tuple[synthesis.Voice, pd.DataFrame],
    crowd: np.ndarray,
    audio: Path,
    number: int,
    recipe: str,
) -> None:
    voice, rows = plan
    note = (audio / rows["path"].iloc[0]).with_name(_RECIPE_FILE)
    # Removed first, so that it does not describe partly overwritten files.
    note.unlink(missing_ok=True)
    generator = np.random.default_rng((params.seed, number, 1))
    response = effects.room_response(generator)
    spoken = synthesis.speak(voice, list(rows["text"]), seed=params.seed + number)
    for row, one in zip(rows.itertuples(index=False), spoken, strict=True):
        wave = _with_margins(_resampled(one.samples), generator)
        if row.condition == "babble":
            decibels = generator.uniform(5, 15)
            wave = effects.add_babble(wave, crowd, decibels, generator)
        elif row.condition == "room":
            wave = effects.reverberate(wave, response)
        elif row.condition == "telephone":
            wave = effects.telephone(wave)
        decibels = generator.uniform(*_HISS_DECIBELS)
        wave = effects.add_hiss(wave, decibels, generator)
        level = 10 ** (generator.uniform(-20, -1) / 20)
        wave = wave * level / max(float(np.abs(wave).max()), 1e-9)
        file = audio / row.path
        file.parent.mkdir(parents=True, exist_ok=True)
        samples = np.round(wave * 32767).astype(np.int16)
        soundfile.write(file, samples, effects.SAMPLE_RATE, "PCM_16")
    # Written last: it marks the speaker as complete.
    write_text(note, _note(recipe, [audio / path for path in rows["path"]]))


def _crowd(
    params: CorpusParams, phrases: pd.DataFrame, voices: pd.DataFrame
) -> np.ndarray:
    """The background speech, (voices, samples): about 30 seconds per voice."""
    texts = list(phrases.loc[phrases["wording"] == "heard", "text"])
    tracks = []
    for number, row in enumerate(voices.itertuples(index=False)):
        if row.split == _CROWD:
            generator = np.random.default_rng((params.seed, number))
            said = [texts[i] for i in generator.permutation(len(texts))[:20]]
            spoken = synthesis.speak(_voice(row), said, seed=params.seed + number)
            tracks.append(np.concatenate([_resampled(one.samples) for one in spoken]))
    shortest = min(len(track) for track in tracks)
    return np.stack([track[:shortest] / np.std(track) for track in tracks])


def _with_margins(wave: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    before, after = generator.uniform(*_MARGIN, 2) * effects.SAMPLE_RATE
    return np.pad(wave, (int(before), int(after)))


def _resampled(samples: np.ndarray) -> np.ndarray:
    """int16 at espeak-ng's 22,050 Hz -> float64 at 16 kHz."""
    # 16,000 / 22,050 = 320 / 441.
    return signal.resample_poly(samples / 32768, 320, 441)
