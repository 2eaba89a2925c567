"""Table 1 of the paper for a corpus. Needs only pandas: prepare-corpus prints it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stages.core.labels import Labels
from stages.core.manifest import SPLITS
from stages.core.markdown import code, escape
from stages.core.text import normalise_text
from stages.report.markdown import format_count, format_difference, format_table
from stages.report.published import CORPORA, TABLE1

TABLE1_ROWS = {
    "utterances": "utterances",
    "minutes": "minutes",
    "mean_seconds": "mean seconds",
    "intents": "intents",
    "speakers": "speakers",
    "distinct_texts": "distinct texts",
    "texts_shared_with_train": "of these also in train",
}


def describe_corpus(
    manifest: pd.DataFrame, labels: Labels | None = None
) -> dict[str, dict[str, Any]]:
    """Table 1 for this corpus, by split; texts are compared normalised.

    With slots, intents are the distinct frames, and `values` counts those of each slot.
    """
    texts = manifest["text"].map(normalise_text)
    trained = set(texts[manifest["split"] == "train"])
    table: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        rows = manifest[manifest["split"] == split]
        own = set(texts[manifest["split"] == split])
        table[split] = {
            "utterances": len(rows),
            "minutes": round(float(rows["seconds"].sum()) / 60, 4),
            "mean_seconds": round(float(rows["seconds"].mean()), 4),
            "intents": int(rows["intent"].nunique()),
            "speakers": int(rows["speaker"].nunique()),
            "distinct_texts": len(own),
        }
        if split != "train":
            table[split]["texts_shared_with_train"] = len(own & trained)
        if labels is not None and labels.has_slots:
            values = labels.values(rows["intent"])
            table[split]["values"] = {
                slot: len(set(own)) for slot, own in values.items()
            }
    return table


def corpus_table(corpus: str, table1: Mapping[str, Mapping[str, Any]]) -> str:
    """Table 1 for this corpus next to the paper's, and the differences."""
    columns = [(f"{code(corpus)} {split}", table1[split]) for split in SPLITS]
    columns += [
        (f"{CORPORA[name]} {split} (paper)", counts)
        for name, splits in TABLE1.items()
        for split, counts in splits.items()
    ]
    rows = [
        [title, *(format_count(counts.get(key)) for _, counts in columns)]
        for key, title in TABLE1_ROWS.items()
    ]
    slots = table1["train"].get("values", {})
    for slot in slots:
        counts = [of.get("values", {}).get(slot) for _, of in columns]
        rows.append([f"values of {escape(slot)}", *map(format_count, counts)])
    if slots:
        place = list(TABLE1_ROWS).index("intents")
        rows[place][0] = "intents (combinations of values)"
    table = format_table(["", *(name for name, _ in columns)], rows)
    if corpus not in TABLE1:
        return table
    differences = table1_differences(corpus, table1)
    if not differences:
        return f"{table}\n\nTrain and test match the paper's Table 1 exactly."
    listed = "\n".join(f"- {line}" for line in differences)
    return f"{table}\n\nDifferences from the paper's Table 1:\n\n{listed}"


def table1_differences(
    corpus: str, table1: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """A line for each figure that differs from the paper's Table 1."""
    lines = []
    for split, counts in TABLE1[corpus].items():
        for key, published in counts.items():
            measured = round(table1[split][key], 2)
            if measured != published:
                lines.append(
                    f"{split}, {TABLE1_ROWS[key]}: {format_count(measured)}, "
                    f"the paper has {format_count(published)} "
                    f"({format_difference(measured - published)})"
                )
    return lines
