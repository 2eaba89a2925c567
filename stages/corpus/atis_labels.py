"""Labels of ATIS: text and intent of each line of the label files, by `match_key`."""

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import InputError
from stages.core.paths import path_on_disk
from stages.core.table import clean_text, not_utf8
from stages.corpus.atis_words import match_key
from stages.corpus.rows import check_columns
from stages.corpus.table import read_text_table


@dataclass(frozen=True)
class Label:
    """A line of a label file; `where` is its file and line."""

    text: str
    intent: str
    where: str


class Unmatched(NamedTuple):
    """A recording or label that is not in the table; `what` is its path or line."""

    kind: str
    what: str
    reason: str
    text: str


@dataclass(frozen=True)
class Labels:
    """Labels to match with recordings.

    Attributes:
        count: of all lines.
        wanted: the labels of each key.
        refused: for other keys of the files, the reason why they have no label.
        unmatched: the lines that are left out.
    """

    count: int
    wanted: dict[str, list[Label]]
    refused: dict[str, str]
    unmatched: list[Unmatched]


def unmatched_label(line: Label, reason: str) -> Unmatched:
    """A label that is left out."""
    return Unmatched("label", line.where, reason, line.text)


def read_labels(root: Path, names: tuple[str, ...], joined_intents: str) -> Labels:
    """The labels of all files, without those whose intent is ambiguous.

    Args:
        root: the corpus root.
        names: label files relative to `root`: `.csv` and `.tsv` with the columns text
            and intent; otherwise in the format of `.w-intent.iob`.
        joined_intents: what `atis_flight#atis_airfare` becomes: its `first` part; or
            `drop` the label; or `keep` it as a separate intent.

    Raises:
        InputError: a label file is missing or invalid; names the line.
    """
    lines = [
        line
        for name in names
        for line in _read_file(root / path_on_disk(root, name), name)
    ]
    by_key: dict[str, list[Label]] = defaultdict(list)
    unmatched: list[Unmatched] = []
    refused: dict[str, str] = {}
    for line in lines:
        key = match_key(line.text)
        if joined_intents == "drop" and "#" in line.intent:
            refused[key] = "joined intent"
            unmatched.append(unmatched_label(line, "joined intent"))
        elif joined_intents == "first":
            by_key[key].append(replace(line, intent=line.intent.split("#")[0]))
        else:
            by_key[key].append(line)
    for key, same in by_key.items():
        refused.pop(key, None)
        if len({line.intent for line in same}) > 1:
            refused[key] = "two labels"
            unmatched += [unmatched_label(line, "two labels") for line in same]
    wanted = {key: same for key, same in by_key.items() if key not in refused}
    return Labels(len(lines), wanted, refused, unmatched)


def _read_file(file: Path, name: str) -> list[Label]:
    if not file.is_file():
        raise InputError(
            "no such label file",
            path=file,
            fix="put the text release below the corpus root and name its files",
        )
    if file.suffix in (".csv", ".tsv"):
        table = read_text_table(file)
        check_columns(file, table.columns, ("text", "intent"))
        fields = list(enumerate(zip(table["text"], table["intent"], strict=True), 2))
    else:
        fields = _read_iob(file)
    labels = []
    for number, (text, intent) in fields:
        text, intent = clean_text(text), clean_text(intent)
        for field, value in (("text", text), ("intent", intent)):
            if not value or not value.isprintable():
                raise InputError(
                    f"line {number} has no readable {field}",
                    path=file,
                    found=repr(value),
                )
        labels.append(Label(text, intent, f"{name}:{number}"))
    return labels


def _read_iob(file: Path) -> list[tuple[int, tuple[str, str]]]:
    """Number, text and intent of lines `BOS words EOS <tab> tags intent`."""
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    labels = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        said, _, tags = line.partition("\t")
        words, slots = said.split(), tags.split()
        framed = len(words) > 2 and words[0] == "BOS" and words[-1] == "EOS"
        # The intent is in the place of the tag of EOS.
        if not framed or len(slots) != len(words) or re.match(r"O$|[BI]-", slots[-1]):
            raise InputError(
                f"line {number} is not a labelled utterance",
                path=file,
                found=f"{len(words)} words and {len(slots)} tags in {line[:60]!r}",
                expected="`BOS words EOS`, a tab, a tag for each, the last the intent",
            )
        labels.append((number, (" ".join(words[1:-1]), slots[-1])))
    return labels
