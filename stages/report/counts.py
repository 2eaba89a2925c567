"""What Table 1 counts. Imports nothing heavy, since every `prepare` shows it."""

from typing import Any

import pandas as pd

from stages.core.manifest import SPLITS
from stages.core.text import normalise_text


def describe_corpus(manifest: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Table 1 for this corpus, by split; texts are compared normalised."""
    texts = manifest["text"].map(normalise_text)
    heard = set(texts[manifest["split"] == "train"])
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
            table[split]["texts_shared_with_train"] = len(own & heard)
    return table
