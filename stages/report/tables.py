"""The page: `results.md`, written from what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from stages.core.manifest import SPLITS
from stages.core.word_errors import WordErrors
from stages.report.published import TABLE1, WORD_ERROR_RATE, published_accuracy
from stages.report.robustness import Spoilt
from stages.report.scores import Group
from stages.report.statistics import BINS, DRAWS, LEVEL, Calibration, Comparison
from stages.report.systems import SELECTIONS, System

NAMES = {"atis": "ATIS", "fsc": "FSC"}
MEASURED = {
    "demo": """\
This is the embedded demonstration corpus. It shows that every stage works and how the
systems compare on equal terms; **it says nothing about human speech**, and the paper's
figures stand beside its own for orientation only.

- Audio: smart-home commands spoken by espeak-ng, a speech synthesiser. No human voice
  is in train, valid or test; the voices of the three splits are disjoint.
- Acoustic encoder: the paper's architecture, pretrained by this project on synthetic
  speech. It is not the encoder of Lugosch et al., which heard human readers.
- Teacher: a small BERT, initialised at random and trained on this corpus's train texts
  alone. It is not `bert-base-uncased`.""",
    "fsc": """\
Fluent Speech Commands (Lugosch et al. 2019), with the split its authors gave it. The
paper's FSC column is on the same corpus.""",
    "atis": """\
ATIS, the recordings of air-travel queries. The paper rearranged train and test so that
every utterance has its recording; the split here need not be that one, so its ATIS
column compares loosely.""",
}
OTHER_CORPUS = """\
The paper has no figures for this corpus; its ATIS and FSC columns stand beside for
orientation."""
TABLE1_ROWS = {
    "utterances": "utterances",
    "minutes": "minutes",
    "mean_seconds": "mean seconds",
    "intents": "intents",
    "speakers": "speakers",
    "distinct_texts": "distinct texts",
    "texts_shared_with_train": "of these also in train",
}
INTERVAL = f"{100 * LEVEL:.0f}% interval"
_NONE = "–"
_LISTED_ROWS = 20
_CONFUSIONS = 15


@dataclass(frozen=True)
class Findings:
    """Everything the page tells.

    Attributes:
        corpus: its name.
        table1: counts by split, of `describe_corpus`.
        set_aside: by id, why a recording could not be used.
        systems: in the order they are shown.
        rows: `evaluate` of each, by name.
        intervals: of test by name and metric, lowest and highest in percent.
        comparisons: the pairs of systems that were tested.
        calibration: of each system, by name.
        best: the better α by kind, `best_by_valid`.
        chosen: the system whose intents are shown in full.
        intents: its `intent_scores`.
        wording: test by whether train has the wording, `heard` and `unheard`.
        lengths: test by duration, shortest first.
        speakers: test by speaker, without intervals; unknown speakers are in no group.
        conditions: test by condition; empty where none are known.
        transfer: Loss_TL on valid at the first and the last epoch; empty without
            a transfer system.
        perplexity: the t-SNE's, asked and used; None without a transfer system.
        robustness: the students by condition; empty where that was not measured.
        encoder: scores beside the shipped encoder; empty without.
        recogniser: of Baseline-1, its name.
        word_errors: its errors on valid and test.
        intent_word_errors: on test by intent, the worst heard first.
    """

    corpus: str
    table1: Mapping[str, Mapping[str, Any]]
    set_aside: Mapping[str, str]
    systems: Sequence[System]
    rows: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    comparisons: Sequence[Comparison]
    calibration: Mapping[str, Calibration]
    best: Mapping[str, str]
    chosen: System
    intents: pd.DataFrame
    wording: Sequence[Group]
    lengths: Sequence[Group]
    speakers: Sequence[Group]
    conditions: Sequence[Group]
    transfer: Mapping[str, float]
    perplexity: tuple[float, float] | None
    robustness: Sequence[Spoilt]
    encoder: Mapping[str, Any]
    recogniser: str
    word_errors: Mapping[str, WordErrors]
    intent_word_errors: Mapping[str, WordErrors]


