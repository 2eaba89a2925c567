"""A corpus of sentences, spoken by synthetic voices.

Reads from the corpus root `sentences.csv` or `sentences.yaml` (`sentences.py`), maybe
`voices.csv` (`voices.py`), and maybe a table of recordings, which are linked.
Writes 16 kHz mono 16-bit WAV files, and for each speaker a note, `recipe.json`: each
file's recipe (`recipes.py`) and its hash. With `sessions: utterance` the name of a file
is its recipe.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from stages.core.errors import InputError
from stages.core.files import atomic_path, json_text, write_text
from stages.core.hashing import fingerprint, hash_file
from stages.core.json_lines import parse_json
from stages.core.labels import SEPARATOR
from stages.core.manifest import SPLITS
from stages.core.runtime import progress
from stages.corpus.datasets import Contents, stored_path
from stages.corpus.draws import number, ranks
from stages.corpus.params import CorpusParams
from stages.corpus.recipes import (
    Crowd,
    check_letters,
    general_sentences,
    made_apart,
    made_by,
    say,
    weights,
)
from stages.corpus.rows import joined_rows
from stages.corpus.sentences import read_said
from stages.corpus.table import described_rows
from stages.corpus.voices import Speaker, read_speakers
from stages.speech.loading import SAMPLE_RATE
from stages.speech.recording import NOISY

RECORDING = "recording"
"""The condition of what people said."""
_NOTE = "recipe.json"


@dataclass(frozen=True)
class Plan:
    """What a speaker says: columns path, text, condition, recipe, file and row."""

    speaker: Speaker
    rows: pd.DataFrame


@dataclass(frozen=True)
class Speech:
    """The recordings of a corpus of sentences, made by `put`."""

    params: CorpusParams
    plans: list[Plan]
    crowd: Crowd
    recordings: Contents

    def put(self, folder: Path, workers: int) -> None:
        """Speak the recordings that `folder` lacks or has from another recipe."""
        self.recordings.put(folder, workers)
        absent = [(plan, missing(plan, folder)) for plan in self.plans]
        absent = [(plan, rows) for plan, rows in absent if len(rows)]
        if any("babble" in set(rows["condition"]) for _, rows in absent):
            self.crowd.tracks  # noqa: B018, once, before the threads

        def speak(job: tuple[Plan, pd.DataFrame]) -> None:
            self._speak(folder, *job)

        with ThreadPoolExecutor(workers) as pool:
            list(
                progress(
                    pool.map(speak, absent),
                    total=len(absent),
                    description="speaking",
                    unit="speaker",
                )
            )

    def _speak(self, folder: Path, plan: Plan, rows: pd.DataFrame) -> None:
        """Make the recordings `rows` of a plan, and note all."""
        home = folder / plan.speaker.split / plan.speaker.name
        before = _read_note(home)
        waves = say(self.params, plan.speaker, rows, self.crowd)
        for path, samples in zip(rows["path"], waves, strict=True):
            # libsndfile's own error does not say that the disk is full.
            content = io.BytesIO()
            soundfile.write(content, samples, SAMPLE_RATE, "PCM_16", format="WAV")
            with atomic_path(folder / path, flush=False) as temporary:
                temporary.write_bytes(content.getvalue())
        planned = dict(zip(plan.rows["path"], plan.rows["recipe"], strict=True))
        for path in before.keys() - planned.keys():
            (folder / path).unlink(missing_ok=True)
        hashes = {path: hash_file(folder / path) for path in planned}
        made = {path: [recipe, hashes[path]] for path, recipe in planned.items()}
        write_text(home / _NOTE, json_text(made))


def read_phrases(
    params: CorpusParams, root: Path
) -> tuple[pd.DataFrame, tuple[str, ...], Speech]:
    """Rows for the manifest, messages, and the recordings to make.

    Raises:
        ConfigurationError: a synthesiser is not installed.
        InputError: a sentence, voice or recording cannot be used; names the row.
    """
    said, notes = read_said(params, root)
    speakers, voices = read_speakers(params, root)
    for engine in {one.voice.engine for one in speakers}:
        check_letters(said, engine)
    crowd = Crowd(_crowd_texts(params, said), voices, params.seed, params.piper_voices)
    plans = [
        Plan(one, rows)
        for one in speakers
        if len(rows := _plan(params, said, one, crowd))
    ]
    parts = [
        plan.rows.assign(split=plan.speaker.split, speaker=plan.speaker.name)
        for plan in plans
    ]
    linked = Contents({}, {}, {})
    if params.recordings_table:
        real, linked = _recordings(params, root)
        parts.append(real)
    fix = "say more sentences in train (corpus.train_utterances, train_voices)"
    for split in SPLITS:
        if not any(split in set(part["split"]) for part in parts):
            raise InputError(
                f"has neither voices nor recordings for {split}",
                path=root,
                fix=f"set corpus.{split}_voices, or add to voices.csv or "
                "corpus.recordings_table",
            )
    table = joined_rows(params, root, parts, fix=fix)
    table = table.drop(columns=["recipe", "group"], errors="ignore")
    return table, tuple(notes), Speech(params, plans, crowd, linked)


def _recordings(params: CorpusParams, root: Path) -> tuple[pd.DataFrame, Contents]:
    """What people said, and the links to make."""
    split = params.recordings_split
    rows = described_rows(
        params,
        root,
        params.recordings_table,
        parameter="recordings_table",
        split="" if split == "given" else split,
    )
    stored = [stored_path("recordings", one, one.encode()) for one in rows["path"]]
    found = [(root / path).resolve() for path in rows["path"]]
    files = dict(zip(stored, found, strict=True))
    return rows.assign(path=stored, condition=RECORDING), Contents({}, files, {})


def missing(plan: Plan, folder: Path) -> pd.DataFrame:
    """The rows of a plan whose files are missing, changed or made otherwise.

    With one recipe for all, these are all rows or none.
    """
    note = _read_note(folder / plan.speaker.split / plan.speaker.name)

    def is_made(path: str, recipe: str) -> bool:
        file = folder / path
        return file.is_file() and note.get(path) == [recipe, hash_file(file)]

    pairs = zip(plan.rows["path"], plan.rows["recipe"], strict=True)
    absent = np.array([not is_made(path, recipe) for path, recipe in pairs])
    if plan.rows["recipe"].nunique() == 1 and absent.any():
        return plan.rows
    return plan.rows[absent]


def _read_note(home: Path) -> dict[str, list[str]]:
    """The recipe and the hash of each file of a speaker; empty if it is not known."""
    try:
        found = parse_json((home / _NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _crowd_texts(params: CorpusParams, said: pd.DataFrame) -> list[str]:
    """The corpus's own sentences; or general ones, because they stay the same."""
    if params.sessions == "speaker":
        return list(said.loc[said["split"] == "", "text"])
    return general_sentences(params.seed)


