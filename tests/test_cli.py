import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import COUNTS, LINE, TONES, pipeline, write_encoder

from pipeline.layout import Layout
from stages.cache.digest import digest_path, read_digest
from stages.cache.store import CacheReader
from stages.core.errors import ConfigurationError
from stages.core.manifest import SPLITS

UTTERANCES = len(TONES) * sum(COUNTS.values())
CACHE = Path("cache/tiny")


@pytest.fixture
def finished(finished: Path) -> Path:
    """Without the caches that test_robustness.py and test_rejection.py cover."""
    shutil.rmtree(CACHE / "robustness")
    shutil.rmtree(CACHE / "rejection")
    return finished


def refused(*arguments: str | Path) -> str:
    """The one line on stderr with which a command refuses its input."""
    result = pipeline(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def part() -> Path:
    (path,) = (CACHE / "acoustic").glob("*.h5")
    return path


@pytest.mark.parametrize("command", LINE, ids=" ".join)
def test_every_command_prints_a_line_for_each_result(results, command):
    result = results[command]
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    if command == ("prepare-corpus",):
        lines = lines[-1:]  # after the corpus in figures
    assert len(lines) == (2 if command[-1].startswith("aln") else 1)
    wrote = {"report": "report/"}.get(command[0], "cache/tiny/")
    assert all(wrote in line for line in lines)


def test_all_commands_write_the_files_of_the_layout(finished):
    layout = Layout("tiny")
    students = ["baseline2", "aln_linguistic-0.5", "aln_linguistic-1", "aln-0.5"]
    students.append("recommended")
    for path in (
        layout.corpus_files.manifest,
        layout.corpus_files.intents,
        digest_path(layout.acoustic),
        layout.corpus_files.quarantine,
        layout.teacher / "scores.json",
        layout.teacher / "identity.json",
        digest_path(layout.targets),
        digest_path(layout.posteriors),
        *(CACHE / "student" / name / "metrics.json" for name in students),
        layout.student("aln", 1) / "metrics.json",
        layout.report / "index.html",
        layout.report / "results.json",
    ):
        assert path.is_file(), path


def test_the_report_has_a_row_for_every_student_of_the_grid(finished):
    page = Path("report/results.md").read_text(encoding="utf-8")
    names = pd.read_csv("report/plots/accuracy.csv")["system"].unique().tolist()
    assert [name for name in names if "baseline1" not in name] == [
        "baseline2",
        "aln_linguistic-0.5",
        "aln_linguistic-1",
        "aln-0.5",
        "aln-1",
        "recommended",
    ]
    assert "Baseline-2" in page


RESULTS = {
    ("train-teacher",): "cache/tiny/teacher",
    ("baseline1",): "cache/tiny/baseline1",
    ("train-student", "aln", "--alpha", "0.5"): "cache/tiny/student/aln-0.5",
    ("robustness",): "cache/tiny/robustness",
    ("rejection",): "cache/tiny/rejection",
    ("report",): "report",
}


def test_finished_results_are_found_and_not_computed_again(finished, snapshot):
    # The recordings are copies of those that were read, so their times changed.
    pipeline("prepare-corpus")
    assert pipeline("robustness").exit_code == 0
    assert pipeline("rejection").exit_code == 0
    before = snapshot(finished)
    assert "0 extracted now" in pipeline("extract-acoustic").stdout
    assert "0 of them new" in pipeline("cache-targets").stdout
    pipeline("prepare-corpus")
    for command in RESULTS:
        result = pipeline(*command)
        assert result.exit_code == 0, result.output
        assert ": up to date; " in result.stdout, command
    assert snapshot(finished) == before


@pytest.mark.parametrize("command", RESULTS, ids=" ".join)
def test_force_computes_the_same_result_again(finished, snapshot, command):
    def written() -> int:
        return (folder / "identity.json").stat().st_mtime_ns

    if command in {("robustness",), ("rejection",), ("report",)}:
        assert pipeline("robustness").exit_code == 0
        assert pipeline("rejection").exit_code == 0
    folder = Path(RESULTS[command])
    before, time = snapshot(folder), written()
    result = pipeline(*command, "--force")
    assert result.exit_code == 0, result.output
    assert "up to date" not in result.stdout
    after = snapshot(folder)
    if command == ("report",):  # its page also shows how long the stages took
        del before["index.html"], after["index.html"]
    assert after == before
    assert written() > time


def test_a_new_recording_is_extracted_alone(finished):
    table = Path("data/tiny/table.csv")
    shutil.copy("data/tiny/train/play-0.wav", "data/tiny/train/play-9.wav")
    with Path("data/tiny/train/play-9.wav").open("ab") as stream:
        stream.write(b"LIST\x04\x00\x00\x00more")  # other bytes, same sound
    with table.open("a") as stream:
        stream.write("train/play-9.wav,train,someone,play a song,play\n")
    assert pipeline("prepare-corpus").exit_code == 0
    result = pipeline("extract-acoustic")
    assert f"{UTTERANCES + 1} utterances, 1 extracted now" in result.stdout


def test_root_comes_from_an_option_or_the_environment(given, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move("data/tiny", elsewhere)
    assert str(Path("data/tiny")) in refused("prepare-corpus")
    by_option = pipeline("prepare-corpus", "--root", elsewhere)
    monkeypatch.setenv("ALN_CORPUS_ROOT", str(elsewhere))
    assert by_option.exit_code == 0
    assert pipeline("prepare-corpus").stdout == by_option.stdout


def test_params_and_set_change_what_runs(given):
    Path("params.yaml").rename("other.yaml")
    assert "params.yaml" in refused("prepare-corpus")
    options = ("--params", "other.yaml", "--set", "corpus.name=mine")
    result = pipeline("prepare-corpus", *options, "--root", "data/tiny")
    assert result.exit_code == 0
    assert not Path("cache/tiny").exists()
    assert Path("cache/mine/manifest.csv").is_file()


def test_another_encoder_is_used_when_asked_for(finished):
    write_encoder(Path("other.safetensors"), seed=2)
    result = pipeline("extract-acoustic", "--encoder", "other.safetensors")
    assert f"{UTTERANCES} extracted now" in result.stdout
    table = pipeline("cache", "info").stdout
    assert len(re.findall("cache/tiny/acoustic", table)) == 2


def test_alpha_alone_trains_that_one(finished):
    result = pipeline("train-student", "aln", "--alpha", "0.25")
    assert result.exit_code == 0, result.output
    assert "student/aln-0.25" in result.stdout
    assert (CACHE / "student" / "aln-0.25" / "metrics.json").is_file()


def test_a_student_of_another_encoders_features_is_refused(finished):
    write_encoder(Path("other.safetensors"), seed=2)
    other = ("--set", "acoustic.encoder=other.safetensors")
    for command in (("train-student", "aln"), ("sweep",)):
        line = refused(*command, *other)
        assert "tiny/acoustic.digest: features of another encoder" in line
        assert re.search("found lugosch log-cmn [0-9a-f]{12}; expected lugosch", line)
        assert "of other.safetensors" in line and "extract-acoustic" in line
    # Without the file there is nothing to hold them against.
    Path("other.safetensors").unlink()
    assert pipeline("train-student", "baseline2", *other).exit_code == 0


def test_a_sweep_trains_what_was_not_trained_and_results_shows_all(finished):
    grid = ("--set", "sweep.systems=[aln]", "--set", "sweep.alpha=[0.5, 0.75]")
    result = pipeline("sweep", *grid)
    assert result.exit_code == 0, result.output
    *table, last = result.stdout.splitlines()
    assert len(table) == 3 and sum("★" in line for line in table) == 1
    assert last == "cache/tiny/results: 2 students, 1 trained now"
    shown = pipeline("results", "--csv", "found.csv")
    assert shown.stdout.splitlines()[-1] == "cache/tiny/results: 7 students"
    found = pd.read_csv("found.csv", dtype=str, keep_default_na=False)
    rows = found[["system", "alpha"]].itertuples(index=False, name=None)
    assert sorted(rows) == [
        ("aln", "0.5"),
        ("aln", "0.75"),
        ("aln", "1"),
        ("aln_linguistic", "0.5"),
        ("aln_linguistic", "1"),
        ("baseline2", ""),
        ("recommended", "0.8"),
    ]
    assert not any(path.is_file() for path in (CACHE / "unfinished").rglob("*"))


def test_results_without_features_name_the_command(given):
    assert "dvc repro" in refused("results")


def shrink_corpus() -> None:
    """Take the intent `play` out of the corpus, its texts too."""
    table = Path("data/tiny/table.csv")
    lines = table.read_text().splitlines()
    table.write_text("\n".join(one for one in lines if not one.endswith(",play")))
    assert pipeline("prepare-corpus").exit_code == 0


def test_cache_info_says_what_there_is_and_what_is_needed(finished):
    lines = pipeline("cache", "info").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "cache",
        "cache/tiny/acoustic",
        "cache/tiny/targets",
        "cache/tiny/posteriors",
        "cache/tiny/unlabelled/features",
    ]
    texts = 2 * len(TONES) + 2
    assert f" {UTTERANCES} " in lines[1] and "12 float32" in lines[1]
    assert f" {texts} " in lines[2] and "16 float32" in lines[2]
    assert f" {texts} " in lines[3] and f"{len(TONES)} float32" in lines[3]

    def needs() -> list[str]:
        lines = pipeline("cache", "info").stdout.splitlines()
        assert re.split("  +", lines[0])[-2:] == ["of the manifest", "not needed"]
        return [" | ".join(re.split("  +", line)[-2:]) for line in lines[1:]]

    every = [f"{texts} of {texts} | 0"] * 2
    assert needs() == [f"{UTTERANCES} of {UTTERANCES} | 0", *every, "2 of 2 | 0"]
    shrink_corpus()
    gone = UTTERANCES // len(TONES)
    acoustic, targets, posteriors, _ = needs()
    assert re.fullmatch(f"16 of 16 \\| {gone}, [0-9.]+ kB", acoustic)
    assert re.fullmatch(r"6 of 6 \| 2, 128 B", targets)
    assert re.fullmatch(r"6 of 6 \| 2, 24 B", posteriors)
    write_encoder(Path("other.safetensors"), seed=2)
    assert pipeline("extract-acoustic", "--encoder", "other.safetensors").exit_code == 0
    ours, other = sorted(needs()[:2])
    assert ours == "16 of 16 | 0" and other.startswith("another encoder | 24,")
    (CACHE / "targets.digest").unlink()
    assert needs()[2] == "no usable digest | unknown"
    (CACHE / "manifest.csv").unlink()
    assert set(needs()[:-1]) == {"no usable manifest | unknown"}


def test_cache_gc_removes_what_the_corpus_no_longer_needs(finished, snapshot):
    write_encoder(Path("other.safetensors"), seed=2)
    pipeline("extract-acoustic", "--encoder", "other.safetensors")
    pipeline("extract-acoustic")
    shrink_corpus()
    before = snapshot(finished)
    dry = pipeline("cache", "gc", "--dry-run")
    assert dry.exit_code == 0 and dry.stderr == ""
    assert snapshot(finished) == before
    *reasons, last = dry.stdout.splitlines()
    assert re.search("24 utterances of another encoder, lugosch", reasons[0])
    assert "acoustic: 8 utterances that are not in the manifest" in reasons[1]
    assert "acoustic: 16 utterances of small or partly needed parts" in reasons[2]
    for kind, reason in zip(("posteriors", "targets"), reasons[3:7:2], strict=True):
        assert f"{kind}: 2 utterances that are not in the manifest" in reason
    assert last.startswith("cache/tiny: 5 parts, ")
    assert "; 4 parts, " in last and "36 utterances to be removed" in last

    done = pipeline("cache", "gc")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[:-1] == reasons
    expected = last.replace("if done", "now").replace("to be removed", "removed")
    assert done.stdout.splitlines()[-1] == expected
    paths = [*CACHE.glob("[apt]*/*.h5"), *CACHE.glob("unlabelled/features/*.h5")]
    size = sum(path.stat().st_size for path in paths)
    assert f"4 parts, {size / 1000:.1f} kB now" in expected
    assert pipeline("cache", "verify").exit_code == 0
    assert "16 utterances, 0 extracted" in pipeline("extract-acoustic").stdout
    assert "nothing to remove" in pipeline("cache", "gc").stdout
    old = before["cache/tiny/acoustic.digest"].decode().splitlines()
    new = (CACHE / "acoustic.digest").read_text().splitlines()
    assert new[1:] == [line for line in old[1:] if "/play-" not in line]


def test_cache_gc_without_a_digest_names_the_command(finished, snapshot):
    (CACHE / "targets.digest").unlink()
    shrink_corpus()
    before = snapshot(finished)
    assert "cache-targets" in refused("cache", "gc")
    assert snapshot(finished) == before
    result = pipeline("cache", "gc", "--kind", "acoustic")
    assert "8 utterances removed" in result.stdout
    after = snapshot(finished)
    changed = {name for name, _ in before.items() ^ after.items()}
    assert {name.rsplit("/", 1)[0] for name in changed} == {"cache/tiny/acoustic"}


def test_cache_gc_leaves_the_cache_of_another_repository_alone(
    finished, monkeypatch, tmp_path, snapshot
):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("cache", "report"))
    monkeypatch.setenv("ALN_CACHE_DIR", str(finished / "cache"))
    monkeypatch.chdir(copy)
    shrink_corpus()
    pipeline("extract-acoustic")
    monkeypatch.delenv("ALN_CACHE_DIR")
    before = snapshot(finished)
    line = refused("cache", "gc")
    assert str(finished / "cache/tiny/acoustic") in line
    assert snapshot(finished) == before