def page(found: Findings) -> str:
    """The whole page."""
    sections = [
        f"# Intent classification from speech: `{found.corpus}`",
        MEASURED.get(found.corpus, OTHER_CORPUS),
        "## Corpus",
        corpus_table(found.corpus, found.table1),
        *_set_aside_section(found.set_aside),
        "## Accuracy",
        accuracy_section(found),
        "## Significance",
        significance_section(found),
        "## Calibration",
        calibration_section(found),
        "## Unheard wordings" + (" and conditions" if found.conditions else ""),
        groups_section(found),
        "## Speech recognition",
        recognition_section(found),
        *_robustness_sections(found),
        *_length_sections(found),
        *_speaker_sections(found),
        f"## Intents: {found.chosen.title}",
        intents_section(found),
        *_transfer_sections(found),
        "## Training",
        "Accuracy on valid after each epoch, mean over seeds.",
        "![Valid accuracy by epoch](history.png)",
    ]
    if found.encoder:
        sections += ["## The shipped encoder", encoder_section(found.encoder)]
    return "\n\n".join(sections) + "\n"


def _set_aside_section(set_aside: Mapping[str, str]) -> list[str]:
    """The recordings that no figure of the page counts; nothing if there are none."""
    if not set_aside:
        return []
    count = len(set_aside)
    what = "1 recording" if count == 1 else f"{count:,} recordings"
    rows = [[_code(id), _cell(reason)] for id, reason in set_aside.items()]
    return [
        f"**{what} could not be used** and no figure here counts them:",
        _cut_table(["recording", "why"], rows),
    ]


def corpus_table(corpus: str, table1: Mapping[str, Mapping[str, Any]]) -> str:
    """Table 1 for this corpus beside the paper's, and where the two differ."""
    columns = [(f"`{corpus}` {split}", table1[split]) for split in SPLITS]
    columns += [
        (f"{NAMES[name]} {split} (paper)", counts)
        for name, splits in TABLE1.items()
        for split, counts in splits.items()
    ]
    rows = [
        [title, *(format_count(counts.get(key)) for _, counts in columns)]
        for key, title in TABLE1_ROWS.items()
    ]
    table = _table(["", *(name for name, _ in columns)], rows)
    if corpus not in TABLE1:
        return table
    differences = table1_differences(corpus, table1)
    if not differences:
        return f"{table}\n\nTrain and test are the paper's in all of Table 1."
    listed = "\n".join(f"- {line}" for line in differences)
    return f"{table}\n\nWhere this corpus differs from the paper's Table 1:\n\n{listed}"


