"""Maintenance of a cache: features that are needed are never lost."""

import dataclasses
import os
import resource
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import (
    DIM,
    HEADER,
    OTHER,
    ROWS,
    Row,
    contents,
    fill,
    keys,
    make_rows,
    pairs,
    parts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.contents import Cache, info
from pipeline.cache.garbage import collect, make_plan
from pipeline.cache.maintenance import export, merge
from pipeline.cache.verification import verify_cache
from stages.cache.digest import digest_path, read_digest, write_digest
from stages.cache.export import write_plain
from stages.cache.format import PART_FRAMES
from stages.cache.store import CacheReader, CacheWriter
from stages.core.errors import CacheError, ConfigurationError
from stages.core.hashing import hash_array

SHORT = make_rows([3, 1, 5, 8, 2, 4, 6, 1, 1])


@pytest.fixture(autouse=True)
def ten_frames_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PART_FRAMES, "acoustic", 10)


def needed(rows: list[Row]) -> dict[str, list[str]]:
    return {key: [id] for id, key, _ in rows}


def digest(directory: Path, rows: list[Row]) -> Path:
    path = digest_path(directory)
    write_digest(path, directory, HEADER.fingerprint, pairs(rows))
    return path


def make_cache(directory: Path, rows: list[Row], part_frames: int = 10) -> Cache:
    """A cache of `rows` with its digest, all of it needed."""
    fill(directory, rows, part_frames=part_frames)
    digest(directory, rows)
    return Cache(directory, needed(rows))


def needing(cache: Cache, rows: list[Row]) -> Cache:
    return Cache(cache.directory, needed(rows))


def move_parts(source: Path, target: Path) -> None:
    for path in parts(source):
        path.rename(target / path.name)


def assert_holds(cache: Cache, rows: list[Row]) -> None:
    """The cache has exactly `rows`, undamaged, and the digest of a new one."""
    assert verify_cache(cache.directory, pairs(rows)) == []
    reader = CacheReader(cache.directory, fingerprint=HEADER.fingerprint)
    for _, key, frames in rows:
        np.testing.assert_array_equal(reader[key], frames)
    assert sum(one.utterances for one in info(cache.directory)) == len(rows)
    again = digest(cache.directory, rows).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        fresh = make_cache(Path(folder) / "fresh", rows)
        assert again == fresh.digest.read_bytes()


def test_what_is_needed_and_in_full_parts_stays_as_it_is(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS)
    before = contents(cache.directory)
    size = sum(map(len, before.values()))
    (done,) = collect([cache])
    assert contents(cache.directory) == before
    assert (done.parts, done.parts_left) == (len(before), len(before))
    assert (done.bytes, done.bytes_left) == (size, size)
    assert done.plan.dropped == 0


def test_what_the_manifest_dropped_goes_and_the_rest_stays(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS)  # parts of 4, 3, 1 and 2
    before = contents(cache.directory)
    left = [*ROWS[1:3], *ROWS[4:8]]  # two of the first part, none of the last
    (done,) = collect([needing(cache, left)])
    assert_holds(cache, left)
    after = contents(cache.directory)
    assert len(after) == 3
    assert len(set(before) & set(after)) == 2  # the second and the third, untouched
    assert (done.parts, done.parts_left, done.plan.dropped) == (4, 3, 4)
    assert done.bytes == sum(map(len, before.values()))
    assert done.bytes_left == sum(map(len, after.values())) < done.bytes
    plan = done.plan
    assert (plan.covered, plan.unneeded, plan.repeated) == (len(left), 4, 0)
    assert plan.spare_bytes >= sum(ROWS[place][2].nbytes for place in (0, 3, 8, 9))


def test_nothing_is_removed_while_something_is_missing(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS[:5], part_frames=1)
    fill(cache.directory, ROWS[5:8])  # cached, but in no digest yet
    before = contents(cache.directory)
    cache = needing(cache, ROWS[3:])
    assert make_plan(cache, read_digest(cache.digest)).covered == 5
    with pytest.raises(CacheError, match=r"no features of 2 of 7.*extract-acoustic"):
        collect([cache])
    assert contents(cache.directory) == before


def test_parts_of_another_encoder_go(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS)
    before = contents(cache.directory)
    fill(cache.directory, ROWS[:4], OTHER)
    (done,) = collect([cache])
    assert contents(cache.directory) == before
    assert (done.plan.dropped, done.parts - done.parts_left) == (4, 1)


