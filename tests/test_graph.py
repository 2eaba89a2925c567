"""dvc.yaml against what the code imports, reads and writes."""

import ast
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import fields
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import revisions
from conftest import pipeline, write_encoder
from revisions import code_of, parse
from ruamel.yaml import YAML

from pipeline.layout import Layout
from pipeline.params import Params, load_params
from pipeline.status import describe

REPOSITORY = Path(__file__).parents[1]
GRAPH = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
STAGES = GRAPH["stages"]
SECTIONS = get_type_hints(Params)

# What a stage reads of params.yaml besides its own section.
READS_ALSO = {
    "acoustic": {"corpus.longest_seconds", "corpus.on_error"},
    "unlabelled": {"corpus"},
    "robustness": {"student.alpha"},
    "rejection": {"student.alpha"},
    "report": {"corpus.name", "acoustic.encoder", "student.alpha"},
}
# α comes by the command, so that another one does not train the others again.
NOT_READ = {"student.alpha"}


def command_of(stage: str) -> ast.FunctionDef:
    """The function in cli.py that a stage of dvc.yaml runs."""
    program, name, *_ = STAGES[stage]["cmd"].split()
    assert program == "aln-pipeline"
    (function,) = (
        node
        for node in ast.walk(parse(REPOSITORY / "pipeline" / "cli.py"))
        if isinstance(node, ast.FunctionDef) and node.name == name.replace("-", "_")
    )
    return function


def sections_read(stage: str) -> set[str]:
    """Sections that the stage's command takes from `params`."""
    return {
        node.attr
        for node in ast.walk(command_of(stage))
        if isinstance(node, ast.Attribute)
        and node.attr in SECTIONS
        and ast.unparse(node.value).endswith("params")
    }


def keys(names: set[str] | list[str]) -> set[str]:
    """`section` and `section.key` as single keys."""
    found = set()
    for name in names:
        section, _, key = name.partition(".")
        every = {field.name for field in fields(SECTIONS[section])}
        assert not key or key in every, f"{name} is no parameter"
        found |= {f"{section}.{one}" for one in ([key] if key else every)}
    return found


