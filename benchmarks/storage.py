"""What does float16 cost? The demo's features stored both ways, and students on each.

Extracts the demo's features as float32 and as float16, then trains Baseline-2 and ALN
on each, with the parameters of params.yaml and the targets that are cached. Prints the
bytes on disk, how far the features are apart, the accuracies, and how many test
predictions of one seed differ; beside it how many differ between two seeds, which is
what training from another start changes by itself.

    python -m benchmarks.storage

Needs the demo's recordings and targets: run `dvc repro targets` first.
"""

import tempfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.layout import Layout
from pipeline.params import load_params
from stages.acoustic import extract
from stages.acoustic.params import DTYPES
from stages.cache.store import CacheReader
from stages.student import run as student

_SYSTEMS: tuple[tuple[str, float | None], ...] = (("baseline2", None), ("aln", 0.5))


def main() -> None:
    """Measure and print."""
    params, layout = load_params(Path("params.yaml")), Layout("demo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dtype in DTYPES:
            acoustic = replace(params.acoustic, dtype=dtype)
            done = extract.run(
                acoustic,
                manifest=layout.manifest,
                audio=layout.audio,
                cache=folder / dtype,
                digest=folder / f"{dtype}.digest",
                quarantine=folder / "quarantine.csv",
                device="cpu",
            )
            size = sum(path.stat().st_size for path in (folder / dtype).glob("*.h5"))
            print(f"{dtype}: {done.frames} frames, {size / 1e6:.1f} MB")
        exact, rounded = (CacheReader(folder / dtype) for dtype in DTYPES)
        keys = pd.read_csv(layout.manifest)["audio_sha256"].tolist()
        one, other = exact.load(keys)[0], rounded.load(keys)[0]
        apart = np.abs(one - other).max()
        print(f"apart by {apart:.2g} at most, {apart / one.std():.2g} of a deviation")
        for system, alpha in _SYSTEMS:
            _compare(folder, system, alpha, params.student, layout)


def _compare(folder, system, alpha, params, layout) -> None:  # type: ignore[no-untyped-def]
    """Train on both and print a line each."""
    tables = {}
    for dtype in DTYPES:
        output = folder / f"{system}-{dtype}"
        summary = student.run(
            params,
            system=system,
            alpha=alpha,
            manifest=layout.manifest,
            acoustic=folder / dtype,
            acoustic_digest=folder / f"{dtype}.digest",
            quarantine=folder / "quarantine.csv",
            targets=layout.targets,
            targets_digest=layout.targets_digest,
            output=output,
            device="cpu",
            workers=2,
        )
        rows = pd.read_csv(output / "predictions.csv")
        rows = rows[rows["split"] == "test"]
        tables[dtype] = rows.pivot(index="id", columns="seed", values="predicted")
        print(
            f"{system} on {dtype}: test {summary.test_accuracy:.2f} ± "
            f"{summary.test_accuracy_std:.2f}%"
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