def test_small_parts_are_joined_to_the_same_bytes_however_they_came(
    tmp_path: Path,
) -> None:
    one = make_cache(tmp_path / "one", SHORT, part_frames=1)
    assert len(parts(one.directory)) == len(SHORT)
    two = make_cache(tmp_path / "two", SHORT[::-1], part_frames=2)
    fill(tmp_path / "three", SHORT[4:], part_frames=2)
    three = make_cache(tmp_path / "three", SHORT, part_frames=2)
    for cache in (one, two, three):
        before = cache.digest.read_bytes()
        collect([cache])
        assert_holds(cache, SHORT)
        assert cache.digest.read_bytes() == before
    assert contents(one.directory) == contents(two.directory)
    assert contents(one.directory) == contents(three.directory)
    lengths = [CacheReader(one.directory).lengths(keys(SHORT)).sum()]
    assert len(parts(one.directory)) == 3 and lengths == [31]  # 17, 12 and 2 frames
    again = contents(one.directory)
    collect([one])
    assert contents(one.directory) == again


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    part_frames=st.integers(1, 20),
    data=st.data(),
)
def test_any_cache_keeps_what_is_needed(
    lengths: list[int], part_frames: int, data: st.DataObject
) -> None:
    rows = make_rows(lengths)
    left = [row for row in rows if data.draw(st.booleans())]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(PART_FRAMES, "acoustic", 10)
        cache = make_cache(Path(folder) / "acoustic", rows, part_frames)
        overlap = data.draw(st.integers(0, len(rows)))
        if overlap:
            fill(Path(folder) / "more", rows[:overlap], part_frames=7)
            move_parts(Path(folder) / "more", cache.directory)
        (done,) = collect([needing(cache, left)])
        if left:
            assert_holds(cache, left)
        assert done.parts_left == len(parts(cache.directory))
        assert done.plan.dropped >= len(rows) - len(left)
        again = contents(cache.directory)
        if left:
            collect([needing(cache, left)])
            assert contents(cache.directory) == again


class Killed(BaseException):
    """A kill: no code catches it."""


def kill_at(
    patch: pytest.MonkeyPatch, owner: object, name: str, number: int
) -> Callable[[], int]:
    """Kill at call `number` of a function that gets the path of a part."""
    original = getattr(owner, name)
    calls = []

    def killing(path: Path, *more: object, **options: object) -> None:
        if Path(more[0] if more else path).name.endswith(".h5"):  # not a temporary
            calls.append(path)
            if len(calls) > number:
                raise Killed
        original(path, *more, **options)

    patch.setattr(owner, name, killing)
    return lambda: len(calls)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    ("owner", "name"), [(os, "replace"), (Path, "unlink")], ids=["write", "remove"]
)
def test_killed_at_any_moment_nothing_needed_is_lost(
    tmp_path: Path, owner: object, name: str, number: int
) -> None:
    cache = make_cache(tmp_path / "acoustic", SHORT, part_frames=1)
    fill(cache.directory, ROWS[:2], OTHER)
    left = SHORT[1:]
    calm = Cache(tmp_path / "calm", needed(left))
    shutil.copytree(cache.directory, calm.directory)
    shutil.copy(cache.digest, calm.digest)
    collect([calm])

    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, owner, name, number)
        try:
            collect([needing(cache, left)])
            killed = False
        except Killed:
            killed = True
    assert killed or (name, number) in {("replace", 3), ("replace", 4)}
    again = tmp_path / "again.digest"
    fingerprint = HEADER.fingerprint
    write_digest(again, cache.directory, fingerprint, pairs(left))
    reader = CacheReader(cache.directory, fingerprint=fingerprint)
    for _, key, frames in left:
        np.testing.assert_array_equal(reader[key], frames)
    digest = read_digest(again)
    assert verify_cache(cache.directory, pairs(left), digest=digest) == []

    collect([needing(cache, left)])
    assert contents(cache.directory) == contents(calm.directory)
    assert_holds(cache, left)


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS)
    (cache.directory / f".{'0' * 32}.h5.1.tmp").write_bytes(b"begun")
    collect([cache], dry_run=True)
    assert len(list(cache.directory.glob(".*.tmp"))) == 1
    collect([cache])
    assert list(cache.directory.glob(".*.tmp")) == []


