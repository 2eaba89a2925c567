"""`configure`: params.yaml for a corpus, and what it prints."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import TONES, pipeline, write_corpus

from pipeline.configure import PRESETS, preset_text
from pipeline.params import load_params, parse_params
from pipeline.table1 import describe_manifest
from stages.core.manifest import COLUMNS, write_manifest

FILE = Path("params.yaml")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's folder without params.yaml, and a corpus next to it."""
    write_corpus(tmp_path / "corpus")
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_written_with_the_next_step(empty: Path, name: str) -> None:
    result = pipeline("configure", name)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"params.yaml: preset {name}"
    assert lines[-1] == "next: dvc repro"
    params = load_params(FILE)
    corpus = "demo" if name == "recommended" else name.removesuffix("-slots")
    assert params.corpus.name == corpus
    assert FILE.read_text() == preset_text(name)
    assert lines[1].startswith(f"not found yet: data/{corpus}")
    assert any(line.startswith("no encoder at ") for line in lines)


def test_slots_are_counted_as_combinations(empty: Path) -> None:
    path = empty / "corpus" / "table.csv"
    table = pd.read_csv(path)
    table.assign(room=table["intent"]).to_csv(path, index=False)
    own = ("configure", "table", "--root", empty / "corpus", "--set")
    shown = pipeline(*own, "corpus.slots=[intent, room]").stdout
    assert "6 test utterances, 3 combinations of 2 slots; 8 speakers" in shown


def test_one_value_is_written_as_a_list_for_dvc(empty: Path) -> None:
    pipeline("configure", "demo", "--set", "student.alpha=0.3")
    assert load_params(FILE).student.alpha == (0.3,)


def test_the_same_preset_again_needs_no_force(empty: Path) -> None:
    own = ("configure", "table", "--root", empty / "corpus", "--set")
    for setting, code in (
        ("corpus.name=a", 0),
        ("corpus.name=a", 0),
        ("corpus.name=b", 2),
    ):
        assert pipeline(*own, setting).exit_code == code


def test_a_corpus_that_cannot_be_used_is_reported(empty: Path) -> None:
    Path("data").mkdir()
    Path("data/table").symlink_to(empty / "corpus")
    (empty / "corpus" / "table.csv").write_text("path,split\n")
    assert "cannot be used yet: " in pipeline("configure", "table").stdout


def test_a_corpus_is_linked_and_described(empty: Path) -> None:
    root = empty / "corpus"
    (root / "train" / "play-0.wav").unlink()
    result = pipeline(
        "configure", "table", "--root", root, "--set", "corpus.name=tones"
    )
    assert result.exit_code == 0, result.output
    expected = f"{root}: 12 train, 6 valid, 6 test utterances, 3 intents; 8 speakers"
    assert expected in result.stdout
    assert "1 recordings are missing, first train/play-0.wav" in result.stdout
    assert Path("data/tones").resolve() == root
    params = load_params(FILE)
    assert (params.corpus.name, params.corpus.adapter) == ("tones", "table")
    # The rest is the preset's, comments included.
    assert "relative to its own folder" in FILE.read_text()
    assert params.student == parse_params(FILE, preset_text("table")).student
    again = pipeline("configure", "table", "--root", root, "--force")
    assert again.exit_code == 0, again.output
    assert Path("data/table").resolve() == root


def test_an_edited_file_is_not_overwritten(empty: Path) -> None:
    assert pipeline("configure", "fsc").exit_code == 0
    assert pipeline("configure", "demo").exit_code == 0  # nothing is lost
    own = FILE.read_text().replace("epochs: ", "epochs: 1")
    FILE.write_text(own)
    result = pipeline("configure", "fsc")
    assert result.exit_code == 2
    assert "has settings that are not from a preset" in result.stderr
    assert FILE.read_text() == own
    assert pipeline("configure", "fsc", "--force").exit_code == 0
    assert load_params(FILE).corpus.name == "fsc"


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (("ftp",), "unknown preset; found 'ftp'; expected one of atis, datasets, demo"),
        (("fsc", "--set", "corpus.nam=x"), "params.yaml: unknown key in section"),
        (("fsc", "--set", "corpus"), "SECTION.KEY=VALUE"),
        (
            ("snips", "--set", "corpus.fold=9"),
            "corpus.fold cannot be used; found 9; expected 0 to 4",
        ),
        (("fsc", "--root", "CORPUS"), "not a Fluent Speech Commands folder"),
        (("phrases", "--root", "CORPUS"), "no sentences; expected sentences.csv"),
    ],
)
def test_what_cannot_be_configured_writes_nothing(
    empty: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    root = str(empty / "corpus")
    given = [root if one == "CORPUS" else one for one in arguments]
    result = pipeline("configure", *given)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not FILE.exists()
    assert not Path("data").exists()


def test_another_folder_in_its_place_is_not_replaced(empty: Path) -> None:
    Path("data/table").mkdir(parents=True)
    Path("data/table/thesis.wav").write_text("mine")
    result = pipeline("configure", "table", "--root", empty / "corpus")
    assert result.exit_code == 2
    assert "data/table: already exists" in result.stderr
    assert Path("data/table/thesis.wav").read_text() == "mine"
    assert not FILE.exists()


def test_a_broken_link_is_replaced(empty: Path) -> None:
    Path("data").mkdir()
    Path("data/table").symlink_to(empty / "nowhere")
    assert pipeline("configure", "table", "--root", empty / "corpus").exit_code == 0
    assert Path("data/table").resolve() == empty / "corpus"


def test_prepare_shows_table_1(empty: Path) -> None:
    pipeline("configure", "table", "--root", empty / "corpus")
    lines = pipeline("prepare-corpus").stdout.splitlines()
    assert lines[0].split("  ")[-2:] == ["distinct texts", "of these also in train"]
    train = lines[1].split()
    seconds = 3 * sum(0.35 + 0.1 * number for number in range(4))
    assert train[:2] == ["train", "12"]
    assert float(train[2]) == pytest.approx(seconds / 60, abs=0.006)
    assert float(train[3]) == pytest.approx(seconds / 12, abs=0.006)
    assert train[4:] == [str(len(TONES)), "4", "3", "–"]
    assert lines[-1].startswith("cache/table/manifest.csv: 12 train")


def test_table_1_is_compared_to_the_papers(tmp_path: Path) -> None:
    rows = [
        (f"fsc/{split}", f"{split}.wav", split, "s", "on", "on", 2.45, "0" * 64)
        for split in ("train", "valid", "test")
    ]
    path = tmp_path / "manifest.csv"
    write_manifest(path, pd.DataFrame(rows, columns=list(COLUMNS)))
    text = describe_manifest("fsc", path)
    assert "the paper" in text and "23,132" in text
    assert "train, utterances: 1, the paper has 23,132 (−23,131)" in text
    assert "test, mean seconds" not in text  # equal
    assert "paper" not in describe_manifest("mine", path)


def test_recommended_is_the_demo_with_another_teacher_and_more_speech() -> None:
    demo, own = (
        parse_params(FILE, preset_text(one)) for one in ("demo", "recommended")
    )
    assert own.teacher.head == "mean" and own.teacher.mlm_epochs == 0
    assert own.unlabelled.sentences == "recombined"
    for name in vars(demo):
        same = getattr(demo, name) == getattr(own, name)
        assert same == (name not in ("teacher", "unlabelled")), name
