"""The embedded corpus: smart-home commands, synthesised with espeak-ng.

Reads `data/demo/phrases.csv` (action, object, location, text, and `heard` for a wording
in all splits or `unseen` for one in test only) and `data/demo/voices.csv` (the speakers
of each split, and those of the background babble). Writes 16 kHz mono 16-bit WAV files.
In each split, every other utterance is `clean` and the others have another condition of
`stages/speech/recording.py`. The same parameters give the same bytes.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from stages.core.files import atomic_path, write_text
from stages.core.hashing import fingerprint, hash_file
from stages.core.runtime import progress
from stages.corpus.params import REVISION, CorpusParams
from stages.speech import synthesis
from stages.speech.loading import SAMPLE_RATE
from stages.speech.recording import (
    CROWD,
    NOISY,
    read_phrases,
    read_voices,
    record,
    record_crowd,
    voice_of,
)

_RECIPE_FILE = "recipe.txt"


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
    phrases = read_phrases(data / "phrases.csv")
    voices = read_voices(data / "voices.csv")
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
        if row.split != CROWD
    ]
    unspoken = [
        number
        for number, plan in enumerate(plans)
        if not _is_spoken(audio, plan, recipe)
    ]
    if unspoken:
        crowd = record_crowd(phrases, voices, seed=params.seed)

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
                "condition": str(generator.choice(NOISY)) if noisy else "clean",
            }
        )
    return voice_of(voice), pd.DataFrame(rows)


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
    recordings = record(
        voice,
        list(rows["text"]),
        list(rows["condition"]),
        crowd,
        generator,
        seed=params.seed + number,
    )
    for path, samples in zip(rows["path"], recordings, strict=True):
        # libsndfile's own error does not say that the disk is full.
        content = io.BytesIO()
        soundfile.write(content, samples, SAMPLE_RATE, "PCM_16", format="WAV")
        with atomic_path(audio / path, flush=False) as temporary:
            temporary.write_bytes(content.getvalue())
    # Written last: it marks the speaker as complete.
    write_text(note, _note(recipe, [audio / path for path in rows["path"]]))
