"""What is there, and what is out of date."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.formatting import format_size, format_table
from pipeline.layout import Layout
from stages.core.errors import ConfigurationError, PipelineError


def describe(layout: Layout) -> str:
    """A table of the stages of dvc.yaml: state, contents, size, and why if not fresh.

    Raises:
        ConfigurationError: the working directory is no DVC repository.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            stages = {stage.addressing: stage for stage in repo.index.stages}
            changes = repo.status()
    except DvcException as error:
        raise ConfigurationError(
            f"DVC cannot tell ({' '.join(str(error).split())})",
            fix="run this in the repository, while no other dvc command works",
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
    """State and reason, from what DVC says of a stage."""
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
        return "missing", f"no {_shorten(missing)}"
    why = "; ".join(f"{how} {_shorten(what)}".strip() for how, what in reasons.items())
    return ("stale" if reasons else "fresh"), why


def _shorten(names: Sequence[str]) -> str:
    """The first few of `names`, and how many there are besides."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


def _contents(outs: Sequence[Path], layout: Layout) -> str:
    """A few words on what a stage left, as far as it is there."""
    words = []
    for path in filter(Path.exists, outs):
        # A damaged file is one row's matter: the others are told all the same.
        try:
            words += _told(path, layout)
        except (PipelineError, OSError, ValueError, LookupError, TypeError):
            words.append(f"{path.name} cannot be read")
    return ", ".join(words)


def _told(path: Path, layout: Layout) -> list[str]:
    from pipeline.cache.maintenance import info
    from stages.core.manifest import SPLITS, read_manifest

    if path.name == layout.manifest.name:
        counts = read_manifest(path)["split"].value_counts()
        return [f"{counts.get(split, 0):,} {split}" for split in SPLITS]
    if path.name in (layout.acoustic.name, layout.targets.name):
        return [
            f"{found.utterances:,} of {found.header.encoder}" for found in info(path)
        ]
    if path.name == layout.robustness.name:
        return [f"{len(list(path.glob('*.digest')))} conditions and clean"]
    words = []
    for name in ("scores.json", "metrics.json"):  # teacher's, student's
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