def test_cache_gc_follows_a_link(finished, tmp_path):
    shutil.move(CACHE / "acoustic", tmp_path / "large")
    (CACHE / "acoustic").symlink_to(tmp_path / "large")
    shrink_corpus()
    assert "12 utterances removed" in pipeline("cache", "gc").stdout
    assert pipeline("cache", "verify").exit_code == 0


def test_cache_gc_of_nothing_says_so(given):
    assert "nothing cached yet" in pipeline("cache", "info").stdout
    assert "prepare" in refused("cache", "gc")
    pipeline("prepare-corpus")
    result = pipeline("cache", "gc")
    assert (result.exit_code, result.stdout) == (0, "cache/tiny: nothing cached yet\n")
    assert not (CACHE / "acoustic").exists()


def test_cache_export_has_the_manifests_columns(finished):
    import h5py

    result = pipeline("cache", "export", "all.h5")
    assert result.exit_code == 0, result.output
    assert f"all.h5: features of {UTTERANCES} utterances" in result.stdout
    table = pd.read_csv(CACHE / "manifest.csv")
    with h5py.File("all.h5", "r") as file:
        assert file["ids"].asstr()[:].tolist() == table["id"].tolist()
        assert file["keys"].asstr()[:].tolist() == table["audio_sha256"].tolist()
        for name in ("split", "speaker", "text", "intent"):
            assert file[name].asstr()[:].tolist() == table[name].tolist()
        assert file["frames"].shape == (file["offsets"][-1], 12)
    assert "--force" in refused("cache", "export", "all.h5")
    options = ("--force", "--split", "valid", "--split", "test")
    assert pipeline("cache", "export", "all.h5", *options).exit_code == 0
    with h5py.File("all.h5", "r") as file:
        assert set(file["split"].asstr()[:]) == {"valid", "test"}
        assert len(file["ids"]) == (COUNTS["valid"] + COUNTS["test"]) * len(TONES)


