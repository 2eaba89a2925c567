"""The cost of float16: the demo's features stored as float32 and float16.

Extracts the demo's features in both types, then trains Baseline-2 and ALN on each, with
the parameters in params.yaml and the cached targets. Prints the size on disk, the
largest difference between the features, the accuracies, and the share of test
predictions that differ between the types; for comparison, the share that differs
between two seeds.

    python -m benchmarks.storage

Needs the demo's recordings and targets: run `dvc repro targets` first.
"""

import shutil
import tempfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.layout import Layout
from pipeline.params import load_params
from stages.acoustic.params import DTYPES
from stages.acoustic.run import run as extract
from stages.cache.store import CacheReader
from stages.core.corpus_files import CorpusFiles
from stages.core.runtime import RunOptions
from stages.student.inputs import Sources
from stages.student.params import Variant
from stages.student.run import run as train

_OPTIONS = RunOptions(device="cpu", workers=2)


def main() -> None:
    """Measure and print."""
    params, layout = load_params(Path("params.yaml")), Layout("demo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = CorpusFiles(folder)
        for path in (layout.corpus_files.manifest, layout.corpus_files.intents):
            shutil.copy(path, folder)
        for dtype in DTYPES:
            done = extract(
                replace(params.acoustic, dtype=dtype),
                corpus,
                audio=layout.audio,
                cache=folder / dtype,
                options=_OPTIONS,
            )
            size = sum(path.stat().st_size for path in (folder / dtype).glob("*.h5"))
            print(f"{dtype}: {done.frames} frames, {size / 1e6:.1f} MB")
        exact, rounded = (CacheReader(folder / dtype) for dtype in DTYPES)
        keys = pd.read_csv(corpus.manifest)["audio_sha256"].tolist()
        one, other = exact.load(keys)[0], rounded.load(keys)[0]
        apart = np.abs(one - other).max()
        print(f"apart by {apart:.2g} at most, {apart / one.std():.2g} of a deviation")
        for system, alpha in (("baseline2", None), ("aln", 0.5)):
            _compare(Variant(system, alpha, params.student), corpus, layout.targets)


def _compare(variant: Variant, corpus: CorpusFiles, targets: Path) -> None:
    """Train on both and print a line each."""
    folder, system = corpus.folder, variant.system
    tables = {}
    for dtype in DTYPES:
        output = folder / f"{system}-{dtype}"
        summary = train(
            variant,
            Sources(corpus, folder / dtype, targets),
            output=output,
            unfinished=folder / "unfinished",
            ledger=folder / "results",
            options=_OPTIONS,
        )
        rows = pd.read_csv(output / "predictions.csv")
        rows = rows[rows["split"] == "test"]
        tables[dtype] = rows.pivot(index="id", columns="seed", values="predicted")
        print(
            f"{system} on {dtype}: test {summary.scores['test_accuracy']:.2f} ± "
            f"{summary.scores['test_accuracy_std']:.2f}%"
        )
    exact, rounded = tables.values()
    between = [
        100 * (exact[one] != exact[other]).mean()
        for one, other in combinations(exact.columns, 2)
    ]
    print(
        f"{system}: {100 * (exact != rounded).to_numpy().mean():.2f}% of the "
        f"predictions differ by dtype, {np.mean(between):.2f}% by seed"
    )


if __name__ == "__main__":
    main()
