"""Comparison of two caches: every difference is found and named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import HEADER, OTHER, ROWS, Row, fill, make_rows, pairs, parts

from pipeline.cache.comparison import compare
from stages.cache.digest import digest_path, write_digest
from stages.core.errors import CacheError


def cached(directory: Path, rows: list[Row], part_frames: int = 10) -> list[Path]:
    """A folder of parts and its digest."""
    fill(directory, rows, part_frames=part_frames)
    path = digest_path(directory)
    write_digest(path, directory, HEADER.fingerprint, pairs(rows))
    return [directory, path]


def test_caches_of_the_same_features_are_equal(tmp_path: Path) -> None:
    ours = cached(tmp_path / "a", ROWS)
    theirs = cached(tmp_path / "b", ROWS[::-1], part_frames=1)
    for a in ours:
        for b in theirs:
            difference = compare(a, b)
            assert not difference
            assert str(difference) == "equal: 10 features in both"


def test_one_flipped_value_is_found_and_measured(tmp_path: Path) -> None:
    frames = ROWS[3][2].copy()
    frames[5, 2] += 0.5
    far = abs(float(frames[5, 2]) - float(ROWS[3][2][5, 2]))
    scale = max(abs(float(frames[5, 2])), abs(float(ROWS[3][2][5, 2])))
    changed = [*ROWS[:3], (*ROWS[3][:2], frames), *ROWS[4:]]
    ours, theirs = cached(tmp_path / "a", ROWS), cached(tmp_path / "b", changed)
    for a in ours:
        for b in theirs:
            difference = compare(a, b)
            assert difference
            assert difference.changed == [ROWS[3][0]]
            assert not (difference.only_a or difference.only_b or difference.rekeyed)
            assert not difference.header
            if a.is_dir() and b.is_dir():
                assert difference.absolute == far
                assert difference.relative == pytest.approx(far / scale, rel=1e-12)
                assert f"largest difference: {far:.3g}" in str(difference)
            else:
                assert difference.absolute is difference.relative is None


def test_a_sign_of_zero_is_a_difference(tmp_path: Path) -> None:
    zero = np.zeros((2, 4), np.float32)
    cached(tmp_path / "a", [("x", "k", zero)])
    cached(tmp_path / "b", [("x", "k", -zero)])
    difference = compare(tmp_path / "a", tmp_path / "b")
    assert (difference.changed, difference.absolute) == (["x"], 0.0)


def test_what_one_side_alone_has_is_named(tmp_path: Path) -> None:
    ours = cached(tmp_path / "a", ROWS[:7])
    theirs = cached(tmp_path / "b", [(ROWS[0][0], "new", ROWS[0][2]), *ROWS[6:]])
    for a in ours:
        for b in theirs:
            difference = compare(a, b)
            assert difference.only_a == [id for id, _, _ in ROWS[1:6]]
            assert difference.only_b == [id for id, _, _ in ROWS[7:]]
            assert difference.rekeyed == [ROWS[0][0]]
            assert difference.changed == [] and difference.common == 1
            assert str(difference).splitlines() == [
                "only in A: 5 (corpus/é 001, corpus/é 002, corpus/é 003 and 2 more)",
                "only in B: 3 (corpus/é 007, corpus/é 008, corpus/é 009)",
                "another key: 1 (corpus/é 000)",
            ]


def test_ids_that_share_a_key_count_between_digests_alone(tmp_path: Path) -> None:
    copy = ("copy", *ROWS[0][1:])
    ours = cached(tmp_path / "a", [ROWS[0], copy])
    theirs = cached(tmp_path / "b", [copy])
    assert not compare(ours[0], theirs[0])
    assert not compare(ours[1], theirs[0])
    assert compare(ours[1], theirs[1]).only_a == [ROWS[0][0]]


def test_headers_are_compared_field_by_field(tmp_path: Path) -> None:
    header = dataclasses.replace(
        HEADER, fingerprint="ef" * 32, dim=5, parameters={"layers": [1, 3], "new": 1}
    )
    fill(tmp_path / "a", ROWS)
    fill(tmp_path / "b", make_rows([3, 1], dim=5), header)
    difference = compare(tmp_path / "a", tmp_path / "b")
    assert set(difference.header) == {
        "fingerprint",
        "dim",
        "parameters.front_end",
        "parameters.layers",
        "parameters.new",
    }
    assert "header: dim 4 in A, 5 in B" in str(difference).splitlines()
    assert len(difference.changed) == 2 and difference.absolute is None


def test_half_precision_differs_by_its_rounding(tmp_path: Path) -> None:
    rows = make_rows([3, 5])
    halves = [(id, key, frames.astype(np.float16)) for id, key, frames in rows]
    fill(tmp_path / "a", rows)
    header = dataclasses.replace(HEADER, dtype="float16", fingerprint="ef" * 32)
    fill(tmp_path / "b", halves, header)
    difference = compare(tmp_path / "a", tmp_path / "b")
    assert set(difference.header) == {"fingerprint", "dtype"}
    assert len(difference.changed) == 2
    assert difference.relative is not None and 0 < difference.relative < 2**-10


def test_of_several_encoders_the_other_sides_is_compared(tmp_path: Path) -> None:
    ours, known = cached(tmp_path / "a", ROWS)
    theirs, _ = cached(tmp_path / "b", ROWS)
    fill(theirs, ROWS[:3], OTHER)
    assert not compare(ours, theirs)
    assert not compare(theirs, known)
    fill(ours, ROWS[:3], OTHER)
    with pytest.raises(CacheError, match="several encoders"):
        compare(ours, theirs)


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    ours, known = cached(tmp_path / "a", ROWS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no digest")
    for other, named in (
        ("none", "neither"),
        ("empty", "no parts"),
        ("text", "damaged, or not a digest"),
    ):
        for pair in ((ours, tmp_path / other), (tmp_path / other, known)):
            with pytest.raises(CacheError, match=f"{other}: {named}"):
                compare(*pair)
    path = parts(ours)[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CacheError, match=f"{path}: damaged"):
        compare(ours, known)