def outs(stage: str) -> dict[str, dict[str, Any]]:
    """The outs and metrics of a stage, with their options."""
    listed = [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]
    options: dict[str, dict[str, Any]] = {}
    for out in listed:
        options |= out if isinstance(out, dict) else {out: {}}
    return options


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_folders_whose_code_it_runs(stage):
    folder = "student" if stage in ("baseline2", "recommended") else stage
    reached = {path.parent.relative_to(REPOSITORY) for path in code_of(folder)}
    listed = [dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")]
    assert listed == sorted(map(str, reached - {Path("stages/core")}))


@pytest.mark.parametrize("stage", revisions.STAGES)
def test_code_that_changed_was_looked_at(stage):
    recorded = json.loads(revisions.RECORDED.read_text())
    assert recorded[stage] == revisions.current()[stage], (
        f"the code behind the results of stages/{stage} changed. If the same inputs "
        "and parameters now give another result, bump REVISION in "
        f"stages/{stage}/params.py. Then run `python -m tests.revisions` and commit "
        "tests/revisions.json"
    )


def test_a_comment_is_no_change_of_code_and_a_number_is(tmp_path):
    path = tmp_path / "module.py"
    essences = []
    for text in (
        'def f(x):\n    """Doc."""\n    raise ValueError("a")\n    return x + 1\n',
        '# Why.\ndef f(x):\n    """Other."""\n    raise ValueError\n    return x + 1\n',
        'def f(x):\n    """Doc."""\n    raise ValueError("a")\n    return x + 2\n',
    ):
        path.write_text(text)
        revisions.parse.cache_clear()
        essences.append(revisions.essence(revisions.parse(path)))
    assert essences[0] == essences[1] != essences[2]


# What a stage opens that dvc.yaml does not list, and why.
UNLISTED = {
    "params.yaml": "DVC reads its keys",
    "data/tiny": "recordings: the manifest has their hashes",
    "cache/tiny/acoustic": "parts: the digest has their hashes",
    "cache/tiny/targets": "parts: the digest has their hashes",
    "cache/tiny/posteriors": "parts: the digest has their hashes",
    "cache/tiny/corpus.sha256": "of files that are listed",
    "cache/tiny/quarantine.sha256": "of a file that is listed",
    "cache/tiny/recordings.json": "durations and hashes, remembered",
    "cache/tiny/durations.json": "how long stages took, which the page shows",
    "cache/tiny/results": "the ledger, which only people read",
    "cache/tiny/kept": "results that others replaced",
    "cache/tiny/teacher.work": "an unfinished training",
    "cache/tiny/unfinished": "unfinished trainings",
}
# So that a student reads all that it can learn from.
LEARNS_ALL = {
    "student": [
        "student.transfer=utterance",
        "student.teacher_classifier=true",
        "student.unlabelled=true",
    ],
}
# The shipped encoder's scores, which the encoder of the tests lacks; the texts and
# voices of the demo, read for `rejection.speech: general`; and a file that safetensors
# opens outside of Python.
UNSEEN = {
    "data/demo/encoder.json",
    "data/demo/sentences.csv",
    "data/demo/voices.csv",
    "${acoustic.encoder}",
}


def in_tests(text: str) -> str:
    """A path or command of dvc.yaml as it is for the corpus of the tests."""
    for name, value in {
        "corpus.name": "tiny",
        "acoustic.encoder": "encoder.safetensors",
        "baseline1.model": "encoder.safetensors",
        "item.system": "aln",
        "item.alpha": "0.5",
    }.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def within(path: str, folders: set[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in folders)


_opened: set[str] | None = None


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | Path):
        _opened.add(os.path.abspath(arguments[0]))


sys.addaudithook(_record)


def files_opened(root: Path, *command: str) -> set[str]:
    """Files below `root` that a command opens, relative to it."""
    global _opened
    _opened = set()
    try:
        result = pipeline(*command)
    finally:
        paths, _opened = {Path(path) for path in _opened}, None
    assert result.exit_code == 0, result.output
    return {
        path.relative_to(root).as_posix()
        for path in paths
        # Neither folders nor temporary files, which are gone.
        if path.is_relative_to(root) and path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_files_it_reads_and_writes(stage, finished):
    for out in map(in_tests, outs(stage)):  # so that it does its work again
        if Path(out).is_dir():
            shutil.rmtree(out)
        else:
            Path(out).unlink()
    _, *command = in_tests(STAGES[stage]["cmd"]).split()
    for key in LEARNS_ALL.get(stage, []):
        command += ["--set", key]
    opened = files_opened(finished.resolve(), *command)
    deps = {dep for dep in STAGES[stage]["deps"] if not dep.startswith("stages/")}
    reads = set(map(in_tests, deps - UNSEEN))
    writes = set(map(in_tests, outs(stage)))
    known = set(map(in_tests, deps)) | writes | set(UNLISTED)
    assert {path for path in opened if not within(path, known)} == set()
    assert {one for one in reads if not any(within(p, {one}) for p in opened)} == set()
    assert all(Path(one).exists() for one in writes)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_parameters_it_reads(stage):
    expected = keys(READS_ALSO.get(stage, set()))
    if stage == "report":
        expected |= keys({"report"})
        assert {"report", "corpus", "acoustic"} <= sections_read(stage)
    else:
        sections = sections_read(stage)
        if stage in ("baseline2", "student"):  # the same command, for another student
            sections.remove("recommended")
        expected |= keys(sections - {"corpus"} | {stage} & {"corpus"})
        expected -= NOT_READ - READS_ALSO.get(stage, set())
    listed = []
    for one in STAGES[stage].get("params", []):
        listed += one["params.yaml"] if isinstance(one, dict) else [one]
    assert keys(listed) == expected


def test_expensive_outputs_survive_a_rerun_and_lie_on_disk_once():
    stages = ("corpus", "acoustic", "unlabelled", "targets", "robustness", "rejection")
    for stage in (*stages, "report"):
        for path, options in outs(stage).items():
            if path != "report/predictions.csv":  # for `report --compare REVISION`
                assert options == {"cache": False, "persist": True}, path


def test_teacher_and_students_are_kept_by_dvc():
    for stage in ("teacher", "baseline2", "student", "recommended"):
        assert all(options == {"persist": True} for options in outs(stage).values())


def test_the_grid_covers_every_system_but_baseline2_once():
    from stages.student.params import SYSTEMS

    matrix = STAGES["student"]["matrix"]
    assert ["baseline2", *matrix["system"]] == list(SYSTEMS)
    assert matrix["alpha"] == "${student.alpha}"
    assert STAGES["baseline2"]["cmd"] == "aln-pipeline train-student baseline2"


def test_every_plot_has_its_file_and_its_columns(finished):
    import pandas as pd

    for plot in GRAPH["plots"]:
        if isinstance(plot, str):
            assert Path(plot).is_file()
            continue
        ((_, options),) = plot.items()
        ((path, column),) = options["y"].items()
        assert {options["x"], column} <= set(pd.read_csv(path).columns)
        template = REPOSITORY / ".dvc" / "plots" / f"{options['template']}.json"
        assert template.is_file() or options["template"] == "confusion"


@cache
def importers() -> dict[str, set[str]]:
    """The files that import each top-level module."""
    found: dict[str, set[str]] = {}
    for folder in ("pipeline", "stages"):
        for path in sorted(REPOSITORY.glob(f"{folder}/**/*.py")):
            for node in ast.walk(parse(path)):
                modules = []
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                for module in modules:
                    name = path.relative_to(REPOSITORY).as_posix()
                    found.setdefault(module.split(".")[0], set()).add(name)
    return found


def test_modules_are_imported_where_the_house_says():
    assert all(name.startswith("stages/cache/") for name in importers()["h5py"])
    assert all(name.startswith("pipeline/") for name in importers()["pipeline"])


def test_what_is_imported_is_installed_with_the_package():
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    extras = ["pocketsphinx", "lhotse", "datasets", "parquet", "piper"]
    extras += ["listen", "serve"]
    for extra in extras:
        lines += setup["options.extras_require"][extra].splitlines()
    listed = {re.split("[<>=]", line)[0].lower() for line in lines}
    owners = packages_distributions()
    ours = {"pipeline", "stages"} | sys.stdlib_module_names
    for module in sorted(set(importers()) - ours):
        assert listed & {one.lower() for one in owners[module]}, module


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("stages/*/__init__.py")))
def test_a_stages_package_imports_nothing(path):
    (docstring,) = parse(path).body
    assert isinstance(docstring, ast.Expr)


