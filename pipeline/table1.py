"""A manifest's figures as in the paper's Table 1, beside the published ones."""

from pathlib import Path

from pipeline.table import format_table

_COLUMNS = {
    "utterances": "utterances",
    "minutes": "minutes",
    "mean_seconds": "mean seconds",
    "intents": "intents",
    "speakers": "speakers",
    "distinct_texts": "distinct texts",
}


def describe_manifest(corpus: str, manifest: Path) -> str:
    """The table, and a line for each figure in which the corpus is not the paper's.

    Args:
        corpus: its name; the paper has `fsc` and `atis`.
        manifest: the utterance table.
    """
    from stages.manifest import read_manifest
    from stages.report.published import TABLE1
    from stages.report.scores import describe_corpus
    from stages.report.tables import table1_differences

    found = describe_corpus(read_manifest(manifest))
    rows = [("", *_COLUMNS.values())]
    for split, counts in found.items():
        rows.append((split, *(_number(counts[key]) for key in _COLUMNS)))
        if published := TABLE1.get(corpus, {}).get(split):
            cells = (_number(published.get(key)) for key in _COLUMNS)
            rows.append(("  the paper", *cells))
    lines = [format_table(rows)]
    if corpus in TABLE1:
        lines += table1_differences(corpus, found) or ["all figures are the paper's"]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
