"""Write the report: `results.json`, `results.md`, the page, figures, DVC's plots.

Reads the corpus' tables, how much intents explain of the teacher's vectors, the
predictions of the teacher, of Baseline-1 and of the students, the students' histories
and embeddings, the recogniser's transcripts, the predictions on degraded recordings,
the students' calibration and rejection, and the scores of the encoder; for the errors
to listen to also recordings, features and a student. Everything is computed before the
first file is written, so a report that fails leaves the previous one intact.

    results.json          every figure, for programs
    results.md            a summary, for a pull request
    predictions.csv       every system's prediction of each test utterance
    accuracy.png          accuracy by system
    figure2.png, .svg     t-SNE of E_lang and ê_lang
    robustness.png        accuracy by degradation, if it was measured
    plots/accuracy.csv    system, split, accuracy, std, macro_f1
    plots/confusion.csv   actual, predicted: test, every seed of the student in detail;
                          with slots, `slot: value` of each
    plots/history.csv     system and the students' histories
    identity.json         what the report was made from
    index.html            the page; also says how long the stages took
    audio/                its recordings, if they are linked

The student in detail is the best on valid, which `export` takes. `templates/` has the
page and `results.md`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from stages.cache.digest import digest_path, read_digest
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError, InputError
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint
from stages.core.manifest import read_labels, read_quarantine
from stages.core.results import identify, is_finished, record, require
from stages.core.runtime import RunOptions
from stages.report import scores
from stages.report.confusions import confusions
from stages.report.corpus_table import describe_corpus
from stages.report.errors import find_errors
from stages.report.figures import draw, inline
from stages.report.findings import Findings
from stages.report.page import AUDIO_FOLDER, PAGE, page_files
from stages.report.params import LINKED, NONE, REVISION, ReportParams
from stages.report.plots import plots
from stages.report.predictions import predictions_csv
from stages.report.projection import project_embeddings, read_embeddings
from stages.report.recognition import read_transcripts, value_word_errors, word_errors
from stages.report.rejection import read_rejection
from stages.report.rendering import render
from stages.report.results_json import results
from stages.report.robustness import read_robustness
from stages.report.statistics import calibration_bins, compare_all
from stages.report.systems import (
    System,
    read_baseline1,
    read_recommended,
    read_student,
    title_of,
)
from stages.report.utterances import describe_utterances
from stages.student.params import RECOMMENDED
from stages.student.selection import choose_student

if TYPE_CHECKING:
    from stages.report.listening import Clip

_PROVENANCE = ("stage", "revision", "parameters", "inputs")
_ENCODER_COLUMNS = ("trained", "random", "log_mel")


@dataclass(frozen=True)
class Inputs:
    """What a report is made from.

    Attributes:
        name: of the corpus.
        corpus: its tables.
        teacher: folder of the fine-tuned BERT.
        targets: `targets.json` with `between_intents` of its vectors.
        baseline1: folder of its predictions from recognised text.
        students: folder by name, `baseline2`, `aln-0.8` or `recommended`, in the order
            to show them.
        acoustic: the cache of the recordings' features, with its digest.
        audio: the folder that the manifest's paths are relative to.
        durations: seconds by stage; the page shows them.
        encoder_scores: JSON next to the encoder's weights with `conditions`: {name:
            {trained, random, log_mel}} in percent, and optionally `pretraining_scores`:
            nested names with numbers. None without.
        robustness: `predictions.csv` of the robustness stage; None without.
        rejection: `rejection.json` of the rejection stage; None without.
    """

    name: str
    corpus: CorpusFiles
    teacher: Path
    targets: Path
    baseline1: Path
    students: Mapping[str, Path]
    acoustic: Path
    audio: Path
    durations: Mapping[str, float]
    encoder_scores: Path | None
    robustness: Path | None
    rejection: Path | None


@dataclass(frozen=True)
class Summary:
    """The best student of a report.

    Attributes:
        page: `index.html`.
        chosen: the student that is best on valid.
        valid_accuracy: in percent, mean over seeds.
        test_accuracy: in percent, mean over seeds.
        up_to_date: nothing had to be done.
    """

    page: Path
    chosen: str
    valid_accuracy: float
    test_accuracy: float
    up_to_date: bool

    def __str__(self) -> str:
        """One line for the end of a command."""
        state = "up to date; " if self.up_to_date else ""
        return (
            f"{self.page}: {state}{self.chosen} has {self.test_accuracy:.2f}% on test "
            f"and {self.valid_accuracy:.2f}% on valid"
        )


def run(
    params: ReportParams, inputs: Inputs, *, output: Path, options: RunOptions
) -> Summary:
    """Read the results of the stages, measure, and write the report into `output`.

    Args:
        params: of the report.
        inputs: results of the stages.
        output: folder of the report; the previous report's files are replaced.
        options: `force` writes a report that is up to date again.

    Raises:
        InputError: the corpus' tables or the encoder's scores cannot be used.
        CacheError: a result is missing, damaged or from another manifest.
    """
    identities = _check_inputs(inputs)
    identity = _identify(params, inputs)
    page = output / PAGE
    finished = is_finished(output, identity) and _shows(page, identity)
    up_to_date = finished and not options.force
    if not up_to_date:
        _write(output, *_make(params, inputs, identities), identity)
    found = json.loads((output / "results.json").read_text(encoding="utf-8"))
    best = found["detailed"]["system"]
    return Summary(
        page=page,
        chosen=title_of(best),
        valid_accuracy=found["systems"][best]["valid_accuracy"],
        test_accuracy=found["systems"][best]["test_accuracy"],
        up_to_date=up_to_date,
    )


def _check_inputs(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """Check every result that is read; returns their identities by name.

    Raises:
        CacheError: a result is missing, changed, or made from another manifest or other
            students; or two students differ in seeds or selection.
    """
    corpus = inputs.corpus
    manifest = {"manifest": corpus.manifest}
    usable = manifest | {"quarantine": corpus.quarantine}
    found = {
        "teacher": require(inputs.teacher, manifest, fix="run `dvc repro teacher`"),
        "baseline1": require(inputs.baseline1, usable, fix="run `dvc repro baseline1`"),
    }
    fix = "run `dvc repro student baseline2 recommended`"
    for name, folder in inputs.students.items():
        found[name] = require(folder, usable, fix=fix)
    folders = {f"student {name}": path for name, path in inputs.students.items()}
    for stage in ("robustness", "rejection"):
        path = getattr(inputs, stage)
        if path:
            own = usable | folders
            found[stage] = require(path.parent, own, fix=f"run `dvc repro {stage}`")
    first, *others = inputs.students
    for name in others:
        for what in ("seeds", "selection"):
            own, expected = (found[n]["parameters"][what] for n in (name, first))
            if own != expected:
                raise CacheError(
                    f"{name} and {first} differ in student.{what}",
                    found=own,
                    expected=expected,
                    fix=fix,
                )
    return found


def _identify(params: ReportParams, inputs: Inputs) -> dict[str, Any]:
    corpus = inputs.corpus
    return identify(
        "report",
        REVISION,
        {**asdict(params), "corpus": inputs.name, "students": list(inputs.students)},
        {
            "manifest": corpus.manifest,
            "intents": corpus.intents,
            "conditions": corpus.conditions,
            "quarantine": corpus.quarantine,
            "acoustic": digest_path(inputs.acoustic),
            "teacher": inputs.teacher,
            "targets": inputs.targets,
            "baseline1": inputs.baseline1,
            **{f"student {name}": path for name, path in inputs.students.items()},
            "encoder scores": inputs.encoder_scores,
            "robustness": inputs.robustness,
            "rejection": inputs.rejection,
        },
    )


def _make(
    params: ReportParams, inputs: Inputs, identities: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The results, and the page with what it links, by name."""
    manifest = inputs.corpus.read_usable()
    found = _measure(params, inputs, identities, manifest)
    values = results(found)
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    written = {
        **draw(found),
        **plots(found),
        "predictions.csv": predictions_csv(found.systems),
        "results.json": f"{text}\n".encode(),
        "results.md": render("results.md", found=values).encode(),
    }
    shown = page_files(
        values,
        inline(found),
        found.errors,
        _clips(params, inputs, found, manifest),
        inputs.durations,
        linked=params.audio == LINKED,
    )
    return written, shown


