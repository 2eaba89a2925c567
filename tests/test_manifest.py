"""The manifest: what is written is read, and what cannot be relied on is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.errors import InputError
from stages.core.manifest import (
    COLUMNS,
    QUARANTINE_COLUMNS,
    check_manifest,
    read_intents,
    read_manifest,
    read_quarantine,
    usable_rows,
    write_manifest,
    write_quarantine,
)


def table(*rows: dict) -> pd.DataFrame:
    """Three good rows, one a split, changed by `rows`."""
    good = [
        {
            "id": f"c/{split}",
            "path": f"{split}.wav",
            "split": split,
            "speaker": "s",
            "text": "lights on",
            "intent": "on",
            "seconds": 1.25,
            "audio_sha256": "ab" * 32,
        }
        for split in ("train", "valid", "test")
    ]
    changed = [{**good[i % 3], **row} for i, row in enumerate(rows)]
    return pd.DataFrame([*changed, *good[len(changed) :]], columns=list(COLUMNS))


def test_rows_come_back_sorted_by_id(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    rows = table()
    write_manifest(path, rows)
    found = read_manifest(path)
    assert list(found["id"]) == ["c/test", "c/train", "c/valid"]
    assert tuple(found.columns) == COLUMNS
    assert path.read_text().splitlines()[1] == (
        f"c/test,test.wav,test,s,lights on,on,1.2500,{'ab' * 32}"
    )


# No control characters: the corpus stage refuses them.
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8)
ODD = st.sampled_from(["", "NA", "null", "007", "1e3", '"', 'a,"b"', " a ", "True"])


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(TEXT | ODD, min_size=12, max_size=12))
def test_any_text_comes_back_as_it_was(tmp_path: Path, texts: list[str]) -> None:
    fields = ("path", "speaker", "text", "intent")
    rows = [dict(zip(fields, texts[i::3], strict=True)) for i in range(3)]
    for row in rows:
        row["intent"] = rows[0]["intent"]
    path = tmp_path / "manifest.csv"
    expected = table(*rows)
    write_manifest(path, expected)
    found = read_manifest(path)
    records = sorted(expected.to_dict("records"), key=lambda row: row["id"])
    assert found.to_dict("records") == records
    assert read_intents(path.with_name("intents.json")) == [rows[0]["intent"]]


def test_the_order_of_rows_does_not_change_the_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "manifest.csv", tmp_path / "b" / "manifest.csv"
    write_manifest(one, table())
    write_manifest(other, table().iloc[::-1])
    assert one.read_bytes() == other.read_bytes()


def test_intents_are_those_of_train_sorted(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    more = [
        table({"id": f"c/{name}", "intent": name}).iloc[:1] for name in ("ö", "a", "z")
    ]
    write_manifest(path, pd.concat([*more, table()]))
    assert read_intents(path.with_name("intents.json")) == ["a", "on", "z", "ö"]


@pytest.mark.parametrize(
    "rows, complaint",
    [
        ([{"id": "c/x"}, {"id": "c/x"}], "duplicate id 'c/x'"),
        ([{}, {"split": "dev"}], "unknown split of c/valid; found 'dev'"),
        ([{}, {"split": "train"}], "no utterance in split 'valid'"),
        ([{}, {}, {"intent": "off"}], r"row 4 \(c/test\) has intent 'off'"),
        ([{}, {"intent": "off"}], r"row 3 \(c/valid\) has intent 'off'"),
    ],
)
def test_what_cannot_be_relied_on_is_refused(
    tmp_path: Path, rows: list[dict], complaint: str
) -> None:
    path = tmp_path / "manifest.csv"
    with pytest.raises(InputError, match=rf"manifest\.csv: {complaint}"):
        check_manifest(path, table(*rows))
    with pytest.raises(InputError):
        write_manifest(path, table(*rows))
    assert not path.exists()


def test_what_a_quarantine_took_is_said_to_be_missed(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    rows = table(
        {}, {"intent": "off"}, {}, {"id": "c/off", "intent": "off"}, {"id": "c/on"}
    ).assign(split=["train", "valid", "test", "train", "train"])
    assert usable_rows(path, rows, rows[:0]).equals(rows)
    assert list(usable_rows(path, rows, rows[4:])["id"]) == list(rows["id"])[:4]
    with pytest.raises(InputError) as caught:
        usable_rows(path, rows, rows[3:4])
    line = str(caught.value)
    assert "c/valid has intent 'off'" in line and "row 3" not in line
    assert "(recordings set aside: 1)" in line and "quarantine.csv" in line
    with pytest.raises(InputError, match=r"'valid' \(recordings set aside: 1"):
        usable_rows(path, rows, rows[1:2])


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not a readable manifest"),
        (b"id,path\na,b\n", "not a manifest; found columns id, path"),
        (b"\xff\xfe\x00", "not a readable manifest"),
        (",".join(COLUMNS).encode() + b"\na,b,train,s,t,i,long,h\n", "'?long'?"),
        (",".join(COLUMNS).encode() + b"\na,b,train,s,t,i,1,h,more\nb\n", "manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"manifest\.csv: .*{complaint}.*prepare"):
        read_manifest(path)


def test_missing_files_name_the_command_that_writes_them(tmp_path: Path) -> None:
    for read in (read_manifest, read_intents):
        with pytest.raises(InputError, match=r"none.*run `aln-pipeline prepare-"):
            read(tmp_path / "none")


@pytest.mark.parametrize("content", ["", "{", '{"a": 0}', "[1]", '"on"'])
def test_what_is_no_list_of_intents_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "intents.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"intents\.json: not "):
        read_intents(path)


def test_intents_are_plain_json(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.csv", table())
    assert json.loads((tmp_path / "intents.json").read_text()) == ["on"]


# ------------------------------------------------------------------- quarantine


def bad(*rows: tuple[str, str]) -> pd.DataFrame:
    """Recordings set aside, by id and hash."""
    lines = [(id, f"{id}.wav", key, "empty, and a |") for id, key in rows]
    return pd.DataFrame(lines, columns=list(QUARANTINE_COLUMNS))


def test_what_was_set_aside_is_left_out_of_the_manifest(tmp_path: Path) -> None:
    manifest, quarantine = tmp_path / "manifest.csv", tmp_path / "quarantine.csv"
    whole = table()
    write_manifest(manifest, whole)
    first, second = read_manifest(manifest).head(2).itertuples()
    # The second has other bytes now than those that were set aside.
    written = bad((second.id, "former bytes"), (first.id, first.audio_sha256))
    write_quarantine(quarantine, written)
    assert list(read_quarantine(quarantine)["id"]) == [first.id, second.id]
    rest = read_manifest(manifest, quarantine=quarantine)
    assert list(rest["id"]) == list(read_manifest(manifest)["id"])[1:]
    assert list(rest.index) == list(range(len(rest)))
    write_quarantine(quarantine, bad())
    assert read_manifest(manifest, quarantine=quarantine).equals(
        read_manifest(manifest)
    )


@pytest.mark.parametrize("content", [None, "", "id,path\n1,2\n", 'id,"\n'])
def test_what_is_no_list_of_bad_recordings_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "quarantine.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"quarantine\.csv: .*extract-acoustic"):
        read_quarantine(path)
