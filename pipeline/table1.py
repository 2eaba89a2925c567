"""Statistics of a corpus next to those of the paper's Table 1, as plain text."""

from pathlib import Path

from pipeline.formatting import format_table


def describe_manifest(corpus: str, manifest: Path) -> str:
    """The table, then a line for each figure that differs from the paper's.

    Args:
        corpus: its name; the paper has `fsc` and `atis`.
        manifest: the utterance table.
    """
    from stages.core.manifest import read_labels, read_manifest
    from stages.report.corpus_table import (
        TABLE1_ROWS,
        describe_corpus,
        table1_differences,
    )
    from stages.report.markdown import format_count
    from stages.report.published import TABLE1

    labels = read_labels(manifest.with_name("intents.json"))
    found = describe_corpus(read_manifest(manifest), labels)
    slots = list(labels.slots) if labels.has_slots else []
    rows = [("", *TABLE1_ROWS.values(), *slots)]
    for split, counts in found.items():
        cells = [format_count(counts.get(key)) for key in TABLE1_ROWS]
        cells += [format_count(counts["values"][slot]) for slot in slots]
        rows.append((split, *cells))
        if published := TABLE1.get(corpus, {}).get(split):
            cells = [format_count(published.get(key)) for key in TABLE1_ROWS]
            rows.append(("  the paper", *cells, *[""] * len(slots)))
    lines = [format_table(rows)]
    if corpus in TABLE1:
        differences = table1_differences(corpus, found)
        lines += differences or ["all figures match the paper's"]
    return "\n".join(lines)