@pytest.mark.parametrize(("kind", "width"), [("targets", 16), ("posteriors", 3)])
def test_cache_export_of_texts(finished, kind, width):
    import h5py

    result = pipeline("cache", "export", "t.h5", "--kind", kind)
    assert f"t.h5: {kind} of 8 texts" in result.stdout
    with h5py.File("t.h5", "r") as file:
        assert set(file) == {"frames", "offsets", "ids", "keys"}
        assert "let_there_be_light" in file["ids"].asstr()[:]
        assert "put_out_the_song" in file["ids"].asstr()[:]
        assert file["frames"].shape == (8, width)
    options = ("--kind", kind, "--split", "train", "--force")
    assert "3 texts" in pipeline("cache", "export", "t.h5", *options).stdout
    (CACHE / f"{kind}.digest").unlink()
    assert "cache-targets" in refused("cache", "export", "u.h5", "--kind", kind)
    assert not Path("u.h5").exists()


def test_cache_diff_exits_with_1_for_a_difference(finished):
    acoustic, known = CACHE / "acoustic", CACHE / "acoustic.digest"
    equal = pipeline("cache", "diff", acoustic, known)
    assert (equal.exit_code, equal.stdout) == (0, "equal: 24 features in both\n")
    different = pipeline("cache", "diff", acoustic, CACHE / "targets")
    assert different.exit_code == 1
    assert "header: kind acoustic in A, targets in B" in different.stdout
    assert "only in A: 24 (tiny/" in different.stdout
    assert "cache/none" in refused("cache", "diff", acoustic, "cache/none")


