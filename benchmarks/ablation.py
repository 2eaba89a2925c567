"""Ablation of ALN on the demo: students with one parameter changed at a time.

Trains ALN with the parameters in params.yaml (α 0.5), then with one of them changed, on
the same seeds, and prints a Markdown table: accuracy in percent on valid and test, mean
± standard deviation, and the difference on test from ALN. Students that are in the
demo's ledger are not trained again.

    python -m benchmarks.ablation

Needs the demo's features and targets: run `dvc repro targets` first.
"""

from dataclasses import replace
from pathlib import Path

from pipeline.layout import Layout
from pipeline.params import load_params
from stages.core.runtime import RunOptions
from stages.student.inputs import Sources
from stages.student.params import StudentParams, Variant
from stages.sweep.run import run

_ALPHA = 0.5


def main() -> None:
    """Train and print."""
    params, layout = load_params(Path("params.yaml")).student, Layout("demo")
    rows = _rows(params)
    summary = run(
        list(rows.values()),
        Sources(layout.corpus_files, layout.acoustic, layout.targets),
        ledger=layout.results,
        unfinished=layout.unfinished("ablation"),
        options=RunOptions(workers=2),
    )
    print("| | valid | test | against ALN |\n|---|---|---|---|")
    usual = summary.entries[0]["test_accuracy"]
    for name, entry in zip(rows, summary.entries, strict=True):
        cells = [
            f"{entry[f'{split}_accuracy']:.2f} ± {entry[f'{split}_accuracy_std']:.2f}"
            for split in ("valid", "test")
        ]
        cells.append(f"{entry['test_accuracy'] - usual:+.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


def _rows(params: StudentParams) -> dict[str, Variant]:
    """ALN first, then each change, by name in the table."""

    def aln(**changes: object) -> Variant:
        return Variant("aln", _ALPHA, replace(params, **changes))  # type: ignore[arg-type]

    return {
        f"ALN, α {_ALPHA:g}": aln(),
        **{f"α {alpha:g}": Variant("aln", alpha, params) for alpha in (0, 0.2, 0.8, 1)},
        "no attention: z is the mapped ê_lang": aln(attention="none"),
        "keys and values from e_acoust": aln(attention="self"),
        "f_k and f_v take ê_lang unmapped": aln(mapping="none"),
        "scores not scaled": aln(scaling=False),
        "one learning rate for all layers": aln(attention_rate=1.0),
        "PyTorch's initialisation": aln(initialisation="pytorch"),
        "mean over frames, not maximum": aln(frame_pooling="mean"),
        "GRU in one direction": aln(gru_bidirectional=False),
        "GRU twice as wide": aln(gru_width=2 * params.gru_width),
        "dropout 0.2": aln(dropout=0.2),
        "last epoch, not the best on valid": aln(selection="last"),
        "ALN linguistic": Variant("aln_linguistic", _ALPHA, params),
        "Baseline-2": Variant("baseline2", None, params),
    }


if __name__ == "__main__":
    main()
