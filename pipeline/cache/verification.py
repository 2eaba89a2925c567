"""Verification: everything that a stage reads, against the hash that is kept of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.cache.contents import check_part
from pipeline.layout import Layout
from stages.baseline1.language_model import check_model
from stages.baseline1.lexicon import check_lexicon
from stages.baseline1.transcripts import read_transcripts
from stages.cache.digest import Digest, digest_path
from stages.cache.format import (
    OF_TEXTS,
    Header,
    Part,
    check_header,
    command,
    no_features,
    part_paths,
)
from stages.core.checksums import read_sealed
from stages.core.errors import CacheError, PipelineError
from stages.core.hashing import hash_array
from stages.core.manifest import (
    read_conditions,
    read_labels,
    read_manifest,
    read_quarantine,
    read_texts,
)
from stages.core.results import IDENTITY, require
from stages.core.text import name_some
from stages.student.ledger import read_entry


def verify_files(layout: Layout) -> Iterator[str]:
    """Check all that a corpus has but its caches; yield the problems, one line each.

    These are the tables of the corpus, results (also replaced ones), transcripts, and
    the scores of students.
    """
    for path, check in _checks(layout):
        try:
            check(path)
        except OSError as error:
            yield f"{path}: cannot be read ({error.strerror})"
        except PipelineError as error:
            yield str(error)


def _checks(layout: Layout) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """Each file or folder, and what raises an error if it is damaged."""
    corpus = layout.corpus_files
    yield corpus.manifest, read_manifest
    yield corpus.intents, read_labels
    yield corpus.conditions, read_conditions
    yield corpus.texts, read_texts
    if digest_path(layout.acoustic).exists():
        yield corpus.quarantine, read_quarantine
    if layout.recordings.exists():
        yield layout.recordings, _check_recordings
    results = {path.parent for path in layout.folder.rglob(IDENTITY)}
    # They are only there as a whole.
    whole = [layout.teacher, layout.baseline1, *layout.folder.glob("student/[!.]*")]
    for path in sorted(results.union(filter(Path.is_dir, whole))):
        yield path, _check_result
    for path in sorted(layout.results.glob("*.json")):
        yield path, read_entry
    for path in sorted(layout.transcripts.glob("*.tsv")):
        yield path, read_transcripts
    for path in sorted(layout.transcripts.glob("models/lexicon-*.txt")):
        yield path, check_lexicon
    for path in sorted(layout.transcripts.glob("models/language-model-*.arpa")):
        yield path, check_model


def _check_result(folder: Path) -> None:
    require(folder, {}, fix="run `dvc repro`")


def _check_recordings(path: Path) -> None:
    try:
        read_sealed(path)
    except (ValueError, TypeError, RecursionError) as error:
        fix = "run `aln-pipeline prepare-corpus`"
        raise CacheError(f"damaged ({error})", path=path, fix=fix) from None


def verify_cache(
    directory: Path,
    rows: Sequence[tuple[str, str]] = (),
    *,
    digest: Digest | None = None,
) -> list[str]:
    """Check every checksum of a cache; return the problems, one line each.

    Args:
        directory: the cache.
        rows: (id, key) of the utterances that must be there.
        digest: the encoder and the hashes of their features; None to accept any.
    """
    paths = part_paths(directory)
    if not paths:
        return [f"{directory}: no features; fix: run {command(directory)}"]
    problems: list[str] = []
    headers: dict[str, Header] = {}
    holders: set[tuple[str, str]] = set()
    changed: list[str] = []
    hashes = {} if digest is None else dict(digest.rows.values())
    for path in paths:
        try:
            part = check_part(path)
            code = part.header.fingerprint
            check_header(part, headers.setdefault(code, part.header))
        except CacheError as error:
            problems.append(str(error))
            continue
        holders.update((code, key) for key in part.keys)
        if digest is not None and code == digest.header.fingerprint:
            changed += _changed(part, hashes)
    header = None if digest is None else digest.header
    present = {k for code, k in holders if header is None or code == header.fingerprint}
    if absent := [id for id, key in rows if key not in present]:
        problems.append(str(no_features(directory, absent, len(rows))))
    fix = f"fix: run {command(directory, header.kind if header else None)}"
    if digest is not None and (unknown := _unknown(rows, digest)):
        problems.append(
            f"{directory}: the digest lacks {len(unknown)} of {len(rows)} utterances "
            f"of the manifest ({name_some(unknown)}); {fix}"
        )
    if changed:
        problems.append(
            f"{directory}: {len(changed)} features differ from the digest "
            f"({name_some(changed)}); {fix}"
        )
    return problems


def _changed(part: Part, expected: Mapping[str, str]) -> list[str]:
    """Keys, shortened, whose features do not have the expected hash."""
    frames = part.map_frames()
    spans = zip(part.keys, part.offsets[:-1], part.offsets[1:], strict=True)
    return [
        f"{key:.12}"
        for key, start, stop in spans
        if key in expected and hash_array(frames[start:stop]) != expected[key]
    ]


def _unknown(rows: Sequence[tuple[str, str]], digest: Digest) -> list[str]:
    """Ids of rows that are not in the digest."""
    # The digest has its own ids for texts, so these are compared by key.
    if digest.header.kind in OF_TEXTS:
        known = {key for key, _ in digest.rows.values()}
        return [id for id, key in rows if key not in known]
    return [id for id, key in rows if digest.rows.get(id, ("",))[0] != key]
