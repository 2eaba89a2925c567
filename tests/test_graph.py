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
from conftest import pipeline, write_encoder
from ruamel.yaml import YAML

from pipeline.layout import Layout
from pipeline.params import Params, load_params
from pipeline.status import describe

REPOSITORY = Path(__file__).parents[1]
GRAPH = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
STAGES = GRAPH["stages"]
SECTIONS = get_type_hints(Params)

# What each stage reads besides its code, of the paths in the layout. `data` is what
# was given, `encoder` the checkpoint and `scores` what stands beside it.
READS = {
    "corpus": {"data"},
    "acoustic": {"manifest", "encoder"},
    "teacher": {"manifest", "intents"},
    "targets": {"manifest", "teacher"},
    "baseline1": {"manifest", "intents", "quarantine", "teacher", "recogniser"},
    "baseline2": {"manifest", "intents", "acoustic_digest", "quarantine"},
    "student": {
        "manifest",
        "intents",
        "acoustic_digest",
        "quarantine",
        "targets_digest",
    },
    "robustness": {
        "manifest",
        "intents",
        "acoustic_digest",
        "quarantine",
        "students",
        "encoder",
    },
    "report": {
        "manifest",
        "intents",
        "conditions",
        "quarantine",
        "teacher",
        "baseline1",
        "students",
        "spoilt",
        "scores",
    },
}
WRITES = {
    "corpus": {"manifest", "intents", "conditions"},
    "acoustic": {"acoustic", "acoustic_digest", "quarantine"},
    "teacher": {"teacher"},
    "targets": {"targets", "targets_digest"},
    "baseline1": {"transcripts", "baseline1"},
    "baseline2": {"baseline2"},
    "student": {"one student"},
    "robustness": {"robustness"},
}
# What a stage reads of params.yaml besides its own section.
READS_ALSO = {
    "acoustic": {"corpus.longest_seconds", "corpus.on_error"},
    "robustness": {"student.alpha"},
    "report": {"corpus.name", "acoustic.encoder", "student.alpha"},
}
# α comes by the command, so that another one does not train the others again.
NOT_READ = {"student.alpha"}


