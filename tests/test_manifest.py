"""The manifest is read as it was written; an inconsistent one is refused."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.corpus_files import CorpusFiles
from stages.core.errors import InputError
from stages.core.manifest import (
    COLUMNS,
    QUARANTINE_COLUMNS,
    read_conditions,
    read_labels,
    read_manifest,
    read_quarantine,
    write_manifest,
    write_quarantine,
)


def table(*rows: dict) -> pd.DataFrame:
    """Three good rows, one per split, changed by `rows`."""
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


def test_rows_and_intents_are_sorted_so_their_order_does_not_matter(tmp_path):
    one, other = tmp_path / "a" / "manifest.csv", tmp_path / "b" / "manifest.csv"
    more = [
        table({"id": f"c/{name}", "intent": name}).iloc[:1] for name in ("ö", "a", "z")
    ]
    rows = pd.concat([*more, table()])
    write_manifest(one, rows)
    write_manifest(other, rows.iloc[::-1])
    assert one.read_bytes() == other.read_bytes()
    found = read_manifest(one)
    assert list(found["id"]) == sorted(rows["id"])
    assert tuple(found.columns) == COLUMNS
    assert one.read_text().splitlines()[2] == (
        f"c/test,test.wav,test,s,lights on,on,1.2500,{'ab' * 32}"
    )
    assert read_labels(one.with_name("intents.json")).to_json() == ["a", "on", "z", "ö"]


# No control characters: the corpus stage refuses them.
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8)
ODD = st.sampled_from(["", "NA", "null", "007", "1e3", '"', 'a,"b"', " a ", "True"])


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(TEXT | ODD, min_size=12, max_size=12))
def test_any_text_is_read_as_it_was_written(tmp_path: Path, texts: list[str]) -> None:
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
    assert read_labels(path.with_name("intents.json")).to_json() == [rows[0]["intent"]]


@pytest.mark.parametrize(
    "rows, complaint",
    [
        ([{"id": "c/x"}, {"id": "c/x"}], "duplicate id 'c/x'"),
        ([{}, {"split": "dev"}], "unknown split of c/valid; found 'dev'"),
        ([{}, {"split": "train"}], "no utterance in split 'valid'"),
        ([{}, {}, {"intent": "off"}], r"row 2 \(c/test\) has intent 'off'"),
    ],
)
def test_an_inconsistent_manifest_is_not_written(
    tmp_path: Path, rows: list[dict], complaint: str
) -> None:
    path = tmp_path / "manifest.csv"
    with pytest.raises(InputError, match=rf"manifest\.csv: {complaint}"):
        write_manifest(path, table(*rows))
    assert not path.exists()


READERS = {
    "manifest.csv": (read_manifest, "corpus", "prepare-corpus"),
    "intents.json": (read_labels, "corpus", "prepare-corpus"),
    "conditions.csv": (read_conditions, "corpus", "prepare-corpus"),
    "quarantine.csv": (read_quarantine, "quarantine", "extract-acoustic"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_refused_with_the_command_that_writes_it(
    tmp_path: Path, name: str
) -> None:
    read, sums, command = READERS[name]
    corpus = CorpusFiles(tmp_path)
    write_manifest(corpus.manifest, table().assign(condition="close"))
    rows = [dict.fromkeys(QUARANTINE_COLUMNS, "x")]
    write_quarantine(corpus.quarantine, pd.DataFrame(rows))
    path, checksums = tmp_path / name, tmp_path / f"{sums}.sha256"
    whole = path.read_bytes()
    read(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=rf"{name}: not as .*{command}"):
            read(path)
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file.*{command}"):
        read(path)
    path.write_bytes(whole)
    read(path)
    subprocess.run(["sha256sum", "--check", checksums], cwd=tmp_path, check=True)
    checksums.unlink()
    with pytest.raises(InputError, match=rf"{name}: no checksum of it.*{command}"):
        read(path)


def quarantine(corpus: CorpusFiles, *recordings: tuple[str, str]) -> None:
    """Quarantine recordings by id and hash."""
    lines = [(id, f"{id}.wav", key, "empty, and a |") for id, key in recordings]
    write_quarantine(
        corpus.quarantine, pd.DataFrame(lines, columns=list(QUARANTINE_COLUMNS))
    )


def test_quarantined_recordings_are_left_out(tmp_path: Path) -> None:
    corpus = CorpusFiles(tmp_path)
    more = [{"id": "c/a"}, {"id": "c/b", "split": "train", "intent": "off"}]
    write_manifest(corpus.manifest, pd.concat([table(), table(*more)[:2]]))
    whole = read_manifest(corpus.manifest)
    first, second = whole.head(2).itertuples()
    # The second recording has changed since.
    quarantine(corpus, (second.id, "previous hash"), (first.id, first.audio_sha256))
    assert list(read_quarantine(corpus.quarantine)["id"]) == [first.id, second.id]
    expected = whole.iloc[1:].reset_index(drop=True)
    pd.testing.assert_frame_equal(corpus.read_usable(), expected)
    quarantine(corpus)
    pd.testing.assert_frame_equal(corpus.read_usable(), whole)


def test_a_corpus_that_is_inconsistent_without_them_is_refused(tmp_path: Path) -> None:
    corpus = CorpusFiles(tmp_path)
    rows = table({}, {"intent": "off"}, {}, {"id": "c/off", "intent": "off"})
    rows["split"] = ["train", "valid", "test", "train"]
    write_manifest(corpus.manifest, rows)
    quarantine(corpus, ("c/off", "ab" * 32))
    with pytest.raises(InputError) as caught:
        corpus.read_usable()
    line = str(caught.value)
    assert "c/valid has intent 'off'" in line and "row " not in line
    assert "(1 recordings are quarantined)" in line and "in quarantine.csv" in line
    quarantine(corpus, ("c/valid", "ab" * 32))
    with pytest.raises(InputError, match=r"'valid' \(1 recordings are quarantined"):
        corpus.read_usable()
    rows["intent"] = ["on", "on", "on", "off"]
    write_manifest(corpus.manifest, rows)
    quarantine(corpus, ("c/off", "ab" * 32))
    with pytest.raises(InputError, match=r"train have one intent.*quarantine\.csv"):
        corpus.read_usable()
