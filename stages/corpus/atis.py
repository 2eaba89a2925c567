"""Spoken ATIS: the LDC's recordings joined with a text release that has intents.

The corpus root contains the releases (ATIS0 LDC93S4A/B, ATIS2 LDC93S5, ATIS3 LDC94S19
and LDC95S26), as copied from their discs, and the label files.

The text release (`*.w-intent.iob`) has utterances of ATIS2 and ATIS3, one a line: the
list of Shivakumar et al. 2019 (arXiv:1904.03576) has 5,869 recordings for its 5,871
lines. The paper has 5,833 utterances, fewer than lines; so by default each line gets
one recording.

With `joined_intents: first` the text release has the paper's 15 intents in 5,862 lines
if `least_utterances` is 7 to 12. With `drop` and the same it has 5,821, too few for the
paper; with `keep` and 13 to 20 it has 5,842, but one of the 15 is a joined intent.
"""

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stages.core.errors import InputError
from stages.core.manifest import SPLITS
from stages.corpus.atis_labels import (
    Label,
    Labels,
    Unmatched,
    read_labels,
    unmatched_label,
)
from stages.corpus.atis_recordings import (
    File,
    choose_recordings,
    find_files,
    match_recordings,
    unmatched_recording,
)
from stages.corpus.atis_words import match_key
from stages.corpus.params import CorpusParams
from stages.corpus.sphere import check_uncompressed

_PAPER_INTENTS = 15
_TEST_SHARE = 580 / (5253 + 580)
"""From the paper's Table 1, with valid part of train."""
_VALID_SHARE = 0.1
"""Of train; the usual development part of the text release is 500 of 4,978."""

Row = tuple[File, Label]


class Joined(NamedTuple):
    """Spoken ATIS.

    Attributes:
        table: rows for the manifest: path, split, speaker, text, intent; sorted by
            path. The text is the text release's.
        notes: what the join and the splits contain, for the user.
        unmatched: recordings and labels that are not in the table, sorted: `kind`
            (recording or label), `what` (path, or file and line), `reason`, `text`. A
            second recording of an utterance in the table is not listed.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    unmatched: pd.DataFrame


def read_atis(params: CorpusParams, root: Path) -> Joined:
    """Join recordings and labels by their words, and split them.

    An utterance gets the label whose text has the same `match_key` as its transcript.
    A text with two intents is left out: 7 lines of the text release, such as «what is
    restriction ap 57» and «… ap57».

    Test is drawn first, then valid from the rest, both stratified by intent. The draw
    depends only on the seed, the utterance's name and its text. Speakers and texts can
    be in several splits, as the paper does not exclude it; the notes count them.

    Args:
        params: `labels` and `joined_intents`, see `read_labels`. `least_utterances` of
            an intent, at least one for each split. `repeats`: if a text has more
            recordings than labels, use as many as `labelled`, spontaneous ones and
            later releases first, or `all`. `microphones` to use, the preferred first;
            one recording of an utterance is used. `seed` of the splits.
        root: the folder with the releases and the label files.

    Raises:
        InputError: a label file is missing or invalid (names the line), no recording
            has a label, or a recording is compressed.
    """
    labels = read_labels(root, params.labels, params.joined_intents)
    recordings, transcripts = find_files(root)
    spoken, unlabelled = match_recordings(root, recordings, transcripts, labels)
    found, unused = choose_recordings(root, spoken, labels, params.microphones)
    rows, left = _pair(labels, found, params.repeats)
    files = (
        f"{len(recordings)} recordings, {len(transcripts)} transcripts, "
        f"{labels.count} labels"
    )
    if not rows:
        raise InputError(
            "no recording has the words of a label",
            path=root,
            found=files,
            fix="put the recordings, their .sro or .lsn files and the labels there",
        )
    sizes = Counter(line.intent for _, line in rows)
    rows, rare = _without_rare(root, rows, sizes, params.least_utterances)
    table = _split_table(rows, params.seed)
    check_uncompressed(root / path for path in table["path"])
    unmatched = sorted([*labels.unmatched, *unlabelled, *unused, *left, *rare])
    others = sum(one.kind == "recording" for one in unmatched)
    second = len(recordings) - len(table) - others
    reasons = Counter(f"{one.kind}s left out, {one.reason}" for one in unmatched)
    notes = [
        files,
        f"{len(table)} recordings used, each with a label; {second} more of the same "
        "utterances",
        *(f"{what}: {count}" for what, count in sorted(reasons.items())),
        *_describe_intents(sizes, params.least_utterances),
    ]
    if params.splits == "given":
        notes += _describe_splits(table)
    left_out = pd.DataFrame(unmatched, columns=Unmatched._fields, dtype=str)
    return Joined(table, tuple(notes), left_out)


def _pair(
    labels: Labels, found: dict[str, list[File]], repeats: str
) -> tuple[list[Row], list[Unmatched]]:
    """Each label's recording; and the labels and recordings that are left over."""
    rows: list[Row] = []
    unmatched: list[Unmatched] = []
    for key, same in sorted(labels.wanted.items()):
        spoken = sorted(found.get(key, []), key=lambda one: one.preference)
        unmatched += [
            unmatched_label(line, "no recording") for line in same[len(spoken) :]
        ]
        rows += zip(spoken, same, strict=False)
        if repeats == "all":
            rows += [(one, same[-1]) for one in spoken[len(same) :]]
        else:
            unmatched += [
                unmatched_recording(one, "labelled less often", same[-1].text)
                for one in spoken[len(same) :]
            ]
    return rows, unmatched


