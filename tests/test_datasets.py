"""Corpora in directories that Hugging Face's datasets saved."""

import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import pipeline, write_encoder, write_tone
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value

from stages.core.errors import ConfigurationError, InputError
from stages.core.hashing import hash_file
from stages.core.manifest import read_manifest
from stages.corpus import datasets as adapter
from stages.corpus.params import CorpusParams
from stages.corpus.run import Summary, read_corpus, run

PARAMS = CorpusParams(
    name="mine",
    adapter="datasets",
    path_column="audio",
    speaker_column="who",
    parts=("train", "validation", "test"),
)
FEATURES = Features(
    audio=Value("string"),
    who=Value("int64"),
    text=Value("string"),
    intent=ClassLabel(names=["off", "on"]),
)
# By part: audio, who, text, intent.
ROWS = {
    "train": [("a", 7, "lights on", 1), ("b", None, "lights off", 0)],
    "validation": [("c", 8, "on please", 1)],
    "test": [("d", 9, "off please", 0)],
}


def table(source: Path, rows: list) -> Dataset:
    columns = zip(*rows, strict=True)
    fields = dict(zip(FEATURES, map(list, columns), strict=True))
    fields["audio"] = [name and f"{source}/{name}.wav" for name in fields["audio"]]
    return Dataset.from_dict(fields, features=FEATURES)


def save(source: Path, root: Path, rows: dict = ROWS, *, embed: bool = True) -> None:
    shutil.rmtree(root, ignore_errors=True)
    parts = DatasetDict({part: table(source, rows[part]) for part in rows})
    if embed:
        parts = parts.cast_column("audio", Audio())
    parts.save_to_disk(root)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The recordings that datasets embeds."""
    for number, name in enumerate("abcd"):
        write_tone(tmp_path / "given" / f"{name}.wav", 300 * (number + 1), 0.3, number)
    return tmp_path / "given"


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    save(source, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def prepare(root: Path, tmp_path: Path) -> Callable[..., Summary]:
    def prepared(params: CorpusParams = PARAMS) -> Summary:
        output = tmp_path / "cache"
        return run(params, root=root, output=output, workers=1)

    return prepared


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that were written, without their hashes."""
    names: list[str] = []
    write = adapter.atomic_path

    def counted(file: Path, *, flush: bool) -> AbstractContextManager[Path]:
        names.append(file.name.split("-")[0])
        return write(file, flush=flush)

    monkeypatch.setattr(adapter, "atomic_path", counted)
    return names


def listed(summary: Summary) -> list[tuple[str, ...]]:
    """Rows with the recording's own name for its path."""
    rows = read_manifest(summary.manifest)
    rows["path"] = rows["path"].str.replace(r"-[0-9a-f]{12}\.wav$", "", regex=True)
    columns = ["path", "split", "speaker", "text", "intent"]
    return list(rows[columns].itertuples(index=False, name=None))


EXPECTED = [
    ("test/d", "test", "9", "off please", "off"),
    ("train/a", "train", "7", "lights on", "on"),
    ("train/b", "train", "", "lights off", "off"),
    ("validation/c", "valid", "8", "on please", "on"),
]


def test_embedded_recordings_become_the_files_they_were(
    source: Path, root: Path, prepare: Callable[..., Summary], written: list[str]
) -> None:
    summary = prepare()
    assert listed(summary) == EXPECTED
    for row in read_manifest(summary.manifest).itertuples():
        file = summary.manifest.parent / "audio" / row.path
        original = source / f"{file.name[0]}.wav"
        assert file.read_bytes() == original.read_bytes()
        assert row.audio_sha256 == hash_file(original)
        assert row.seconds == 0.3
    assert sorted(written) == ["a", "b", "c", "d"]


def test_only_what_is_not_there_is_written(
    source: Path, root: Path, prepare: Callable[..., Summary], written: list[str]
) -> None:
    before = prepare().manifest.read_text().splitlines()
    audio = root.parent / "cache" / "audio"
    # One was cut short, and one has another byte; that it says so is all that differs.
    next(audio.glob("test/d-*")).write_bytes(b"cut sh")
    rotten = next(audio.glob("validation/c-*"))
    sound = rotten.read_bytes()
    rotten.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    # Another recording of a, and the rows in another order.
    write_tone(source / "a.wav", 500, 0.4, 9)
    save(source, root, {**ROWS, "train": ROWS["train"][::-1]})
    written.clear()
    after = prepare().manifest.read_text().splitlines()
    assert sorted(written) == ["a", "c", "d"]
    assert rotten.read_bytes() == sound
    assert [line[:12] for line in set(after) ^ set(before)] == ["mine/train/a"] * 2
    written.clear()
    prepare()
    assert written == []


def test_paths_are_linked_to(
    source: Path, root: Path, prepare: Callable[..., Summary]
) -> None:
    save(source, root, embed=False)
    with pytest.raises(InputError, match=r"mine/train: row 0 leaves the corpus root"):
        prepare()
    allowed = prepare(replace(PARAMS, outside_paths="allow"))
    assert listed(allowed) == EXPECTED
    assert str(source) not in allowed.manifest.read_text()
    shutil.copytree(source, root / "audio")
    save(root / "audio", root, embed=False)
    with pytest.raises(InputError, match=r"train: row 0 names a missing recording"):
        prepare()
    shutil.copytree(source, root / "audio")
    for _ in range(2):
        summary = prepare()
        assert listed(summary) == EXPECTED
        for path in read_manifest(summary.manifest)["path"]:
            link = summary.manifest.parent / "audio" / path
            assert link.resolve() == root / "audio" / f"{link.name[0]}.wav"


