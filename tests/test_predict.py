"""`aln-pipeline predict`, in an environment that has next to nothing."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import soundfile
from conftest import pipeline, write_tone

from stages.inference.classifier import IntentClassifier
from stages.speech.loading import load_audio

ROOT = Path(__file__).parent.parent

# The packages of requirements.txt, and those that they import.
ALLOWED = {
    "_cffi_backend",
    "_soundfile",
    "cffi",
    "click",
    "flatbuffers",
    "google",
    "numpy",
    "onnxruntime",
    "packaging",
    "pipeline",
    "soundfile",
    "stages",
    "typing_extensions",
}

# Refuses every other package as if it were not installed.
SMALL = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {ALLOWED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, {str(ROOT)!r})
"""


def small(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where only `ALLOWED` can be imported."""
    return subprocess.run(
        [sys.executable, "-c", SMALL + code],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def audio(exported: Path) -> Path:
    """A folder of recordings next to the exported model."""
    folder = exported.parent / "audio"
    for number, hertz in enumerate((300.0, 900.0, 2700.0)):
        write_tone(folder / f"deep/{number}.wav", hertz, 0.4 + number / 10, number)
    (folder / "notes.txt").write_text("no recording")
    return folder


def test_a_folder_as_text_csv_and_json(exported: Path, audio: Path) -> None:
    classifier = IntentClassifier(exported)
    paths = sorted((audio / "deep").iterdir())
    answers = [classifier(path) for path in paths]
    result = pipeline("predict", audio, "--model", exported)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{path}  {answer.intent}  {answer.probability:.3f}"
        for path, answer in zip(paths, answers, strict=True)
    ]
    result = pipeline(
        "predict", audio, "--model", exported, "--format", "csv", "--top", 2
    )
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["id"] for row in rows] == [str(path) for path in paths]
    for row, answer in zip(rows, answers, strict=True):
        assert (row["intent"], row["intent_2"]) == (answer.intent, answer.ranked[1][0])
        assert float(row["probability_2"]) == pytest.approx(
            answer.ranked[1][1], abs=1e-6
        )
    result = pipeline("predict", audio, "--model", exported, "--format", "jsonl")
    for line, path, answer in zip(
        result.stdout.splitlines(), paths, answers, strict=True
    ):
        found = json.loads(line)
        assert found["id"] == str(path) and found["intent"] == answer.intent
        assert len(found["ranked"]) == 1


def test_a_table_gives_its_ids_and_the_accuracy(exported: Path, audio: Path) -> None:
    classifier = IntentClassifier(exported)
    intents = [
        classifier(audio / f"deep/{number}.wav", reject=False).intent
        for number in range(3)
    ]
    rows = [(f"deep/{n}.wav", f"id {n}", intent) for n, intent in enumerate(intents)]
    rows[2] = (*rows[2][:2], "another")
    lines = [",".join(row) for row in [("path", "id", "intent"), *rows]]
    jsonl = [
        json.dumps(dict(zip(("path", "id", "intent"), row, strict=True)))
        for row in rows
    ]
    for name, text in (
        ("t.csv", "\ufeff" + "\r\n".join(lines)),
        ("t.tsv", "\n".join(line.replace(",", "\t") for line in lines)),
        ("t.jsonl", "\n".join([*jsonl, "", ""])),
    ):
        (audio / name).write_text(text, "utf-8", newline="")
        result = pipeline("predict", audio / name, "--model", exported, "--no-reject")
        found = [line.split("  ")[:2] for line in result.stdout.splitlines()]
        assert found == [[f"id {n}", intent] for n, intent in enumerate(intents)]
        assert result.stderr == "3 classified, 66.67% of 3 as the table has it\n"
    (exported.parent / "t.csv").write_text("path\n0.wav\n")
    result = pipeline(
        "predict",
        exported.parent / "t.csv",
        *("--model", exported, "--root", audio / "deep", "--no-reject"),
    )
    assert result.stdout.startswith(f"0.wav  {intents[0]}  ")


def test_numbers_in_json_lines_and_more_intents_than_there_are(
    exported: Path, audio: Path
) -> None:
    (audio / "t.jsonl").write_text('{"path": "deep/0.wav", "id": 7, "intent": 3}\n')
    result = pipeline("predict", audio / "t.jsonl", "--model", exported, "--top", 99)
    cells = result.stdout.strip().split("  ")
    assert cells[0] == "7" and len(cells) == 1 + 2 * 3
    assert result.stderr.endswith("0.00% of 1 as the table has it\n")


def test_a_rejected_line_shows_the_most_probable_intents_too(
    exported: Path, audio: Path
) -> None:
    soundfile.write(audio / "silence.wav", [0.0] * 8000, 16_000)
    best, second, _ = IntentClassifier(exported)(audio / "silence.wav").ranked
    result = pipeline("predict", audio / "silence.wav", "--model", exported, "--top", 2)
    shares = [f"{one:.3f}" for one in (best[1], best[1])]
    assert result.stdout.strip().split("  ")[1:] == [
        "none", shares[0], best[0], shares[1]
    ]  # fmt: skip
    assert second[0] not in result.stdout


def test_links_are_followed_once_and_broken_ones_are_named(
    exported: Path, audio: Path, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "sub").symlink_to(audio / "deep")
    (links / "loop").symlink_to(links)
    (links / "gone.wav").symlink_to(audio / "gone.wav")
    result = pipeline("predict", links, "--model", exported)
    assert len(result.stdout.splitlines()) == 3
    assert f"error: {links}/gone.wav: " in result.stderr and result.exit_code == 2


def test_bad_files_are_named_and_the_rest_is_classified(
    exported: Path, audio: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.csv").write_text("file\na.wav\n")
    (tmp_path / "bad.jsonl").write_text("{\n")
    bad = [audio / "gone.wav", audio / "notes.txt", tmp_path / "empty"]
    bad += [tmp_path / "no.csv", tmp_path / "bad.jsonl"]
    result = pipeline("predict", *bad, audio, "--model", exported)
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 3
    complaints = result.stderr.splitlines()
    for path, complaint in zip(bad, complaints, strict=False):
        assert complaint.startswith(f"error: {path}: ")
    assert complaints[-1].endswith("5 failed")


def test_other_rates_and_formats_and_standard_input(
    exported: Path, audio: Path
) -> None:
    wave = load_audio(audio / "deep/0.wav")
    expected = pipeline("predict", audio / "deep/0.wav", "--model", exported).stdout
    soundfile.write(audio / "same.flac", wave, 16_000)
    result = pipeline("predict", audio / "same.flac", "--model", exported)
    assert result.stdout.split("  ")[1:] == expected.split("  ")[1:]
    data = (audio / "deep/0.wav").read_bytes()
    code = f"main(['predict', '-', '--model', {str(exported)!r}])"
    result = subprocess.run(
        [sys.executable, "-c", f"from pipeline.cli import main; {code}"],
        input=data,
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout.decode().split("  ") == ["-", *expected.split("  ")[1:]]


def test_it_runs_without_torch_or_anything_else(exported: Path, audio: Path) -> None:
    paths = [str(audio), "--model", str(exported)]
    result = small(f"from pipeline.cli import main; main(['predict', *{paths!r}])")
    assert result.returncode == 0, result.stderr
    assert result.stdout == pipeline("predict", *paths).stdout
    one = str(audio / "deep/0.wav")
    call = f"print(IntentClassifier({str(exported)!r})({one!r}).intent)"
    result = small(f"from pipeline import IntentClassifier; {call}")
    assert result.stdout.strip() == IntentClassifier(exported)(one).intent
    assert small("import torch").returncode != 0


def test_a_student_runs_in_pytorch(finished: Path, audio: Path) -> None:
    assert pipeline("export", "aln-1", "model").exit_code == 0
    expected = pipeline("predict", audio, "--model", "model", "--format", "csv")
    found = pipeline(
        "predict", audio, "--model", "cache/tiny/student/aln-1", "--format", "csv"
    )
    assert found.exit_code == 0, found.output
    for one, other in zip(
        csv.DictReader(io.StringIO(found.stdout)),
        csv.DictReader(io.StringIO(expected.stdout)),
        strict=True,
    ):
        assert one["intent"] == other["intent"]
        assert float(one["probability"]) == pytest.approx(
            float(other["probability"]), abs=1e-4
        )


def test_no_row_of_a_table_is_lost(exported: Path, audio: Path) -> None:
    table = audio / "t.csv"
    table.write_text('path,note\ndeep/0.wav,5" screen\ndeep/0.wav,6" screen\n')
    result = pipeline("predict", table, "--model", exported, "--format", "jsonl")
    assert result.stdout.count("\n") == 2
    table.write_text('path,note\ndeep/0.wav,"one\ndeep/0.wav,two"\n')
    result = pipeline("predict", table, "--model", exported)
    assert result.exit_code == 2
    assert "line 2 has an unpaired quotation mark" in result.stderr
    (audio / "t.jsonl").write_text('{"path": "deep\\u0000/0.wav"}\n')
    result = pipeline("predict", audio / "t.jsonl", "--model", exported)
    assert result.exit_code == 2 and r"'deep\x00/0.wav'" in result.stderr


@pytest.mark.parametrize("kind", ["text", "csv", "jsonl"])
def test_a_name_that_is_not_text_is_shown_with_its_bytes(
    exported: Path, audio: Path, kind: str
) -> None:
    (audio / "deep/0.wav").rename(audio / "deep" / os.fsdecode(b"\xff.wav"))
    result = pipeline("predict", audio / "deep", "--model", exported, "--format", kind)
    assert result.exit_code == 0 and "\\udcff.wav" in result.stdout
    if kind == "jsonl":
        last = json.loads(result.stdout.splitlines()[-1])["id"]
        assert os.fsencode(last).endswith(b"deep/\xff.wav")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_labels_and_paths_are_compared_as_they_look(
    exported: Path, audio: Path, name: str
) -> None:
    write_tone(audio / unicodedata.normalize("NFD", "ü/ö.wav"), 300.0, 0.4, 0)
    rows = {"path": "ü/ö.wav\u00a0", "intent": "\u200bplay\u00a0\u2060"}
    keys, values = zip(*rows.items(), strict=True)
    text = json.dumps(rows, ensure_ascii=False)
    if name == "t.csv":
        text = f"{','.join(keys)}\n{','.join(values)}"
    (audio / name).write_text(text, "utf-8")
    result = pipeline("predict", audio / name, "--model", exported, "--no-reject")
    share = 100 * result.stdout.startswith("ü/ö.wav\u00a0  play ")
    assert result.stderr == f"1 classified, {share:.2f}% of 1 as the table has it\n"
    assert share == 100, result.stdout


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("[" * 100_000, "line 2 is not JSON ("),
        ('{"path": "deep/0.wav", "intent": NaN}', "line 2 is not JSON (NaN is not"),
        ('{"path": "deep\\\\0.wav"}', "line 2 names a missing recording; .*write / in"),
        ('{"path": "play"}', "line 2 names a missing recording; .*are not swapped"),
        ('{"path": ""}', "line 2 has no path"),
        ('{"path": "deep/0.wav", "id": "\\ud83d"}', "line 2 has a control character"),
        ('{"path": "deep/0.wav", "id": "a\\nb"}', "line 2 has a control character"),
        ("\n{}", "line 2 is empty"),
        ('{"path": "deep/0.wav", "text": "one\u2028two"}', None),
    ],
)
def test_json_lines_are_read_as_those_of_a_corpus_are(
    exported: Path, audio: Path, line: str, complaint: str | None
) -> None:
    table = audio / "t.jsonl"
    table.write_text(f'{{"path": "deep/0.wav"}}\n{line}\n', "utf-8")
    result = pipeline("predict", table, "--model", exported)
    assert result.stderr.count("\n") == 1 + (complaint is not None)
    if complaint is None:
        assert result.exit_code == 0 and result.stdout.count("\n") == 2
    else:
        found = complaint.replace("(", r"\(")
        assert result.exit_code == 2
        assert re.search(f"error: {re.escape(str(table))}: {found}", result.stderr)