def test_cache_merge_replaces_running_the_encoder(finished):
    known = (CACHE / "acoustic.digest").read_bytes()
    shutil.move(CACHE / "acoustic", "theirs")
    (CACHE / "acoustic.digest").unlink()
    result = pipeline("cache", "merge", "theirs")
    assert result.exit_code == 0, result.output
    assert "24 utterances of lugosch log-cmn" in result.stdout
    assert "extract-acoustic" in result.stdout
    assert "24 utterances, 0 extracted" in pipeline("extract-acoustic").stdout
    assert (CACHE / "acoustic.digest").read_bytes() == known
    again = pipeline("cache", "merge", "theirs").stdout
    assert "0 utterances" in again and "24 were cached already" in again
    assert "--kind acoustic" in refused("cache", "merge", "theirs", "--kind", "targets")
    write_encoder(Path("other.safetensors"), seed=2)
    pipeline("extract-acoustic", "--encoder", "other.safetensors")
    assert "another encoder" in refused("cache", "merge", "theirs")
    (path,) = Path("theirs").glob("*.h5")
    os.truncate(path, path.stat().st_size - 1)
    assert str(path) in refused("cache", "merge", "theirs")


def test_cache_verify_finds_damage_and_missing_features(finished):
    sound = pipeline("cache", "verify")
    assert (sound.exit_code, sound.stderr) == (0, "")
    assert "complete, no damage" in sound.stdout
    for path in (CACHE / "targets").glob("*.h5"):
        path.unlink()
    missing = pipeline("cache", "verify", "--kind", "targets")
    assert missing.exit_code == 1 and "cache-targets" in missing.stderr
    path = part()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    damaged = pipeline("cache", "verify", "--kind", "acoustic")
    assert damaged.exit_code == 1 and str(path) in damaged.stderr
    assert "problems" in damaged.stdout


