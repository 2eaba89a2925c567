"""A corpus' caches of features and targets: what they hold, and their upkeep."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.formatting import format_size, format_table
from pipeline.layout import ALL_KINDS, Layout
from stages.core.errors import CacheError, PipelineError

if TYPE_CHECKING:
    from pipeline.cache.maintenance import Cache, Contents, Survey
    from stages.cache.digest import Digest
    from stages.cache.format import Part

_COLUMNS = ("split", "speaker", "text", "intent")


def list_caches(layout: Layout) -> str:
    """A table of what the caches hold, and how much of it the manifest needs."""
    from pipeline.cache.maintenance import info

    rows = [
        (
            "cache",
            "encoder",
            "fingerprint",
            "utterances",
            "frames",
            "parts",
            "size",
            "of the manifest",
            "not needed",
        )
    ]
    for kind, directory, digest in _places(layout, ALL_KINDS):
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
                    format_size(found.bytes),
                    *_need(layout, kind, directory, digest, found),
                )
            )
    if len(rows) == 1:
        return f"{layout.folder}: nothing cached yet"
    return format_table(rows)


def verify_caches(layout: Layout, kinds: Sequence[str]) -> tuple[list[str], str]:
    """The problems of the caches, a line each, and a line in sum.

    Raises:
        PipelineError: no usable manifest.
    """
    from pipeline.cache.maintenance import verify

    problems = []
    checked = []
    for kind, directory, path in _needed(layout, kinds):
        cache = _cache(layout, kind, directory, path)
        rows = [(id, key) for key, ids in cache.needed.items() for id in ids]
        digest, missing = _digest(cache.digest)
        problems += missing
        problems += verify(cache.directory, rows, digest=digest)
        what = {
            "acoustic": "features of {:,} utterances",
            "targets": "targets of {:,} texts",
            "robustness": f"{directory.name} of {{:,}}",
        }[kind]
        checked.append(what.format(len(rows)))
    state = f"{len(problems)} problems" if problems else "sound and complete"
    return problems, f"{layout.folder}: {', '.join(checked)}: {state}"


def collect_garbage(
    layout: Layout, kinds: Sequence[str], *, dry_run: bool, say: Callable[[str], None]
) -> str:
    """Reclaim what the manifest does not need; `say` what, line by line, before.

    Returns:
        A line in sum.

    Raises:
        PipelineError: as `maintenance.collect`, or another repository's cache.
    """
    from pipeline.cache.maintenance import collect

    caches = [_cache(layout, *place) for place in _needed(layout, kinds)]
    for cache in caches:
        _check_owned(layout, cache.directory)

    def tell(survey: "Survey") -> None:
        for line in _plan(survey):
            say(f"{survey.directory}: {line}")

    done = collect(caches, dry_run=dry_run, tell=tell)
    if not done.parts:
        return f"{layout.folder}: nothing cached yet"
    return (
        f"{layout.folder}: {done.parts:,} parts, {format_size(done.bytes)} before; "
        f"{done.parts_left:,} parts, {format_size(done.bytes_left)} "
        f"{'if done' if dry_run else 'now'}; {done.dropped:,} utterances "
        f"{'to be dropped' if dry_run else 'dropped'}"
    )


def export_cache(
    layout: Layout, kind: str, path: Path, *, splits: Sequence[str], force: bool
) -> str:
    """Write a cache's features to one file for other tools; a line on what it holds.

    Raises:
        PipelineError: as `maintenance.export`, or no usable manifest.
    """
    from pipeline.cache.maintenance import export
    from stages.core.manifest import read_manifest

    columns = {}
    if kind == "acoustic":
        table = read_manifest(layout.manifest).set_index("id")
        columns = {name: table[name].to_dict() for name in _COLUMNS}
    cache = _cache(layout, kind, *layout.features(kind), splits)
    count = export(path, cache, columns=columns, force=force)
    what = "features" if kind == "acoustic" else "targets"
    unit = "utterances" if kind == "acoustic" else "texts"
    return f"{path}: {what} of {count:,} {unit}, {format_size(path.stat().st_size)}"


def merge_cache(layout: Layout, kind: str, other: Path) -> str:
    """Take over another cache's parts; a line on what was taken.

    Raises:
        PipelineError: as `pipeline.cache.maintenance.merge`, or a damaged digest.
    """
    from pipeline.cache.maintenance import encoder_names, merge
    from stages.cache.digest import read_digest
    from stages.cache.format import COMMANDS

    directory, path = layout.features(kind)
    digest = read_digest(path) if path.exists() else None
    done = merge(directory, other, kind=kind, digest=digest)
    text = (
        f"{directory}: {done.utterances:,} utterances of {encoder_names(done.taken)} "
        f"taken in {done.parts:,} parts, {done.known:,} were here already"
    )
    if done.foreign:
        text += f"; those of {encoder_names(done.foreign)}, another encoder, were left"
    if done.utterances:
        text += f"; {COMMANDS[kind]} brings the digest up to date"
    return text


def _places(layout: Layout, kinds: Sequence[str]) -> list[tuple[str, Path, Path]]:
    """Kind, parts and digest of every cache."""
    return [(kind, *paths) for kind in kinds for paths in layout.caches(kind)]


def _needed(layout: Layout, kinds: Sequence[str]) -> list[tuple[str, Path, Path]]:
    """As `_places`, but for conditions that are not asked for, or not finished yet."""
    return [
        (kind, directory, digest)
        for kind, directory, digest in _places(layout, kinds)
        if kind != "robustness" or digest.exists()
    ]


def _cache(
    layout: Layout,
    kind: str,
    directory: Path,
    digest: Path,
    splits: Sequence[str] = (),
) -> "Cache":
    from pipeline.cache.maintenance import Cache, needed_ids

    if kind == "robustness":
        splits = ("test",)
    # A text is there though its recording was set aside.
    aside = kind != "targets" and layout.quarantine.exists()
    needed = needed_ids(
        layout.manifest, kind, splits, quarantine=layout.quarantine if aside else None
    )
    return Cache(directory, digest, needed)


def _digest(path: Path) -> tuple["Digest | None", list[str]]:
    """A digest, or what is wrong with it."""
    from stages.cache.digest import read_digest

    try:
        return read_digest(path), []
    except CacheError as error:
        return None, [str(error)]


def _need(
    layout: Layout, kind: str, directory: Path, path: Path, found: "Contents"
) -> tuple[str, str]:
    """How much of the manifest an encoder's features cover; what nobody needs."""
    from pipeline.cache.maintenance import survey

    try:
        cache = _cache(layout, kind, directory, path)
    except PipelineError:
        return "no usable manifest", "unknown"
    digest, _ = _digest(cache.digest)
    if digest is None:
        return "no usable digest", "unknown"
    if found.header.fingerprint != digest.header.fingerprint:
        return "another encoder", f"{found.utterances:,}, {format_size(found.bytes)}"
    one = survey(cache, digest)
    total = sum(map(len, cache.needed.values()))
    spare = one.unneeded + one.repeated
    size = f", {format_size(one.spare_bytes)}" * bool(spare)
    return f"{one.covered:,} of {total:,}", f"{spare:,}{size}"