def test_a_directory_without_parts_has_a_split_column_or_gets_splits(
    source: Path, root: Path, prepare: Callable[..., Summary]
) -> None:
    whole = table(source, [row for rows in ROWS.values() for row in rows])
    whole = whole.add_column("fold", ["train", "train", "valid", "test"])
    shutil.rmtree(root)
    whole.cast_column("audio", Audio()).save_to_disk(root)
    found = listed(prepare(replace(PARAMS, split_column="fold")))
    assert [row[:2] for row in found] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "valid"),
        ("d", "test"),
    ]
    with pytest.raises(InputError, match=r"no column split; found audio, .*fold;"):
        prepare()
    made = replace(PARAMS, splits="random", valid_share=0.25, test_share=0.25)
    splits = read_corpus(made, root).table["split"]
    assert sorted(splits) == ["test", "train", "train", "valid"]


def test_columns_are_found_as_they_look(
    source: Path, root: Path, prepare: Callable[..., Summary]
) -> None:
    shutil.rmtree(root)
    parts = {part: table(source, rows) for part, rows in ROWS.items()}
    DatasetDict(parts).cast_column("audio", Audio()).rename_columns(
        {"audio": "to\u0308n\u00a0", "intent": "inte\u0301nt"}
    ).save_to_disk(root)
    params = replace(PARAMS, path_column="tön", intent_column="intént\u00a0")
    assert listed(prepare(params)) == EXPECTED


def test_splits_can_be_made_from_some_parts(root: Path) -> None:
    params = replace(PARAMS, parts=("train", "test"), splits="random")
    rows, contents = adapter.read_datasets(params, root)
    assert [path[:7] for path in rows["path"]] == ["train/a", "train/b", "test/d-"]
    assert list(rows["path"]) == list(contents.embedded)


def test_the_whole_way(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    write_encoder(Path("encoder.safetensors"))
    configured = pipeline(
        "configure",
        "datasets",
        *("--root", root),
        *("--set", "corpus.speaker_column=who"),
        *("--set", "acoustic.encoder=encoder.safetensors"),
    )
    assert f"{root}: 2 train, 1 valid, 1 test utterances" in configured.stdout
    assert "missing" not in configured.stdout
    assert not Path("cache").exists()
    assert pipeline("prepare-corpus").exit_code == 0
    # The recordings are embedded.
    shutil.rmtree(source)
    result = pipeline("extract-acoustic")
    assert " 4 extracted now" in result.output, result.output


@pytest.mark.parametrize(
    "row, complaint",
    [
        (("a", 7, "lights on", -1), "row 1 has no intent"),
        (("a", 7, "lights on", None), "row 1 has no intent"),
        (("a", 7, None, 1), "row 1 has no text"),
        ((None, 7, "lights on", 1), "row 1 has no path"),
    ],
)
def test_a_bad_row_is_named_by_part_and_row(
    source: Path, root: Path, row: tuple, complaint: str
) -> None:
    save(source, root, {**ROWS, "test": [*ROWS["test"], row]})
    with pytest.raises(InputError, match=f"mine/test: {complaint}"):
        read_corpus(PARAMS, root)


def test_what_does_not_fit_is_named_with_what_is_there(
    source: Path, root: Path
) -> None:
    with pytest.raises(InputError, match="no part 'dev'; found train, validation, te"):
        read_corpus(replace(PARAMS, parts=("train", "dev", "test")), root)
    with pytest.raises(InputError, match=r"mine/train: no column label; found audio"):
        read_corpus(replace(PARAMS, intent_column="label"), root)
    with pytest.raises(InputError, match=r"'who' is not audio; found Value\('int64'\)"):
        read_corpus(replace(PARAMS, path_column="who", speaker_column=""), root)
    with pytest.raises(ConfigurationError, match=r"corpus\.parts"):
        read_corpus(replace(PARAMS, parts=("train", "test")), root)
    with pytest.raises(InputError, match=r"given: not a directory written by save_to"):
        read_corpus(PARAMS, source)
    next(root.glob("test/*.arrow")).write_bytes(b"arrow, or so it says")
    with pytest.raises(InputError, match=r"mine: not a directory .*\(Arrow"):
        read_corpus(PARAMS, root)


def test_an_intent_that_train_lacks_is_named(source: Path, root: Path) -> None:
    save(source, root, {**ROWS, "train": ROWS["train"][:1]})
    with pytest.raises(InputError, match="mine/test: row 0 has intent 'off', which no"):
        read_corpus(PARAMS, root)


def test_names_cannot_lead_out_of_the_cache(source: Path, root: Path) -> None:
    content = (source / "a.wav").read_bytes()
    audio = [{"bytes": content, "path": "../../x y.tar/v1.0.w av"}, {"bytes": b"RIFF"}]
    shutil.rmtree(root)
    rows = table(source, ROWS["train"]).remove_columns("audio")
    rows = rows.add_column("audio", audio).cast_column("audio", Audio())
    DatasetDict(train=rows).save_to_disk(root)
    params = replace(PARAMS, parts=("train",), splits="random")
    paths = list(adapter.read_datasets(params, root)[0]["path"])
    assert paths[0].startswith("train/v1-0-") and paths[0].endswith(".audio")
    assert [path.count("/") for path in paths] == [1, 1]


def test_without_datasets_the_extra_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match=r"pip install -e '\.\[datasets\]'"):
        read_corpus(PARAMS, root)