def _without_rare(
    root: Path, rows: list[Row], sizes: Counter[str], least: int
) -> tuple[list[Row], list[Unmatched]]:
    """Rows of intents with at least `least` utterances; and the other recordings."""
    kept = [row for row in rows if sizes[row[1].intent] >= least]
    if not kept:
        raise InputError(
            f"no intent has {least} utterances",
            path=root,
            found=", ".join(f"{name} {size}" for name, size in sizes.most_common()),
            fix="complete the recordings, or lower least_utterances",
        )
    return kept, [
        unmatched_recording(one, "rare intent", line.text)
        for one, line in rows
        if sizes[line.intent] < least
    ]


def _split_table(rows: list[Row], seed: int) -> pd.DataFrame:
    """The rows with their splits, sorted by path."""
    by_intent: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_intent[row[1].intent].append(row)

    # With one more utterance few others move, unlike with a shuffle.
    def drawn(row: Row) -> tuple[str, str]:
        one, line = row
        draw = f"{seed}\n{one.name}\n{match_key(line.text)}"
        return hashlib.sha256(draw.encode()).hexdigest(), one.path

    sizes = {intent: len(same) for intent, same in sorted(by_intent.items())}
    test = _quotas(sizes, round(len(rows) * _TEST_SHARE), spare=2)
    rest = {intent: size - test[intent] for intent, size in sizes.items()}
    valid = _quotas(rest, round(sum(rest.values()) * _VALID_SHARE), spare=1)
    table = []
    for intent, same in by_intent.items():
        splits = ["test"] * test[intent] + ["valid"] * valid[intent]
        splits += ["train"] * (len(same) - len(splits))
        table += [
            (one.path, split, one.speaker, line.text, line.intent)
            for (one, line), split in zip(sorted(same, key=drawn), splits, strict=True)
        ]
    columns = ["path", "split", "speaker", "text", "intent"]
    return pd.DataFrame(sorted(table), columns=columns)


def _quotas(sizes: dict[str, int], total: int, *, spare: int) -> dict[str, int]:
    """`total` in proportion to `sizes`: each at least 1, and `spare` below its size."""
    quotas = dict.fromkeys(sizes, 1)
    share = total / sum(sizes.values())
    for _ in range(total - len(sizes)):
        growing = [name for name in sizes if quotas[name] < sizes[name] - spare]
        if growing:
            behind = max(growing, key=lambda name: sizes[name] * share - quotas[name])
            quotas[behind] += 1
    return quotas


def _describe_intents(sizes: Counter[str], least: int) -> list[str]:
    ordered = sorted(sizes.items(), key=lambda one: (-one[1], one))
    kept = [f"{name} {size}" for name, size in ordered if size >= least]
    rare = [f"{name} {size}" for name, size in ordered if size < least]
    lines = [f"{len(kept)} intents (the paper: {_PAPER_INTENTS}): {', '.join(kept)}"]
    if rare:
        lines.append(f"intents left out, too rare: {', '.join(rare)}")
    return lines


def _describe_splits(table: pd.DataFrame) -> list[str]:
    parts = {name: table[table["split"] == name] for name in SPLITS}
    lines = [", ".join(f"{len(part)} {name}" for name, part in parts.items())]
    for column in ("speaker", "text"):
        tested, trained = (set(parts[name][column]) for name in ("test", "train"))
        lines.append(
            f"{len(tested & trained)} of {len(tested)} {column}s of test are also in "
            "train"
        )
    return lines