def _clips(
    params: ReportParams, inputs: Inputs, found: Findings, manifest: pd.DataFrame
) -> "Iterable[Clip]":
    """What is heard and seen of each error; nothing without recordings."""
    if params.audio == NONE:
        return []
    # Imported here: it needs torch.
    from stages.report.listening import clips

    return clips(
        [error["id"] for error in found.errors],
        manifest,
        audio=inputs.audio,
        features=inputs.acoustic,
        student=inputs.students[found.detailed.name]
        / f"model-{found.seed}.safetensors",
    )


def _measure(
    params: ReportParams,
    inputs: Inputs,
    identities: Mapping[str, Mapping[str, Any]],
    manifest: pd.DataFrame,
) -> Findings:
    """Read everything, measure all systems, and choose α on valid."""
    set_aside = read_quarantine(inputs.corpus.quarantine)
    labels = read_labels(inputs.corpus.intents)
    utterances = describe_utterances(manifest, inputs.corpus, labels)
    recogniser, transcripts = read_transcripts(inputs.baseline1, utterances)
    systems = _read_systems(inputs, utterances, set_aside["id"])
    named = {system.name: system for system in systems}
    students = [named[name] for name in inputs.students]

    rows = scores.evaluate(labels, systems)
    best = scores.best_by_valid(systems, rows)
    chosen = named[best["aln"]]
    name, seed = choose_student(inputs.students)
    detailed = named[name]
    valid, first = manifest[manifest["split"] == "valid"], next(iter(labels.slots))
    colours = dict(zip(valid["id"], labels.values(valid["intent"])[first], strict=True))
    embeddings = read_embeddings(inputs.students[chosen.name])
    texts = dict(zip(manifest["id"], manifest["text"], strict=True))
    grouped = ("wording", "combination", "length", "condition", "speaker")
    return Findings(
        corpus=inputs.name,
        labels=labels,
        table1=describe_corpus(manifest, labels),
        set_aside=dict(zip(set_aside["id"], set_aside["reason"], strict=True)),
        systems=systems,
        rows=rows,
        comparisons=compare_all(systems, best),
        best=best,
        chosen=chosen,
        detailed=detailed,
        seed=seed,
        errors=[
            {**error, "text": texts[error["id"]]}
            for error in find_errors(detailed, seed, systems, transcripts)
        ],
        recommended=(
            read_recommended(inputs.students[RECOMMENDED])
            if RECOMMENDED in inputs.students
            else None
        ),
        selection=identities[name]["parameters"]["selection"],
        values=scores.value_scores(labels, detailed.test),
        confusions=confusions(labels, detailed),
        calibration={system.name: calibration_bins(system) for system in systems},
        groups={
            column: scores.group(labels, systems, column, intervals=column != "speaker")
            for column in grouped
        },
        valid_wording=scores.group(
            labels, systems, "wording", split="valid", intervals=False
        ),
        between_intents=_read_between_intents(inputs.targets),
        transfer_loss=embeddings.transfer_loss(),
        projection=project_embeddings(embeddings, colours, params),
        robustness=(
            read_robustness(inputs.robustness, students, labels, utterances)
            if inputs.robustness
            else []
        ),
        rejection=(
            read_rejection(inputs.rejection, students, (name, seed))
            if inputs.rejection
            else None
        ),
        encoder=_read_encoder_scores(inputs.encoder_scores),
        provenance=[
            _describe_features(inputs.acoustic),
            *(
                {"result": name, "fingerprint": fingerprint(one)}
                | {key: one[key] for key in _PROVENANCE}
                for name, one in identities.items()
            ),
        ],
        encoder_runs=_count_encoder_runs(manifest, students),
        recogniser=recogniser,
        word_errors=word_errors(transcripts),
        value_word_errors=value_word_errors(labels, transcripts),
    )


