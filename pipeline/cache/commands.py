"""The commands `aln-pipeline cache …`: what they read and what they print."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.formatting import format_size, format_table
from pipeline.layout import ALL_KINDS, KINDS, Layout
from pipeline.options import Settings, configured
from stages.core.errors import CacheError, PipelineError

if TYPE_CHECKING:
    from pipeline.cache.contents import Cache, Contents
    from pipeline.cache.garbage import Plan

_COLUMNS = ("split", "speaker", "text", "intent")  # of the manifest, in an export
_CONTENT = {
    "acoustic": "features of {:,} utterances",
    "targets": "targets of {:,} texts",
    "posteriors": "posteriors of {:,} texts",
    "rejection": "features of {:,} recordings of no intent",
    "unlabelled": "features of {:,} unlabelled utterances",
}


@click.group()
def cache() -> None:
    """Inspect and maintain the caches of features and targets."""


_kinds = click.option(
    "--kind",
    "kinds",
    type=click.Choice(ALL_KINDS),
    multiple=True,
    default=ALL_KINDS,
    show_default="all",
    help="Only this cache; can be repeated.",
)
_kind = click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="acoustic",
    show_default=True,
    help="Features of the recordings, or the teacher's targets or posteriors.",
)


@cache.command()
@configured
def info(settings: Settings) -> None:
    """Show what is cached, from which encoder, and how much of it is needed."""
    from pipeline.cache import contents

    layout = settings.layout
    titles = ("cache", "encoder", "fingerprint", "utterances", "frames", "parts")
    rows = [(*titles, "size", "of the manifest", "not needed")]
    for kind in ALL_KINDS:
        for directory in layout.caches(kind):
            for found in contents.info(directory):
                header = found.header
                row = (
                    str(directory),
                    f"{header.encoder}, {header.dim} {header.dtype}",
                    header.fingerprint[:12],
                    f"{found.utterances:,}",
                    f"{found.frames:,}",
                    f"{len(found.parts):,}",
                    format_size(found.bytes),
                    *_need(layout, kind, directory, found),
                )
                rows.append(row)
    empty = f"{layout.folder}: nothing cached yet"
    click.echo(format_table(rows) if len(rows) > 1 else empty)


@cache.command()
@configured
@_kinds
@click.pass_context
def verify(ctx: click.Context, settings: Settings, kinds: tuple[str, ...]) -> None:
    """Check every checksum, and that every utterance of the manifest is cached.

    Without --kind also the tables of the corpus, transcripts, trained models and their
    scores.
    """
    from pipeline.cache.verification import verify_cache, verify_files
    from stages.cache.digest import read_digest

    layout = settings.layout
    problems, checked = [], []
    for kind, directory in _present(layout, kinds):
        try:
            needed = _cache(layout, kind, directory)
        except PipelineError as error:
            problems.append(str(error))
            continue
        digest = None
        try:
            digest = read_digest(needed.digest)
        except CacheError as error:
            problems.append(str(error))
        problems += verify_cache(directory, needed.rows, digest=digest)
        content = _CONTENT.get(kind, f"{directory.name} of {{:,}}")
        checked.append(content.format(len(needed.rows)))
    if set(kinds) == set(ALL_KINDS):
        problems += verify_files(layout)
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        click.echo(problem, err=True)
    state = f"{len(problems)} problems" if problems else "complete, no damage"
    click.echo(f"{layout.folder}: {', '.join(checked)}: {state}")
    ctx.exit(1 if problems else 0)


@cache.command()
@configured
@_kinds
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def gc(settings: Settings, kinds: tuple[str, ...], dry_run: bool) -> None:
    """Remove features that the manifest does not need, and join small parts.

    Removes features of other encoders than the digest's, and of recordings and texts
    that are not in the manifest. It can be interrupted or killed at any moment without
    losing features that are needed.
    """
    from pipeline.cache.garbage import collect

    layout = settings.layout
    caches = [_cache(layout, *one) for one in _present(layout, kinds)]
    for one in caches:
        _check_owned(layout, one.directory)
    collected = collect(caches, dry_run=dry_run)
    for done in collected:
        for line in _describe_plan(done.plan):
            click.echo(f"{done.plan.directory}: {line}")
    if not collected:
        click.echo(f"{layout.folder}: nothing cached yet")
        return
    parts = sum(done.parts for done in collected)
    parts_left = sum(done.parts_left for done in collected)
    size = format_size(sum(done.bytes for done in collected))
    size_left = format_size(sum(done.bytes_left for done in collected))
    dropped = sum(done.plan.dropped for done in collected)
    click.echo(
        f"{layout.folder}: {parts:,} parts, {size} before; "
        f"{parts_left:,} parts, {size_left} {'if done' if dry_run else 'now'}; "
        f"{dropped:,} utterances {'to be removed' if dry_run else 'removed'}"
    )


@cache.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@configured
@_kind
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["train", "valid", "test"]),
    help="Only this split; can be repeated.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def export(
    settings: Settings, path: Path, kind: str, splits: tuple[str, ...], force: bool
) -> None:
    """Write the features to FILE, one HDF5 file for other tools."""
    from pipeline.cache import maintenance
    from stages.core.manifest import read_manifest

    layout = settings.layout
    columns = {}
    if kind == "acoustic":
        table = read_manifest(layout.corpus_files.manifest).set_index("id")
        columns = {name: table[name].to_dict() for name in _COLUMNS}
    (directory,) = layout.caches(kind)
    wanted = _cache(layout, kind, directory, splits)
    count = maintenance.export(path, wanted, columns=columns, force=force)
    size = format_size(path.stat().st_size)
    click.echo(f"{path}: {_CONTENT[kind].format(count)}, {size}")


@cache.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.pass_context
def diff(ctx: click.Context, a: Path, b: Path) -> None:
    """Show the differences of two caches; A and B are folders or digests."""
    from pipeline.cache.comparison import compare

    difference = compare(a, b)
    click.echo(difference)
    ctx.exit(1 if difference else 0)


@cache.command()
@click.argument("other", type=click.Path(path_type=Path))
@configured
@_kind
def merge(settings: Settings, other: Path, kind: str) -> None:
    """Copy features from OTHER, a cache's folder, that are not cached here yet."""
    from pipeline.cache import maintenance
    from pipeline.cache.contents import encoder_names
    from stages.cache.format import COMMANDS

    (directory,) = settings.layout.caches(kind)
    done = maintenance.merge(directory, other, kind=kind)
    text = (
        f"{directory}: took {done.utterances:,} utterances of "
        f"{encoder_names(done.taken)} in {done.parts:,} parts; "
        f"{done.known:,} were cached already"
    )
    if done.foreign:
        text += f"; did not take {encoder_names(done.foreign)}, another encoder"
    if done.utterances:
        text += f"; now run {COMMANDS[kind]} to update the digest"
    click.echo(text)