@pytest.mark.parametrize("foreign", [False, True])
def test_a_damaged_part_is_named_and_nothing_removed(
    tmp_path: Path, foreign: bool
) -> None:
    first = make_cache(tmp_path / "first", SHORT, part_frames=1)
    cache = make_cache(tmp_path / "acoustic", ROWS)
    fill(tmp_path / "other", ROWS[:1], OTHER)
    (theirs,) = parts(tmp_path / "other")
    move_parts(tmp_path / "other", cache.directory)
    ours = {path.name for path in parts(cache.directory)} - {theirs.name}
    path = cache.directory / (theirs.name if foreign else min(ours))
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        data[file["frames"].id.get_offset()] ^= 1
    path.write_bytes(data)
    before = contents(cache.directory) | contents(first.directory)
    for dry_run in (True, False):
        with pytest.raises(CacheError, match=f"{path}: damaged.*checksum of frames"):
            collect([first, needing(cache, ROWS[:1])], dry_run=dry_run)
    assert contents(cache.directory) | contents(first.directory) == before


def test_without_a_digest_nothing_is_removed(tmp_path: Path) -> None:
    first = make_cache(tmp_path / "targets", SHORT, part_frames=1)
    cache = make_cache(tmp_path / "acoustic", ROWS)
    cache.digest.unlink()
    before = contents(cache.directory) | contents(first.directory)
    with pytest.raises(CacheError, match=r"no digest.*run.*extract-acoustic"):
        collect([first, needing(cache, [])])
    assert contents(cache.directory) | contents(first.directory) == before
    none = Cache(tmp_path / "none", {})
    assert collect([none]) == []
    assert not none.directory.exists()


def test_a_dry_run_gives_the_same_figures_and_changes_nothing(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", SHORT, part_frames=1)
    fill(cache.directory, ROWS[:2], OTHER)
    cache = needing(cache, SHORT[2:])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (dry,) = collect([cache], dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert collect([cache]) == [dry]
    left = contents(cache.directory)
    assert (dry.parts_left, dry.bytes_left) == (
        len(left),
        sum(map(len, left.values())),
    )
    assert dry.plan.dropped == 4


def test_the_writers_lock_is_taken(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS)
    before = contents(cache.directory)
    fill(tmp_path / "other", ROWS[:1])
    with CacheWriter(cache.directory, HEADER):
        with pytest.raises(CacheError, match=f"process {os.getpid()} is writing"):
            collect([needing(cache, [])])
        with pytest.raises(CacheError, match=f"process {os.getpid()} is writing"):
            merge(cache.directory, tmp_path / "other", kind="acoustic")
        collect([needing(cache, [])], dry_run=True)
    assert contents(cache.directory) == before


def test_a_full_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    cache = make_cache(tmp_path / "acoustic", SHORT, part_frames=1)
    before = contents(cache.directory)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CacheError, match="No space left"):
        collect([cache])
    with pytest.raises(CacheError, match="No space left"):
        export(tmp_path / "all.h5", cache)
    monkeypatch.undo()

    # A limit of the size of a file, at every kilobyte.
    export(tmp_path / "all.h5", cache)
    size = (tmp_path / "all.h5").stat().st_size
    (tmp_path / "all.h5").unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, size, 1024):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(CacheError, match=r"all\.h5: cannot be written.*free d"):
                export(tmp_path / "all.h5", cache)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(cache.directory) == before
    assert {path.name for path in tmp_path.iterdir()} == {"acoustic", "acoustic.digest"}


# Export


def test_an_export_is_what_the_reader_reads(tmp_path: Path) -> None:
    directory = tmp_path / "acoustic"
    fill(directory, ROWS[::-1])
    shared = ("corpus/a copy", ROWS[3][1], ROWS[3][2])
    rows = sorted([*ROWS, shared], key=lambda row: row[0])
    ids: dict[str, list[str]] = {}
    for id, key, _ in rows[1:]:
        ids.setdefault(key, []).append(id)
    digest(directory, rows)
    cache = Cache(directory, ids)
    intents = {id: f"intent é {place % 3}" for place, (id, _, _) in enumerate(rows)}
    columns = {"intent": intents, "text": dict.fromkeys(intents, "")}
    path = tmp_path / "new" / "all.h5"
    assert export(path, cache, columns=columns) == len(ROWS)
    reader = CacheReader(directory)
    with h5py.File(path, "r") as file:
        assert set(file) == {"frames", "offsets", "ids", "keys", "intent", "text"}
        assert file["frames"].chunks is None and file["frames"].dtype == np.float32
        frames, offsets = file["frames"][:], file["offsets"][:]
        names = file["ids"].asstr()[:].tolist()
        assert names == [id for id, _, _ in rows[1:]] == sorted(names)
        assert file["keys"].asstr()[:].tolist() == keys(rows[1:])
        assert file["intent"].asstr()[:].tolist() == [intents[id] for id in names]
        assert file["text"].asstr()[:].tolist() == [""] * len(ROWS)
        assert file.attrs["encoder"] == "tiny" and file.attrs["dim"] == DIM
        assert file.attrs["fingerprint"] == HEADER.fingerprint
        assert file.attrs["format"] == "aln-features-plain"
        assert '"log-cmn"' in file.attrs["parameters"]
    expected, starts = reader.load(keys(rows[1:]))
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(offsets, starts)


def test_an_export_is_the_same_whatever_its_slices(tmp_path: Path) -> None:
    header = dataclasses.replace(HEADER, dtype="float16")
    rows = make_rows([3, 1, 30, 2, 5], "float16")
    fill(tmp_path / "acoustic", rows, header)
    reader = CacheReader(tmp_path / "acoustic")
    hashes = {key: hash_array(frames) for _, key, frames in rows}
    files = []
    for size in (1, 4, 1000):
        path = tmp_path / f"{size}.h5"
        write_plain(path, reader, pairs(rows), {}, hashes=hashes, slice_frames=size)
        files.append(path.read_bytes())
        with h5py.File(path, "r") as file:
            assert file["frames"].dtype == np.float16
            expected = np.concatenate([frames for _, _, frames in rows])
            np.testing.assert_array_equal(file["frames"][:], expected)
    assert files[0] == files[1] == files[2]


def test_an_export_needs_memory_for_a_slice_alone(tmp_path: Path) -> None:
    rows = make_rows([100] * 200, dim=64)  # 5 MB
    fill(tmp_path / "a", rows, dataclasses.replace(HEADER, dim=64), part_frames=5000)
    reader = CacheReader(tmp_path / "a")
    hashes = {key: hash_array(frames) for _, key, frames in rows}
    tracemalloc.start()
    write_plain(
        tmp_path / "b", reader, pairs(rows), {}, hashes=hashes, slice_frames=500
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6 < sum(frames.nbytes for _, _, frames in rows)


def test_an_export_replaces_nothing_unasked(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS)
    path = tmp_path / "all.h5"
    path.write_text("notes")
    with pytest.raises(ConfigurationError, match=r"already exists.*or --force"):
        export(path, cache)
    assert path.read_text() == "notes"
    export(path, cache, force=True)
    whole = path.read_bytes()
    export(path, needing(cache, ROWS[:2]), force=True)
    assert path.read_bytes() != whole
    with pytest.raises(ConfigurationError, match="already"):
        export(tmp_path / "acoustic", cache, force=True)
    with pytest.raises(ConfigurationError, match="is a cache"):
        export(tmp_path / "acoustic" / "all.h5", cache)
    assert verify_cache(cache.directory, pairs(ROWS)) == []


def test_an_export_that_cannot_be_whole_is_refused(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS[:8])
    path = tmp_path / "all.h5"
    with pytest.raises(CacheError, match=r"digest: no features of 2 of 10.*é 008"):
        export(path, needing(cache, ROWS))
    changed = make_cache(tmp_path / "new", [(*ROWS[0][:2], ROWS[0][2] + 1)])
    shutil.copy(cache.digest, changed.digest)
    with pytest.raises(CacheError, match=r"the features of .* differ from the digest"):
        export(path, changed)
    parts(cache.directory)[0].unlink()
    with pytest.raises(CacheError, match="no features of"):
        export(path, cache)
    cache.digest.unlink()
    with pytest.raises(CacheError, match="no digest"):
        export(path, cache)
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*"))


# Merge


def test_disjoint_caches_are_merged_part_by_part(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS[:4])
    fill(tmp_path / "other", ROWS[4:])
    there = contents(tmp_path / "other")
    both = contents(cache.directory) | there
    done = merge(cache.directory, tmp_path / "other", kind="acoustic")
    assert contents(cache.directory) == both
    assert (done.parts, done.utterances, done.known) == (len(there), 6, 0)
    assert done.taken == [HEADER] and done.foreign == []
    assert_holds(cache, ROWS)
    assert contents(tmp_path / "other") == there
    before = {path: path.stat().st_mtime_ns for path in parts(cache.directory)}
    done = merge(cache.directory, tmp_path / "other", kind="acoustic")
    assert (done.parts, done.utterances, done.known) == (0, 0, 6)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_of_overlapping_caches_only_the_rest_is_taken(tmp_path: Path) -> None:
    """And what is here stays, though another machine computed other last bits."""
    cache = make_cache(tmp_path / "acoustic", ROWS[:5], part_frames=99)
    theirs = [(id, key, frames + 1) for id, key, frames in ROWS[:5]] + ROWS[5:]
    fill(tmp_path / "other", theirs[3:], part_frames=8)  # 8, 6, 6, 30 and 2 frames
    before = cache.digest.read_bytes()
    done = merge(cache.directory, tmp_path / "other", kind="acoustic")
    assert (done.utterances, done.known) == (5, 2)
    assert_holds(cache, ROWS)
    assert digest(cache.directory, ROWS[:5]).read_bytes() == before


def test_a_key_twice_in_the_other_is_taken_once(tmp_path: Path) -> None:
    fill(tmp_path / "other", ROWS[:3], part_frames=99)
    fill(tmp_path / "more", ROWS[2:4], part_frames=99)
    move_parts(tmp_path / "more", tmp_path / "other")
    done = merge(tmp_path / "acoustic", tmp_path / "other", kind="acoustic")
    assert (done.utterances, done.known) == (4, 1)
    assert verify_cache(tmp_path / "acoustic", pairs(ROWS[:4])) == []


@pytest.mark.parametrize("place", [0, -1])
def test_nothing_of_a_damaged_cache_is_taken(tmp_path: Path, place: int) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS[:2])
    before = contents(cache.directory)
    fill(tmp_path / "other", ROWS[2:])
    path = parts(tmp_path / "other")[place]
    good = path.read_bytes()
    with h5py.File(path) as file:
        frames = file["frames"].id.get_offset()
    for spot in (frames, frames + 5, len(good) - 1, 40):
        bad = bytearray(good)
        bad[spot] ^= 1
        path.write_bytes(bad)
        with pytest.raises(CacheError, match=f"{path}: damaged"):
            merge(cache.directory, tmp_path / "other", kind="acoustic")
        assert contents(cache.directory) == before
    path.write_bytes(good)
    wrong = path.rename(path.with_name("0" * 32 + ".h5"))
    with pytest.raises(CacheError, match=f"{wrong}: damaged.*not the hash"):
        merge(cache.directory, tmp_path / "other", kind="acoustic")
    assert contents(cache.directory) == before


def test_features_of_another_encoder_are_not_taken(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS[:2])
    before = contents(cache.directory)
    fill(tmp_path / "other", ROWS[2:], OTHER)
    with pytest.raises(CacheError, match=r"found huge cdcd.*expected tiny abab"):
        merge(cache.directory, tmp_path / "other", kind="acoustic")
    assert contents(cache.directory) == before
    fill(tmp_path / "other", ROWS[2:4])
    done = merge(cache.directory, tmp_path / "other", kind="acoustic")
    assert (done.taken, done.foreign, done.utterances) == ([HEADER], [OTHER], 2)
    assert_holds(cache, ROWS[:4])
    same = dataclasses.replace(HEADER, parameters={})
    fill(tmp_path / "same", ROWS[4:], same)
    with pytest.raises(CacheError, match="same fingerprint but another header"):
        merge(cache.directory, tmp_path / "same", kind="acoustic")


def test_where_nothing_is_everything_is_taken(tmp_path: Path) -> None:
    fill(tmp_path / "other", ROWS[2:], OTHER)
    fill(tmp_path / "other", ROWS[:2])
    done = merge(tmp_path / "acoustic", tmp_path / "other", kind="acoustic")
    assert {one.encoder for one in done.taken} == {"tiny", "huge"}
    assert contents(tmp_path / "acoustic") == contents(tmp_path / "other")


def test_only_another_cache_can_be_merged(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "acoustic", ROWS)
    for other, named in (
        (tmp_path, "no parts"),
        (tmp_path / "none", "no parts"),
        (cache.directory, "merged into itself"),
    ):
        with pytest.raises(CacheError, match=named):
            merge(cache.directory, other, kind="acoustic")
    with pytest.raises(CacheError, match="expected targets; fix: use --kind acoustic"):
        merge(tmp_path / "targets", cache.directory, kind="targets")
    assert not (tmp_path / "targets").exists()
