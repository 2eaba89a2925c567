"""What the students gain from the teacher: variants of them on prepared corpora.

Takes folders of `cache/` in which all stages up to the targets are finished, and trains
every variant with the same seeds. Several folders are folds of one corpus: their test
splits are put together. The table has accuracies in percent, mean and standard
deviation over seeds, on wordings of train and on others, and the difference from
Baseline-2 with the report's 95% interval, paired by utterance and seed.

    python -m benchmarks.transfer_corpora fresh few      # write data/fresh, data/few
    aln-pipeline ... --set corpus.name=few               # up to the targets
    python -m benchmarks.transfer cache/few

Choose on valid; look at test once. Run it again to resume.
"""

import argparse
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from pipeline.layout import Layout
from pipeline.params import Params, load_params
from stages.core.errors import PipelineError
from stages.core.files import atomic_path
from stages.core.results import name_of
from stages.core.runtime import RunOptions
from stages.core.text import normalise_text, text_key
from stages.report.intervals import mean_intervals
from stages.report.markdown import format_table
from stages.student.inputs import Inputs, Sources
from stages.student.params import RECOMMENDED, Variant
from stages.student.scheduling import train_variants

BASE = "baseline2"
STUDENTS = (
    "aln_linguistic alpha=0.5",
    "aln_linguistic alpha=0.8",
    "aln alpha=0.5",
    "aln alpha=0.8",
    "recommended",
    "recommended unlabelled=false",
    "recommended unlabelled=false alpha=0",
    "recommended unlabelled=false soft_targets=0.5",
    "recommended unlabelled=false standardisation=false",
    "recommended unlabelled=false teacher_classifier=false",
    "recommended alpha=0 teacher_classifier=false",
    "recommended system=aln",
)


def variant(name: str, params: Params) -> Variant:
    """The student that `name` describes: a system, and what it changes."""
    system, *changes = name.split()
    given = dict(change.split("=") for change in changes)
    values = {key: YAML(typ="safe").load(value) for key, value in given.items()}
    if system == RECOMMENDED:
        return replace(params.recommended, **values).variant(params.student)
    alpha = values.pop("alpha", None)
    return Variant(system, alpha, replace(params.student, **values))


def predict(
    folder: Path, chosen: dict[str, Variant], work: Path, options: RunOptions
) -> dict[str, pd.DataFrame]:
    """Whether each utterance of valid and test is right, by variant.

    Returns:
        Tables with the columns id, split, speaker, text, seen (the wording is one of
        train's), and a column per seed.
    """
    layout = Layout(folder.name, cache=folder.parent)
    sources = Sources(
        layout.corpus_files,
        layout.acoustic,
        layout.targets,
        layout.posteriors,
        layout.unlabelled,
    )
    identities = {name: sources.identify(one) for name, one in chosen.items()}
    files = {name: work / f"{name_of(one)}.csv" for name, one in identities.items()}
    missing = [name for name in chosen if not files[name].is_file()]
    if missing:
        todo = [chosen[name] for name in missing]
        inputs = Inputs(sources, todo)
        results = train_variants(
            [(one, identities[name]) for name, one in zip(missing, todo, strict=True)],
            inputs,
            unfinished=work / "unfinished",
            options=options,
            description=folder.name,
        )
        with closing(results):
            for name, result in zip(missing, results, strict=True):
                if isinstance(result, PipelineError):
                    raise result
                parts = []
                for split in ("valid", "test"):
                    table = inputs.tables[split]
                    part = table[["id", "split", "speaker", "text"]].copy()
                    trained = inputs.tables["train"]["text"].map(text_key)
                    part["seen"] = part["text"].map(text_key).isin(trained)
                    actual = inputs.numbers(split)
                    for one in result:
                        logits = one.student.logits if split == "valid" else one.on_test
                        hits = (inputs.labels.choose(logits) == actual).all(1)
                        part[str(one.student.seed)] = hits
                    parts.append(part)
                with atomic_path(files[name]) as temporary:
                    pd.concat(parts).to_csv(temporary, index=False)
    return {
        name: pd.read_csv(path, keep_default_na=False, na_values={"speaker": [""]})
        for name, path in files.items()
    }


def tabulate(found: dict[str, pd.DataFrame], splits: Sequence[str]) -> str:
    """A row per variant."""
    base = found[BASE]
    utterances = base.assign(text=base["text"].map(normalise_text))
    seeds = [name for name in base if name.isdecimal()]
    parts = {
        f"{split}{', unseen wordings' * unseen}": (base["split"] == split)
        & (~base["seen"] | (not unseen))
        for split in splits
        for unseen in (False, True)
    }
    rows = []
    for name, table in found.items():
        row = [name]
        for there in parts.values():
            hits = 100 * table.loc[there, seeds].to_numpy(float)
            means = hits.mean(0)
            cell = f"{means.mean():.2f} ± {means.std(ddof=1):.2f}"
            if name != BASE:
                own = (hits - 100 * base.loc[there, seeds].to_numpy(float)).mean(1)
                ((low, high),) = mean_intervals(own[:, None], utterances[there])
                cell += f" ({own.mean():+.2f}: {low:+.2f} to {high:+.2f})"
            row.append(cell)
        rows.append(row)
    return format_table(["student", *parts], rows)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("caches", nargs="+", type=Path, metavar="CACHE")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--students", nargs="+", default=STUDENTS, metavar="NAME")
    parser.add_argument("--valid-only", action="store_true", help="do not show test")
    parser.add_argument("--work", type=Path, default=Path("cache/transfer"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    params = load_params(arguments.params, arguments.set)
    student = replace(params.student, seeds=tuple(arguments.seeds))
    params = replace(params, student=student)
    chosen = {name: variant(name, params) for name in (BASE, *arguments.students)}
    options = RunOptions(device="cpu", workers=arguments.workers, force=False)
    folds = [
        predict(folder, chosen, arguments.work, options) for folder in arguments.caches
    ]
    found = {
        name: pd.concat([fold[name] for fold in folds], ignore_index=True)
        for name in chosen
    }
    splits = ("valid",) if arguments.valid_only else ("valid", "test")
    print(tabulate(found, splits))


if __name__ == "__main__":
    main()
