"""The page's first table of results: accuracy and macro-F1 by system, with notes."""

from stages.core.markdown import escape
from stages.report.findings import Findings
from stages.report.markdown import (
    format_difference,
    format_interval,
    format_p,
    format_percent,
    format_spread,
    format_table,
)
from stages.report.published import CORPORA, WORD_ERROR_RATE, published_accuracy
from stages.report.statistics import DRAWS, INTERVAL
from stages.report.systems import SELECTIONS, System


def accuracy_section(found: Findings) -> str:
    """The table, notes and the figure."""
    notes = [
        f"{found.accuracy.capitalize()} and macro-F1 in percent; students: "
        f"{found.over_seeds}. Macro-F1 is the mean over the {found.classes} that occur "
        "in the split.",
        f"The {INTERVAL} is for the mean over seeds, by the percentile bootstrap over "
        f"test utterances ({DRAWS:,} draws, each utterance with the predictions of "
        "every seed). It shows how the result could vary with other utterances; the "
        "standard deviation shows how it varies with the seed. Utterances of one "
        "speaker are similar, so the interval is too narrow for other speakers. The "
        "interval of macro-F1 is slightly too low, since resamples omit utterances.",
        _selection_note(found),
        _gain_note(found),
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
                format_spread(row, "test_macro_f1"),
                format_interval(row["test_macro_f1_interval"]),
                *(format_percent(published.get(name)) for name in CORPORA),
            ]
        )
    valid, test = "valid", "test"
    if found.labels.has_slots:
        valid, test = f"valid {found.accuracy}", f"test {found.accuracy}"
    header = ["system", valid, "valid macro-F1", test, f"{test}, {INTERVAL}"]
    header += ["test macro-F1", f"test macro-F1, {INTERVAL}"]
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


def _gain_note(found: Findings) -> str:
    """The chosen system compared with Baseline-2 on test."""
    chosen, utterances = found.chosen, found.table1["test"]["utterances"]
    gain = (
        found.rows[chosen.name]["test_accuracy"]
        - found.rows["baseline2"]["test_accuracy"]
    )
    (p,) = (
        pair.p
        for pair in found.comparisons
        if (pair.first, pair.second) == ("baseline2", chosen.name)
    )
    return (
        f"On test, {chosen.title} differs from Baseline-2 by {format_difference(gain)} "
        f"points ({utterances:,} utterances; one is {100 / utterances:.2f} points); "
        f"p {format_p(p)}, see below."
    )


def _recognition_note(found: Findings) -> str:
    rates = " and ".join(
        f"{rate:.2f}% on {CORPORA[name]}" for name, rate in WORD_ERROR_RATE.items()
    )
    return (
        f"Recognised text: {escape(found.recogniser)}, word error rate on test "
        f"{found.word_errors['test'].rate:.2f}%; the paper's is {rates}."
    )
