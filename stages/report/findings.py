"""What the report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stages.core.labels import Labels
from stages.core.word_errors import WordErrors
from stages.report.projection import Projection
from stages.report.rejection import Rejection
from stages.report.robustness import DegradedScores
from stages.report.scores import Group
from stages.report.statistics import Comparison
from stages.report.systems import STUDENT_KINDS, System


@dataclass(frozen=True)
class Findings:
    """The contents of the report.

    Attributes:
        corpus: its name.
        labels: its intents, or slots and their values.
        table1: counts by split, of `describe_corpus`.
        set_aside: by id, why a recording could not be used.
        systems: in the order to show them.
        rows: `evaluate` of each system, by name.
        comparisons: the significance tests.
        best: the name of the system with the better α, by kind.
        chosen: ALN with the better α, which Figure 2 shows.
        detailed: the student that `export` takes, which is shown in detail.
        seed: of its best run on valid, whose errors are listed.
        errors: of `find_errors`.
        recommended: `read_recommended`; None without that student.
        selection: which epoch a student keeps, a key of `SELECTIONS`.
        values: `value_scores` of the detailed student, by slot.
        confusions: its `confusions`.
        calibration: `calibration_bins` of each system, by name.
        groups: test by wording, combination, length, speaker and condition. Speakers
            have no intervals; without conditions or slots there are no such groups.
        valid_wording: valid by wording, without intervals.
        between_intents: the share of the variance of E_lang that lies between intents,
            over the texts of `train` and those `unseen` in training; None if unknown.
        transfer_loss: of the chosen system on valid after the first and last epoch.
        projection: Figure 2, of the chosen system.
        robustness: the students by degradation; empty if not measured.
        rejection: the students' calibration and rejection; None if not measured.
        encoder: the scores of the encoder; empty if not measured.
        recogniser: the name of Baseline-1's.
        provenance: of each result that was read: result, fingerprint of its identity,
            stage, revision (None for features), parameters and inputs.
        encoder_runs: recordings encoded, and how often training read their features.
        word_errors: its errors by split.
        value_word_errors: its errors on test by slot and value, the highest rate
            first.
    """

    corpus: str
    labels: Labels
    table1: Mapping[str, Mapping[str, Any]]
    set_aside: Mapping[str, str]
    systems: Sequence[System]
    rows: Mapping[str, Mapping[str, Any]]
    comparisons: Sequence[Comparison]
    best: Mapping[str, str]
    chosen: System
    detailed: System
    seed: int
    errors: Sequence[Mapping[str, Any]]
    recommended: Mapping[str, Any] | None
    selection: str
    values: Mapping[str, pd.DataFrame]
    confusions: Sequence[Mapping[str, Any]]
    calibration: Mapping[str, Sequence[Mapping[str, Any]]]
    groups: Mapping[str, Sequence[Group]]
    valid_wording: Sequence[Group]
    between_intents: Mapping[str, float | None]
    transfer_loss: Mapping[str, float]
    projection: Projection
    robustness: Sequence[DegradedScores]
    rejection: Rejection | None
    encoder: Mapping[str, Any]
    provenance: Sequence[Mapping[str, Any]]
    encoder_runs: Mapping[str, int]
    recogniser: str
    word_errors: Mapping[str, WordErrors]
    value_word_errors: Mapping[str, Mapping[str, WordErrors]]

    @property
    def students(self) -> list[System]:
        """The systems that were trained on audio."""
        return [one for one in self.systems if one.kind in STUDENT_KINDS]

    @property
    def accuracy(self) -> str:
        """What the accuracy of a whole utterance is called."""
        return "frame accuracy" if self.labels.has_slots else "accuracy"