def _plan(survey: "Survey") -> list[str]:
    """What is to be reclaimed, a line a reason."""
    from pipeline.cache.maintenance import encoder_names

    lines = []
    encoders: dict[str, list[Part]] = {}
    for part in survey.foreign:
        encoders.setdefault(encoder_names([part.header]), []).append(part)
    for name, parts in sorted(encoders.items()):
        count = sum(len(part.keys) for part in parts)
        size = format_size(sum(part.path.stat().st_size for part in parts))
        lines.append(f"{count:,} utterances of another encoder, {name}, {size}")
    if survey.unneeded or survey.repeated:
        twice = f" and {survey.repeated:,} cached twice" * bool(survey.repeated)
        size = format_size(survey.spare_bytes)
        lines.append(
            f"{survey.unneeded:,} utterances that the manifest has not{twice}, {size}"
        )
    if survey.rewritten:
        count = len(survey.rewritten)
        lines.append(f"{count:,} parts, small or needed in part alone, to be joined")
    return lines or ["nothing to reclaim"]


def _check_owned(layout: Layout, directory: Path) -> None:
    """Refuse a cache that ALN_CACHE_DIR linked: its owner may need other features."""
    owner = directory.resolve().parents[
        len(directory.relative_to(layout.folder).parts) - 1
    ]
    foreign = owner != layout.folder.resolve()
    if foreign and (owner / layout.manifest.name).exists():
        raise CacheError(
            "another repository's cache, which may need what this one does not",
            path=directory,
            found=f"a link to {directory.resolve()}",
            fix="run this command there",
        )
