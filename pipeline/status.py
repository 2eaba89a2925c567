"""`status`: what each stage has computed, and what is out of date."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.formatting import format_size, format_table
from pipeline.layout import KINDS, Layout
from stages.core.errors import ConfigurationError, PipelineError
from stages.core.text import name_some


def describe(layout: Layout) -> str:
    """A table of the stages of dvc.yaml: state, contents, size, and why if not fresh.

    Raises:
        ConfigurationError: the working directory is not a DVC repository, or DVC is
            locked by another command.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            stages = {stage.addressing: stage for stage in repo.index.stages}
            changes = repo.status()
    except DvcException as error:
        raise ConfigurationError(
            f"DVC cannot report the status ({' '.join(str(error).split())})",
            fix="run this in the repository, while no other dvc command runs",
        ) from error
    rows = [("stage", "state", "contents", "size", "why")]
    for name, stage in stages.items():
        state, why = _judge(changes.get(name, []))
        paths = [Path(out.fs_path) for out in stage.outs]
        size = sum(map(_size, paths))
        contents = _contents(paths, layout)
        rows.append((name, state, contents, format_size(size) if size else "", why))
    return format_table(rows)


def _judge(changes: Iterable[Any]) -> tuple[str, str]:
    """State and reason, from the changes that DVC reports for a stage."""
    missing: list[str] = []
    reasons: dict[str, list[str]] = {}
    for change in changes:
        if isinstance(change, str):
            reasons[change] = []
            continue
        for kind, items in change.items():
            for path, how in items.items():
                if kind == "changed outs" and how == "deleted":
                    missing.append(path)
                elif isinstance(how, dict):  # params.yaml: {key: how}
                    for key, one in how.items():
                        reasons.setdefault(one, []).append(key)
                else:
                    reasons.setdefault(how, []).append(path)
    if missing:
        return "missing", f"no {name_some(missing)}"
    why = "; ".join(f"{how} {name_some(what)}".strip() for how, what in reasons.items())
    return ("stale" if reasons else "fresh"), why


def _contents(outs: Sequence[Path], layout: Layout) -> str:
    """What a stage's outputs contain, in a few words."""
    words = []
    for path in filter(Path.exists, outs):
        # A damaged file must not keep the other rows from being shown.
        try:
            words += _describe_output(path, layout)
        except (PipelineError, OSError, ValueError, LookupError, TypeError):
            words.append(f"{path.name} cannot be read")
    return ", ".join(words)


def _describe_output(path: Path, layout: Layout) -> list[str]:
    from pipeline.cache.contents import info
    from stages.core.manifest import SPLITS, read_manifest
    from stages.core.table import read_columns

    if path.name == layout.corpus_files.manifest.name:
        counts = read_manifest(path)["split"].value_counts()
        return [f"{counts.get(split, 0):,} {split}" for split in SPLITS]
    if path.name in KINDS:
        return [f"{one.utterances:,} of {one.header.encoder}" for one in info(path)]
    if path.name == layout.robustness.name:
        return [f"{len(list(path.glob('*.digest')))} degradations"]
    if path.name == layout.rejection.name:
        found = [one for cache in layout.caches("rejection") for one in info(cache)]
        return [f"{sum(one.utterances for one in found):,} recordings of no intent"]
    if path.name == layout.unlabelled.name:
        return [f"{len(read_columns(path / 'manifest.csv')['id']):,} utterances"]
    words = []
    for name in ("scores.json", "metrics.json"):  # of the teacher, of a student
        if (path / name).is_file():
            scores = json.loads((path / name).read_text(encoding="utf-8"))
            words += [
                f"{split} {scores[f'{split}_accuracy']:.2f}%"
                for split in ("valid", "test")
            ]
    return words


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0