def _describe_features(acoustic: Path) -> dict[str, Any]:
    """The provenance of the acoustic features, which their digest has."""
    header = asdict(read_digest(digest_path(acoustic)).header)
    return {
        "result": header["kind"],
        "fingerprint": header["fingerprint"],
        "stage": "acoustic",
        "revision": None,
        "parameters": {
            **header["parameters"],
            **{name: header[name] for name in ("encoder", "dim", "dtype")},
        },
        "inputs": {},
    }


def _read_systems(
    inputs: Inputs, utterances: pd.DataFrame, set_aside: Iterable[str]
) -> list[System]:
    """Baseline-1 and the students, in the order to show them."""
    # The teacher also reads the texts of recordings that cannot be used.
    text = read_baseline1(
        "baseline1_text", inputs.teacher, utterances, left_out=set_aside
    )
    asr = read_baseline1("baseline1_asr", inputs.baseline1, utterances)
    students = inputs.students.items()
    return [text, asr, *(read_student(*one, utterances) for one in students)]


def _count_encoder_runs(
    manifest: pd.DataFrame, students: Iterable[System]
) -> dict[str, int]:
    """The recordings that were encoded, and the runs that cached features replaced.

    Without the cache every epoch would encode train to learn from, and valid to score.
    """
    each_epoch = int((manifest["split"] != "test").sum())
    epochs = sum(len(student.history) for student in students)
    return {"done": len(manifest), "replaced": epochs * each_epoch}


