"""Sections on confidence: calibration, and what is rejected as none of the intents."""

from stages.core.metrics import BINS
from stages.report.findings import Findings
from stages.report.markdown import format_spread, format_table
from stages.report.rejection import Rejection
from stages.report.systems import title_of

# Of recordings of no intent: the figure's name and places by its title.
_OTHERS = {
    "false accepts": ("false_accepts", 1),
    "AUROC": ("auroc", 3),
    "per hour": ("false_accepts_per_hour", 0),
}


def calibration_sections(found: Findings) -> list[str]:
    """Confidence and calibration error by system; of students also with temperature."""
    rows = [
        [
            system.title,
            *(
                format_spread(found.rows[system.name], f"test_{name}")
                for name in ("accuracy", "confidence", "calibration_error")
            ),
        ]
        for system in found.systems
    ]
    what = "intent"
    if found.labels.has_slots:
        what = "frame, the product over its slots"
    sections = [
        "## Calibration",
        f"Confidence is the probability of the predicted {what}, mean over test; a "
        "system whose confidence exceeds its accuracy is overconfident. ECE, the "
        "expected calibration error (Guo et al. 2017), is the mean distance between "
        f"accuracy and confidence in {BINS} equally wide bins of confidence, weighted "
        f"by utterances. Percent, {found.over_seeds}.",
        format_table(["system", found.accuracy, "confidence", "ECE"], rows),
    ]
    if found.rejection is None:
        return sections
    names = ["temperature", "valid_ece", "valid_ece_calibrated"]
    names += ["test_ece", "test_ece_calibrated"]
    header = ["system", "temperature", "ECE on valid", "with temperature"]
    header += ["ECE on test", "with temperature"]
    return [
        *sections,
        "A temperature for each student and seed, fitted on valid, divides its logits. "
        "ECE before and after: where valid and test differ in difficulty, a "
        "temperature that is right for valid is not for test.",
        format_table(header, _student_rows(found, found.rejection, names)),
    ]


def rejection_sections(found: Findings) -> list[str]:
    """What is rejected as none of the intents; nothing if it was not measured."""
    measured = found.rejection
    if measured is None:
        return []
    names = ["test_rejected", "test_accuracy", "test_accuracy_with_rejection"]
    commands = _student_rows(found, measured, names)
    for system, row in zip(found.students, commands, strict=True):
        row.insert(1, _scores(measured.rows[system.name]["score"]))
    others = [["system"], *([system.title] for system in found.students)]
    for kind in measured.others:
        for title, (name, places) in _OTHERS.items():
            others[0].append(f"{kind}: {title}")
            for system, row in zip(found.students, others[1:], strict=True):
                figures = measured.rows[system.name]
                row.append(format_spread(figures, f"{kind}_{name}", places=places))
    counts = ", ".join(
        f"{kind} ({one['utterances']:,}, {one['seconds'] / 60:.1f} minutes)"
        for kind, one in measured.others.items()
    )
    best = measured.exported
    return [
        "## Rejection",
        "A recording is answered `none` if its score is below a threshold, the highest "
        f"that rejects at most {100 * measured.share:g}% of the valid commands, or if "
        "it is 20 dB quieter than the quietest commands. The "
        "score is the highest probability or the energy of the logits (Liu et al. "
        "2020), whichever separates the commands of valid better from recordings that "
        f"are none of them. Test, percent, {found.over_seeds}; a rejected command "
        "counts as wrong:",
        format_table(
            ["system", "score", "rejected", "accuracy", "accuracy with rejection"],
            commands,
        ),
        f"Recordings that are none of the intents: {counts}. False accepts are those "
        "that are not rejected, in percent and per hour of such audio; AUROC is the "
        "probability that a test command scores higher than such a recording.",
        format_table(others[0], others[1:]),
        f"`aln-pipeline export` takes the best student on valid by default: "
        f"{title_of(best['student'])}, seed {best['seed']}, with "
        f"{best['test_accuracy']:.2f}% on test, and with rejection "
        f"{best['test_accuracy_with_rejection']:.2f}%.",
    ]


def _student_rows(
    found: Findings, measured: Rejection, names: list[str]
) -> list[list[str]]:
    """A row per student, with its title and figures."""
    return [
        [
            system.title,
            *(format_spread(measured.rows[system.name], name) for name in names),
        ]
        for system in found.students
    ]


def _scores(counts: dict[str, int]) -> str:
    """`energy`, or with different ones `energy 2, max probability 1`, of the seeds."""
    names = {name.replace("_", " "): count for name, count in counts.items()}
    if len(names) == 1:
        return next(iter(names))
    return ", ".join(f"{name} {count}" for name, count in names.items())
