"""Splits made from a corpus: by a seed, stratified by intent, optionally by group.

All utterances of a group, a speaker or a wording, are in one split. Splits by speaker
and by wording are the two hard ones of Arora et al. 2022 («Rethinking End-to-End
Evaluation of Decomposable Tasks», Interspeech), which the official splits of Fluent
Speech Commands lack; those made here are not the authors' lists.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit

from stages.core.errors import InputError
from stages.core.labels import Labels
from stages.core.text import normalise_text

_DRAWS = 64


def make_splits(
    rows: pd.DataFrame,
    kind: str,
    *,
    valid_share: float,
    test_share: float,
    seed: int,
    slots: Sequence[str] = (),
) -> pd.DataFrame:
    """`rows` with a new column split, which does not depend on their order.

    Every intent has an utterance in train: the only group with an intent is always in
    train, and if train gets none of an intent's groups, the smallest one moves there.
    With slots, so has every value of a slot, and splits are stratified by the first.

    Args:
        rows: columns path, speaker, text and intent.
        kind: the group: `random`, an utterance; `speakers`; or `wordings`, utterances
            with the same normalised text.
        valid_share: share of the utterances, as near as whole groups allow.
        test_share: likewise.
        seed: of the draw.
        slots: of the corpus, if it names any.

    Raises:
        InputError: no rows, one without a speaker, or too few groups for three splits.
    """
    if rows.empty:
        raise InputError("no utterances to make splits of")
    rows = rows.sort_values("path", ignore_index=True)
    groups = _groups(rows, kind)
    held = pd.Series("train", index=rows.index)
    frames = rows["intent"]
    values = pd.DataFrame(Labels.of(frames, slots).values(frames), index=rows.index)
    alone = [
        groups.groupby(column).transform("nunique") == 1 for _, column in values.items()
    ]
    free = ~groups.isin(set(groups[np.logical_or.reduce(alone)]))
    for split, share in (("test", test_share), ("valid", valid_share)):
        places = np.flatnonzero(free & (held == "train"))
        wanted = share * len(rows) / max(1, len(places))
        if wanted >= 1 or groups.iloc[places].nunique() < max(2, 1 / wanted):
            raise InputError(
                f"too few {kind if kind != 'random' else 'utterances'} for a "
                f"{split} split",
                found=f"{groups.iloc[places].nunique()} to choose from",
                expected=f"enough for {share:.0%} of {len(rows)} utterances",
                fix="set corpus.valid_share and corpus.test_share, or other "
                "corpus.splits",
            )
        intents = values.iloc[places, 0]
        if kind == "random":
            chosen = _stratified(intents, wanted, seed)
        else:
            chosen = _nearest(intents, groups.iloc[places], wanted, seed)
        held.iloc[places[chosen]] = split
    for _, column in values.items():
        _fill_train(column, groups, held)
    return rows.assign(split=held)


def _groups(rows: pd.DataFrame, kind: str) -> pd.Series:
    if kind == "random":
        return rows["path"]
    if kind == "wordings":
        return rows["text"].map(normalise_text)
    unknown = rows[rows["speaker"].str.strip() == ""]
    if len(unknown):
        raise InputError(
            "splits by speaker need a speaker for every utterance",
            found=f"no speaker for {unknown['path'].iloc[0]!r} and "
            f"{len(unknown) - 1} more",
            fix="set corpus.splits to random or wordings",
        )
    return rows["speaker"]


def _stratified(intents: pd.Series, share: float, seed: int) -> np.ndarray:
    """Places of a share of the utterances, the same share of each intent."""
    order = np.random.default_rng(seed).permutation(len(intents))
    exact = share * intents.value_counts().sort_index()
    quotas = exact.astype(int)
    left = round(share * len(intents)) - int(quotas.sum())
    # The rest goes to the intents with the largest remainders.
    quotas[(quotas - exact).sort_values(kind="stable").index[:left]] += 1
    drawn = intents.iloc[order]
    chosen = drawn.groupby(drawn).cumcount() < drawn.map(quotas)
    return np.sort(order[chosen.to_numpy()])


def _nearest(
    intents: pd.Series, groups: pd.Series, share: float, seed: int
) -> np.ndarray:
    """Places of whole groups: of many draws, the nearest to each intent's share."""
    draws = GroupShuffleSplit(_DRAWS, test_size=share, random_state=seed)
    totals = intents.value_counts()

    def distance(places: np.ndarray) -> float:
        found = intents.iloc[places].value_counts().reindex(totals.index, fill_value=0)
        return float((found - share * totals).abs().sum())

    return min((draw for _, draw in draws.split(intents, groups=groups)), key=distance)


def _fill_train(values: pd.Series, groups: pd.Series, held: pd.Series) -> None:
    """Move the smallest group of every value that train lacks to train."""
    for _, part in values.groupby(values):
        if (held[part.index] == "train").any():
            continue
        sizes = groups[part.index].value_counts()
        smallest = min(sizes.index, key=lambda name: (sizes[name], name))
        held[groups == smallest] = "train"
