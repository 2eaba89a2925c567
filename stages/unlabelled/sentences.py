"""The sentences: new ones from the words of the train texts, or those of a file.

Recombined sentences come from a bigram model of the distinct train wordings: each word
is drawn from those that follow the last one in train. So every two neighbours occur in
train, but a whole sentence can mean nothing. None is longer than the longest of train.

No sentence occurs in the manifest: not in valid or test, which would leak, and not in
train, where it has a label.
"""

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.table import CONTROL, clean_text, not_utf8, read_columns
from stages.core.text import normalise_text
from stages.corpus.table import check_below_root
from stages.unlabelled.params import RECOMBINED, UnlabelledParams

# For each sentence, on average; few train texts allow few new sentences.
_MOST_DRAWS = 100


def read_sentences(
    params: UnlabelledParams, table: pd.DataFrame, manifest: Path, root: Path
) -> tuple[pd.DataFrame, int]:
    """The sentences, with columns text, file and row, and how many were left out.

    Args:
        params: which.
        table: the manifest.
        manifest: its file, for messages.
        root: the corpus root.

    Raises:
        ConfigurationError: a file outside the root.
        InputError: a file that cannot be used, or train texts that allow too few new
            sentences.
    """
    known = {normalise_text(text) for text in table["text"]}
    if params.sentences == RECOMBINED:
        train = table.loc[table["split"] == "train", "text"]
        made = recombine(train, known, params.seed)
        texts = list(islice(made, params.count))
        if len(texts) < params.count:
            raise InputError(
                "its train texts allow too few new sentences",
                path=manifest,
                found=f"{len(texts):,}",
                expected=f"{params.count:,}, unlabelled.count",
                fix=f"set that to {len(texts)}" if texts else "add train texts",
            )
        rows = [f"sentence {place + 1}" for place in range(len(texts))]
        return pd.DataFrame({"text": texts, "file": manifest, "row": rows}), 0
    check_below_root(params.sentences, "unlabelled.sentences")
    given = _read_file(root / params.sentences)
    said = given["text"].map(normalise_text)
    kept = given[~(said.isin(known) | said.duplicated())].reset_index(drop=True)
    if kept.empty:
        raise InputError(
            "has no sentence that the corpus lacks", path=root / params.sentences
        )
    return kept, len(given) - len(kept)


def recombine(train: Iterable[str], known: set[str], seed: int) -> Iterator[str]:
    """New sentences of the words of `train`, each once; ends when they become rare.

    Args:
        train: the train texts; each distinct wording counts once.
        known: normalised texts that are left out.
        seed: of the draws.
    """
    wordings = sorted({normalise_text(text) for text in train} - {""})
    followers: dict[str, list[str]] = {}
    for wording in wordings:
        for word, follower in pairwise(["", *wording.split(), ""]):
            followers.setdefault(word, []).append(follower)
    longest = max((len(wording.split()) for wording in wordings), default=0)
    generator = np.random.default_rng(seed)
    found: set[str] = set()
    draws = 0
    while wordings and draws < _MOST_DRAWS * (len(found) + 1):
        draws += 1
        words = [""]
        while len(words) == 1 or (words[-1] and len(words) <= longest + 1):
            choices = followers[words[-1]]
            words.append(choices[int(generator.integers(len(choices)))])
        text = " ".join(words[1:-1])
        if words[-1] == "" and text not in known and text not in found:
            found.add(text)
            yield text


def _read_file(file: Path) -> pd.DataFrame:
    """The sentences of a file: columns text, file and row.

    Raises:
        InputError: it is missing or has none, or one cannot be spoken; names the row.
    """
    if not file.is_file():
        raise InputError(
            "no such file",
            path=file,
            fix=f"correct unlabelled.sentences, a file in {file.parent} or "
            f"{RECOMBINED}",
        )
    rows = list(_lines(file) if file.suffix.lower() == ".txt" else _column(file))
    if not rows:
        raise InputError("has no sentences", path=file)
    for row, text in rows:
        if CONTROL.search(text) or not any(map(str.isalnum, text)):
            raise InputError(
                f"{row} cannot be spoken",
                path=file,
                found=repr(text),
                expected="a sentence without control characters",
            )
    table = pd.DataFrame(rows, columns=["row", "text"])
    return table.assign(file=file)


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    for number, line in enumerate(lines, 1):
        if text := clean_text(line):
            yield f"line {number}", text


def _column(file: Path) -> Iterator[tuple[str, str]]:
    columns = read_columns(file)
    if "text" not in columns:
        raise InputError(
            "no column text", path=file, found=", ".join(columns), expected="text"
        )
    for number, text in enumerate(columns["text"], 2):
        yield f"row {number}", clean_text(text)