def _read_between_intents(path: Path) -> dict[str, float | None]:
    """The share of E_lang's variance that lies between intents, by kind of text.

    Raises:
        CacheError: missing or damaged.
    """
    try:
        found = json.loads(path.read_text("utf-8"))["between_intents"]
        return {name: found[name] for name in ("train", "unseen")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"no shares of the targets' variance ({error!r})",
            path=path,
            fix="run `dvc repro targets`",
        ) from error


def _read_encoder_scores(path: Path | None) -> dict[str, Any]:
    """The scores of the encoder; empty if there is no file or it was not measured."""
    if path is None:
        return {}
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for row in value.get("conditions", {}).values():
            for column in _ENCODER_COLUMNS:
                float(row[column])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not the scores of an encoder ({error!r})",
            path=path,
            expected=f"conditions: {{name: {{{', '.join(_ENCODER_COLUMNS)}}}}}",
        ) from error
    return value if "conditions" in value else {}


def _mark(identity: Mapping[str, Any]) -> bytes:
    """The last line of a page that shows the results of this identity."""
    return f"<!-- {fingerprint(identity)} -->\n".encode()


def _shows(page: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the page is there and of these results: git may have replaced them."""
    return page.is_file() and page.read_bytes().endswith(_mark(identity))


def _write(
    output: Path,
    written: Mapping[str, bytes],
    shown: Mapping[str, bytes],
    identity: Mapping[str, Any],
) -> None:
    """Write the report, its identity last; remove what it no longer has.

    The page is not in the identity: it also shows how long the stages took.
    """
    marked = {**shown, PAGE: shown[PAGE] + _mark(identity)}
    for name, data in {**written, **marked}.items():
        with atomic_path(output / name) as temporary:
            temporary.write_bytes(data)
    former = {output / "robustness.png", *(output / AUDIO_FOLDER).glob("*.mp3")}
    for path in former - {output / name for name in (*written, *shown)}:
        path.unlink(missing_ok=True)
    record(output, identity, written)
