"""A manifest's figures as in the paper's Table 1, beside the published ones."""

from pathlib import Path

from pipeline.formatting import format_table


def describe_manifest(corpus: str, manifest: Path) -> str:
    """The table, and a line for each figure in which the corpus is not the paper's.

    Args:
        corpus: its name; the paper has `fsc` and `atis`.
        manifest: the utterance table.
    """
    from stages.core.manifest import read_manifest
    from stages.report.counts import describe_corpus
    from stages.report.published import TABLE1
    from stages.report.tables import TABLE1_ROWS, format_count, table1_differences

    found = describe_corpus(read_manifest(manifest))
    rows = [("", *TABLE1_ROWS.values())]
    for split, counts in found.items():
        rows.append((split, *(format_count(counts.get(key)) for key in TABLE1_ROWS)))
        if published := TABLE1.get(corpus, {}).get(split):
            cells = (format_count(published.get(key)) for key in TABLE1_ROWS)
            rows.append(("  the paper", *cells))
    lines = [format_table(rows)]
    if corpus in TABLE1:
        lines += table1_differences(corpus, found) or ["all figures are the paper's"]
    return "\n".join(lines)
