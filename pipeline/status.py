"""What is there, what is out of date, and what is damaged."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.layout import Layout
from stages.errors import ConfigurationError


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
        rows.append((name, state, contents, _bytes(size) if size else "", why))
    return _table(rows)


def list_caches(layout: Layout) -> str:
    """A table of what the caches of features and targets hold."""
    from stages.cache import info

    rows = [
        ("cache", "encoder", "fingerprint", "utterances", "frames", "parts", "size")
    ]
    for directory in (layout.acoustic, layout.targets):
        for found in info(directory):
            header = found.header
            rows.append(
                (
                    str(directory),
                    f"{header.encoder}, {header.dim} {header.dtype}",
                    header.fingerprint[:12],
                    f"{found.utterances:,}",
                    f"{found.frames:,}",
                    f"{found.parts:,}",
                    _bytes(found.bytes),
                )
            )
    if len(rows) == 1:
        return f"{layout.folder}: nothing cached yet"
    return _table(rows)


def verify_caches(layout: Layout) -> tuple[list[str], str]:
    """The problems of both caches, a line each, and a line in sum.

    Raises:
        PipelineError: no usable manifest.
    """
    from stages.cache import verify
    from stages.manifest import read_manifest
    from stages.provenance import hash_bytes
    from stages.texts import normalise_text

    table = read_manifest(layout.manifest)
    texts = sorted({normalise_text(text) for text in table["text"]})
    wanted = {
        (layout.acoustic, layout.acoustic_digest): list(
            zip(table["id"], table["audio_sha256"], strict=True)
        ),
        (layout.targets, layout.targets_digest): [
            (text, hash_bytes(text.encode())) for text in texts
        ],
    }
    problems = []
    for (directory, digest), rows in wanted.items():
        fingerprint, missing = _digest_fingerprint(digest)
        problems += missing
        problems += verify(directory, rows, fingerprint=fingerprint)
    state = f"{len(problems)} problems" if problems else "sound and complete"
    checked = f"features of {len(table):,} utterances, targets of {len(texts):,} texts"
    return problems, f"{layout.folder}: {checked}: {state}"


def _digest_fingerprint(path: Path) -> tuple[str | None, list[str]]:
    """Which encoder's features a digest speaks of, or what is wrong with it."""
    from stages.cache import read_digest
    from stages.errors import CacheError

    try:
        return read_digest(path).header.fingerprint, []
    except CacheError as error:
        return None, [str(error)]


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
    from stages.cache import info
    from stages.manifest import SPLITS, read_manifest

    words = []
    for path in outs:
        if not path.exists():
            continue
        if path.name == layout.manifest.name:
            counts = read_manifest(path)["split"].value_counts()
            words += [f"{counts.get(split, 0):,} {split}" for split in SPLITS]
        elif path.name in (layout.acoustic.name, layout.targets.name):
            words += [
                f"{found.utterances:,} of {found.header.encoder}"
                for found in info(path)
            ]
        elif path.is_dir():
            for name in ("scores.json", "metrics.json"):  # teacher's, student's
                if (path / name).is_file():
                    scores = json.loads((path / name).read_text(encoding="utf-8"))
                    words += [
                        f"{split} {scores[f'{split}_accuracy']:.2f}%"
                        for split in ("valid", "test")
                    ]
    return ", ".join(words)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def _bytes(size: float) -> str:
    """A size in the unit that people would use."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, each column as wide as it needs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )
