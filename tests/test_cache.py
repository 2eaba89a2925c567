"""The feature cache: what is put in comes out, and damage never goes unnoticed."""

import dataclasses
import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import (
    DIM,
    HEADER,
    OTHER,
    ROWS,
    contents,
    fill,
    keys,
    make_rows,
    pairs,
    parts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.contents import info
from pipeline.cache.verification import verify_cache
from stages.cache.digest import read_digest, write_digest
from stages.cache.store import CacheReader, CacheWriter
from stages.core.errors import CacheError
from stages.core.hashing import hash_array, hash_bytes


def test_features_come_out_as_they_went_in(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    reader = CacheReader(tmp_path)
    assert reader.header == HEADER
    for _, key, frames in ROWS:
        assert key in reader
        assert reader[key].dtype == np.float32
        np.testing.assert_array_equal(reader[key], frames)
    assert "absent" not in reader
    assert reader.lengths(keys(ROWS)).tolist() == [len(f) for _, _, f in ROWS]
    assert reader.lengths(keys(ROWS)).dtype == np.int64
    with pytest.raises(ValueError):
        reader[ROWS[0][1]][0, 0] = 1.0


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=15),
    part_frames=st.integers(1, 60),
    dtype=st.sampled_from(["float32", "float16"]),
    dim=st.integers(1, 9),
)
def test_any_lengths_and_part_sizes_round_trip(
    lengths: list[int], part_frames: int, dtype: str, dim: int
) -> None:
    rows = make_rows(lengths, dtype, dim)
    header = dataclasses.replace(HEADER, dtype=dtype, dim=dim)
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), rows, header, part_frames)
        reader = CacheReader(Path(folder))
        frames, offsets = reader.load(keys(rows))
        expected = np.concatenate([f for _, _, f in rows])
        np.testing.assert_array_equal(frames, expected.astype(np.float32))
        np.testing.assert_array_equal(np.diff(offsets), lengths)
        assert all(reader[key].dtype == dtype for key in keys(rows))
        assert all(len(part.stem) == 32 for part in parts(Path(folder)))
        assert verify_cache(Path(folder), pairs(rows)) == []


def test_parts_are_cut_at_the_size_asked_for_and_sorted_by_id(tmp_path: Path) -> None:
    fill(tmp_path, ROWS[::-1], part_frames=10)
    found = []
    for path in parts(tmp_path):
        with h5py.File(path) as file:
            found.append([id.decode() for id in file["ids"][:]])
    ids = [id for id, _, _ in ROWS]
    assert sorted(found) == [ids[:3], ids[3:5], ids[5:7], ids[7:]]


def test_load_keeps_the_order_asked_for_and_repeats(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    wanted = [ROWS[7], ROWS[0], ROWS[7], ROWS[4]]
    frames, offsets = CacheReader(tmp_path).load(keys(wanted))
    assert frames.dtype == np.float32 and offsets.dtype == np.int64
    assert offsets.tolist() == [0, 30, 33, 63, 65]
    np.testing.assert_array_equal(frames, np.concatenate([f for _, _, f in wanted]))
    frames, offsets = CacheReader(tmp_path).load([])
    assert frames.shape == (0, DIM) and offsets.tolist() == [0]


def test_a_part_is_flat_and_mapped_where_h5py_reads_it(tmp_path: Path) -> None:
    rows = make_rows([2] * 200)
    fill(tmp_path, rows, part_frames=1000)
    (path,) = parts(tmp_path)
    reader = CacheReader(tmp_path)
    with h5py.File(path) as file:
        assert sorted(file) == ["frames", "ids", "keys", "offsets"]
        assert file["frames"].chunks is None
        assert file["frames"].id.get_offset() % 64 == 0
        assert file["offsets"][:].tolist() == list(range(0, 401, 2))
        assert file.attrs["format"] == b"aln-features"
        assert json.loads(file.attrs["parameters"]) == HEADER.parameters
        assert file["frames"].attrs["sha256"].decode() == hash_array(file["frames"][:])
        for number, key in enumerate(file["keys"][:]):
            read = file["frames"][2 * number : 2 * number + 2]
            np.testing.assert_array_equal(reader[key.decode()], read)
    assert path.stem == hash_bytes(path.read_bytes())[:32]


def test_utterances_of_one_key_share_features(tmp_path: Path) -> None:
    _, key, frames = ROWS[0]
    with CacheWriter(tmp_path, HEADER) as writer:
        assert writer.missing(["b", key, "b", key]) == ["b", key]
        writer.add("first", key, frames)
        writer.add("second", key, frames)
    with h5py.File(parts(tmp_path)[0]) as file:
        assert file["ids"][:].tolist() == [b"first"]
    with CacheWriter(tmp_path, HEADER) as writer:
        assert writer.missing([key, "b"]) == ["b"]
        writer.add("third", key, frames)
    (found,) = info(tmp_path)
    assert (len(found.parts), found.utterances) == (1, 1)
    rows = [("first", key), ("second", key), ("third", key)]
    assert verify_cache(tmp_path, rows) == []
    write_digest(tmp_path / "digest", tmp_path, HEADER.fingerprint, rows)
    digest = read_digest(tmp_path / "digest")
    assert digest.rows == {id: (key, hash_array(frames)) for id, _ in rows}


def test_the_same_utterances_give_the_same_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "a", ROWS)
    time.sleep(1.1)  # HDF5's own clock ticks in seconds
    turned = dict(reversed(HEADER.parameters.items()))
    fill(tmp_path / "b", ROWS, dataclasses.replace(HEADER, parameters=turned))
    assert len(parts(tmp_path / "a")) > 2
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a" / ".lock").read_bytes() == b""


def test_the_digest_does_not_tell_how_the_cache_was_filled(tmp_path: Path) -> None:
    fill(tmp_path / "a", ROWS, part_frames=3)
    fill(tmp_path / "b", ROWS[5:][::-1], part_frames=1000)
    fill(tmp_path / "b", make_rows([2], dim=DIM), OTHER)
    fill(tmp_path / "b", ROWS[:5], part_frames=7)
    fingerprint = HEADER.fingerprint
    write_digest(tmp_path / "a.digest", tmp_path / "a", fingerprint, pairs(ROWS))
    write_digest(tmp_path / "b.digest", tmp_path / "b", fingerprint, pairs(ROWS[::-1]))
    text = (tmp_path / "a.digest").read_bytes()
    assert text == (tmp_path / "b.digest").read_bytes()
    head, *lines = text.decode().splitlines()
    assert json.loads(head)["encoder"] == "tiny"
    assert lines == sorted(f"{id} {key} {hash_array(f)}" for id, key, f in ROWS)
    digest = read_digest(tmp_path / "a.digest")
    assert digest.header == HEADER
    assert digest.rows == {id: (key, hash_array(f)) for id, key, f in ROWS}

    changed = [(id, key, np.nextafter(f, 9)) for id, key, f in ROWS[:1]] + ROWS[1:]
    fill(tmp_path / "c", changed)
    write_digest(tmp_path / "c.digest", tmp_path / "c", fingerprint, pairs(ROWS))
    differing = set(text.splitlines()) ^ set(
        (tmp_path / "c.digest").read_bytes().splitlines()
    )
    # The utterance's lines, and the first lines with the checksums.
    ids = {line.rsplit(b" ", 2)[0] for line in differing if line[:1] != b"{"}
    assert len(differing) == 4 and ids == {ROWS[0][0].encode()}


def test_a_digest_names_what_it_lacks(tmp_path: Path) -> None:
    fill(tmp_path / "acoustic", ROWS[:8])
    arguments = (tmp_path / "digest", tmp_path / "acoustic", HEADER.fingerprint)
    with pytest.raises(CacheError, match=r"2 of 10 .*é 008, corpus/é 009.*extract-ac"):
        write_digest(*arguments, pairs(ROWS))
    assert not (tmp_path / "digest").exists()


@pytest.mark.parametrize(
    "text", ["", "{}\n", "[1]\n", "no\n", '{"format": "other", "version": 1}\n']
)
def test_what_is_no_digest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "targets.digest"
    with pytest.raises(CacheError, match=r"no digest.*cache-targets"):
        read_digest(path)
    path.write_text(text)
    with pytest.raises(CacheError, match=r"targets.digest: damaged, .*cache-tar"):
        read_digest(path)


def test_a_cut_digest_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    path = tmp_path / "digest"
    write_digest(path, tmp_path, HEADER.fingerprint, pairs(ROWS))
    path.write_bytes(path.read_bytes()[:-140])
    with pytest.raises(CacheError, match="not a digest"):
        read_digest(path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_loses_nothing_complete(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with (
        pytest.raises(error),
        CacheWriter(tmp_path, HEADER, part_frames=1000) as writer,
    ):
        for row in ROWS[:4]:
            writer.add(*row)
        raise error
    before = contents(tmp_path)
    with CacheWriter(tmp_path, HEADER) as writer:
        assert writer.missing(keys(ROWS)) == keys(ROWS[4:])
        for row in ROWS[4:]:
            writer.add(*row)
    assert verify_cache(tmp_path, pairs(ROWS)) == []
    assert before.items() < contents(tmp_path).items()


CHILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import CacheWriter, HEADER, ROWS, parts
directory = Path(sys.argv[1])
rename = os.replace
def stop_at_third(*paths):
    if len(parts(directory)) == 2:
        print("ready", flush=True)
        time.sleep(60)
    rename(*paths)
os.replace = stop_at_third
with CacheWriter(directory, HEADER, part_frames=10) as writer:
    for row in ROWS:
        writer.add(*row)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that writes ROWS to tmp_path and waits before its third rename."""
    tests = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(tests=str(tests)), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tests.parent)},
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_writer_loses_at_most_the_part_in_hand(
    tmp_path: Path, child: subprocess.Popen
) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    before = contents(tmp_path)
    assert len(before) == 2
    assert verify_cache(tmp_path) == []
    with CacheWriter(tmp_path, HEADER) as writer:
        assert not list(tmp_path.glob(".*.tmp"))
        missing = writer.missing(keys(ROWS))
        assert 0 < len(missing) < len(ROWS)
        for row in ROWS:
            if row[1] in missing:
                writer.add(*row)
    assert verify_cache(tmp_path, pairs(ROWS)) == []
    assert before.items() < contents(tmp_path).items()


def test_a_second_writer_is_refused_with_the_firsts_process(
    tmp_path: Path, child: subprocess.Popen
) -> None:
    with pytest.raises(CacheError, match=f"process {child.pid} is writing"):
        CacheWriter(tmp_path, HEADER).__enter__()
    assert len(list(tmp_path.glob(".*.tmp"))) == 1  # the other's, so left alone
    child.kill()
    child.wait()
    with (
        CacheWriter(tmp_path, HEADER),
        pytest.raises(CacheError, match=f"process {os.getpid()} is writing"),
    ):
        CacheWriter(tmp_path, HEADER).__enter__()
    with CacheWriter(tmp_path, HEADER):
        pass


def test_a_disk_that_refuses_is_one_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    fill(tmp_path, ROWS[:2])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(CacheError, match="No space left"):
            fill(tmp_path, ROWS)
    assert not list(tmp_path.glob(".*.tmp"))
    assert verify_cache(tmp_path, pairs(ROWS[:2])) == []
    fill(tmp_path, ROWS)
    assert verify_cache(tmp_path, pairs(ROWS)) == []


def test_a_folder_that_cannot_be_made_is_one_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="file/acoustic: cannot be written"):
        CacheWriter(tmp_path / "file" / "acoustic", HEADER).__enter__()


BAD = np.ones((2, DIM), np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    frames = BAD.copy()
    frames[1, 2] = value
    with (
        pytest.raises(CacheError, match=r"'corpus/bad' cannot.*found NaN or infinite"),
        CacheWriter(tmp_path, HEADER) as writer,
    ):
        writer.add(*ROWS[0])
        writer.add("corpus/bad", "bad", frames)
    assert verify_cache(tmp_path, pairs(ROWS[:1])) == []
    assert "bad" not in CacheReader(tmp_path)


def test_an_id_that_the_digest_cannot_hold_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    with CacheWriter(tmp_path, HEADER) as writer:
        for id in ("", "a\nb", "a\0"):
            with pytest.raises(CacheError, match="cannot be stored"):
                writer.add(id, "key", BAD)
            with pytest.raises(CacheError, match="cannot be stored"):
                rows = [(id, ROWS[0][1])]
                write_digest(tmp_path / "digest", tmp_path, HEADER.fingerprint, rows)


def test_what_is_added_is_a_copy(tmp_path: Path) -> None:
    buffer = BAD.copy()
    with CacheWriter(tmp_path, HEADER) as writer:
        writer.add("a", "key", buffer)
        buffer[:] = 7
    np.testing.assert_array_equal(CacheReader(tmp_path)["key"], BAD)


def test_a_changed_utterance_is_cached_under_its_new_key(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    id, _, frames = ROWS[0]
    changed = (id, "changed", frames + 1)
    fill(tmp_path, [changed])
    rows = [changed, *ROWS[1:]]
    assert verify_cache(tmp_path, pairs(rows)) == []
    np.testing.assert_array_equal(CacheReader(tmp_path)["changed"], frames + 1)


def test_features_of_another_encoder_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "acoustic"
    fill(directory, ROWS[:4])
    before = contents(directory)
    with caplog.at_level(logging.WARNING), CacheWriter(directory, OTHER) as writer:
        assert writer.missing(keys(ROWS)) == keys(ROWS)
        writer.add("x", ROWS[0][1], BAD)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("4 cached utterances are not used")
    assert "encoder tiny, here huge" in message
    assert before.items() < contents(directory).items()

    with pytest.raises(CacheError, match=r"several encoders.*huge cdcd.*extract-aco"):
        CacheReader(directory)
    with pytest.raises(CacheError, match=r"tiny abab.*expected 0123.*extract-aco"):
        CacheReader(directory, fingerprint="0123")
    reader = CacheReader(directory, fingerprint=OTHER.fingerprint)
    np.testing.assert_array_equal(reader[ROWS[0][1]], BAD)
    assert ROWS[1][1] not in reader

    assert verify_cache(directory, pairs(ROWS[:4])) == []
    digest = tmp_path / "acoustic.digest"
    write_digest(digest, directory, OTHER.fingerprint, pairs(ROWS[:1]))
    of_other = read_digest(digest)
    missing, older = verify_cache(directory, pairs(ROWS[:4]), digest=of_other)
    assert "3 of 4" in missing and "lacks 3 of 4" in older
    ours, theirs = info(directory)
    assert (ours.header, theirs.header) == (HEADER, OTHER)
    assert (ours.utterances, ours.frames, len(ours.parts)) == (4, 17, 1)
    assert (theirs.utterances, theirs.frames, len(theirs.parts)) == (1, 2, 1)
    total = sum(path.stat().st_size for path in parts(directory))
    assert ours.bytes + theirs.bytes == total


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"dtype": "float16"}, "found dtype 'float32'; expected dtype 'float16'"),
        ({"dim": 5}, "found dim 4; expected dim 5"),
        ({"parameters": {}}, r"expected parameters\.\w+ None"),
        ({"kind": "targets"}, "expected kind 'targets'.*cache-targets"),
    ],
)
def test_one_fingerprint_means_one_header(
    tmp_path: Path, change: dict, found: str
) -> None:
    other = dataclasses.replace(HEADER, **change)
    fill(tmp_path / "a", ROWS[:2], part_frames=1)
    with pytest.raises(CacheError, match=found):
        CacheWriter(tmp_path / "a", other).__enter__()
    fill(tmp_path / "b", make_rows([2], other.dtype, other.dim), other)
    for path in parts(tmp_path / "b"):
        path.rename(tmp_path / "a" / path.name)
    with pytest.raises(CacheError, match="same fingerprint but another header"):
        CacheReader(tmp_path / "a")
    assert any("another header" in problem for problem in verify_cache(tmp_path / "a"))


def test_missing_features_name_count_keys_and_command(tmp_path: Path) -> None:
    fill(tmp_path / "empty", [])
    for directory in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(CacheError, match="no such features"):
            CacheReader(directory)
        assert info(directory) == []
        (problem,) = verify_cache(directory)
        assert str(directory) in problem
    with pytest.raises(CacheError, match=r"run `aln-pipeline cache-targets`$"):
        CacheReader(tmp_path / "targets")
    fill(tmp_path, ROWS[:8])
    reader = CacheReader(tmp_path)
    for read in (reader.load, reader.lengths):
        with pytest.raises(CacheError) as caught:
            read(keys(ROWS))
        message = str(caught.value)
        assert "2 of 10 utterances" in message and ROWS[8][1][:12] in message
        assert message.endswith("run `aln-pipeline extract-acoustic`")
    with pytest.raises(CacheError, match="1 of 1"):
        reader["nothing"]
    (problem,) = verify_cache(tmp_path, pairs(ROWS))
    assert "2 of 10" in problem and ROWS[8][0] in problem


def regions(path: Path) -> dict[str, int]:
    """Where each region of a part begins, in bytes."""
    with h5py.File(path) as file:
        places = {name: file[name].id.get_offset() for name in sorted(file)}
        last = places["frames"] + file["frames"].nbytes - 1
    return {**places, "signature": 0, "superblock": 30, "last frame": last}


def test_a_flipped_byte_anywhere_is_found(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    path = parts(tmp_path)[1]
    good = path.read_bytes()
    spread = np.random.default_rng(1).integers(0, len(good), 20).tolist()
    for place in [*regions(path).values(), len(good) - 1, *spread]:
        bad = bytearray(good)
        bad[place] ^= 0x40
        path.write_bytes(bad)
        problems = verify_cache(tmp_path, pairs(ROWS))
        assert any(p.startswith(f"{path}: damaged") for p in problems), place
        assert all("\n" not in problem for problem in problems)
        # Reading fails with an error of ours or returns what was written, and nothing
        # damaged gets into a digest.
        digest = tmp_path / "new.digest"
        try:
            reader = CacheReader(tmp_path, fingerprint=HEADER.fingerprint)
            info(tmp_path)
            write_digest(digest, tmp_path, HEADER.fingerprint, pairs(ROWS))
        except CacheError as error:
            assert str(path) in str(error)
            assert not digest.exists()
        else:
            digest.unlink()
            for _, key, frames in ROWS:
                np.testing.assert_array_equal(reader[key], frames)
    path.write_bytes(good)
    assert verify_cache(tmp_path, pairs(ROWS)) == []


def test_verify_holds_features_against_the_digest(tmp_path: Path) -> None:
    directory, path = tmp_path / "acoustic", tmp_path / "acoustic.digest"
    fill(directory, ROWS)
    write_digest(path, directory, HEADER.fingerprint, pairs(ROWS))
    digest = read_digest(path)
    assert verify_cache(directory, pairs(ROWS), digest=digest) == []

    id, (key, features) = next(iter(digest.rows.items()))
    rows = {**digest.rows, id: (key, features[:-6] + "abcdef")}
    other = dataclasses.replace(digest, rows=rows)
    (problem,) = verify_cache(directory, pairs(ROWS), digest=other)
    assert "1 features differ from the digest" in problem
    assert "run `aln-pipeline extract-acoustic`" in problem
    for changed in ({}, {id: ("0" * 64, features)}):
        rows = {name: row for name, row in digest.rows.items() if name != id}
        other = dataclasses.replace(digest, rows=rows | changed)
        (problem,) = verify_cache(directory, pairs(ROWS), digest=other)
        assert f"lacks 1 of {len(ROWS)} utterances" in problem and id in problem


def test_a_byte_that_changed_in_a_digest_is_found(tmp_path: Path) -> None:
    directory, path = tmp_path / "acoustic", tmp_path / "acoustic.digest"
    fill(directory, ROWS[:2])
    write_digest(path, directory, HEADER.fingerprint, pairs(ROWS[:2]))
    whole = path.read_bytes()
    damaged = [whole.replace(b'"dim"', b' "dim"'), whole + b"\n", whole[:-1]]
    for place in range(len(whole)):
        flipped = bytes([whole[place] ^ 1])
        damaged.append(whole[:place] + flipped + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CacheError, match=r"digest: damaged.*extract-acoustic"):
            read_digest(path)


@pytest.mark.parametrize("region", ["ids", "keys", "offsets", "signature"])
def test_damage_outside_of_frames_stops_reader_and_writer(
    tmp_path: Path, region: str
) -> None:
    directory = tmp_path / "targets"
    fill(directory, ROWS)
    path = parts(directory)[0]
    bad = bytearray(path.read_bytes())
    bad[regions(path)[region] + 8 * (region == "offsets")] ^= 1
    path.write_bytes(bad)
    expected = f"{path}: damaged.*delete it and run `aln-pipeline cache-targets`; the"
    for attempt in (
        lambda: CacheReader(directory),
        lambda: fill(directory, ROWS),
        lambda: info(directory),
    ):
        with pytest.raises(CacheError, match=expected):
            attempt()
    assert path.read_bytes() == bad
    path.unlink()
    fill(directory, ROWS)
    assert verify_cache(directory, pairs(ROWS)) == []


def test_a_truncated_part_is_named_with_the_way_out(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    path = parts(tmp_path)[0]
    good = path.read_bytes()
    for size in (0, 7, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(CacheError, match=f"{path}: damaged.*other parts are kept"):
            CacheReader(tmp_path)
        problems = verify_cache(tmp_path, pairs(ROWS))
        assert any(problem.startswith(f"{path}: damaged") for problem in problems)


def test_a_part_that_another_program_has_open_is_not_called_damaged(
    tmp_path: Path,
) -> None:
    fill(tmp_path, ROWS)
    path = parts(tmp_path)[0]
    good = path.read_bytes()
    with h5py.File(path, "r+"), pytest.raises(CacheError, match="it open") as caught:
        CacheReader(tmp_path)
    assert "close it there" in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert path.read_bytes() == good
    # One that was killed leaves a mark in the file.
    killed = "import h5py, os, sys; file = h5py.File(sys.argv[1], 'r+'); os._exit(0)"
    subprocess.run([sys.executable, "-c", killed, str(path)], check=True)
    with pytest.raises(CacheError, match=r"was killed .* it open.*h5clear -s"):
        CacheReader(tmp_path)


def test_a_part_cut_or_gone_after_opening_is_an_error_of_ours(tmp_path: Path) -> None:
    fill(tmp_path, ROWS)
    reader = CacheReader(tmp_path)
    parts(tmp_path)[0].write_bytes(b"short")
    for path in parts(tmp_path)[1:]:
        path.unlink()
    for key in keys(ROWS):
        with pytest.raises(CacheError, match=r"damaged|cannot be read"):
            reader[key]


def test_a_key_can_be_in_two_parts_and_a_wrong_name_is_found(tmp_path: Path) -> None:
    fill(tmp_path / "a", ROWS[:2], part_frames=99)
    fill(tmp_path / "b", ROWS[1:3], part_frames=99)
    for path in parts(tmp_path / "b"):
        path.rename(tmp_path / "a" / path.name)
    assert verify_cache(tmp_path / "a", pairs(ROWS[:3])) == []
    np.testing.assert_array_equal(CacheReader(tmp_path / "a")[ROWS[1][1]], ROWS[1][2])
    path = parts(tmp_path / "a")[0]
    path.rename(path.with_name("0" * 32 + ".h5"))
    assert any(
        "its name is not the hash" in problem
        for problem in verify_cache(tmp_path / "a")
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_reader_works_in_another_process(tmp_path: Path, method: str) -> None:
    fill(tmp_path, ROWS)
    reader = CacheReader(tmp_path)
    wanted, _ = reader.load(keys(ROWS))  # every part is mapped here
    with multiprocessing.get_context(method).Pool(1) as pool:
        found, _ = pool.apply(reader.load, (keys(ROWS),))
    np.testing.assert_array_equal(found, wanted)


def test_a_pickled_reader_takes_no_features_along(tmp_path: Path) -> None:
    rows = make_rows([5000])
    fill(tmp_path, rows)
    reader = CacheReader(tmp_path)
    reader.load(keys(rows))
    pickled = pickle.dumps(reader)
    assert len(pickled) < 2000 < rows[0][2].nbytes
    np.testing.assert_array_equal(pickle.loads(pickled)[rows[0][1]], rows[0][2])


def test_a_reader_maps_only_the_parts_it_needs(tmp_path: Path) -> None:
    fill(tmp_path, ROWS, part_frames=1)
    reader = CacheReader(tmp_path)
    first = reader[ROWS[0][1]]
    for path in parts(tmp_path):
        path.unlink()
    np.testing.assert_array_equal(reader[ROWS[0][1]], first)
    with pytest.raises(CacheError, match="cannot be read"):
        reader[ROWS[1][1]]


def test_adding_opens_no_finished_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, make_rows([1] * 20), part_frames=1)
    opened: list[str] = []
    original = h5py.File.__init__

    def count(self: h5py.File, name: object, *args: object, **kwargs: object) -> None:
        opened.append(str(name))
        original(self, name, *args, **kwargs)

    with CacheWriter(tmp_path, HEADER, part_frames=1000) as writer:
        monkeypatch.setattr(h5py.File, "__init__", count)
        for number in range(50):
            writer.missing([f"k{number}"])
            writer.add(f"i{number}", f"k{number}", BAD)
        assert opened == []
    assert len(opened) == 1
