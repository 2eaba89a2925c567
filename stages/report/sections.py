"""Sections on significance, recognition, transfer and the encoder."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stages.core.markdown import code, escape
from stages.core.word_errors import WordErrors
from stages.report.findings import Findings
from stages.report.intervals import INTERVAL
from stages.report.markdown import (
    format_gain,
    format_p,
    format_percent,
    format_short_table,
    format_table,
)
from stages.report.published import CORPORA, WORD_ERROR_RATE, published_accuracy

_CONFUSIONS = 15


def significance_section(found: Findings) -> str:
    """The differences between systems and their significance, a row per pair."""
    titles = {system.name: system.title for system in found.systems}
    rows = [
        [
            f"{titles[pair.first]} : {titles[pair.second]}",
            format_gain(asdict(pair)),
            format_gain(asdict(pair), "unseen_difference"),
            format_p(pair.p),
        ]
        for pair in found.comparisons
    ]
    text = (
        "How many points the second system is ahead of the first on test, and on the "
        f"wordings unseen in training, with {INTERVAL}s; and the p of McNemar's exact "
        "test: the probability of a split at least as uneven, of the utterances that "
        "only one of the two gets right, if both were right equally often."
    )
    if len(found.chosen.seeds) > 1:
        text += (
            " Runs with the same seed are compared; a system with a single run is "
            "compared with every seed. The p shown is twice the median over seeds, at "
            "most 1, which is valid for any dependence between them (Rüger 1978)."
        )
    text += (
        " It counts utterances as independent, and is not corrected for the "
        f"{len(rows)} pairs: for 5% over all of them, require p below "
        f"{0.05 / len(rows):.2g} for each (Bonferroni)."
    )
    header = ["first : second", "difference", "on unseen wordings", "p"]
    return f"{text}\n\n{format_table(header, rows)}"


def recognition_sections(found: Findings) -> list[str]:
    """The recogniser's word errors: by split, by intent, and the most frequent."""
    compared = [
        [
            code(found.corpus),
            found.rows["baseline1_text"]["test_accuracy"],
            found.rows["baseline1_asr"]["test_accuracy"],
            found.word_errors["test"].rate,
        ],
        *(
            [
                f"{title} (paper)",
                published_accuracy("baseline1_text", None)[name],
                published_accuracy("baseline1_asr", None)[name],
                WORD_ERROR_RATE[name],
            ]
            for name, title in CORPORA.items()
        ),
    ]
    counted = ["utterances", "nothing recognised", "words", "substituted", "deleted"]
    counted += ["inserted", "word error rate"]
    confused = [
        [code(said), code(recognised), f"{count:,}"]
        for (said, recognised), count in found.word_errors["test"].confusions
    ]
    sections = [
        "## Speech recognition",
        f"Baseline-1's recogniser: {escape(found.recogniser)}. Test accuracy from the "
        "ground-truth text and from the recogniser's output, and its word error rate, "
        "in percent, as in the paper's Table 2:",
        format_table(
            ["corpus", "ground truth", "ASR output", "word error rate"],
            [[row[0], *map(format_percent, row[1:])] for row in compared],
        ),
        "The word error rate is substitutions, deletions and insertions divided by the "
        "words of the reference; reference and transcript are normalised in the same "
        "way. An utterance in which nothing was recognised is classified as the empty "
        "text.",
        format_table(
            ["split", *counted],
            [[split, *_counts(errors)] for split, errors in found.word_errors.items()],
        ),
    ]
    for slot, values in found.value_word_errors.items():
        rows = [[code(value), *_counts(errors)] for value, errors in values.items()]
        sections += [
            f"Test by {escape(slot)}, the highest word error rate first:",
            format_short_table([escape(slot), *counted], rows),
        ]
    if confused:
        sections += [
            "The most frequent errors on test:",
            format_table(["said", "recognised", "times"], confused[:_CONFUSIONS]),
        ]
    return sections


def transfer_sections(found: Findings) -> list[str]:
    """Figure 2 of the paper, and the transfer loss at both epochs."""
    asked, used = found.projection.asked, found.projection.perplexity
    lowered = (
        f" (lowered from {asked:g}: t-SNE needs three times as many points)"
        if used < asked
        else ""
    )
    first = escape(next(iter(found.labels.slots)))
    coloured = f" Colours are values of {first}." if found.labels.has_slots else ""
    shares = [
        f"{100 * share:.1f}% over {texts}"
        for name, texts in (
            ("train", "the texts of train"),
            ("unseen", "those of valid and test that train lacks"),
        )
        if (share := found.between_intents[name]) is not None
    ]
    between = (
        f" The share of E_lang's variance that lies between intents is "
        f"{', and '.join(shares)}."
        if shares
        else ""
    )
    return [
        "## Transfer",
        "Figure 2 of the paper: the teacher's E_lang and the student's pooled ê_lang "
        "of valid utterances after the first and after the last epoch, "
        f"{found.chosen.title}, first seed. t-SNE, fitted to both sets together, "
        f"perplexity {used:.3g}{lowered}.{coloured} The mean squared error of equation "
        f"1 on valid went from {found.transfer_loss['first']:.4g} after the first "
        f"epoch to {found.transfer_loss['last']:.4g} after the last.{between}",
        "![t-SNE of teacher and student embeddings](figure2.png)",
    ]


def encoder_sections(encoder: Mapping[str, Any]) -> list[str]:
    """The encoder compared with two controls; nothing if it was not measured."""
    if not encoder:
        return []
    columns = ("trained", "random", "log_mel")
    rows = [
        [escape(name), *(format_percent(scores[column]) for column in columns)]
        for name, scores in sorted(encoder["conditions"].items())
    ]
    sections = [
        "## The shipped encoder",
        "Intent accuracy in percent of Baseline-2 on frozen features, by how the test "
        "voices and channels relate to those of pretraining. Two controls: the same "
        "encoder with random weights, and log-mel features.",
        format_table(
            ["condition", "trained encoder", "random encoder", "log-mel"], rows
        ),
    ]
    scores = encoder.get("pretraining_scores")
    if scores:
        sections += [
            "Scores of the pretraining itself on held-out voices and accents, percent: "
            "frames whose phoneme or word is right (higher is better), and the phoneme "
            "error rate of the CTC head (lower is better).",
            format_table(
                ["score", "percent"],
                [[escape(name), f"{value:.4g}"] for name, value in _flatten(scores)],
            ),
        ]
    return sections


def _counts(errors: WordErrors) -> list[str]:
    counts = [errors.utterances, errors.empty, errors.words, errors.substitutions]
    counts += [errors.deletions, errors.insertions]
    return [*(f"{count:,}" for count in counts), format_percent(errors.rate)]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers in nested mappings, sorted, nested names joined by commas."""
    found: list[tuple[str, float]] = []
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{name}, ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