def _plan(
    params: CorpusParams, said: pd.DataFrame, speaker: Speaker, crowd: Crowd
) -> pd.DataFrame:
    """What a speaker says: the columns of `said`, and path, condition and recipe."""
    allowed = said[said["split"].isin(["", speaker.split])].reset_index(drop=True)
    if allowed.empty:
        raise InputError(
            f"no sentence for {speaker.split}",
            path=said["file"].iloc[0],
            fix="leave the split of sentences empty that all can say",
        )
    count = getattr(params, f"{speaker.split}_utterances")
    together = params.sessions == "speaker"
    home = f"{speaker.split}/{speaker.name}"
    if together:
        places, conditions = _in_turn(params, allowed, speaker, count)
        rows = allowed.iloc[places].assign(condition=conditions)
        own = {"texts": list(rows["text"]), "conditions": conditions}
        babble = {"crowd": crowd.identity if "babble" in conditions else ""}
        names = [f"{place:03d}" for place in range(count)]
        made = {**made_by(params, speaker), **own, **babble}
        recipes = [fingerprint(made)] * count
    else:
        places, times = _by_hash(params, allowed, speaker, count)
        rows = allowed.iloc[places]
        rows = made_apart(params, speaker, rows, times, crowd)
        recipes = list(rows["recipe"])
        names = [recipe[:16] for recipe in recipes]
    paths = [f"{home}/{name}.wav" for name in names]
    return rows.assign(path=paths, recipe=recipes).reset_index(drop=True)


def _in_turn(
    params: CorpusParams, said: pd.DataFrame, speaker: Speaker, count: int
) -> tuple[list[int], list[str]]:
    """Places in `said` and conditions, drawn by one generator.

    All groups in turn, in the speaker's order, each in a random wording.
    """
    generator = np.random.default_rng((params.seed, speaker.number))
    groups = said.groupby("group").indices
    names = sorted(groups, key=lambda name: str(name).split(SEPARATOR))
    order = [names[i] for i in generator.permutation(len(names))]
    clean, *noisy = weights(params)
    kinds = np.repeat(NOISY, noisy)
    places, conditions = [], []
    for place in range(count):
        places.append(int(generator.choice(groups[order[place % len(order)]])))
        # At equal distances: with as many clean as noisy ones, every other.
        before, after = (
            turn * sum(noisy) // (clean + sum(noisy)) for turn in (place, place + 1)
        )
        is_noisy = after > before
        conditions.append(str(generator.choice(kinds)) if is_noisy else "clean")
    return places, conditions


def _by_hash(
    params: CorpusParams, said: pd.DataFrame, speaker: Speaker, count: int
) -> tuple[list[int], list[int]]:
    """Places in `said`, and how often the speaker said each before.

    All groups in turn, of each one sentence after the other, both in an order of the
    speaker's own, in which a new sentence or group displaces only the last ones.
    """
    seed = number(params.seed, speaker.split, speaker.name)
    hashes = np.array(_hashes(tuple(said["text"])), np.uint64)
    groups = said.groupby("group").indices
    names = sorted(groups, key=lambda name: number(seed, name))
    orders = [groups[name][ranks(hashes[groups[name]], seed)] for name in names]
    places, times = [], []
    for turn in range(count):
        order = orders[turn % len(orders)]
        time, place = divmod(turn // len(orders), len(order))
        places.append(int(order[place]))
        times.append(time)
    return places, times


@lru_cache(maxsize=4)
def _hashes(texts: tuple[str, ...]) -> list[int]:
    return [number(text) for text in texts]