@pytest.fixture
def repository(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`finished` as a DVC repository that has recorded everything as up to date."""
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR"):
        monkeypatch.setenv(name, str(finished.parent / name))
    shutil.copytree(REPOSITORY / "stages", finished / "stages", ignore=_UNCOPIED)
    shutil.copytree(REPOSITORY / "pipeline", finished / "pipeline", ignore=_UNCOPIED)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, finished)
    (finished / "data" / "demo").mkdir(parents=True)
    (finished / "data" / "demo" / "encoder.json").write_text("{}")
    for name in ("sentences.csv", "voices.csv"):
        shutil.copy(REPOSITORY / "data" / "demo" / name, finished / "data" / "demo")
    # dvc.yaml needs every key that it names, as params.yaml has.
    params = load_params(finished / "params.yaml")
    sections = YAML(typ="safe").load(finished / "params.yaml")
    for name, section in vars(params).items():
        for key, value in vars(section).items():
            value = list(value) if isinstance(value, tuple) else value
            sections.setdefault(name, {}).setdefault(key, value)
    with (finished / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(sections, stream)
    return finished


_UNCOPIED = shutil.ignore_patterns("__pycache__")


def commit(folder: Path) -> None:
    """Make `folder` a DVC repository, its files taken for what its stages give."""
    from dvc.repo import Repo

    Repo.init(str(folder), no_scm=True).close()
    with Repo(str(folder)) as repo:
        repo.commit(force=True)


def states() -> dict[str, str]:
    """The state of every stage by its name, as `status` shows it."""
    _, *lines = describe(Layout("tiny")).splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def change_params(text: str, other: str) -> None:
    path = Path("params.yaml")
    before = path.read_text()
    assert text in before
    path.write_text(before.replace(text, other))


STUDENTS = {"baseline2", "recommended"} | {
    f"student@{system}-{alpha}"
    for system in ("aln_linguistic", "aln")
    for alpha in ("0.5", "1")
}


def stale() -> set[str]:
    return {name for name, state in states().items() if state != "fresh"}


def test_status_shows_fresh_stale_and_missing(repository):
    commit(repository)
    assert set(states().values()) == {"fresh"}

    change_params("learning_rate: 0.001", "learning_rate: 0.002")
    assert stale() == STUDENTS
    text = describe(Layout("tiny"))
    assert "stale" in text and "student.learning_rate" in text
    change_params("learning_rate: 0.002", "learning_rate: 0.001")
    assert stale() == set()

    change_params("tsne_intents: 2", "tsne_intents: 3")
    assert stale() == {"report"}
    change_params("tsne_intents: 3", "tsne_intents: 2")

    for module, changed in (
        ("core/errors.py", set()),
        ("teacher/vocabulary.py", {"teacher", "targets", "baseline1"}),
        ("report/page.py", {"report"}),
    ):
        path = repository / "stages" / module
        path.write_text(path.read_text() + "# A comment.\n")
        assert stale() == changed
        shutil.copy(REPOSITORY / "stages" / module, path)

    shutil.rmtree("cache/tiny/student/aln-1")
    assert states()["student@aln-1"] == "missing"
    assert stale() == {"student@aln-1", "robustness", "rejection", "report"}


def test_status_names_damage_in_its_row(repository):
    commit(repository)
    (part, *_) = sorted(Path("cache/tiny/acoustic").glob("*.h5"))
    part.write_bytes(part.read_bytes()[:100])
    Path("cache/tiny/teacher/scores.json").write_text("{")
    Path("cache/tiny/student/aln-1/metrics.json").write_text("[]")
    Path("cache/tiny/manifest.csv").write_text("id\n")
    rows = {line.split()[0]: line for line in describe(Layout("tiny")).splitlines()}
    for stage, damaged in (
        ("acoustic", "acoustic"),
        ("teacher", "teacher"),
        ("student@aln-1", "aln-1"),
        ("corpus", "manifest.csv"),
    ):
        assert f"{damaged} cannot be read" in rows[stage]
        assert rows[stage].split()[1] == "stale"
    assert "test " in rows["student@aln-0.5"]


def test_reclaimed_space_makes_no_stage_compute_again(repository):
    write_encoder(Path("other.safetensors"), seed=2)
    pipeline("extract-acoustic", "--encoder", "other.safetensors")
    pipeline("extract-acoustic")
    commit(repository)
    assert "24 utterances removed" in pipeline("cache", "gc").stdout
    assert stale() == {"acoustic"}
    assert " 0 extracted now" in pipeline("extract-acoustic").stdout
    assert stale() == {"acoustic"}  # its digest too is what it was


@pytest.mark.slow
def test_dvc_runs_the_line_once_and_an_experiment_beside_it(repository, monkeypatch):
    shutil.rmtree("cache")
    shutil.rmtree("report")
    _install_command(repository, monkeypatch)
    _run("git", "init", "-q")
    _run("git", "config", "user.email", "test@example.org")
    _run("git", "config", "user.name", "test")
    _run("dvc", "init", "-q")
    shutil.copy(REPOSITORY / ".dvc" / "config", ".dvc/config")
    templates = REPOSITORY / ".dvc" / "plots"
    shutil.copytree(templates, ".dvc/plots", dirs_exist_ok=True)
    shutil.copy(REPOSITORY / ".dvcignore", ".dvcignore")
    _run("dvc", "repro")
    assert set(states().values()) == {"fresh"}
    assert _ran("dvc", "repro") == set()

    change_params("learning_rate: 0.001", "learning_rate: 0.002")
    others = {"baseline2", "recommended"}
    assert _ran("dvc", "repro", "-s", "student") == STUDENTS - others
    assert _ran("dvc", "repro") == others | {"robustness", "rejection", "report"}
    change_params("learning_rate: 0.002", "learning_rate: 0.001")
    restored = _run("dvc", "repro")
    assert restored.count("up to date; seeds 1") == len(STUDENTS)
    change_params("learning_rate: 0.001", "learning_rate: 0.002")
    assert _run("dvc", "repro").count("up to date; seeds 1") == len(STUDENTS)
    assert "test_accuracy" in _run("dvc", "metrics", "show")
    _run("dvc", "plots", "show")
    shown = Path("dvc_plots", "index.html").read_text()
    for title in ("Accuracy by system", "Accuracy on valid by epoch", "figure2.png"):
        assert title in shown

    _run("git", "add", "-A")
    _run("git", "commit", "-qm", "a")
    monkeypatch.setenv("ALN_CACHE_DIR", str(repository / "cache"))
    copied = ("-C", "data/tiny")  # which git ignores
    output = _run("dvc", "exp", "run", "--temp", *copied, "-S", "student.alpha=[0.3]")
    assert " 0 extracted now" in output
    assert "student@aln-0.3" in output and "baseline2' didn't change" in output
    assert not Path("cache/tiny/student/aln-0.3").exists()
    _assert_known(repository / "cache", "0.3")

    queued = _run("dvc", "exp", "run", "--queue", *copied, "-S", "student.alpha=[0.4]")
    assert "student@aln-0.4" not in queued
    assert not _known(repository / "cache", 0.4)
    _run("dvc", "exp", "run", "--run-all")
    assert not Path("cache/tiny/student/aln-0.4").exists()
    _assert_known(repository / "cache", "0.4")


def _known(cache: Path, alpha: float) -> list[str]:
    """The systems with that α in the ledger of `cache`, from its files."""
    files = sorted((cache / "tiny" / "results").glob("*.json"))
    entries = [json.loads(path.read_text()) for path in files]
    parameters = [entry["parameters"] for entry in entries]
    return sorted(one["system"] for one in parameters if one["alpha"] == alpha)


def _assert_known(cache: Path, alpha: str) -> None:
    """Both students of an experiment are in the ledger, and `results` shows them."""
    both = ["aln", "aln_linguistic"]
    assert _known(cache, float(alpha)) == both
    shown = [line.split()[:2] for line in pipeline("results").stdout.splitlines()]
    assert sorted(row[0] for row in shown if row[1:] == [alpha]) == both


def _install_command(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository.parent / "bin"
    folder.mkdir()
    script = folder / "aln-pipeline"
    script.write_text(
        f"#!{sys.executable}\n"
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from pipeline.cli import main\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    path = [str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _ran(*arguments: str) -> set[str]:
    """The stages that DVC says it ran."""
    lines = _run(*arguments).splitlines()
    return {line.split("'")[1] for line in lines if line.startswith("Running stage")}