def damage_root() -> tuple[tuple[str, ...], str]:
    shutil.rmtree("data/tiny")
    return ("prepare-corpus",), "data/tiny"


def damage_recording() -> tuple[tuple[str, ...], str]:
    Path("data/tiny/valid/play-1.wav").write_text("not audio")
    return ("prepare-corpus",), "data/tiny/valid/play-1.wav"


def damage_recording_later() -> tuple[tuple[str, ...], str]:
    part().unlink()
    Path("data/tiny/valid/play-1.wav").write_text("not audio")
    return ("extract-acoustic",), "data/tiny/valid/play-1.wav"


def damage_key() -> tuple[tuple[str, ...], str]:
    with Path("params.yaml").open("a") as stream:
        stream.write("  perplexity: 3\n")
    return ("report",), "tsne_perplexity"


def damage_intent() -> tuple[tuple[str, ...], str]:
    table = Path("data/tiny/table.csv")
    text = table.read_text().replace("test-1,some music please,play", "x,hum,hum")
    table.write_text(text)
    return ("prepare-corpus",), "'hum'"


def damage_encoder() -> tuple[tuple[str, ...], str]:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open("encoder.safetensors", framework="pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = "phoneme_layers.9.weight"
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, "encoder.safetensors", metadata)
    return ("extract-acoustic",), name


def damage_cache() -> tuple[tuple[str, ...], str]:
    os.truncate(part(), part().stat().st_size // 2)
    return ("extract-acoustic",), str(part())


def damage_cache_later() -> tuple[tuple[str, ...], str]:
    os.truncate(part(), part().stat().st_size // 2)
    return ("train-student", "aln", "--alpha", "0.5", "--force"), str(part())


def damage_teacher() -> tuple[tuple[str, ...], str]:
    shutil.rmtree(CACHE / "teacher")
    return ("cache-targets",), "train-teacher"


def damage_student() -> tuple[tuple[str, ...], str]:
    shutil.rmtree(CACHE / "student" / "aln-1")
    return ("report",), "aln-1"


@pytest.mark.parametrize(
    "damage",
    [
        damage_root,
        damage_recording,
        damage_recording_later,
        damage_key,
        damage_intent,
        damage_encoder,
        damage_cache,
        damage_cache_later,
        damage_teacher,
        damage_student,
    ],
    ids=lambda function: function.__name__.removeprefix("damage_"),
)
def test_bad_input_is_one_line_and_costs_nothing_computed(finished, snapshot, damage):
    command, named = damage()
    before = snapshot(finished)
    line = refused(*command)
    assert named in line
    after = snapshot(finished)
    for files in (before, after):  # a note about recordings that were looked at
        files.pop("cache/tiny/recordings.json")
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train-student", "aln3"), "aln_linguistic, aln, recommended"),
        (("train-student", "aln", "--alpha", "2"), "from 0 to 1"),
        (("train-student", "baseline2", "--alpha", "0.5"), "--alpha"),
        (("train-student", "recommended", "--alpha", "0.5"), "recommended.alpha"),
        (("extract-acoustic", "--device", "tpu"), "auto, cpu, cuda"),
        (
            ("prepare-corpus", "--set", "corpus.adapter=other"),
            "atis, datasets, fsc, lhotse, phrases, slurp, snips, table, timers",
        ),
        (("status",), "repository"),
    ],
    ids=" ".join,
)
def test_a_value_out_of_a_list_shows_the_list(finished, arguments, named):
    assert named in refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train-teacher", "--checkpoint-minutes", "nan"),
        ("serve", "--max-megabytes", "nan"),
        ("serve", "--max-seconds", "inf"),
        ("serve", "--concurrency", "1000000000"),
        ("serve", "--port", "65536"),
        ("extract-acoustic", "--workers", "1000000000"),
        ("train-student", "aln", "--alpha", "nan"),
        ("train-student", "aln", "--alpha", 5000 * "9"),
        ("train-teacher", "--model", "a\nb"),
        ("extract-acoustic", "--encoder", 5000 * "x"),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_an_option_out_of_bounds_is_refused(finished, arguments):
    result = pipeline(
        *arguments, *(("--model", "cache") if "serve" in arguments else ())
    )
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    line = result.stderr.splitlines()[-1].lower()
    assert line.startswith("error: ") and arguments[-2].strip("-") in line


