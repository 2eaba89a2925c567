"""Tables and folders as people make them: no row is lost, no label is two classes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import regex
from conftest import pipeline, write_corpus, write_tone
from hypothesis import HealthCheck, settings
from hypothesis import given as examples
from hypothesis import strategies as st

from stages.baseline1.given import read_given
from stages.core.errors import InputError
from stages.core.manifest import read_labels, read_manifest
from stages.core.table import clean_text, read_columns
from stages.corpus.params import CorpusParams
from stages.corpus.run import Summary, read_corpus, run

HEADING = ["path", "split", "speaker", "text", "intent"]
ROWS = [
    ["a.wav", "train", "ann", "lights on", "on"],
    ["b.wav", "train", "ben", "lights off", "off"],
    ["c.wav", "valid", "cat", "on", "on"],
    ["d.wav", "valid", "dan", "off", "off"],
    ["e.wav", "test", "eve", "on again", "on"],
]
TABLE = CorpusParams(name="mine", adapter="table")
Rows = list[list[str]]
Prepare = Callable[..., Summary]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, row in enumerate(ROWS):
        write_tone(tmp_path / "corpus" / row[0], 300 * (number + 1), 0.1, number)
    write_table(tmp_path / "corpus", ROWS)
    return tmp_path / "corpus"


@pytest.fixture
def prepare(root: Path, tmp_path: Path) -> Prepare:
    def prepared(**choice: str) -> Summary:
        params = CorpusParams(name="mine", adapter="table", **choice)  # type: ignore
        output = tmp_path / "out"
        return run(params, root=root, output=output, workers=1)

    return prepared


def write_table(root: Path, rows: Rows, name: str = "table.csv") -> Path:
    """The rows, as they are, in CSV, TSV, JSON lines or Parquet."""
    file = root / name
    if file.suffix in (".csv", ".tsv"):
        separator = "\t" if file.suffix == ".tsv" else ","
        lines = [separator.join(row) for row in [HEADING, *rows]]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif file.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(HEADING, row, strict=True))) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        pd.DataFrame(rows, columns=HEADING).to_parquet(file)
    return file


def with_field(row: int, column: str, value: str) -> Rows:
    rows = [list(one) for one in ROWS]
    rows[row][HEADING.index(column)] = value
    return rows


# --------------------------------------------------------------- every line is a row


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("closing", [1, 3, None])
def test_an_unpaired_quotation_mark_in_any_column_loses_no_row(
    root: Path, prepare: Prepare, name: str, closing: int | None
) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    lines = [separator.join([*row, "5 inch"]) for row in [HEADING, *ROWS]]
    lines[0] = separator.join([*HEADING, "note"])
    lines[2] = lines[2].replace("5 inch", '"5 inch')
    if closing:  # it would pair with another, some rows below
        lines[2 + closing] = lines[2 + closing].replace("5 inch", '5 inch"')
    (root / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=rf"{name}: .*line 3 has an unpaired quotat"):
        prepare(table=name)


def test_the_tables_of_other_readers_lose_no_row_either(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    heading = "path,speakerId,transcription,action,object,location,note\n"
    for name in ("train", "valid", "test"):
        lines = [f"{name}{n}.wav,ann,hi,a,b,c{n},\n" for n in range(4)]
        lines[1] = lines[1].replace(",\n", ',"unread\n')
        lines[2] = lines[2].replace(",\n", ',"\n')
        (data / f"{name}_data.csv").write_text(heading + "".join(lines))
    with pytest.raises(InputError, match=r"train_data\.csv: .*line 3 has an unpaired"):
        read_corpus(CorpusParams(name="fsc", adapter="fsc"), tmp_path)
    given = tmp_path / "given.csv"
    given.write_text('id,transcript,note\na,on,\nb,off,"x\nc,on,"\nd,on,\n')
    with pytest.raises(InputError, match=r"given\.csv: .*line 3 has an unpaired"):
        read_given(given, "transcript", pd.Series(["a", "d"]))
    # In a recogniser's TSV a quotation mark is a character.
    given.rename(tmp_path / "given.tsv").write_text('id\ttranscript\na\t"on\nd\toff\n')
    found = read_given(tmp_path / "given.tsv", "transcript", pd.Series(["d", "a"]))
    assert found == ["off", '"on']


_TEXT = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@examples(rows=st.lists(st.tuples(_TEXT, _TEXT, st.just("end")), max_size=6))
def test_quoted_fields_are_read_as_they_were_written(
    tmp_path: Path, suffix: str, rows: list[tuple[str, ...]]
) -> None:
    file = tmp_path / f"t.{suffix}"
    with open(file, "w", encoding="utf-8", newline="") as stream:
        separator = "\t" if suffix == "tsv" else ","
        writer = csv.writer(stream, delimiter=separator, quoting=csv.QUOTE_MINIMAL)
        writer.writerows([("one", "two, or more", "three"), *rows])
    columns = read_columns(file)
    assert list(columns) == ["one", "two, or more", "three"]
    assert list(zip(*columns.values(), strict=True)) == rows


# ------------------------------------------------- what spreadsheets and editors add


def test_what_excel_and_editors_add_is_accepted(root: Path, prepare: Prepare) -> None:
    expected = prepare().manifest.read_bytes()
    rows = [HEADING, *ROWS]
    spaced = [[f" {name} " for name in HEADING], *ROWS]
    for name, lines in {
        "columns.csv": [",".join([*row, "", ""]) for row in rows],
        "heading.csv": [",".join(row) for row in spaced],
        # Excel leaves separators out where columns at the end are empty.
        "row.csv": [",".join([*rows[0], "note", "x"]), *map(",".join, rows[1:])],
        "longer.csv": [",".join(rows[0]), *(",".join([*r, ""]) for r in rows[1:])],
        "index.csv": [",".join([str(n or ""), *row]) for n, row in enumerate(rows)],
    }.items():
        for end in ("\n", "\r\n", "\r"):
            text = end.join([*lines, "", ""])
            (root / name).write_bytes(text.encode("utf-8-sig"))
            assert prepare(table=name).manifest.read_bytes() == expected, name
    lines = write_table(root, ROWS, "t.jsonl").read_text().splitlines()
    (root / "t.jsonl").write_bytes("\n".join([*lines, "", " "]).encode("utf-8-sig"))
    assert prepare(table="t.jsonl").manifest.read_bytes() == expected


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        (
            "t.jsonl",
            b'{"path": "a"}\n\n{"path": "b"}\n',
            "line 2 is empty; fix: remove",
        ),
        ("t.jsonl", b'{"intent": NaN}\n', "line 1 is not JSON (NaN is not a finite"),
        (
            "t.jsonl",
            b'{"intent": [-Infinity]}\n',
            "line 1 is not JSON (-Infinity is no",
        ),
        ("t.jsonl", b'{"intent": 1e999}\n', "line 1 is not JSON (1e999 is not a fin"),
        ("t.jsonl", b'{"a": 1, "a": 2}\n', "line 1 is not JSON ('a' is repeated)"),
        ("t.jsonl", b"[" * 100_000, "line 1 is not JSON ("),
        ("t.jsonl", '{"a": 1}'.encode("utf-16"), "found UTF-16; fix: save it as UTF-8"),
        (
            "t.csv",
            "a,b\n".encode("utf-16"),
            "found UTF-16; fix: save it as UTF-8, in E",
        ),
        ("t.csv", b"path;split;text\na;b;c\n", "separated by semicolons; expected com"),
        ("t.csv", b"sep=;\npath;split\na;b\n", "separated by semicolons"),
        ("t.csv", b"path\tsplit\na\tb\n", "separated by tabs; expected commas"),
        ("t.tsv", b"path,split\na,b\n", "separated by commas; expected tabs"),
        ("t.csv", b"path, path\na,b\n", "column 'path' is repeated"),
        ("t.csv", b"path,split\na,b,,c\n", "row 2 has 4 fields)"),
    ],
)
def test_a_file_in_another_format_is_named_with_its_line(
    root: Path, prepare: Prepare, name: str, content: bytes, complaint: str
) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*{re.escape(complaint)}"):
        prepare(table=name)


def test_a_long_field_and_columns_in_another_spelling_are_read(
    root: Path, prepare: Prepare
) -> None:
    expected = prepare().manifest.read_bytes()
    names = {"intent": "Intént", "path": "Ton spur"}
    given = {
        f"{ours}_column": unicodedata.normalize("NFD", name).replace(" ", "\u00a0")
        for ours, name in names.items()
    }
    file = f"{unicodedata.normalize('NFD', 'übung')}.csv"
    for heading in (names, {ours: given[f"{ours}_column"] for ours in names}):
        heads = [heading.get(name, name) for name in HEADING]
        rows = [[*heads, "note"], *([*row, "x" * 200_000] for row in ROWS)]
        (root / file).write_text("\n".join(map(",".join, rows)), encoding="utf-8")
        assert prepare(table="übung.csv", **given).manifest.read_bytes() == expected
        lines = [json.dumps(dict(zip(heads, row, strict=True))) for row in ROWS]
        (root / "t.jsonl").write_text("\n".join(lines))
        assert prepare(table="t.jsonl", **given).manifest.read_bytes() == expected
    transcripts = root / "given.csv"
    transcripts.write_text("id,té xt\né,\nü,on\n", encoding="utf-8")
    column, *ids = (
        unicodedata.normalize("NFD", one) for one in ("té\u00a0xt", "ü", "é")
    )
    assert read_given(transcripts, column, pd.Series([*ids, "é"])) == ["on", "", ""]


def test_words_for_nothing_are_labels_and_numbers_are_as_written(
    root: Path, prepare: Prepare
) -> None:
    names = ["nan", "NA", "null", "None", "1.0"]
    rows = [[f"{n}.wav", "train", "NA", "null", n] for n in names]
    rows += [["v.wav", "valid", "", "nan", "nan"], ["t.wav", "test", "", "NA", "NA"]]
    for number, row in enumerate(rows):
        write_tone(root / row[0], 300, 0.1, number)
    write_table(root, rows)
    manifest = prepare().manifest
    assert read_labels(manifest.with_name("intents.json")).to_json() == sorted(names)
    assert set(read_manifest(manifest)["text"]) == {"null", "nan", "NA"}
    write_table(root, rows, "t.jsonl")
    expected = manifest.read_bytes()
    assert prepare(table="t.jsonl").manifest.read_bytes() == expected
    columns = {name: [row[n] for row in rows] for n, name in enumerate(HEADING)}
    columns["speaker"] = [name or None for name in columns["speaker"]]  # type: ignore
    pd.DataFrame(columns).to_parquet(root / "t.parquet")
    assert prepare(table="t.parquet").manifest.read_bytes() == expected


def test_parquet_labels_that_are_numbers_keep_their_digits(
    root: Path, prepare: Prepare
) -> None:
    arrow = pytest.importorskip("pyarrow")
    columns = dict(zip(HEADING, map(list, zip(*ROWS, strict=True)), strict=True))
    columns["speaker"] = arrow.array([1, None, 2, 3, None])
    columns["intent"] = arrow.array([2**53 + 1, 2**53, 2**53, 2**53, 2**53 + 1])
    arrow.parquet.write_table(arrow.table(columns), root / "t.parquet")
    table = read_manifest(prepare(table="t.parquet").manifest)
    assert list(table["speaker"]) == ["1", "", "2", "3", ""]
    assert set(table["intent"]) == {"9007199254740992", "9007199254740993"}
    columns["intent"] = arrow.array([1.5, float("nan"), 1.5, 1.5, 1.5])
    arrow.parquet.write_table(arrow.table(columns), root / "t.parquet")
    with pytest.raises(InputError, match="row 2 has no intent"):
        prepare(table="t.parquet")


# --------------------------------------------------------- labels are what people see

BLANKS = [
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(char) in ("Zs", "Zl", "Zp")
]
INVISIBLE = "\u00ad\u200b\u200e\u2060\u2066\ufeff"


def test_labels_that_look_the_same_are_the_same() -> None:
    assert len(BLANKS) > 15
    for blank in BLANKS:
        assert clean_text(f"{blank}turn{blank} on{blank}") == "turn on"
    for nothing in INVISIBLE:
        assert clean_text(f"{nothing}tu{nothing}rn on{nothing} ") == "turn on"
    assert clean_text(unicodedata.normalize("NFD", "café où")) == "café où"
    # Joiners change what is seen inside such words («I want», «RAM»), not elsewhere.
    for word in ("می\u200cخواهم", "क्\u200dष", "র\u200d্যাম"):
        assert clean_text(f"\u200c{word}\u200d \u200d {word}\u200c") == f"{word} {word}"
    assert clean_text("e\u200d\u0301\u200d") == "é"


def test_characters_that_unicode_calls_ignorable_are_not_seen() -> None:
    ignorable = regex.compile(r"[\p{Default_Ignorable_Code_Point}\ufff9-\ufffb\u2800]")
    found = ignorable.findall("".join(map(chr, range(0xD800))))
    found += ignorable.findall("".join(map(chr, range(0xE000, sys.maxunicode + 1))))
    assert len(found) > 4000
    assert {clean_text(f"tu{char}rn {char}") for char in found} == {"turn"}
    assert clean_text("tu\u0308rn") == "t\u00fcrn"


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_one_label_in_two_spellings_is_one_class_and_one_speaker(
    root: Path, prepare: Prepare, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rows = [[*row[:4], "café on" if row[4] == "on" else "off"] for row in ROWS]
    write_table(root, rows, name)
    expected = prepare(table=name).manifest.read_bytes()
    assert not caplog.text
    rows[2][4] = unicodedata.normalize("NFD", "café\u00a0on\u200b")
    rows[3][4] = "\ufeffoff"
    rows[1][1:4] = ["\u00a0train", "b\u00aden", "lights\u2003off"]
    write_table(root, rows, name)
    assert prepare(table=name).manifest.read_bytes() == expected
    rows[4][2] = "ben\u200b"
    write_table(root, rows, name)
    prepare(table=name)
    assert "1 speakers are in train and in test: ben: b.wav" in caplog.text
    rows[1][4] = "\u200b\u00a0"
    write_table(root, rows, name)
    with pytest.raises(InputError, match=r"row \d has no intent"):
        prepare(table=name)


def test_a_half_of_a_character_is_refused_by_row(root: Path, prepare: Prepare) -> None:
    write_table(root, with_field(1, "text", "lights \ud83d"), "t.jsonl")
    with pytest.raises(InputError, match="row 2 has a control character in its text"):
        prepare(table="t.jsonl")


def test_a_single_intent_is_refused_before_anything_trains(
    root: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(root, [[*row[:4], "on"] for row in ROWS])
    with pytest.raises(InputError, match="train has a single intent, 'on'; expected t"):
        prepare()
    with pytest.raises(InputError, match="train has a single intent"):
        prepare(splits="random", valid_share=0.2, test_share=0.2)  # type: ignore
    monkeypatch.chdir(root.parent)
    result = pipeline("configure", "table", "--root", root)
    assert result.exit_code == 2
    assert "train has a single intent, 'on'" in result.stderr


def test_copies_with_two_intents_or_in_train_and_test_are_named(
    root: Path, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(root / "a.wav", root / "b.wav")
    shutil.copy(root / "c.wav", root / "e.wav")
    prepare()
    assert (
        "1 recordings have a copy with another intent: on: a.wav (table.csv row 2) and "
        "off: b.wav (table.csv row 3)" in caplog.text
    )
    assert "copy in test" not in caplog.text
    caplog.clear()
    shutil.copy(root / "a.wav", root / "e.wav")
    write_tone(root / "b.wav", 500, 0.1, 9)
    prepare()
    assert (
        "1 recordings of train have a copy in test: a.wav (table.csv row 2) and "
        "e.wav (table.csv row 6)" in caplog.text
    )
    assert "another intent" not in caplog.text


# ------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    "path, complaint",
    [
        ("x" * 300, "columns are not swapped"),
        ("/".join(["x" * 200] * 30), "columns are not swapped"),
        ("sub\\b.wav", r"write / in place of \ in the paths"),
        ("lights on please.", "columns are not swapped"),
        ("no.wav", "complete the corpus"),
    ],
)
def test_a_path_that_cannot_be_one_is_named_with_its_row(
    root: Path,
    prepare: Prepare,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    complaint: str,
) -> None:
    write_table(root, with_field(1, "path", path))
    with pytest.raises(InputError) as caught:
        prepare()
    message = str(caught.value)
    assert f"found no {path[:100]}" in message and len(message) < 500
    assert "(table.csv row 3)" in message and complaint in message
    monkeypatch.chdir(root.parent)
    result = pipeline("configure", "table", "--root", root)
    assert result.exit_code == 0
    assert f"1 recordings are missing, first {path[:100]}" in result.stdout
    assert (complaint in result.stdout) == (path != "no.wav")


@pytest.mark.parametrize("path", ["a.wav\u00a0", " a.wav", "\ufeffa.wav ", "a.wav "])
def test_a_blank_around_a_path_is_not_part_of_it_unless_it_is_on_disk(
    root: Path, prepare: Prepare, path: str
) -> None:
    expected = prepare().manifest.read_bytes()
    write_table(root, with_field(0, "path", path))
    assert prepare().manifest.read_bytes() == expected
    write_tone(root / "other.wav", 500, 0.1, 9)
    (root / "other.wav").rename(root / path)
    assert path in set(read_manifest(prepare().manifest)["path"])


def test_swapped_columns_of_a_long_table_are_one_short_line(
    root: Path, prepare: Prepare
) -> None:
    rows = [
        ["ann", split, f"{n}.wav", "on", str(n % 2)]
        for n, split in enumerate(["train"] * 3000 + ["valid", "test"])
    ]
    write_table(root, rows)
    with pytest.raises(InputError, match="columns are not swapped") as caught:
        prepare()
    assert "found no ann (table.csv row 2), ann (table.csv row 3)" in str(caught.value)
    write_table(root, [["a.wav", *row[1:]] for row in rows])
    with pytest.raises(InputError, match="keep one row of each") as other:
        prepare()
    assert max(len(str(caught.value)), len(str(other.value))) < 500


@pytest.mark.parametrize("written, stored", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_path_is_found_in_the_other_form_of_unicode(
    root: Path, prepare: Prepare, written: str, stored: str
) -> None:
    # Of two folders only one is as the table has it.
    there = f"é/{unicodedata.normalize(stored, 'ü/ö.wav')}"
    (root / there).parent.mkdir(parents=True)
    (root / "b.wav").rename(root / there)
    path = f"é/{unicodedata.normalize(written, 'ü/ö.wav')}"
    assert path != there
    write_table(root, with_field(1, "path", path))
    table = read_manifest(prepare().manifest)
    assert there in set(table["path"]) and path not in set(table["path"])
    # Both forms in the table are the same recording twice.
    rows = with_field(1, "path", path)
    rows[2][0] = there
    write_table(root, rows)
    with pytest.raises(InputError, match=r"several rows have the same recording"):
        prepare()
    # If both exist they are two, and each row means its own.
    write_tone(root / path, 500, 0.1, 9)
    assert {path, there} <= set(read_manifest(prepare().manifest)["path"])


# ------------------------------------------------------------------------------ links


@pytest.fixture
def outside(root: Path) -> Path:
    """A folder next to the corpus, with two recordings of it."""
    folder = root.parent / "outside"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        (root / name).rename(folder / name)
    return folder


def test_a_linked_folder_is_refused_with_advice_that_works(
    root: Path, outside: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[f"sub/{row[0]}", *row[1:]] for row in ROWS[:2]] + ROWS[2:]
    write_table(root, rows)
    (root / "sub").symlink_to(outside)
    with pytest.raises(InputError, match=r"corpus/sub: a linked folder .*cp -rl"):
        prepare()
    monkeypatch.chdir(root.parent)
    result = pipeline("configure", "table", "--root", root)
    assert (result.exit_code, "corpus/sub: a linked folder" in result.stderr) == (2, 1)
    expected = prepare(outside_paths="allow").manifest.read_bytes()
    (root / "sub").unlink()
    subprocess.run(["cp", "-rl", outside, root / "sub"], check=True)
    assert prepare().manifest.read_bytes() == expected
    # All adapters give the same advice.
    assert CorpusParams(name="x", adapter="fsc", outside_paths="allow")


def test_links_to_files_and_the_root_as_a_link_are_accepted(
    root: Path, outside: Path, tmp_path: Path, prepare: Prepare
) -> None:
    (root / "a.wav").symlink_to(outside / "a.wav")
    (root / "b.wav").symlink_to("../outside/b.wav")
    expected = prepare().manifest.read_bytes()
    (tmp_path / "link").symlink_to(root)
    found = run(TABLE, root=tmp_path / "link", output=tmp_path / "o", workers=1)
    assert found.manifest.read_bytes() == expected


@pytest.mark.parametrize("target", ["../nowhere.wav", "unread.wav"])
def test_a_link_to_nowhere_is_named_even_if_no_row_reads_it(
    root: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (root / "unread.wav").symlink_to(target)  # the second is a loop
    with pytest.raises(
        InputError, match=rf"unread\.wav: the link .*a link to {target}"
    ):
        prepare()
    monkeypatch.chdir(root.parent)
    result = pipeline("configure", "table", "--root", root)
    assert (result.exit_code, "unread.wav: the link leads" in result.stderr) == (2, 1)
    # DVC does not look there either.
    (root / ".git").mkdir()
    (root / "unread.wav").rename(root / ".git" / "unread.wav")
    prepare()


def test_what_dvc_would_read_for_ever_is_refused(root: Path, prepare: Prepare) -> None:
    device, pipe = root / "unread.wav", root / "deep" / "pipe"
    pipe.parent.mkdir()
    device.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"unread\.wav: neither a file nor a folder"):
        prepare()
    device.unlink()
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"deep/pipe: neither a file nor a folder"):
        prepare(outside_paths="allow")


@pytest.mark.slow
def test_dvc_notices_what_is_accepted_and_not_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    corpus, outside = tmp_path / "corpus", tmp_path / "outside"
    write_corpus(corpus)
    shutil.copytree(corpus / "train", outside / "train")
    (tmp_path / "repository" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository")
    Path("data/mine").symlink_to(corpus)
    stage = "{cmd: 'true', deps: [data/mine], outs: []}"
    Path("dvc.yaml").write_text(f"stages: {{corpus: {stage}}}\n")

    def ran() -> bool:
        """Whether DVC found that the corpus changed."""
        command = [sys.executable, "-m", "dvc", "repro"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr)
        return "Running stage" in done.stdout

    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    name = "train/play-0.wav"
    assert ran() and not ran()
    write_tone(corpus / name, 500, 0.4, 1)
    assert ran()
    # A link to a file, whose content changes, and one that leads elsewhere.
    (corpus / name).unlink()
    (corpus / name).symlink_to(outside / name)
    assert ran() and not ran()
    write_tone(outside / name, 500, 0.4, 2)
    assert ran()
    (corpus / name).unlink()
    os.link(outside / name, corpus / name)
    assert not ran()
    write_tone(outside / name, 500, 0.4, 3)
    assert ran()
    shutil.rmtree(corpus / "train")
    (corpus / "train").symlink_to(outside / "train")
    ran()
    write_tone(outside / name, 500, 0.4, 4)
    assert not ran()  # hence refused, and so is one whose target is in the corpus
    shutil.copytree(outside / "train", corpus / "b")
    shutil.copytree(outside / "train", corpus / "c")
    (corpus / "train").unlink()
    (corpus / "train").symlink_to("b")
    ran()
    (corpus / "train").unlink()
    (corpus / "train").symlink_to("c")
    assert not ran()
    (corpus / "valid" / "extra.wav").symlink_to("nowhere")
    with pytest.raises(OSError, match="No such file"):
        ran()