def _present(layout: Layout, kinds: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The caches of some kinds; those in the folder of a result only if finished."""
    from stages.cache.digest import digest_path

    for kind in sorted(set(kinds)):
        for directory in layout.caches(kind):
            if kind in KINDS or digest_path(directory).exists():
                yield kind, directory


def _cache(
    layout: Layout, kind: str, directory: Path, splits: Sequence[str] = ()
) -> "Cache":
    from pipeline.cache.contents import Cache, needed_ids
    from stages.cache.digest import digest_path, read_digest

    if kind in ("rejection", "unlabelled"):
        rows = read_digest(digest_path(directory)).rows
        return Cache(directory, {key: [id] for id, (key, _) in rows.items()})
    if kind == "robustness":
        splits = ("test",)
    return Cache(directory, needed_ids(layout.corpus_files, kind, splits))


def _need(
    layout: Layout, kind: str, directory: Path, found: "Contents"
) -> tuple[str, str]:
    """How much of the manifest an encoder's features cover, and what is not needed."""
    from pipeline.cache.garbage import make_plan
    from stages.cache.digest import read_digest

    try:
        cache = _cache(layout, kind, directory)
        digest = read_digest(cache.digest)
    except CacheError:
        return "no usable digest", "unknown"
    except PipelineError:
        return "no usable manifest", "unknown"
    if found.header.fingerprint != digest.header.fingerprint:
        return "another encoder", f"{found.utterances:,}, {format_size(found.bytes)}"
    plan = make_plan(cache, digest)
    total = sum(map(len, cache.needed.values()))
    spare = plan.unneeded + plan.repeated
    size = f", {format_size(plan.spare_bytes)}" if spare else ""
    return f"{plan.covered:,} of {total:,}", f"{spare:,}{size}"


def _describe_plan(plan: "Plan") -> list[str]:
    """What is removed or joined, one line for each reason."""
    from pipeline.cache.contents import by_encoder, encoder_names

    lines = [
        f"{one.utterances:,} utterances of another encoder, "
        f"{encoder_names([one.header])}, {format_size(one.bytes)}"
        for one in by_encoder(plan.foreign)
    ]
    if plan.unneeded or plan.repeated:
        twice = f" and {plan.repeated:,} cached twice" if plan.repeated else ""
        lines.append(
            f"{plan.unneeded:,} utterances that are not in the manifest{twice}, "
            f"{format_size(plan.spare_bytes)}"
        )
    if plan.moved:
        lines.append(
            f"{len(plan.moved):,} utterances of small or partly needed parts, to join"
        )
    return lines or ["nothing to remove"]


def _check_owned(layout: Layout, directory: Path) -> None:
    """Refuse a cache linked by ALN_CACHE_DIR: its owner may need more features."""
    depth = len(directory.relative_to(layout.folder).parts)
    owner = directory.resolve().parents[depth - 1]
    if owner == layout.folder.resolve():
        return
    if (owner / layout.corpus_files.manifest.name).exists():
        raise CacheError(
            "this cache belongs to another repository, which may need its features",
            path=directory,
            found=f"a link to {directory.resolve()}",
            fix="run this command there",
        )
