"""The utterances that systems are scored on, and the groups that each belongs to."""

from itertools import pairwise

import numpy as np
import pandas as pd

from stages.core.corpus_files import CorpusFiles
from stages.core.labels import Labels
from stages.core.manifest import read_conditions
from stages.core.text import normalise_text


def describe_utterances(
    manifest: pd.DataFrame, corpus: CorpusFiles, labels: Labels
) -> pd.DataFrame:
    """Valid and test, one row per utterance.

    Columns id, split, intent, text (normalised), wording (`seen` or `unseen` in
    training), length (a quarter of test; empty for valid), speaker (empty if unknown),
    condition (how it was recorded) if the corpus states conditions, and combination
    (of values, `seen` or `unseen` in training) if it has slots.

    Args:
        manifest: the usable rows.
        corpus: has `conditions.csv`.
        labels: of the corpus.

    Raises:
        InputError: `conditions.csv` is missing or damaged.
    """
    test = manifest["split"] == "test"
    columns = ["id", "split", "intent", "text", "wording", "length", "speaker"]
    marked = manifest.assign(
        text=manifest["text"].map(normalise_text),
        wording=mark_seen(manifest, manifest["text"].map(normalise_text)),
        combination=mark_seen(manifest, manifest["intent"]),
        length=mark_length(manifest.loc[test, "seconds"]),
        speaker=manifest["speaker"].where(manifest["speaker"].str.strip() != ""),
    )
    conditions = read_conditions(corpus.conditions)
    if len(conditions):
        marked = marked.merge(conditions, on="id", how="left", validate="one_to_one")
        columns.append("condition")
    if labels.has_slots:
        columns.append("combination")
    return marked.loc[marked["split"] != "train", columns]


def mark_length(seconds: pd.Series) -> pd.Series:
    """The quarter of all durations that each belongs to, `1.20 to 1.55 s`, ordered.

    The bounds are the quartiles as displayed; each belongs to the quarter below it.
    Equal durations can make fewer than four groups.
    """
    bounds = np.unique(np.quantile(seconds, [0.25, 0.5, 0.75]).round(2))
    shown = [f"{bound:.2f}" for bound in bounds]
    between = [f"{low} to {high} s" for low, high in pairwise(shown)]
    labels = [f"up to {shown[0]} s", *between, f"over {shown[-1]} s"]
    return pd.cut(seconds, [-np.inf, *bounds, np.inf], labels=labels)


def mark_seen(manifest: pd.DataFrame, names: pd.Series) -> pd.Series:
    """`seen` where an utterance's name occurs in train, else `unseen`."""
    seen = names.isin(set(names[manifest["split"] == "train"]))
    return seen.map({True: "seen", False: "unseen"})