def test_a_microphone_of_too_many_digits_is_a_name(finished, monkeypatch):
    asked = []

    def opened(device):
        asked.append(device)
        raise ConfigurationError("no such microphone")

    monkeypatch.setattr("pipeline.inference.listen.load_model", lambda folder: None)
    monkeypatch.setattr("stages.inference.listening.open_microphone", opened)
    for device in ("7", "9" * 20, "9" * 5000, "USB"):
        assert "no such" in refused("listen", "--model", "cache", "--device", device)
    assert asked == [7, "9" * 20, "9" * 5000, "USB"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["ctrl-c", "terminated"],
)
def test_an_interrupted_extraction_resumes(given, monkeypatch, number, code):
    from stages.acoustic import encoding
    from stages.acoustic.onnx_encoder import OnnxEncoder

    pipeline("prepare-corpus")
    pipeline("extract-acoustic")
    whole = (CACHE / "acoustic.digest").read_bytes()  # with a hash of every feature
    shutil.rmtree(CACHE / "acoustic")
    (CACHE / "acoustic.digest").unlink()
    encode, sizes = OnnxEncoder.encode, []

    def counted(encoder, waves):
        if len(sizes) == 3:
            signal.raise_signal(number)
        sizes.append(len(waves))
        return encode(encoder, waves)

    monkeypatch.setattr(OnnxEncoder, "encode", counted)
    monkeypatch.setitem(encoding._BATCH_SECONDS, "cpu", 1.2)
    result = pipeline("extract-acoustic")
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "run the command again to resume" in line
    done = sum(sizes)
    assert 0 < done < UTTERANCES
    assert "run `aln-pipeline extract-acoustic`" in refused(
        "train-student", "baseline2"
    )

    sizes[:] = [0] * 4  # past the interruption
    result = pipeline("extract-acoustic")
    assert sum(sizes) == UTTERANCES - done
    assert f"{UTTERANCES - done} extracted now" in result.stdout
    assert (CACHE / "acoustic.digest").read_bytes() == whole


def test_a_bug_keeps_its_traceback(given, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("stages.corpus.run.run", broken)
    assert isinstance(pipeline("prepare-corpus").exception, ZeroDivisionError)


def test_starting_imports_nothing_heavy():
    heavy = {"numpy", "pandas", "torch", "transformers", "h5py", "dvc", "ruamel"}
    code = "import sys, pipeline.cli; print(*sys.modules)"
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not heavy & set(done.stdout.split())


def test_help_names_every_command():
    text = pipeline("--help").stdout
    for name in (*{command[0] for command in LINE}, "pretraining", "status", "cache"):
        assert name in text


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (("gc", "--kind", "other"), "'robustness', 'rejection', 'unlabelled'"),
        (("export", "x", "--kind", "other"), "'acoustic', 'targets'"),
        (("export", "x", "--split", "other"), ", ".join(map(repr, SPLITS))),
    ],
    ids=" ".join,
)
def test_a_wrong_choice_is_answered_with_the_choices(finished, arguments, allowed):
    result = pipeline("cache", *arguments)
    assert result.exit_code == 2
    assert allowed in result.stderr


