"""Write the report: `results.json`, `results.md`, pictures, and data for DVC's plots.

Reads the manifest but for the recordings set aside, its intents (and `conditions.csv`
beside it, columns id and condition, where it has rows), the teacher's and the students'
predictions, the recogniser's transcripts, the students' histories, the embeddings of
the best transfer system, the predictions under noise and reverberation, and the scores
of the shipped encoder. Everything is computed before the first file is written, so a
report that fails leaves the former one as it was.

    results.json          figures by name; lists hold what is too much for a table of
                          metrics, since `dvc metrics show` leaves lists out
    results.md            the page; shows the pictures by relative links
    accuracy.png          accuracy by system, with the interval of test's
    confusion.png         which intent is taken for which, best ALN
    figure2.png           t-SNE of E_lang and ê_lang; only where a system transfers
    history.png           valid accuracy by epoch
    robustness.png        accuracy under noise and reverberation; only where measured
    plots/accuracy.csv    system, split, accuracy, std, macro_f1
    plots/confusion.csv   actual, predicted: test, every seed of the best ALN
    plots/history.csv     system and the students' histories
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError, ConfigurationError, InputError
from stages.core.files import atomic_path
from stages.core.manifest import (
    read_intents,
    read_manifest,
    read_quarantine,
    usable_rows,
)
from stages.core.runtime import RunOptions
from stages.core.text import normalise_text
from stages.core.word_errors import WordErrors
from stages.report import scores, statistics, tables
from stages.report.counts import describe_corpus
from stages.report.figures import (
    Panel,
    accuracy_figure,
    confusion_figure,
    history_figure,
    projection_figure,
    robustness_figure,
)
from stages.report.params import ReportParams
from stages.report.projection import capped_perplexity, project
from stages.report.published import published_accuracy
from stages.report.recognition import intent_word_errors, word_errors
from stages.report.robustness import read_robustness
from stages.report.systems import (
    BASELINE1_FIX,
    STUDENT_FIX,
    STUDENT_KINDS,
    TEACHER_FIX,
    TRANSFER_KINDS,
    Embeddings,
    System,
    check_comparable,
    read_embeddings,
    read_recognised,
    read_student,
    read_teacher,
)

log = logging.getLogger(__name__)

OPTIONAL_FILES = ("figure2.png", "robustness.png")
_FIXES = {"baseline1_text": TEACHER_FIX, "baseline1_asr": BASELINE1_FIX}
_ENCODER_COLUMNS = ("trained", "random", "log_mel")


@dataclass(frozen=True)
class Summary:
    """What a report came to.

    Attributes:
        page: `results.md`.
        results: `results.json`.
        chosen: the system whose intents are shown, its α chosen on valid.
        valid_accuracy: its accuracy in percent, mean over seeds.
        test_accuracy: its accuracy in percent, mean over seeds.
    """

    page: Path
    results: Path
    chosen: str
    valid_accuracy: float
    test_accuracy: float

    def __str__(self) -> str:
        """One line for the end of a command."""
        return (
            f"wrote {self.page}: {self.chosen} has {self.test_accuracy:.2f}% on test "
            f"and {self.valid_accuracy:.2f}% on valid"
        )


@dataclass(frozen=True)
class Inputs:
    """What a report is made from.

    Attributes:
        name: the corpus' name.
        corpus: its tables.
        teacher: folder of the fine-tuned BERT.
        baseline1: folder of its predictions on recognised text.
        students: folder by name, `baseline2` or `aln-0.8`, in the order to show them.
        encoder_scores: JSON next to the encoder's weights; None without.
        robustness: `predictions.csv` of the robustness stage; None without.
    """

    name: str
    corpus: CorpusFiles
    teacher: Path
    baseline1: Path
    students: Mapping[str, Path]
    encoder_scores: Path | None
    robustness: Path | None


def run(
    params: ReportParams, inputs: Inputs, *, output: Path, options: RunOptions
) -> Summary:
    """Read what the stages left, measure, and write the report into `output`.

    Args:
        params: of Figure 2, and the seed of the bootstrap.
        inputs: of the report.
        output: folder of the report; files of a former report are replaced.
        options: how it runs.

    Raises:
        ConfigurationError: no student, an unknown one, or unusable parameters.
        InputError: the manifest, conditions, list of recordings set aside or encoder
            scores cannot be used.
        CacheError: a student, the teacher or what it made of recognised text is
            missing, damaged or of other inputs.
    """
    corpus, teacher, baseline1 = inputs.name, inputs.teacher, inputs.baseline1
    manifest, intents = inputs.corpus.manifest, inputs.corpus.intents
    quarantine, students = inputs.corpus.quarantine, inputs.students
    encoder_scores, robustness = inputs.encoder_scores, inputs.robustness
    if not students:
        raise ConfigurationError("no student to report", fix="name one in params.yaml")
    set_aside = read_quarantine(quarantine)
    table = usable_rows(manifest, read_manifest(manifest), set_aside)
    names = read_intents(intents)
    utterances = _utterances(table, manifest)
    encoder = _read_encoder_scores(encoder_scores)
    recognised, recognition = read_recognised(baseline1, utterances)
    systems = [
        read_teacher(teacher, utterances, set_aside=set_aside["id"]),
        recognised,
        *(read_student(name, path, utterances) for name, path in students.items()),
    ]
    for system in systems:
        _check_labels(system, names, intents)
    trained = [system for system in systems if system.kind in STUDENT_KINDS]
    check_comparable(trained)
    spoilt = (
        []
        if robustness is None
        else read_robustness(robustness, trained, seed=params.seed)
    )

    rows = {system.name: scores.evaluate(system) for system in systems}
    best = scores.best_by_valid(systems, rows)
    chosen = _choose(systems, best)
    files: dict[str, bytes] = {}
    transfer: dict[str, float] = {}
    perplexity = None
    if chosen.kind in TRANSFER_KINDS:
        valid = table[table["split"] == "valid"]
        embeddings = read_embeddings(students[chosen.name], list(valid["id"]))
        transfer = {
            name: round(float(np.mean((student - embeddings.teacher) ** 2)), 6)
            for name, student in (
                ("first", embeddings.first.astype(np.float64)),
                ("last", embeddings.last.astype(np.float64)),
            )
        }
        labels = dict(zip(valid["id"], valid["intent"], strict=True))
        files["figure2.png"], perplexity = _figure2(embeddings, labels, params)

    found = tables.Findings(
        corpus=corpus,
        table1=describe_corpus(table),
        set_aside=dict(zip(set_aside["id"], set_aside["reason"], strict=True)),
        systems=systems,
        rows=rows,
        intervals={
            system.name: statistics.intervals(
                system.predictions[system.predictions["split"] == "test"],
                seed=params.seed,
            )
            for system in systems
        },
        comparisons=statistics.compare_all(systems, best),
        calibration={system.name: statistics.calibrate(system) for system in systems},
        best=best,
        chosen=chosen,
        intents=scores.intent_scores(chosen.predictions, names),
        wording=scores.group(systems, "wording", seed=params.seed),
        lengths=scores.group(systems, "length", seed=params.seed),
        speakers=scores.group(systems, "speaker"),
        conditions=(
            scores.group(systems, "condition", seed=params.seed)
            if "condition" in utterances
            else []
        ),
        transfer=transfer,
        perplexity=perplexity,
        robustness=spoilt,
        encoder=encoder,
        recogniser=recognition.recogniser,
        word_errors=word_errors(recognition),
        intent_word_errors=intent_word_errors(recognition),
    )
    files["accuracy.png"] = accuracy_figure(
        systems,
        rows,
        {name: interval["accuracy"] for name, interval in found.intervals.items()},
        corpus,
    )
    files["confusion.png"] = confusion_figure(
        chosen.predictions, names, f"Confusion on test, {chosen.title}"
    )
    files["history.png"] = history_figure(trained)
    if spoilt:
        files["robustness.png"] = robustness_figure(trained, spoilt, corpus)
    files |= _plots(systems, rows, chosen)
    files["results.json"] = _json(_results(found))
    files["results.md"] = tables.page(found).encode()
    _write(output, files)
    return Summary(
        page=output / "results.md",
        results=output / "results.json",
        chosen=chosen.title,
        valid_accuracy=rows[chosen.name]["valid_accuracy"],
        test_accuracy=rows[chosen.name]["test_accuracy"],
    )


def _utterances(table: pd.DataFrame, manifest: Path) -> pd.DataFrame:
    """Valid and test, each with its wording and, where known, speaker and condition.

    `length` is of test alone.
    """
    marked = table.assign(
        wording=scores.mark_wording(table),
        length=scores.mark_length(table.loc[table["split"] == "test", "seconds"]),
        speaker=table["speaker"].where(table["speaker"].str.strip() != ""),
    )
    marked["text"] = marked["text"].map(normalise_text)
    columns = ["id", "split", "intent", "text", "wording", "length", "speaker"]
    path = manifest.with_name("conditions.csv")
    given = _read_conditions(path) if path.is_file() else {}
    if given:
        marked["condition"] = marked["id"].map(given).fillna("")
        columns.append("condition")
        without = marked[(marked["split"] == "test") & (marked["condition"] == "")]
        if not without.empty:
            raise InputError(
                f"{len(without)} test utterances have no condition",
                path=path,
                found=f"none for {without['id'].iloc[0]}",
                fix="run `aln-pipeline prepare-corpus`",
            )
    return marked.loc[marked["split"] != "train", columns]


def _read_conditions(path: Path) -> dict[str, str]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise InputError(f"not a readable table ({error})", path=path) from error
    if list(table.columns) != ["id", "condition"] or table["id"].duplicated().any():
        raise InputError(
            "not a table of conditions",
            path=path,
            found=f"columns {', '.join(table.columns)}",
            expected="id, condition, each id once",
            fix="run `aln-pipeline prepare-corpus`",
        )
    return dict(zip(table["id"], table["condition"], strict=True))


def _check_labels(system: System, intents: Sequence[str], path: Path) -> None:
    unknown = sorted(set(system.predictions["predicted"]) - set(intents))
    if unknown:
        raise CacheError(
            f"{system.name} predicts an intent that is not listed here",
            path=path,
            found=repr(unknown[0]),
            expected=f"one of {len(intents)}",
            fix=_FIXES.get(system.kind, STUDENT_FIX),
        )


def _choose(systems: Sequence[System], best: Mapping[str, str]) -> System:
    """ALN at its best α; ALN linguistic or the first student where there is no ALN."""
    name = best.get("aln") or best.get("aln_linguistic") or _first_student(systems)
    return next(system for system in systems if system.name == name)


def _first_student(systems: Sequence[System]) -> str:
    return next(system.name for system in systems if system.kind in STUDENT_KINDS)


def _figure2(
    embeddings: Embeddings, labels: Mapping[str, str], params: ReportParams
) -> tuple[bytes, tuple[float, float]]:
    """The picture, and the perplexity asked and used."""
    intents = np.array([labels[identifier] for identifier in embeddings.ids])
    values, counts = np.unique(intents, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: params.tsne_intents]
    shown = sorted(str(value) for value in values[order])
    chosen = np.isin(intents, shown)
    panels = [
        Panel(
            title,
            *project(
                embeddings.teacher[chosen],
                student[chosen],
                perplexity=params.tsne_perplexity,
                seed=params.seed,
            ),
        )
        for title, student in (
            ("(a) first epoch", embeddings.first),
            ("(b) last epoch", embeddings.last),
        )
    ]
    used = capped_perplexity(params.tsne_perplexity, 2 * int(chosen.sum()))
    picture = projection_figure(panels, intents[chosen], shown)
    return picture, (params.tsne_perplexity, used)


def _read_encoder_scores(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if "conditions" not in value:  # pretrained, but not yet measured
            return {}
        for row in value["conditions"].values():
            for column in _ENCODER_COLUMNS:
                float(row[column])
    except FileNotFoundError:
        raise InputError("no encoder scores there", path=path) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not the scores of an encoder ({error!r})",
            path=path,
            expected=f"conditions: {{name: {{{', '.join(_ENCODER_COLUMNS)}}}}}",
        ) from error
    return value


def _results(found: tables.Findings) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for system in found.systems:
        calibration = found.calibration[system.name]
        rows[system.name] = {
            **found.rows[system.name],
            "test_interval": found.intervals[system.name]["accuracy"],
            "test_macro_f1_interval": found.intervals[system.name]["macro_f1"],
            "test_confidence": calibration.confidence,
            "test_confidence_std": calibration.confidence_std,
            "test_calibration_error": calibration.error,
            "test_calibration_error_std": calibration.error_std,
        }
        published = published_accuracy(system.kind, system.alpha)
        if published:
            rows[system.name]["paper"] = published
    return {
        "corpus": found.corpus,
        "table1": found.table1,
        "set_aside": len(found.set_aside),
        "systems": rows,
        "selection": found.chosen.selection,
        "best": found.best,
        "significance": [asdict(comparison) for comparison in found.comparisons],
        "lengths": _group_list("length", found.lengths),
        "speakers": _group_list("speaker", found.speakers),
        "wording": _group_table(found.wording, "accuracy"),
        "wording_macro_f1": _group_table(found.wording, "macro_f1"),
        "conditions": _group_table(found.conditions, "accuracy"),
        "groups": [
            *_group_list("wording", found.wording),
            *_group_list("condition", found.conditions),
        ],
        "recognition": {
            "recogniser": found.recogniser,
            **{split: _errors(errors) for split, errors in found.word_errors.items()},
            "intents": [
                {"intent": intent, **_errors(errors)}
                for intent, errors in found.intent_word_errors.items()
            ],
            "confusions": [
                {"said": said, "recognised": heard, "times": count}
                for (said, heard), count in found.word_errors["test"].confusions
                if count > 1
            ],
        },
        "robustness": [
            {"condition": one.kind, "snr": one.snr, "systems": one.rows}
            for one in found.robustness
        ],
        "transfer_loss": found.transfer,
    }


def _errors(errors: WordErrors) -> dict[str, Any]:
    """What JSON holds of word errors; a rate without words is null."""
    return {
        "word_error_rate": round(errors.rate, 4) if errors.words else None,
        "utterances": errors.utterances,
        "empty": errors.empty,
        "words": errors.words,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
    }


def _group_list(name: str, groups: Sequence[scores.Group]) -> list[dict[str, Any]]:
    """Groups of test in their order; of each system all that is measured."""
    figures = next(iter(groups[0].rows.values())) if groups else {}
    return [
        {
            name: group.name,
            "utterances": group.utterances,
            **{
                figure: {system: row[figure] for system, row in group.rows.items()}
                for figure in figures
                if figure != "seeds"
            },
        }
        for group in groups
    ]


def _group_table(
    groups: Sequence[scores.Group], metric: str
) -> dict[str, dict[str, float]]:
    """{group: {system: percent}}."""
    return {
        group.name: {system: row[metric] for system, row in group.rows.items()}
        for group in groups
    }


def _plots(
    systems: Sequence[System], rows: Mapping[str, Mapping[str, float]], chosen: System
) -> dict[str, bytes]:
    """The data of DVC's plots."""
    accuracy = pd.DataFrame(
        [
            (
                system.name,
                split,
                rows[system.name][f"{split}_accuracy"],
                rows[system.name][f"{split}_accuracy_std"],
                rows[system.name][f"{split}_macro_f1"],
            )
            for split in ("valid", "test")
            for system in systems
        ],
        columns=["system", "split", "accuracy", "std", "macro_f1"],
    )
    test = chosen.predictions[chosen.predictions["split"] == "test"]
    confusion = test.sort_values(["seed", "id"])[["intent", "predicted"]]
    confusion = confusion.rename(columns={"intent": "actual"})
    history = pd.concat(
        [
            system.history.assign(system=system.name)
            for system in systems
            if system.kind in STUDENT_KINDS
        ]
    )
    history.insert(0, "system", history.pop("system"))
    return {
        "plots/accuracy.csv": _csv(accuracy),
        "plots/confusion.csv": _csv(confusion),
        "plots/history.csv": _csv(history),
    }


def _csv(table: pd.DataFrame) -> bytes:
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return text.encode()


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode()


def _write(output: Path, files: Mapping[str, bytes]) -> None:
    """Each file whole, the page last; then drop what only a former report had."""
    for name, data in files.items():
        with atomic_path(output / name) as beside:
            beside.write_bytes(data)
    for name in OPTIONAL_FILES:
        if name not in files:
            (output / name).unlink(missing_ok=True)
