"""Verification: everything that a stage reads, against the hash that is kept of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.cache.contents import check_part
from pipeline.layout import Layout
from stages.baseline1.lexicon import check_lexicon
from stages.baseline1.transcripts import parse
from stages.cache.digest import Digest
from stages.cache.format import (
    Header,
    Part,
    check_header,
    command,
    no_features,
    part_paths,
)
from stages.core.checksums import read_sealed
from stages.core.errors import CacheError, InputError
from stages.core.hashing import hash_array, hash_file
from stages.core.manifest import (
    read_conditions,
    read_intents,
    read_manifest,
    read_quarantine,
)
from stages.core.results import IDENTITY, damage
from stages.core.text import name_some


def verify_files(layout: Layout) -> Iterator[str]:
    """Check all that a corpus has but its caches; yield the problems, one line each.

    These are the tables of the corpus, results (also replaced ones), transcripts, and
    the scores of students.
    """
    corpus = layout.corpus_files
    tables = {
        corpus.manifest: read_manifest,
        corpus.intents: read_intents,
        corpus.conditions: read_conditions,
        corpus.quarantine: read_quarantine,
    }
    lexicons = sorted(layout.transcripts.glob("models/lexicon-*.txt"))
    for path in filter(Path.is_file, [*tables, *lexicons]):
        try:
            tables.get(path, check_lexicon)(path)
        except InputError as error:
            yield str(error)
    for identity in sorted(layout.folder.rglob(IDENTITY)):
        if problem := damage(identity.parent):
            yield f"{identity.parent}: not as its stage wrote it: {problem}"
    sealed = [layout.recordings, *sorted(layout.results.glob("*.json"))]
    for path in filter(Path.is_file, sealed):
        try:
            read_sealed(path)
        except (ValueError, TypeError, RecursionError) as error:
            yield f"{path}: damaged ({error}); fix: remove it"
    for path in sorted(layout.transcripts.glob("models/language-model-*.arpa")):
        if not path.stem.endswith(hash_file(path)[:12]):
            yield f"{path}: its name is not the hash of its bytes; fix: remove it"
    for path in sorted(layout.transcripts.glob("*.tsv")):
        try:
            # To the end: it is read as it is parsed.
            dict(parse(path, path.read_text("utf-8", "replace")))
        except CacheError as error:
            yield str(error)


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
            changed += _changed(part, dict(digest.rows.values()))
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
    if digest.header.kind == "targets":
        known = {key for key, _ in digest.rows.values()}
        return [id for id, key in rows if key not in known]
    return [id for id, key in rows if digest.rows.get(id, ("",))[0] != key]