def test_a_copy_links_the_shared_cache_and_computes_nothing(
    finished, monkeypatch, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("cache", "report"))
    monkeypatch.setenv("ALN_CACHE_DIR", str(finished / "cache"))
    monkeypatch.chdir(copy)
    assert pipeline("prepare-corpus").exit_code == 0
    assert "0 extracted now" in pipeline("extract-acoustic").stdout
    digest = "cache/tiny/acoustic.digest"
    assert (copy / digest).read_bytes() == (finished / digest).read_bytes()
    assert (copy / "cache/tiny/acoustic").resolve() == finished / "cache/tiny/acoustic"


def test_pretraining_gets_start_and_output(given, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "stages.pretraining.run.run",
        lambda params, **how: asked.append(how) or {"words": 50.0},
    )
    result = pipeline("pretraining", "--start", tmp_path / "none.safetensors")
    assert result.exit_code == 2 and "does not exist" in result.stderr
    start, output = tmp_path / "start.safetensors", tmp_path / "end.safetensors"
    start.write_bytes(b"")
    result = pipeline("pretraining", "--start", start, "--output", output)
    assert result.stdout == f"{output}: words 50.00%\n"
    (how,) = asked
    assert (how["start"], how["output"]) == (start, output)


@pytest.mark.parametrize("folder", ["cache", "/mistyped"])
def test_the_shared_cache_must_be_an_absolute_folder(given, monkeypatch, folder):
    monkeypatch.setenv("ALN_CACHE_DIR", folder)
    assert "absolute path of another repository's" in refused("prepare-corpus")
    assert not Path(folder).exists()


def test_the_shared_cache_replaces_nothing_that_is_there(given, monkeypatch, tmp_path):
    own = CACHE / "acoustic"
    own.mkdir(parents=True)
    (own / "kept").write_text("x")
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("ALN_CACHE_DIR", str(tmp_path / "shared"))
    Layout("tiny").link_shared()
    assert not own.is_symlink() and (own / "kept").is_file()
    assert (CACHE / "targets").is_symlink() and (CACHE / "posteriors").is_symlink()


def test_its_own_cache_is_not_linked_to_itself(given, monkeypatch):
    monkeypatch.setenv("ALN_CACHE_DIR", str(given / "cache"))
    Layout("tiny").link_shared()
    assert not Path("cache").exists()


# ------------------------------------------------------------- bad recordings


def test_a_bad_recording_is_left_out_by_all_commands(given):
    """The whole line with a recording of train and one of test that are no audio."""
    for name in ("train/play-1.wav", "test/play-1.wav"):
        (Path("data/tiny") / name).write_bytes(f"{name} is no audio".encode())
    refused = pipeline("prepare-corpus")
    assert refused.exit_code == 2
    assert "play-1.wav: not an audio file" in refused.stderr
    assert "--on-error quarantine" in refused.stderr
    lenient = ("--set", "corpus.on_error=quarantine")
    prepared = pipeline("prepare-corpus", "--on-error", "quarantine")
    assert "; 2 cannot be read, extraction sets them aside" in prepared.stdout
    refused = pipeline("extract-acoustic")
    assert refused.exit_code == 2
    assert "play-1.wav: not an audio file" in refused.stderr
    assert not digest_path(Layout("tiny").acoustic).exists()
    extracted = pipeline("extract-acoustic", *lenient)
    assert extracted.exit_code == 0
    assert "; 2 set aside, listed in cache/tiny/quarantine.csv" in extracted.stdout
    for command in LINE[2:]:
        result = pipeline(*command)
        assert result.exit_code == 0, result.output
    page = Path("report/results.md").read_text(encoding="utf-8")
    assert "**2 recordings could not be used**" in page
    assert "| `tiny/test/play-1` | not an audio file" in page
    verified = pipeline("cache", "verify")
    assert verified.exit_code == 0, verified.output
    exported = pipeline("cache", "export", "features.h5")
    assert exported.exit_code == 0, exported.output
    assert "features of 22 utterances" in exported.stdout


# -------------------------------------------------- an encoder of transformers


