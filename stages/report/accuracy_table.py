"""The page's first table of results: accuracy and macro-F1 by system, with notes."""

from stages.core.markdown import code, escape
from stages.report.findings import Findings
from stages.report.intervals import INTERVAL
from stages.report.markdown import (
    format_gain,
    format_interval,
    format_percent,
    format_spread,
    format_table,
)
from stages.report.published import CORPORA, WORD_ERROR_RATE, published_accuracy
from stages.report.systems import SELECTIONS, TITLES, System
from stages.student.params import RECOMMENDED


def accuracy_section(found: Findings) -> str:
    """The table, notes and the figure."""
    notes = [
        f"{found.accuracy.capitalize()} and macro-F1 in percent; students: "
        f"{found.over_seeds}. Macro-F1 is the mean over the {found.classes} that occur "
        "in the split.",
        *_recommended_note(found),
        f"The {INTERVAL} shows how the mean over seeds could vary with other speakers "
        "who say other sentences, the standard deviation how it varies with the seed. "
        "It is from the variance clustered by speaker, where known, and by wording "
        "(Cameron, Gelbach and Miller 2011). The difference from Baseline-2 is in "
        "points, paired by utterance.",
        _selection_note(found),
        _recognition_note(found),
    ]
    if found.labels.has_slots:
        slots = ", ".join(map(escape, found.labels.slots))
        notes.insert(
            0,
            "Frame accuracy is the percentage of utterances with all slots right "
            f"({slots}). It corresponds to the paper's accuracy where the paper's "
            "intents are combinations of values.",
        )
    figure = "![Accuracy by system](accuracy.png)"
    return "\n\n".join([accuracy_table(found), *notes, figure])


def accuracy_table(found: Findings) -> str:
    """A row per system, with the paper's test accuracies on its two corpora."""
    rows = []
    for system in found.systems:
        row = found.rows[system.name]
        published = published_accuracy(system.kind, system.alpha)
        starred = system.name in found.best.values() and _has_rival(found, system)
        rows.append(
            [
                f"**{system.title}** ★" if starred else system.title,
                format_spread(row, "valid_accuracy"),
                format_spread(row, "valid_macro_f1"),
                format_spread(row, "test_accuracy"),
                format_interval(row["test_interval"]),
                format_gain(row.get("against_baseline2")),
                format_spread(row, "test_macro_f1"),
                *(format_percent(published.get(name)) for name in CORPORA),
            ]
        )
    valid, test = "valid", "test"
    if found.labels.has_slots:
        valid, test = f"valid {found.accuracy}", f"test {found.accuracy}"
    header = ["system", valid, "valid macro-F1", test, f"{test}, {INTERVAL}"]
    header += ["against Baseline-2", "test macro-F1"]
    header += [f"paper, {name} test" for name in CORPORA.values()]
    return format_table(header, rows)


def _has_rival(found: Findings, system: System) -> bool:
    """Whether the system was trained with another α too."""
    return sum(other.kind == system.kind for other in found.systems) > 1


def _selection_note(found: Findings) -> str:
    """How epoch and α are chosen, without test."""
    selection = found.selection
    alphas = (
        " ★ marks the α with the higher mean valid accuracy."
        if _has_rival(found, found.chosen)
        else ""
    )
    return (
        f"Each run keeps {SELECTIONS[selection]}: `student.selection` is "
        f"`{selection}`.{alphas} Nothing is chosen on test."
    )


def _recommended_note(found: Findings) -> list[str]:
    """What the student `recommended` is; nothing without it."""
    if found.recommended is None:
        return []
    base = f"{TITLES[found.recommended['system']]}, α {found.recommended['alpha']:g}"
    changes = ", ".join(
        code(f"{name}: {str(value).lower()}")
        for name, value in found.recommended["changes"].items()
    )
    return [
        f"{TITLES[RECOMMENDED]} is not in the paper: {base}"
        f"{f', with {changes}' if changes else ''}."
    ]


def _recognition_note(found: Findings) -> str:
    rates = " and ".join(
        f"{rate:.2f}% on {CORPORA[name]}" for name, rate in WORD_ERROR_RATE.items()
    )
    return (
        f"Recognised text: {escape(found.recogniser)}, word error rate on test "
        f"{found.word_errors['test'].rate:.2f}%; the paper's is {rates}."
    )