def named_paths() -> dict[str, str]:
    """The paths of dvc.yaml by the layout's names for them."""
    layout = Layout("${corpus.name}")
    names = ("manifest", "intents", "acoustic", "acoustic_digest", "teacher")
    return {
        **{name: str(getattr(layout, name)) for name in names},
        "targets": str(layout.targets),
        "targets_digest": str(layout.targets_digest),
        "quarantine": str(layout.quarantine),
        "transcripts": str(layout.transcripts),
        "baseline1": str(layout.baseline1),
        "recogniser": "${baseline1.model}",
        "conditions": str(layout.manifest.with_name("conditions.csv")),
        "students": str(layout.student("baseline2", None).parent),
        "baseline2": str(layout.student("baseline2", None)),
        "one student": str(layout.student("${item.system}", "${item.alpha}")),
        "robustness": str(layout.robustness),
        "spoilt": str(layout.robustness / "predictions.csv"),
        "data": "data/${corpus.name}",
        "encoder": "${acoustic.encoder}",
        "scores": "data/demo/encoder.json",
    }


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_file(name: str) -> Path | None:
    path = REPOSITORY.joinpath(*name.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def imported(tree: ast.AST) -> set[str]:
    """Modules of ours that `tree` imports anywhere, functions included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports are not followed"
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "stages"}


def code_read(entry: ast.AST) -> set[str]:
    """Files below stages/ that run when `entry` does, transitively."""
    seen: set[Path] = set()
    waiting = imported(entry)
    while waiting:
        path = module_file(waiting.pop())
        if path is not None and path not in seen:
            seen.add(path)
            waiting |= imported(parse(path))
    return {path.relative_to(REPOSITORY).as_posix() for path in seen}


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


def test_every_stage_is_known_here():
    assert list(STAGES) == list(READS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_it_runs(stage):
    listed = [dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")]
    assert listed == sorted(code_read(command_of(stage)))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_files_it_reads(stage):
    paths = named_paths()
    listed = {dep for dep in STAGES[stage]["deps"] if not dep.startswith("stages/")}
    assert listed == {paths[name] for name in READS[stage]}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_parameters_it_reads(stage):
    expected = keys(READS_ALSO.get(stage, set()))
    if stage == "report":
        expected |= keys({"report"})
        assert {"report", "corpus", "acoustic"} <= sections_read(stage)
    else:
        expected |= keys(sections_read(stage) - {"corpus"} | {stage} & {"corpus"})
        expected -= NOT_READ - READS_ALSO.get(stage, set())
    assert keys(STAGES[stage].get("params", [])) == expected


@pytest.mark.parametrize("stage", WRITES)
def test_a_stage_has_exactly_the_outputs_it_writes(stage):
    assert set(outs(stage)) == {named_paths()[name] for name in WRITES[stage]}


def test_the_report_writes_exactly_its_outputs(finished):
    listed = set(outs("report"))
    written = {path.as_posix() for path in Path("report").iterdir()}
    assert written == listed


def test_expensive_outputs_survive_a_rerun_and_lie_on_disk_once():
    for stage in ("corpus", "acoustic", "targets", "robustness", "report"):
        for path, options in outs(stage).items():
            assert options == {"cache": False, "persist": True}, path


def test_teacher_and_students_are_kept_by_dvc():
    for stage in ("teacher", "baseline2", "student"):
        assert all(options == {} for options in outs(stage).values())


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
    assert importers()["h5py"] == {"stages/cache.py"}
    assert all(name.startswith("pipeline/") for name in importers()["pipeline"])


def test_what_is_imported_is_installed_with_the_package():
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    for extra in ("pocketsphinx", "lhotse", "datasets"):
        lines += setup["options.extras_require"][extra].splitlines()
    listed = {re.split("[<>=]", line)[0] for line in lines}
    owners = packages_distributions()
    ours = {"pipeline", "stages"} | sys.stdlib_module_names
    for module in sorted(set(importers()) - ours):
        assert listed & set(owners[module]), f"setup.cfg lacks {module}"


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
    """The state of every stage by its name, as `status` tells it."""
    _, *lines = describe(Layout("tiny")).splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def change_params(text: str, other: str) -> None:
    path = Path("params.yaml")
    before = path.read_text()
    assert text in before
    path.write_text(before.replace(text, other))


STUDENTS = {"baseline2"} | {
    f"student@{system}-{alpha}"
    for system in ("aln_linguistic", "aln")
    for alpha in ("0.5", "1")
}


def stale() -> set[str]:
    return {name for name, state in states().items() if state != "fresh"}


def test_status_tells_fresh_stale_and_missing(repository):
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

    module = repository / "stages" / "teacher" / "vocabulary.py"
    module.write_text(module.read_text() + "\n")
    assert stale() == {"teacher"}
    shutil.copy(REPOSITORY / "stages" / "teacher" / "vocabulary.py", module)

    shutil.rmtree("cache/tiny/student/aln-1")
    assert states()["student@aln-1"] == "missing"
    assert stale() == {"student@aln-1", "robustness", "report"}


def test_status_tells_of_what_is_damaged_in_its_row(repository):
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
    assert "24 utterances dropped" in pipeline("cache", "gc").stdout
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
    assert _ran("dvc", "repro", "-s", "student") == STUDENTS - {"baseline2"}
    assert _ran("dvc", "repro") == {"baseline2", "robustness", "report"}
    assert "test_accuracy" in _run("dvc", "metrics", "show")
    _run("dvc", "plots", "show")
    shown = Path("dvc_plots", "index.html").read_text()
    for title in ("Accuracy by system", "Accuracy on valid by epoch", "figure2.png"):
        assert title in shown

    _run("git", "add", "-A")
    _run("git", "commit", "-qm", "a")
    monkeypatch.setenv("ALN_CACHE_DIR", str(repository / "cache"))
    copied = ("-C", "data/tiny")  # which git ignores
    told = _run("dvc", "exp", "run", "--temp", *copied, "-S", "student.alpha=[0.3]")
    assert " 0 extracted now" in told
    assert "student@aln-0.3" in told and "baseline2' didn't change" in told
    assert not Path("cache/tiny/student/aln-0.3").exists()
    _assert_known(repository / "cache", "0.3")

    queued = _run("dvc", "exp", "run", "--queue", *copied, "-S", "student.alpha=[0.4]")
    assert "student@aln-0.4" not in queued
    assert not _known(repository / "cache", 0.4)
    _run("dvc", "exp", "run", "--run-all")
    assert not Path("cache/tiny/student/aln-0.4").exists()
    _assert_known(repository / "cache", "0.4")


def _known(cache: Path, alpha: float) -> list[str]:
    """The systems with that α in the ledger of `cache`, as its files tell."""
    files = sorted((cache / "tiny" / "results").glob("*.json"))
    entries = [json.loads(path.read_text()) for path in files]
    return sorted(e["system"] for e in entries if e["alpha"] == alpha)


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