@pytest.fixture
def hubert(given: Path) -> Path:
    """A folder with a small HuBERT, 12 values a frame of 20 ms."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    folder = given / "data" / "hubert"
    HubertModel(
        HubertConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(6,) * 7,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    ).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def test_another_encoder_goes_from_its_folder_to_a_student(hubert):
    assert pipeline("prepare-corpus").exit_code == 0
    command = ("extract-acoustic", "--encoder", "data/hubert")
    settings = ("--set", "acoustic.layer=1", "--set", "acoustic.pooling=4")
    result = pipeline(*command, *settings)
    assert result.exit_code == 0, result.output
    assert "24 extracted now" in result.stdout
    assert "0 extracted now" in pipeline(*command, *settings).stdout
    digest = read_digest(digest_path(Layout("tiny").acoustic))
    header = digest.header
    assert (header.dim, header.frame_step) == (12, 4 * 320)
    assert header.encoder == "hubert layer 1 of 2, mean of 4 frames"
    reader = CacheReader(Layout("tiny").acoustic)
    # 0.35 s are 17 frames of 20 ms, pooled by 4; the last is alone.
    lengths = set(map(int, reader.lengths([key for key, _ in digest.rows.values()])))
    assert min(lengths) == 5
    assert "hubert layer 1 of 2" in refused("train-student", "baseline2")
    encoder = ("--set", "acoustic.encoder=data/hubert")
    trained = pipeline("train-student", "baseline2", *encoder, *settings)
    assert trained.exit_code == 0, trained.output
    # Another layer is another encoder.
    other = pipeline(*command, "--set", "acoustic.layer=2")
    assert "24 extracted now" in other.stdout
    assert "cached utterances are not used" in other.stderr


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (("--encoder", "data/hubert", "--backend", "onnx"), "use --backend torch"),
        (("--encoder", "data/hubert", "--set", "acoustic.layer=3"), "0 to 2"),
        (("--encoder", "data/nowhere"), "data/nowhere: "),
        (("--set", "acoustic.pooling=8"), "leave out acoustic.layer, acoustic.pool"),
        (("--set", "acoustic.pooling=0"), "1 to 1,000"),
        (("--set", "acoustic.precision=tf32"), "phoneme/word encoder on CUDA"),
        (("--set", "acoustic.precision=half"), "one of float32, tf32"),
    ],
)
def test_settings_that_an_encoder_lacks_are_refused(hubert, arguments, complaint):
    pipeline("prepare-corpus")
    result = pipeline("extract-acoustic", *arguments)
    assert result.exit_code == 2, result.output
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "Input/output error", "a"), "'a'; fix: check the disk"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "too long; finished work"),
        (OSError(errno.ENOTDIR, "Not a directory", "b"), "'b'; finished work"),
        (RuntimeError("No space left (os error 28)"), "(os error 28); fix: free disk"),
        (MemoryError(), "Cannot allocate memory; fix: free memory"),
    ],
)
def test_an_error_of_the_system_is_one_line(given, monkeypatch, error, expected):
    import stages.corpus.run

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(stages.corpus.run, "run", fail)
    assert expected in refused("prepare-corpus")
    done = pipeline("-v", "prepare-corpus")
    assert done.exit_code == 2 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    "error", [OSError("no number"), RuntimeError("a bug"), BrokenPipeError(errno.EPIPE)]
)
def test_other_errors_keep_their_traceback(given, monkeypatch, error):
    import stages.corpus.run

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(stages.corpus.run, "run", fail)
    done = pipeline("prepare-corpus")
    assert done.exit_code == 1 and not done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "manifest.csv",
        "intents.json",
        "conditions.csv",
        "quarantine.csv",
        "corpus.sha256",
        "quarantine.sha256",
        "recordings.json",
        "acoustic.digest",
        "targets.digest",
        "teacher/config.json",
        "teacher/identity.json",
        "baseline1/transcripts.csv",
        "student/aln-1/model-1.safetensors",
        "student/aln-1/metrics.json",
        "transcripts/*.tsv",
        "transcripts/models/lexicon-*.txt",
        "transcripts/models/lexicon-*.sha256",
        "results/*.json",
    ],
)
def test_cache_verify_finds_a_changed_byte(finished, path):
    file = sorted(CACHE.glob(path))[0]
    assert pipeline("cache", "verify").exit_code == 0
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = pipeline("cache", "verify")
    assert done.exit_code == 1
    named = file.name if "sha256" not in path else path.split(".")[0].split("-")[0]
    assert any(
        named in line or file.parent.name in line for line in done.stderr.splitlines()
    )
