"""`results.json`: every figure of the report, for programs and `dvc metrics`.

Anything too long for a table of metrics is a list, since `dvc metrics show` leaves
lists out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from stages.core.word_errors import WordErrors
from stages.report.findings import Findings
from stages.report.published import published_accuracy
from stages.report.rejection import Rejection
from stages.report.scores import Group
from stages.report.systems import System


def results(found: Findings) -> dict[str, Any]:
    """The contents of `results.json`."""
    wording, conditions = found.groups["wording"], found.groups["condition"]
    combinations = found.groups["combination"]
    of_slots = {
        "slots": list(found.labels.slots),
        "combinations": _group_table(combinations, "accuracy"),
    }
    return {
        **(of_slots if found.labels.has_slots else {}),
        "corpus": found.corpus,
        "table1": found.table1,
        "set_aside": len(found.set_aside),
        "quarantine": [
            {"id": id, "reason": reason} for id, reason in found.set_aside.items()
        ],
        "systems": {system.name: _system(found, system) for system in found.systems},
        "selection": found.selection,
        "best": found.best,
        "detailed": {"system": found.detailed.name, "seed": found.seed},
        **({"recommended": found.recommended} if found.recommended else {}),
        "significance": [asdict(comparison) for comparison in found.comparisons],
        "values": _values(found),
        "confusions": found.confusions,
        "calibration": [
            {"system": name, "bins": bins} for name, bins in found.calibration.items()
        ],
        "lengths": _group_list("length", found.groups["length"]),
        "speakers": _group_list("speaker", found.groups["speaker"]),
        "wording": _group_table(wording, "accuracy"),
        "wording_macro_f1": _group_table(wording, "macro_f1"),
        "valid_wording": _group_table(found.valid_wording, "accuracy"),
        "conditions": _group_table(conditions, "accuracy"),
        "groups": [
            *_group_list("wording", wording),
            *_group_list("condition", conditions),
            *_group_list("combination", combinations),
        ],
        "recognition": _recognition(found),
        "robustness": [
            {"degradation": one.degradation, "snr": one.snr, "systems": one.rows}
            for one in found.robustness
        ],
        "rejection": _rejection(found.rejection),
        "encoder_runs": found.encoder_runs,
        "encoder": _encoder(found.encoder),
        "between_intents": found.between_intents,
        "perplexity": [found.projection.asked, found.projection.perplexity],
        "transfer_loss": found.transfer_loss,
        "provenance": found.provenance,
    }


def _system(found: Findings, system: System) -> dict[str, Any]:
    published = published_accuracy(system.kind, system.alpha)
    row = found.rows[system.name]
    return {**row, "paper": published} if published else dict(row)


def _recognition(found: Findings) -> dict[str, Any]:
    return {
        "recogniser": found.recogniser,
        **{split: _errors(errors) for split, errors in found.word_errors.items()},
        "intents": [
            {"slot": slot, "value": value, **_errors(errors)}
            for slot, values in found.value_word_errors.items()
            for value, errors in values.items()
        ],
        "confusions": [
            {"said": said, "recognised": recognised, "times": count}
            for (said, recognised), count in found.word_errors["test"].confusions
            if count > 1
        ],
    }


def _encoder(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of the encoder, a row each; empty if they were not measured."""
    conditions = sorted(scores.get("conditions", {}).items())
    pretraining = _flatten(scores.get("pretraining_scores", {}))
    return [
        *({"condition": name, **row} for name, row in conditions),
        *({"pretraining": name, "percent": value} for name, value in pretraining),
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers in nested mappings, sorted, nested names joined by commas."""
    found: list[tuple[str, float]] = []
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{name}, ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found


def _values(found: Findings) -> list[dict[str, Any]]:
    """Precision, recall and F1 of every slot's values; null without test utterances.

    Without slots there is one, `intent`.
    """
    return [
        {
            "slot": slot,
            "value": value,
            "seeds": len(found.detailed.seeds),
            **{
                key: None if pd.isna(one) else round(one, 4) for key, one in row.items()
            },
            "support": int(row["support"]),
        }
        for slot, table in found.values.items()
        for value, row in table.to_dict("index").items()
    ]


def _rejection(found: Rejection | None) -> dict[str, Any]:
    """Calibration and rejection; empty if they were not measured."""
    if found is None:
        return {}
    return {
        "share": found.share,
        "others": found.others,
        "export": found.exported,
        "students": [{"system": name, **row} for name, row in found.rows.items()],
        "ensembles": [{"system": name, **row} for name, row in found.ensembles.items()],
    }


def _errors(errors: WordErrors) -> dict[str, Any]:
    """Word errors without the confusions; the rate is null without words."""
    rate = round(errors.rate, 4) if errors.words else None
    counts = asdict(errors)
    del counts["confusions"]
    return {"word_error_rate": rate, **counts}


def _group_list(name: str, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Every group in its order, with every figure of every system."""
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


def _group_table(groups: Sequence[Group], metric: str) -> dict[str, dict[str, float]]:
    """{group: {system: percent}}."""
    return {
        group.name: {system: row[metric] for system, row in group.rows.items()}
        for group in groups
    }
