"""Sections on test accuracy by wording, condition, degradation, length and so on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stages.core.markdown import code, escape
from stages.report.findings import Findings
from stages.report.intervals import INTERVAL
from stages.report.markdown import (
    format_interval,
    format_short_table,
    format_spread,
    format_table,
)
from stages.report.params import MOST_CONFUSED
from stages.report.scores import Group
from stages.report.systems import System


def wording_sections(found: Findings) -> list[str]:
    """By wording seen or unseen in training, and by condition where it is known."""
    wording, conditions = found.groups["wording"], found.groups["condition"]
    utterances = sum(group.utterances for group in wording)
    unseen = sum(group.utterances for group in wording if group.name == "unseen")
    test = found.table1["test"]
    on_valid = (group for group in found.valid_wording if group.name == "unseen")
    sections = [
        "## Wordings seen and unseen in training"
        + (", and conditions" if conditions else ""),
        f"Test has {test['distinct_texts']:,} wordings; "
        f"{test['texts_shared_with_train']:,} of them also occur in train, so the "
        f"teacher was trained on them too. {unseen:,} of {utterances:,} test "
        f"utterances have a wording unseen in training. {found.accuracy.capitalize()} "
        f"in percent, {found.over_seeds}. {_last_row_note(found)}",
        _groups_table(found, wording, " wording", [*on_valid]),
        *_combination_parts(found),
    ]
    if conditions:
        sections += [
            f"{found.accuracy.capitalize()} by the condition of the recording:",
            _groups_table(found, conditions),
        ]
    return sections


def slot_sections(found: Findings) -> list[str]:
    """Test accuracy by slot; nothing without slots."""
    if not found.labels.has_slots:
        return []
    columns = [(found.rows, f"test_{slot}_accuracy") for slot in found.labels.slots]
    header = ["system", *map(escape, found.labels.slots)]
    return [
        "## Accuracy by slot",
        f"Test accuracy of each slot, in percent, {found.over_seeds}. "
        f"{_last_row_note(found)}",
        _systems_table(found, found.systems, header, columns),
    ]


def _combination_parts(found: Findings) -> list[str]:
    """By combination of values seen or unseen in training; nothing without slots."""
    groups = found.groups["combination"]
    if not groups:
        return []
    unseen = sum(group.utterances for group in groups if group.name == "unseen")
    utterances = sum(group.utterances for group in groups)
    text = (
        f"{unseen:,} of {utterances:,} test utterances have a combination of values "
        "unseen in training; each single value occurs there."
    )
    if not unseen:
        return [text]
    return [text, _groups_table(found, groups, " combination")]


def robustness_sections(found: Findings) -> list[str]:
    """The students by degradation; nothing if it was not measured."""
    if not found.robustness:
        return []
    header = ["system", *(escape(scores.title) for scores in found.robustness)]
    columns = [(scores.rows, "accuracy") for scores in found.robustness]
    return [
        "## Robustness",
        "Test recordings with added noise or reverberation, classified by the students "
        "above, which were trained on the original recordings (`clean`). The "
        "signal-to-noise ratio compares the mean squares of speech and noise over the "
        "whole recording; reverberation keeps a recording's length and power. "
        f"{found.accuracy.capitalize()} in percent, {found.over_seeds}. "
        f"{_last_row_note(found)}",
        _systems_table(found, found.students, header, columns),
        "![Accuracy by degradation](robustness.png)",
    ]


def length_sections(found: Findings) -> list[str]:
    """By duration; nothing if all recordings are about equally long."""
    lengths = found.groups["length"]
    if len(lengths) < 2:
        return []
    return [
        "## Length",
        f"Test {found.accuracy} in percent by the recording's duration, in quarters of "
        f"test; {found.over_seeds}. {_last_row_note(found)}",
        _groups_table(found, lengths),
    ]


def speaker_sections(found: Findings) -> list[str]:
    """By speaker; nothing if fewer than two are known."""
    speakers, chosen = found.groups["speaker"], found.chosen.name
    if len(speakers) < 2:
        return []
    rows = []
    for system in found.systems:
        means = [group.rows[system.name]["accuracy"] for group in speakers]
        rows.append(
            [system.title, *(f"{end:.2f}" for end in np.quantile(means, (0, 0.5, 1)))]
        )
    listed = [
        [
            code(group.name),
            f"{group.utterances:,}",
            format_spread(group.rows[chosen], "accuracy"),
        ]
        for group in sorted(speakers, key=lambda group: group.rows[chosen]["accuracy"])
    ]
    counts = [group.utterances for group in speakers]
    fewest, most = min(counts), max(counts)
    each = f"{fewest:,} to {most:,}" if fewest < most else f"{most:,}"
    unknown = found.table1["test"]["utterances"] - sum(counts)
    without = f"; of unknown speakers: {unknown:,}" if unknown else ""
    return [
        "## Speakers",
        f"Test {found.accuracy} in percent by speaker, mean over seeds. Speakers: "
        f"{len(speakers):,}; utterances of each: {each}{without}.",
        format_table(["system", "lowest", "median", "highest"], rows),
        f"{found.chosen.title}, the lowest first, {found.over_seeds}:",
        format_short_table(["speaker", "utterances", "accuracy"], listed),
    ]


def intent_sections(found: Findings) -> list[str]:
    """Precision, recall and F1 of every intent, and the confusion matrix.

    With slots, a table for each slot, of the values with the lowest F1.
    """
    chosen, has_slots = found.chosen, found.labels.has_slots
    columns = ["precision", "recall", "F1", "support"]
    sections = [
        f"## {'Values' if has_slots else 'Intents'}: {chosen.title}",
        f"{chosen.title}, with its α chosen on valid. Test, percent, "
        f"{found.over_seeds}; support is the number of test utterances.",
    ]
    for slot, scores in found.values.items():
        if has_slots:
            rows = _value_rows(found, scores.sort_values("f1", kind="stable"))
            sections.append(f"Slot {escape(slot)}, the lowest F1 first:")
            sections.append(format_short_table(["value", *columns], rows))
        else:
            sections.append(format_table([slot, *columns], _value_rows(found, scores)))
    if has_slots and max(found.labels.sizes) > MOST_CONFUSED:
        sections.append(
            f"Of a slot with more than {MOST_CONFUSED} values, the figure shows those "
            f"{MOST_CONFUSED} with the most errors."
        )
    return [*sections, "![Confusion matrix](confusion.png)"]


def _value_rows(found: Findings, table: pd.DataFrame) -> list[list[str]]:
    """A row per intent or value: precision, recall, F1 and support."""
    return [
        [
            code(str(value)),
            *(format_spread(scores, key) for key in ("precision", "recall", "f1")),
            f"{int(scores['support']):,}",
        ]
        for value, scores in table.assign(seeds=len(found.chosen.seeds)).iterrows()
    ]


def _groups_table(
    found: Findings,
    groups: Sequence[Group],
    what: str = "",
    on_valid: Sequence[Group] = (),
) -> str:
    """A column of accuracies per group of test, then per group of valid."""
    header = ["system"]
    for split, shown in (("", groups), ("valid, ", on_valid)):
        header += [
            f"{split}{escape(group.name)}{what} ({group.utterances:,})"
            for group in shown
        ]
    columns = [(group.rows, "accuracy") for group in (*groups, *on_valid)]
    return _systems_table(found, found.systems, header, columns)


def _systems_table(
    found: Findings,
    systems: Sequence[System],
    header: Sequence[str],
    columns: Sequence[tuple[Mapping[str, Mapping[str, Any]], str]],
) -> str:
    """A row per system; the last row has the intervals of the chosen one.

    Args:
        found: names the chosen system.
        systems: of the rows.
        header: of the columns.
        columns: rows by system, and the name of the metric.
    """
    chosen = found.chosen
    rows = [
        [
            system.title,
            *(format_spread(part[system.name], name) for part, name in columns),
        ]
        for system in systems
    ]
    intervals = (part[chosen.name].get(f"{name}_interval") for part, name in columns)
    rows.append([f"{chosen.title}: {INTERVAL}", *map(format_interval, intervals)])
    return format_table(header, rows)


def _last_row_note(found: Findings) -> str:
    """Explains the last row of `_systems_table`."""
    return (
        f"The last row is the {INTERVAL} of {found.chosen.title}; `results.json` has "
        "the intervals of all systems."
    )