def table1_differences(
    corpus: str, table1: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Each figure of the paper's Table 1 that this corpus does not have."""
    lines = []
    for split, counts in TABLE1[corpus].items():
        for key, published in counts.items():
            measured = round(table1[split][key], 2)
            if measured != published:
                lines.append(
                    f"{split}, {TABLE1_ROWS[key]}: {format_count(measured)}, "
                    f"the paper has {format_count(published)} "
                    f"({_signed(measured - published)})"
                )
    return lines


def accuracy_section(found: Findings) -> str:
    """One row a system beside the paper's two corpora, and what follows from them."""
    rows = []
    for system in found.systems:
        row = found.rows[system.name]
        starred = len(_of_kind(found, system)) > 1 and system.name in (
            found.best.values()
        )
        published = published_accuracy(system.kind, system.alpha)
        rows.append(
            [
                f"**{system.title}** ★" if starred else system.title,
                _spread(row, "valid_accuracy"),
                _spread(row, "valid_macro_f1"),
                _spread(row, "test_accuracy"),
                _interval(found.intervals[system.name]["accuracy"]),
                _spread(row, "test_macro_f1"),
                _interval(found.intervals[system.name]["macro_f1"]),
                *(_percent(published.get(name)) for name in NAMES),
            ]
        )
    header = ["system", "valid", "valid macro-F1", "test", f"test, {INTERVAL}"]
    header += ["test macro-F1", f"test macro-F1, {INTERVAL}"]
    header += [f"paper, {name} test" for name in NAMES.values()]
    notes = [
        f"Accuracy and macro-F1 in percent; students: {_over(found)}. Macro-F1 is "
        "the mean over the intents that the split has.",
        f"The {INTERVAL} is of the mean over seeds, by the percentile bootstrap over "
        f"test's utterances ({DRAWS:,} draws, an utterance with what every seed "
        "predicts): what other utterances might have given, where the deviation is "
        "what other seeds might. Utterances of one speaker resemble each other, so "
        "that for other speakers it is too narrow. That of macro-F1 lies a little low, "
        "since a resample leaves utterances out.",
        _selection_note(found),
    ]
    notes.append(_compare(found))
    rates = " and ".join(
        f"{rate:.2f}% on {NAMES[name]}" for name, rate in WORD_ERROR_RATE.items()
    )
    notes.append(
        f"Recognised text: {found.recogniser}, word error rate on test "
        f"{found.word_errors['test'].rate:.2f}%; the paper's is {rates}."
    )
    body = "\n\n".join(note for note in notes if note)
    return f"{_table(header, rows)}\n\n{body}\n\n![Accuracy by system](accuracy.png)"


def significance_section(found: Findings) -> str:
    """The tests between systems, a row a pair."""
    titles = {system.name: system.title for system in found.systems}
    rows = [
        [
            f"{titles[pair.first]} : {titles[pair.second]}",
            *(
                _spread(asdict(pair), name, places=1)
                for name in ("first_alone", "second_alone")
            ),
            _p_value(pair.p),
        ]
        for pair in found.comparisons
    ]
    header = ["first : second", "first alone", "second alone", "p"]
    seeds = max(len(system.seeds) for system in found.systems)
    text = [
        "McNemar's exact test on test: how many utterances each of two systems alone "
        f"gets right{', mean ± standard deviation over seeds' * (seeds > 1)}, and the "
        "probability of a split as uneven or more if both were right equally often."
    ]
    if seeds > 1:
        text.append(
            "A seed is held against the same seed, a system of one run against every "
            "seed. The p shown is twice the median over seeds, at most 1, which is "
            "valid however they depend on each other (Rüger 1978)."
        )
    if len(rows) > 1:
        text.append(
            f"It is not corrected for the {len(rows)} pairs: for 5% in all of them "
            f"together, demand p below {0.05 / len(rows):.2g} of each (Bonferroni)."
        )
    return "\n\n".join([" ".join(text), _table(header, rows)])


def calibration_section(found: Findings) -> str:
    """What the systems say of their own accuracy, a row each."""
    rows = [
        [
            system.title,
            _spread(found.rows[system.name], "test_accuracy"),
            *(
                _spread(asdict(found.calibration[system.name]), name)
                for name in ("confidence", "error")
            ),
        ]
        for system in found.systems
    ]
    return "\n\n".join(
        [
            "Confidence is the probability that a system gives its prediction, mean "
            "over test; where it exceeds the accuracy, the system is "
            "overconfident. ECE, the expected calibration error (Guo et al. 2017), is "
            f"the mean distance of accuracy and confidence within {BINS} equally wide "
            "bins of confidence, weighted by utterances. Percent, "
            f"{_over(found)}.",
            _table(["system", "accuracy", "confidence", "ECE"], rows),
        ]
    )


def groups_section(found: Findings) -> str:
    """Test accuracy by wording and by condition, a row a system."""
    utterances = sum(group.utterances for group in found.wording)
    unheard = sum(g.utterances for g in found.wording if g.name == "unheard")
    test = found.table1["test"]
    parts = [
        f"Of the {test['distinct_texts']:,} wordings of test "
        f"{test['texts_shared_with_train']:,} stand in train too, and so reach the "
        f"teacher's training. Of {utterances:,} test utterances {unheard:,} say a text "
        "that no train utterance says. Test accuracy and macro-F1, the latter over the "
        f"intents that the group has, in percent, {_over(found)}. {_last_row(found)}",
        _groups_table(
            found,
            found.wording,
            {"heard": "wording in train", "unheard": "wording not in train"},
            macro_f1=True,
        ),
    ]
    if found.conditions:
        parts += [
            "And accuracy by the condition of the recording:",
            _groups_table(found, found.conditions),
        ]
    return "\n\n".join(parts)


def intents_section(found: Findings) -> str:
    """Precision, recall and F1 of every intent, and the confusion matrix."""
    rows = [
        [
            _code(str(intent)),
            *(_spread(scores, key) for key in ("precision", "recall", "f1")),
            f"{int(scores['support']):,}",
        ]
        for intent, scores in found.intents.assign(
            seeds=len(found.chosen.seeds)
        ).iterrows()
    ]
    why = (
        f"{found.chosen.title} is the system shown, its α chosen on valid. "
        if found.chosen.alpha is not None
        else ""
    )
    return "\n\n".join(
        [
            f"{why}Test, percent, {_over(found)}; support is the number of test "
            "utterances.",
            _table(["intent", "precision", "recall", "F1", "support"], rows),
            "![Confusion matrix](confusion.png)",
        ]
    )


def encoder_section(encoder: Mapping[str, Any]) -> str:
    """How the shipped encoder does against its two controls."""
    rows = [
        [
            _cell(name),
            *(_percent(scores[key]) for key in ("trained", "random", "log_mel")),
        ]
        for name, scores in sorted(encoder["conditions"].items())
    ]
    parts = [
        "Intent accuracy in percent of Baseline-2 on frozen features, by how the test "
        "voices and channels relate to those of pretraining. Two controls: the same "
        "encoder with random weights, and log-mel features.",
        _table(["condition", "trained encoder", "random encoder", "log-mel"], rows),
    ]
    scores = encoder.get("pretraining_scores")
    if scores:
        parts += [
            "Its pretraining's own scores on held-out voices and accents, percent: "
            "frames whose phoneme or word is right, and the phoneme error rate of the "
            "CTC head, of which less is better.",
            _table(
                ["score", "percent"],
                [[_cell(name), f"{value:.4g}"] for name, value in _flat(scores)],
            ),
        ]
    return "\n\n".join(parts)


def recognition_section(found: Findings) -> str:
    """The recogniser's word errors: by split, by intent, and which words."""
    text, asr = (found.rows[f"baseline1_{kind}"] for kind in ("text", "asr"))
    paper = [
        [
            f"`{found.corpus}`",
            _percent(text["test_accuracy"]),
            _percent(asr["test_accuracy"]),
            _percent(found.word_errors["test"].rate),
        ],
        *(
            [
                f"{title} (paper)",
                _percent(published_accuracy("baseline1_text", None)[name]),
                _percent(published_accuracy("baseline1_asr", None)[name]),
                _percent(WORD_ERROR_RATE[name]),
            ]
            for name, title in NAMES.items()
        ),
    ]
    counted = ["utterances", "nothing recognised", "words", "substituted", "deleted"]
    counted += ["inserted", "word error rate"]
    rows = [[split, *_counts(errors)] for split, errors in found.word_errors.items()]
    intents = [
        [_code(intent), *_counts(errors)]
        for intent, errors in found.intent_word_errors.items()
    ]
    confused = [
        [_word(said), _word(heard), f"{count:,}"]
        for (said, heard), count in found.word_errors["test"].confusions[:_CONFUSIONS]
    ]
    parts = [
        f"Baseline-1's recogniser: {found.recogniser}. Accuracy on test from the "
        "ground-truth text and from the recogniser's, and its word error rate there, "
        "in percent, as in the paper's Table 2:",
        _table(["corpus", "ground truth", "ASR output", "word error rate"], paper),
        "The word error rate is substitutions, deletions and insertions over the words "
        "that were said; reference and transcript are normalised alike. An utterance "
        "in which nothing was recognised is classified as the empty text.",
        _table(["split", *counted], rows),
        "Test by intent, the worst heard first:",
        _table(["intent", *counted], intents),
    ]
    if confused:
        parts += [
            "The most frequent errors on test:",
            _table(["said", "recognised", "times"], confused),
        ]
    return "\n\n".join(parts)


def _robustness_sections(found: Findings) -> list[str]:
    """The students by condition; nothing where that was not measured."""
    if not found.robustness:
        return []
    header = ["system", *(_cell(condition.title) for condition in found.robustness)]
    students = [s for s in found.systems if s.name in found.robustness[0].rows]
    tables = [
        _systems_table(
            found, students, header, [(one.rows, metric) for one in found.robustness]
        )
        for metric in ("accuracy", "macro_f1")
    ]
    return [
        "## Robustness",
        "Test with noise added, or in a reverberant room, classified by the students "
        "that were trained on the corpus as it is, which is `clean` here. The ratio is "
        "of the mean squares of speech and noise over all of a recording; in the room "
        "a recording keeps its length and power. Accuracy in "
        f"percent, {_over(found)}. {_last_row(found)}",
        tables[0],
        "![Accuracy by condition](robustness.png)",
        "Macro-F1:",
        tables[1],
    ]


def _length_sections(found: Findings) -> list[str]:
    """Test accuracy by duration; nothing where all last about the same."""
    if len(found.lengths) < 2:
        return []
    return [
        "## Length",
        "Test accuracy in percent by the recording's duration, in quarters of test; "
        f"{_over(found)}. {_last_row(found)}",
        _groups_table(found, found.lengths),
    ]


def _speaker_sections(found: Findings) -> list[str]:
    """Test accuracy by speaker; nothing where fewer than two are known."""
    if len(found.speakers) < 2:
        return []
    rows = []
    for system in found.systems:
        means = [group.rows[system.name]["accuracy"] for group in found.speakers]
        rows.append(
            [system.title, *(f"{end:.2f}" for end in np.quantile(means, (0, 0.5, 1)))]
        )
    chosen = found.chosen.name
    listed = [
        [
            _code(group.name),
            f"{group.utterances:,}",
            _spread(group.rows[chosen], "accuracy"),
        ]
        for group in sorted(found.speakers, key=lambda g: g.rows[chosen]["accuracy"])
    ]
    counts = [group.utterances for group in found.speakers]
    fewest, most = min(counts), max(counts)
    each = f"{fewest:,} to {most:,}" if fewest < most else f"{most:,}"
    unknown = found.table1["test"]["utterances"] - sum(counts)
    without = f"; of unknown speakers: {unknown:,}" * (unknown > 0)
    return [
        "## Speakers",
        "Test accuracy in percent by speaker; mean over seeds. Speakers: "
        f"{len(found.speakers):,}; utterances of each: {each}{without}.",
        _table(["system", "lowest", "median", "highest"], rows),
        f"{found.chosen.title}, the lowest first, {_over(found)}:",
        _cut_table(["speaker", "utterances", "accuracy"], listed),
    ]


def _transfer_sections(found: Findings) -> list[str]:
    if not found.transfer or found.perplexity is None:
        return []
    asked, used = found.perplexity
    lowered = (
        f" (lowered from {asked:g}: t-SNE needs three times as many points)"
        if used < asked
        else ""
    )
    return [
        "## Transfer",
        "Figure 2 of the paper: the teacher's E_lang and the student's pooled ê_lang "
        f"of valid utterances after the first and after the last epoch, "
        f"{found.chosen.title}, first seed. t-SNE, fitted to both sets together, "
        f"perplexity {used:.3g}{lowered}. Between the two epochs the mean squared "
        f"error of equation 1 on valid went from {found.transfer['first']:.4g} to "
        f"{found.transfer['last']:.4g}.",
        "![t-SNE of teacher and student embeddings](figure2.png)",
    ]


def _selection_note(found: Findings) -> str:
    """How models were chosen, without a look at test."""
    selection = found.chosen.selection
    assert selection is not None
    kept = f"Each run keeps {SELECTIONS[selection]}: `student.selection` is "
    alphas = " ★ marks the α with the higher mean accuracy on valid." * any(
        len(_of_kind(found, system)) > 1 for system in found.systems
    )
    return f"{kept}`{selection}`.{alphas} Test chooses nothing."


def _compare(found: Findings) -> str:
    """One sentence: the chosen transfer system against Baseline-2, on test."""
    if "baseline2" not in found.rows or found.chosen.alpha is None:
        return ""
    gain = (
        found.rows[found.chosen.name]["test_accuracy"]
        - found.rows["baseline2"]["test_accuracy"]
    )
    (p,) = (
        pair.p
        for pair in found.comparisons
        if (pair.first, pair.second) == ("baseline2", found.chosen.name)
    )
    return (
        f"On test, {found.chosen.title} differs from Baseline-2 by {_signed(gain)} "
        f"points ({found.table1['test']['utterances']:,} utterances, of which one is "
        f"{100 / found.table1['test']['utterances']:.2f} points); p {_p_value(p)}, see "
        "below."
    )


def _of_kind(found: Findings, system: System) -> list[System]:
    return [other for other in found.systems if other.kind == system.kind]


def _groups_table(
    found: Findings,
    groups: Sequence[Group],
    titles: Mapping[str, str] | None = None,
    *,
    macro_f1: bool = False,
) -> str:
    """A column of accuracies a group, perhaps one of macro-F1 beside each."""
    header, columns = ["system"], []
    for group in groups:
        title = (titles or {}).get(group.name, _cell(group.name))
        header.append(f"{title} ({group.utterances:,})")
        columns.append((group.rows, "accuracy"))
        if macro_f1:
            header.append("macro-F1")
            columns.append((group.rows, "macro_f1"))
    return _systems_table(found, found.systems, header, columns)


def _systems_table(
    found: Findings,
    systems: Sequence[System],
    header: Sequence[str],
    columns: Sequence[tuple[Mapping[str, Mapping[str, Any]], str]],
) -> str:
    """A row a system, a column a metric of a part of test; intervals of the chosen."""
    rows = [
        [
            system.title,
            *(_spread(part[system.name], metric) for part, metric in columns),
        ]
        for system in systems
    ]
    chosen = found.chosen
    rows.append(
        [f"{chosen.title}: {INTERVAL}"]
        + [
            _interval(part[chosen.name][f"{metric}_interval"])
            for part, metric in columns
        ]
    )
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column left, the others right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def _cut_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first rows of a table, and how many there are more."""
    more = len(rows) - _LISTED_ROWS
    table = _table(header, rows[:_LISTED_ROWS])
    return f"{table}\n\nand {more:,} more." if more > 0 else table


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def format_count(value: float | None) -> str:
    """A count as it is, another number to two places, a dash for what is not there."""
    if value is None:
        return _NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _counts(errors: WordErrors) -> list[str]:
    counts = [errors.utterances, errors.empty, errors.words, errors.substitutions]
    counts += [errors.deletions, errors.insertions]
    return [*(f"{count:,}" for count in counts), _percent(errors.rate)]


def _word(text: str) -> str:
    return _code(text) if text else _NONE


def _percent(value: float | None) -> str:
    return _NONE if value is None or pd.isna(value) else f"{value:.2f}"


def _spread(row: Mapping[str, Any], name: str, *, places: int = 2) -> str:
    """Mean ± deviation, the latter where there are several seeds; a dash for NaN."""
    if pd.isna(row[name]):
        return _NONE
    text = f"{row[name]:.{places}f}"
    return text if row["seeds"] == 1 else f"{text} ± {row[f'{name}_std']:.{places}f}"


def _interval(ends: tuple[float, float]) -> str:
    return "{:.2f} to {:.2f}".format(*ends)


def _over(found: Findings) -> str:
    """What the students' figures are; other systems are of one run."""
    seeds = len(found.chosen.seeds)
    return f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"


def _last_row(found: Findings) -> str:
    """What `_systems_table` has below the systems."""
    return (
        f"The last row is the {INTERVAL} of {found.chosen.title}; `results.json` has "
        "those of all systems."
    )


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _signed(value: float) -> str:
    number = f"{abs(value):,}" if isinstance(value, int) else f"{abs(value):,.2f}"
    return ("−" if value < 0 else "+") + number


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Nested names joined by commas, sorted; whatever is no number is left out."""
    found: list[tuple[str, float]] = []
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}, ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
