"""The report: figures computed by hand, choices, figures, identity, bad input."""

import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import reports
from markdown_it import MarkdownIt
from matplotlib.image import imread
from reports import (
    DEGRADATIONS,
    ERRORS,
    FRAMES,
    INTENTS,
    PER_SPLIT,
    SLOTS,
    TEACHER_ERRORS,
    build,
    edit_csv,
    edit_json,
    finish,
    finish_all,
    report,
    seal_corpus,
)
from sklearn.metrics import f1_score

from stages.core import metrics
from stages.core.errors import PipelineError
from stages.core.labels import Labels
from stages.core.manifest import read_manifest
from stages.report import run as stage
from stages.report.corpus_table import corpus_table, table1_differences
from stages.report.intervals import (
    f1_influences,
    margins,
    mean_intervals,
    metric_margins,
)
from stages.report.params import ReportParams
from stages.report.projection import capped_perplexity, project
from stages.report.recognition import intent_word_errors
from stages.report.scores import best_by_valid, intent_scores, measure
from stages.report.statistics import (
    calibrate,
    combine,
    compare,
    differences,
    hits,
    mcnemar,
)
from stages.report.systems import HISTORY_COLUMNS, SELECTIONS, System, title_of
from stages.report.utterances import mark_length
from stages.student import params as student_params

INTENTS_ALONE = Labels({"intent": INTENTS})
BASELINE2 = "Baseline-2, acoustic embeddings"


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """Everything a report reads, in one folder; tests that change it take a copy."""
    return build(tmp_path_factory.mktemp("given") / "given")


@pytest.fixture(scope="module")
def written(given, tmp_path_factory) -> tuple[Path, dict]:
    """A report's folder and its results."""
    output = tmp_path_factory.mktemp("out") / "report"
    before = dict(matplotlib.rcParams)
    report(given, output)
    assert dict(matplotlib.rcParams) == before
    return output, results_in(output)


@pytest.fixture
def copied(given, tmp_path) -> Path:
    """A copy of `given` to change."""
    return Path(shutil.copytree(given, tmp_path / "given"))


def results_in(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def summary_in(output: Path) -> str:
    return (output / "results.md").read_text()


def rows_of(text: str, title: str) -> list[list[str]]:
    """The cells of every table row whose first cell has `title`."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    return [row for row in rows if row[0].strip("*") == title]


def by_hand(rows: pd.DataFrame) -> dict[str, float]:
    """Accuracy and macro-F1 in percent: means and deviations over seeds."""
    runs: dict[str, list[float]] = {"accuracy": [], "macro_f1": []}
    for _, one in rows.groupby("seed"):
        actual, predicted = one["intent"], one["predicted"]
        f1 = f1_score(actual, predicted, labels=actual.unique(), average="macro")
        runs["accuracy"].append(100 * (actual == predicted).mean())
        runs["macro_f1"].append(100 * f1)
    means = {name: statistics.mean(values) for name, values in runs.items()}
    return means | {f"{name}_std": statistics.stdev(v) for name, v in runs.items()}


def check_measured(
    given: Path, row: dict, rows: pd.DataFrame, prefix: str = ""
) -> None:
    """`row` has the scores of the predictions `rows`, and their intervals."""
    expected = by_hand(rows)
    assert {key: row[prefix + key] for key in expected} == pytest.approx(
        expected, abs=1e-4
    )
    table = read_manifest(given / "manifest.csv")[["id", "speaker", "text"]]
    rows = rows.merge(table, on="id")
    for metric, width in metric_margins(INTENTS_ALONE, rows).items():
        mean = expected[metric]
        ends = [max(0, mean - width), min(100, mean + width)]
        assert row[f"{prefix}{metric}_interval"] == pytest.approx(ends, abs=1e-4)


def on_test(given: Path, name: str) -> pd.DataFrame:
    """A student's predictions on test."""
    table = pd.read_csv(given / "student" / name / "predictions.csv")
    return table[table["split"] == "test"]


@pytest.mark.parametrize("name", ERRORS)
def test_a_systems_scores_are_means_and_deviations_over_seeds(given, written, name):
    row = dict(written[1]["systems"][name])
    row["test_accuracy_interval"] = row.pop("test_interval")
    check_measured(given, row, on_test(given, name), "test_")
    table = pd.read_csv(given / "student" / name / "predictions.csv")
    valid = by_hand(table[table["split"] == "valid"])
    assert {key: row[f"valid_{key}"] for key in valid} == pytest.approx(valid, abs=1e-4)
    for split, errors in ERRORS[name].items():
        accuracy = 100 * (1 - np.mean(errors) / PER_SPLIT[split])
        assert row[f"{split}_accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert row["seeds"] == 2


# The numbers of the test utterances in some of the groups.
GROUPS = {
    ("wording", "seen"): lambda number: number // 4 % 4 < 2,
    ("wording", "unseen"): lambda number: number // 4 % 4 >= 2,
    ("condition", "clean"): lambda number: number % 2 == 0,
    ("condition", "noise | 5 dB"): lambda number: number % 2 == 1,
    ("length", "over 2.92 s"): lambda number: number >= 15,
}


@pytest.mark.parametrize(("group", "value"), GROUPS)
def test_scores_and_intervals_of_groups(given, written, group, value):
    _, results = written
    groups = results["lengths"] if group == "length" else results["groups"]
    (found,) = (one for one in groups if one.get(group) == value)
    test = on_test(given, "aln-0.8")
    rows = test[GROUPS[group, value](test["id"].str[-2:].astype(int))]
    own = {key: of["aln-0.8"] for key, of in found.items() if isinstance(of, dict)}
    check_measured(given, own, rows)
    assert found["utterances"] == rows["id"].nunique()
    if group == "condition":
        assert results["conditions"][value] == found["accuracy"]
    if group == "wording":
        assert results["wording"][value] == found["accuracy"]
        assert results["wording_macro_f1"][value] == found["macro_f1"]


def test_scores_and_intervals_by_degradation(given, written):
    output, results = written
    table = pd.read_csv(given / "robustness/predictions.csv", keep_default_na=False)
    expected = list(DEGRADATIONS)
    shown = results["robustness"]
    assert [
        (one["degradation"], "" if one["snr"] is None else f"{one['snr']:g}")
        for one in shown
    ] == expected
    for one, (degradation, snr) in zip(shown, expected, strict=True):
        assert list(one["systems"]) == sorted(ERRORS)
        rows = table[(table["degradation"] == degradation) & (table["snr"] == snr)]
        for name, row in one["systems"].items():
            check_measured(given, row, rows[rows["system"] == name])
    text = summary_in(output)
    assert "| system | clean | babble, 10 dB | babble, -5 dB | room |" in text
    means = [f"{mean}.00" for mean in (85, 75, 55, 70)]
    assert ["ALN, α 0.8", *means] in rows_of(text, "ALN, α 0.8")


def test_the_teacher_is_one_run(written):
    row = written[1]["systems"]["baseline1_text"]
    assert row["valid_accuracy"] == pytest.approx(100 * 11 / 12, abs=1e-4)
    assert row["test_accuracy"] == 90.0
    assert row["test_accuracy_std"] == 0.0
    assert row["paper"] == {"atis": 93.73, "fsc": 100.0}


def test_an_intent_without_test_utterances_has_no_scores():
    rows = [
        (1, "a", "yes", "yes"),
        (1, "b", "no", "yes"),
    ]
    table = pd.DataFrame(rows, columns=["seed", "id", "intent", "predicted"])
    scores = intent_scores(table, ["no", "rare", "yes"])
    assert scores["support"].to_list() == [1, 0, 1]
    assert scores.loc["rare", ["precision", "recall", "f1"]].isna().all()
    assert scores.loc["no", "precision"] == 0.0
    assert scores.loc["yes", "precision"] == 50.0
    assert np.nanmean(scores["f1"]) == pytest.approx(100 * (0 + 2 / 3) / 2)


def test_table_1_counts_this_corpus(given, written):
    counts = written[1]["table1"]
    seconds = [1.5 + number / 10 for number in range(20)]
    assert counts["test"] == {
        "utterances": 20,
        "minutes": pytest.approx(sum(seconds) / 60, abs=1e-4),
        "mean_seconds": pytest.approx(sum(seconds) / 20, abs=1e-4),
        "intents": 4,
        "speakers": 3,
        "distinct_texts": 16,
        "texts_shared_with_train": 8,
    }
    assert counts["train"]["distinct_texts"] == 8
    assert "texts_shared_with_train" not in counts["train"]


def test_recordings_set_aside_are_listed_and_counted_nowhere(tmp_path):
    # One that the teacher gets wrong, so its accuracy must change.
    id = "demo/test/00"
    output = tmp_path / "report"
    report(build(tmp_path / "given", unusable=(id,)), output)
    text, results = summary_in(output), results_in(output)
    assert "**1 recording could not be used** and no result" in text
    assert f"| `{id}` | no audio: a \\| b |" in text
    assert results["set_aside"] == 1
    assert results["quarantine"] == [{"id": id, "reason": "no audio: a | b"}]
    assert results["table1"]["test"]["utterances"] == 19
    errors = TEACHER_ERRORS["test"] - 1
    assert results["systems"]["baseline1_text"]["test_accuracy"] == pytest.approx(
        100 * (1 - errors / 19), abs=1e-4
    )


def test_word_errors_by_split_intent_and_word(given, written):
    output, results = written
    table = read_manifest(given / "manifest.csv")
    test = table[table["split"] == "test"]
    words = int(test["text"].str.split().map(len).sum())
    found = results["recognition"]
    assert found["recogniser"] == "a recogniser"
    # "please" is always recognised as "peas", the last word is missing three times.
    assert found["test"] == {
        "word_error_rate": pytest.approx(100 * (len(test) + 3) / words, abs=1e-4),
        "utterances": len(test),
        "empty": 0,
        "words": words,
        "substitutions": len(test),
        "deletions": 3,
        "insertions": 0,
    }
    assert found["valid"]["empty"] == 1
    first = found["confusions"][0]
    assert first == {"said": "please", "recognised": "peas", "times": len(test)}
    rates = [row["word_error_rate"] for row in found["intents"]]
    assert rates == sorted(rates, reverse=True) and len(rates) == len(INTENTS)
    assert sum(row["deletions"] for row in found["intents"]) == 3
    valid, on_test = (found[split]["word_error_rate"] for split in ("valid", "test"))
    assert (
        f"a recogniser: word error rate {valid:.2f}% on valid, {on_test:.2f}% on test"
        in summary_in(output)
    )


def test_an_intent_whose_references_have_no_words_comes_last():
    rows = [("silent", "", ""), ("right", "one two", "one two"), ("wrong", "one", "")]
    table = pd.DataFrame(rows, columns=["intent", "text", "transcript"])
    found = intent_word_errors(table.assign(split="test"))
    assert list(found) == ["wrong", "right", "silent"]
    assert found["silent"].words == 0


def crossed(speakers: int, wordings: int, number: int, seed: int) -> pd.DataFrame:
    """Utterances of some speakers and some wordings."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "speaker": generator.integers(speakers, size=number).astype(str),
            "text": generator.integers(wordings, size=number).astype(str),
        }
    )


def test_margins_are_those_of_all_pairs_that_share_a_speaker_or_a_wording():
    generator = np.random.default_rng(6)
    slots = Labels({"action": ["a", "b", "never"], "object": ["x", "y"]})
    table = crossed(5, 12, 60, seed=6)
    table.loc[50:, "speaker"] = None
    frames = generator.choice(["a|x", "a|y", "b|x", "b|y", "never|y"], (60, 4))
    actual = np.where(frames[:, 0] == "never|y", "b|x", frames[:, 0])
    # Some speakers and some wordings are hard.
    hard = table["speaker"].isin(["0", "1"]) | (table["text"].astype(int) < 4)
    right = generator.random((60, 3)) < np.where(hard, 0.2, 0.9)[:, None]
    runs = np.where(right, actual[:, None], frames[:, 1:])
    rows = pd.concat(
        table.assign(id=range(60), seed=run, intent=actual, predicted=runs[:, run])
        for run in range(3)
    )
    found = metric_margins(slots, rows.sample(frac=1, random_state=1))

    def part(frames: np.ndarray, slot: int) -> np.ndarray:
        return np.array([frame.split("|")[slot] for frame in frames])

    def measure(weights: np.ndarray) -> dict[str, float]:
        """The mean over runs, each utterance with a weight."""
        right = {"accuracy": (runs == actual[:, None]).mean(1)}
        f1 = []
        for place, slot in enumerate(slots.slots):
            true, guesses = part(actual, place), [part(run, place) for run in runs.T]
            right[f"{slot}_accuracy"] = np.mean([true == guess for guess in guesses], 0)
            kwargs = {"labels": np.unique(true), "average": "macro"}
            f1 += [f1_score(true, g, sample_weight=weights, **kwargs) for g in guesses]
        means = {name: np.average(one, weights=weights) for name, one in right.items()}
        return means | {"macro_f1": np.mean(f1)}

    up, down = (
        pd.DataFrame(measure(1 + step * row) for row in np.eye(60))
        for step in (1e-4, -1e-4)
    )
    influences = ((up - down) / 2e-4).to_numpy()
    speakers = table["speaker"].fillna(pd.Series(range(60)).astype(str) + "?")
    both = speakers + "/" + table["text"]
    variance = 0.0
    for sign, names in ((1, speakers), (1, table["text"]), (-1, both)):
        count = names.nunique()
        for one in range(60):
            for other in range(60):
                if names[one] == names[other]:
                    product = influences[one] * influences[other]
                    variance += sign * product * count / (count - 1)
    # The quantile of t with 11 degrees of freedom, one less than the wordings.
    expected = dict(zip(up.columns, 100 * 2.200985 * np.sqrt(variance), strict=True))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_margin_of_macro_f1_is_that_of_drawing_wordings():
    generator = np.random.default_rng(3)
    wordings = generator.integers(120, size=600)
    true = wordings % 6
    easy = generator.random(120)[wordings]
    guess = np.where(
        generator.random(600) < easy, true, generator.integers(6, size=600)
    )
    table = pd.DataFrame({"speaker": None, "text": wordings})
    (found,) = margins(f1_influences(true, guess)[:, None], table)
    members = [np.flatnonzero(wordings == one) for one in range(120)]
    draws = [
        np.concatenate([members[one] for one in generator.integers(120, size=120)])
        for _ in range(1500)
    ]
    deviation = np.std([metrics.macro_f1(true[own], guess[own]) for own in draws])
    # 1.98: of t with 119 degrees of freedom. The deviation is uncertain by 2%.
    assert 100 * found == pytest.approx(1.98 * deviation, rel=0.05)


def test_margins_where_speakers_or_wordings_do_not_vary():
    def found(speakers: str, texts: str, values=(-3, -2, 0, 1, 1, 3)) -> float:
        names = [None if name == "?" else name for name in speakers]
        table = pd.DataFrame({"speaker": names, "text": list(texts)})
        (width,) = margins(np.array(values)[:, None] / 6, table)
        return pytest.approx(width)

    alone = 2.570582 * np.sqrt((9 + 4 + 0 + 1 + 1 + 9) * 6 / 5) / 6
    in_pairs = 4.302653 * np.sqrt((25 + 1 + 16) * 3 / 2) / 6
    assert found("??????", "uvwxyz") == alone
    assert found("aaaaaa", "uvwxyz") == alone
    assert found("abcdef", "uuuuuu") == alone
    assert found("??????", "uuvvww") == in_pairs, "speakers within wordings"
    assert found("aabbcc", "uvwxyz") == in_pairs, "wordings within speakers"
    assert found("aabbcc", "uuvvww") == in_pairs
    assert found("aaaaaa", "uuvvww") == in_pairs
    assert found("aaaaaa", "uuuuuu") == 0, "a single cluster"
    # No wording differs, and the sum of the variances is below that by speaker.
    by_speaker = 12.706205 * np.sqrt((9 + 9) * 2) / 6
    assert found("aaabbb", "uvwuvw", (1, 1, 1, -1, -1, -1)) == by_speaker
    assert found("aabbcc", "uvwxyz", (0,) * 6) == 0


def test_intervals_of_accuracy_end_at_0_and_100():
    rows = pd.DataFrame({"id": ["1", "2"], "seed": 1, "intent": "stop", "text": "stop"})
    rows = rows.assign(speaker=["a", "b"], predicted=["stop", INTENTS[0]])
    found = measure(INTENTS_ALONE, {"": rows}, intervals=True)[""]
    assert found["accuracy_interval"] == (0, 100)


def test_intervals_cover_other_speakers_and_other_wordings():
    generator = np.random.default_rng(7)
    hard, independent = [], []
    for seed in range(20):
        table = crossed(20, 247, 900, seed)
        noise = generator.normal(size=(900, 100))
        effects = sum(
            generator.normal(size=(count, 100))[pd.factorize(table[name])[0]]
            for name, count in (("speaker", 20), ("text", 247))
        )
        for values, covered in ((effects + noise, hard), (noise, independent)):
            # Their means are 0.
            ends = np.array(mean_intervals(values, table))
            covered.append((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
    assert 0.93 <= np.mean(hard) <= 0.97
    # As of the difference of two systems.
    assert 0.93 <= np.mean(independent) <= 0.985


def test_one_seed_has_no_deviation(tmp_path):
    given = build(tmp_path / "given", errors=reports.ONE_SEED)
    report(given, tmp_path / "report")
    text = summary_in(tmp_path / "report")
    assert "±" not in text and "one seed" in text


def test_differences_are_paired_by_utterance_and_seed():
    generator = np.random.default_rng(8)
    one = system_of({seed: generator.integers(2, size=40).tolist() for seed in (1, 2)})
    other = system_of(
        {seed: generator.integers(2, size=40).tolist() for seed in (1, 2)}
    )
    run = system_of({0: [1] * 40})
    found, same, single = differences([(one, other), (one, one), (one, run)])
    hit = 100 * (hits(other).to_numpy() - hits(one).to_numpy().astype(float))
    test = one.test.drop_duplicates("id").sort_values("id")
    for prefix, rows in (("", slice(None)), ("unseen_", slice(20, None))):
        assert found[f"{prefix}difference"] == pytest.approx(hit[rows].mean(), abs=1e-4)
        (ends,) = mean_intervals(hit[rows].mean(1)[:, None], test[rows])
        assert found[f"{prefix}difference_interval"] == pytest.approx(ends, abs=1e-4)
    assert same["difference_interval"] == same["unseen_difference_interval"] == (0, 0)
    errors = 100 - 100 * hits(one).to_numpy().mean()
    assert single["difference"] == pytest.approx(errors, abs=1e-4)
    seen = replace(one, predictions=one.predictions.assign(wording="seen"))
    (none,) = differences([(seen, seen)])
    assert none["unseen_difference"] is none["unseen_difference_interval"] is None


def test_each_system_is_compared_with_baseline_2(written):
    output, results = written
    (pair,) = (
        row
        for row in results["significance"]
        if (row["first"], row["second"]) == ("baseline2", "aln-0.8")
    )
    found = results["systems"]["aln-0.8"]["against_baseline2"]
    assert found.items() <= pair.items() and found["difference"] == 20
    low, high = found["difference_interval"]
    assert low < 0 and low + high == pytest.approx(40), "of three speakers only"
    # All errors are in the first utterances, whose wordings are seen.
    assert found["unseen_difference"] == 0
    cell = f"+20.00 (−{-low:.2f} to +{high:.2f})"
    text = summary_in(output)
    assert [row[4] for row in rows_of(text, "ALN, α 0.8")[:1]] == [cell]
    assert [row[4] for row in rows_of(text, BASELINE2)[:1]] == ["–"]
    assert f"Against Baseline-2 that is {cell} points." in text
    assert "against_baseline2" not in results["systems"]["baseline2"]


def test_mcnemar_is_the_binomial_of_the_discordant():
    # 1 of 7: both tails, 2 (C(7,0) + C(7,1)) / 2^7.
    assert mcnemar(1, 6) == mcnemar(6, 1) == pytest.approx(2 * 8 / 128)
    assert mcnemar(0, 10) == pytest.approx(2 / 1024)
    assert mcnemar(4, 4) == mcnemar(0, 0) == 1.0


def test_seeds_combine_to_twice_their_median():
    assert combine([0.9, 0.01, 0.03]) == pytest.approx(0.06)
    assert combine([0.02, 0.04]) == pytest.approx(0.06)
    assert combine([0.7, 0.6, 0.8]) == 1.0
    assert combine([0.7]) == 0.7


def system_of(
    runs: dict[int, list[int]], name: str = "aln-0.5", confidence: float = 1.0
) -> System:
    """One that gets right, by seed, what is 1 among the utterances of test."""
    rows = [
        (seed, f"{number:02d}", "test", "yes", "yes" if right else "no")
        for seed, run in runs.items()
        for number, right in reversed(list(enumerate(run)))
    ]
    columns = ["seed", "id", "split", "intent", "predicted"]
    table = pd.DataFrame([*rows, (1, "v", "valid", "yes", "no")], columns=columns)
    number = pd.to_numeric(table["id"], errors="coerce").fillna(0).astype(int)
    table["confidence"] = confidence
    table["speaker"], table["text"] = (
        (number % 3).astype(str),
        (number // 2).astype(str),
    )
    table["wording"] = np.where(number < 20, "seen", "unseen")
    return System(name, "aln", 0.5, table, pd.DataFrame())


def test_systems_are_compared_seed_by_seed_and_one_run_with_every_seed():
    one = system_of({2: [1, 1, 1, 1, 1, 1, 0, 0], 1: [1, 1, 1, 1, 1, 0, 0, 0]})
    other = system_of({1: [0, 0, 0, 0, 0, 0, 1, 1], 2: [0, 0, 0, 0, 0, 0, 0, 1]})
    assert hits(one).to_numpy().T.tolist() == [
        [True] * 5 + [False] * 3,
        [True] * 6 + [False] * 2,
    ]
    found = compare(one, other, *differences([(one, other)]))
    assert (found.first_alone, found.second_alone) == (5.5, 1.5)
    # 5 : 2 and 6 : 1, whose p are 58/128 and 16/128.
    assert found.p == pytest.approx((58 + 16) / 128, abs=1e-4)
    teacher = system_of({0: [1, 1, 1, 1, 1, 1, 1, 1]}, "baseline1_text")
    found = compare(teacher, one, *differences([(teacher, one)]))
    assert (found.first_alone, found.second_alone) == (2.5, 0)
    assert found.p == pytest.approx(2 * (2 / 4 + 2 / 8) / 2)


def test_every_pair_of_baselines_and_chosen_systems_is_on_test(written):
    _, results = written
    names = ["baseline1_text", "baseline1_asr", "baseline2", "aln_linguistic-0.5"]
    names.append("aln-0.8")
    pairs = [(row["first"], row["second"]) for row in results["significance"]]
    assert pairs == [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    # Both err on the first utterances: 6 and 8 of Baseline-2, 4 and 2 of ALN. p: 1/2
    # of 0 : 2, and 2/64 of 0 : 6.
    (row,) = (row for row in results["significance"] if row["p"] == 0.5312)
    assert (row["first"], row["second"]) == ("baseline2", "aln-0.8")
    assert (row["first_alone"], row["second_alone"]) == (0, 4)


def test_calibration_error_by_hand():
    # 0.8 closes its bin, 0.81 is in the next; two utterances of five err.
    confidence = np.array([0.75, 0.8, 0.81, 0.3, 1.0])
    right = np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    by_hand = abs(0.75 + 0.8 - 1) + abs(0.81 - 1) + 0.3 + 0
    assert metrics.calibration_error(confidence, right) == pytest.approx(by_hand / 5)
    assert metrics.calibration_error(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.0


def test_confidence_and_calibration_error(written):
    row = written[1]["systems"]["aln-0.8"]
    assert row["test_confidence"] == pytest.approx(90)
    # One bin: 80 and 90% are right at a confidence of 90%.
    assert row["test_calibration_error"] == pytest.approx((10 + 0) / 2)
    assert row["test_calibration_error_std"] == pytest.approx(10 / 2**0.5, abs=1e-4)


def test_rejection_is_shown_by_system_and_the_exported_student_is_named(written):
    output, results = written
    text = summary_in(output)
    assert "rejects at most 5% of the valid commands" in text
    # Seeds 1 and 2 have temperatures 0.75 and 1.25.
    assert rows_of(text, "ALN, α 0.5")[-1][1:] == [
        *("8.00 ± 0.00", "2.00 ± 0.00", "6.00 ± 0.00", "75.00 ± 0.00"),
        *("2.0 ± 0.4", "3.0 ± 0.4", "4.0 ± 0.4"),
    ]
    silence = {"utterances": 30, "seconds": 270.0}
    assert results["rejection"]["others"]["silence"] == silence
    # ALN, α 0.8 has the fewest errors on valid, and of it seed 2.
    assert results["rejection"]["export"] == {
        "student": "aln-0.8",
        "seed": 2,
        "test_accuracy": 81.25,
        "test_accuracy_with_rejection": 75.0,
    }
    row = results["rejection"]["students"][-1]
    assert row["system"] == "aln-0.8" and row["noise_auroc"] == 0.8
    assert (row["temperature"], row["temperature_std"]) == (1, 0.3536)
    assert row["score"] == {"max_probability": 1, "energy": 1}
    ensemble = results["rejection"]["ensembles"][0]
    assert ensemble["system"] == "baseline2" and ensemble["temperature"] == 0.5


def test_confidence_deviates_over_seeds_not_over_utterances():
    system = system_of({1: [1, 1, 0, 1], 2: [1, 0, 0, 1]})
    table = system.predictions.assign(confidence=0.5)
    table.loc[table["seed"] == 2, "confidence"] = [0.6, 0.7, 0.8, 0.9]
    found = calibrate(replace(system, predictions=table))
    assert found["test_confidence"] == pytest.approx(62.5)
    deviation = 100 * statistics.stdev([0.5, 0.75])
    assert found["test_confidence_std"] == pytest.approx(deviation, abs=1e-4)
    single = calibrate(system_of({1: [1, 0]}, confidence=0.5))
    assert single["test_confidence_std"] == single["test_calibration_error_std"] == 0


def test_durations_are_cut_into_quarters_at_the_bounds_shown(written):
    lengths = written[1]["lengths"]
    assert [row["length"] for row in lengths] == [
        "up to 1.98 s",
        "1.98 to 2.45 s",
        "2.45 to 2.92 s",
        "over 2.92 s",
    ]
    assert [row["utterances"] for row in lengths] == [5, 5, 5, 5]
    # All of the teacher's two errors are the shortest.
    shares = [row["accuracy"]["baseline1_text"] for row in lengths]
    assert shares == [60.0, 100.0, 100.0, 100.0]


def test_equal_durations_make_fewer_groups():
    groups = mark_length(pd.Series([1.0, 1.0, 1.0, 1.0, 2.0]))
    assert groups.to_list() == ["up to 1.00 s"] * 4 + ["over 1.00 s"]


def test_known_speakers_are_measured_without_intervals(given, copied, tmp_path):
    ids = read_manifest(copied / "manifest.csv")["id"]
    unknown = ids.str.endswith("0")
    edit_csv(
        copied / "manifest.csv",
        lambda table: table.assign(speaker=table["speaker"].where(~unknown, " ")),
    )
    seal_corpus(copied)
    finish_all(copied)
    report(copied, tmp_path / "report")
    speakers = results_in(tmp_path / "report")["speakers"]
    # Of test, numbers 0 and 10.
    assert [(row["speaker"], row["utterances"]) for row in speakers] == [
        *(("test 0", 6), ("test 1", 6), ("test 2", 6)),
    ]
    test = on_test(given, "aln-0.8")
    number = test["id"].str[-2:].astype(int)
    for place, row in enumerate(speakers):
        own = by_hand(test[(number % 3 == place) & (number % 10 != 0)])
        assert row["accuracy"]["aln-0.8"] == pytest.approx(own["accuracy"], abs=1e-4)
        assert "accuracy_interval" not in row


def test_how_models_are_chosen_is_said(written):
    assert written[1]["selection"] == "best_valid"
    assert "`student.selection` is `best_valid`" in summary_in(written[0])
    assert set(SELECTIONS) == set(student_params.SELECTIONS)


def test_alpha_is_chosen_on_valid_not_on_test(written):
    output, results = written
    systems = results["systems"]
    assert systems["aln-0.5"]["test_accuracy"] > systems["aln-0.8"]["test_accuracy"]
    assert results["best"] == {"aln": "aln-0.8", "aln_linguistic": "aln_linguistic-0.5"}
    assert results["detailed"] == {"system": "aln-0.8", "seed": 2}
    text = summary_in(output)
    assert "The best system on valid is **ALN, α 0.8**: 85.00% on test" in text
    assert "| **ALN, α 0.8** |" in text and "| ALN, α 0.5 |" in text


def test_of_equal_alphas_the_first_shown_is_chosen():
    empty = pd.DataFrame({"seed": [1]})
    systems = [System(f"aln-{a}", "aln", a, empty, empty) for a in (0.8, 0.5)]
    rows = {system.name: {"valid_accuracy": 90.0} for system in systems}
    assert best_by_valid(systems, rows) == {"aln": "aln-0.8"}


@pytest.mark.parametrize(
    ("title", "valid", "test", "atis", "fsc"),
    [
        ("Baseline-1, ground-truth text", "91.67", "90.00", "93.73", "100.00"),
        ("Baseline-1, recognised text", "83.33", "85.00", "89.65", "95.33"),
        (BASELINE2, "62.50 ± 5.89", "65.00 ± 7.07", "85.34", "98.80"),
        ("ALN linguistic, α 0.5", "75.00 ± 0.00", "75.00 ± 0.00", "85.00", "97.20"),
        ("ALN linguistic, α 0.8", "62.50 ± 5.89", "80.00 ± 0.00", "87.75", "98.31"),
        ("ALN, α 0.5", "79.17 ± 5.89", "95.00 ± 0.00", "86.37", "99.02"),
        ("ALN, α 0.8", "87.50 ± 5.89", "85.00 ± 7.07", "90.86", "99.07"),
    ],
)
def test_the_first_table_has_a_row_per_system(written, title, valid, test, atis, fsc):
    row, *others = rows_of(summary_in(written[0]), title)
    assert [row[1], row[2], row[-2], row[-1]] == [valid, test, atis, fsc]
    # Wordings and conditions; of students also degradations and rejection.
    assert len(others) == (2 if title.startswith("Baseline-1") else 4)


def test_the_summary_introduces_the_demo_and_shows_its_figures(written):
    output, results = written
    text = summary_in(output)
    assert "it says nothing about human speech" in text
    for name in ("accuracy", "figure2"):
        assert f"]({name}.png)" in text
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert r"| noise \| 5 dB (10) |" in text, "a pipe breaks a table"
    assert results["encoder"] == [
        {"condition": "8 kHz", "trained": 71.0, "random": 31.0, "log_mel": 27.25},
        {"condition": "unseen voices", "trained": 95.5, "random": 87.0, "log_mel": 60},
        {"pretraining": "phoneme, seen", "percent": 74.5},
        {"pretraining": "word", "percent": 40.0},
    ]


def test_valid_is_measured_on_wordings_unseen_in_training(given, written):
    table = pd.read_csv(given / "student" / "aln-0.8" / "predictions.csv")
    valid = table[table["split"] == "valid"]
    unseen = valid["id"].str[-2:].astype(int) >= 8
    expected = {"seen": by_hand(valid[~unseen]), "unseen": by_hand(valid[unseen])}
    for name, own in expected.items():
        found = written[1]["valid_wording"][name]["aln-0.8"]
        assert found == pytest.approx(own["accuracy"], abs=1e-4)


def test_the_recommended_student_has_rows_of_its_own(tmp_path):
    given = build(tmp_path / "given", errors=reports.WITH_RECOMMENDED)
    output = tmp_path / "report"
    # A history of a later version has more columns.
    for path in given.glob("student/*/history.csv"):
        edit_csv(path, lambda table: table.assign(entropy=1))
    finish_all(given)
    report(given, output)
    text, results = summary_in(output), results_in(output)
    assert results["recommended"] == {
        "system": "aln",
        "alpha": 0.25,
        "changes": {"transfer": "utterance", "standardisation": True},
    }
    assert (
        "Recommended is not in the paper: ALN, α 0.25, with `transfer: utterance`, "
        "`standardisation: true`." in text
    )
    rows, aln = (rows_of(text, title) for title in ("Recommended", "ALN, α 0.8"))
    assert rows[0][2] == "90.00 ± 7.07" and rows[0][-2:] == ["–", "–"]
    assert len(rows) == len(aln)
    assert text.index("| **Recommended** |") > text.index("| ALN, α 0.8 |")
    # The best on valid is shown in detail; Figure 2 stays that of ALN.
    assert results["best"] == {"aln": "aln-0.8", "aln_linguistic": "aln_linguistic-0.5"}
    assert results["detailed"] == {"system": "recommended", "seed": 1}
    assert results["rejection"]["export"]["student"] == "recommended"
    assert "ALN, α 0.8: the transfer loss on valid went from 4 after" in text
    assert ("aln-0.8", "recommended") in [
        (pair["first"], pair["second"]) for pair in results["significance"]
    ]
    confusion = pd.read_csv(output / "plots" / "confusion.csv")
    assert (confusion["actual"] == confusion["predicted"]).mean() == 0.9
    history = pd.read_csv(output / "plots" / "history.csv")
    assert list(history) == ["system", *HISTORY_COLUMNS]
    assert "recommended" in set(history["system"])


def test_transfer_loss_is_equation_1_at_both_epochs(written):
    assert written[1]["transfer_loss"] == pytest.approx({"first": 4.0, "last": 0.25})


def test_data_for_dvc_plots(given, written):
    output, results = written
    history = pd.read_csv(output / "plots" / "history.csv")
    assert list(history) == ["system", *HISTORY_COLUMNS]
    assert len(history) == 2 * 3 * len(ERRORS)
    confusion = pd.read_csv(output / "plots" / "confusion.csv")
    assert list(confusion) == ["actual", "predicted"]
    right = (confusion["actual"] == confusion["predicted"]).mean()
    assert 100 * right == pytest.approx(results["systems"]["aln-0.8"]["test_accuracy"])
    accuracy = pd.read_csv(output / "plots" / "accuracy.csv")
    test = accuracy[accuracy["split"] == "test"].set_index("system")["accuracy"]
    assert test.to_dict() == {
        name: row["test_accuracy"] for name, row in results["systems"].items()
    }


def test_the_same_inputs_give_the_same_bytes_anywhere(given, written, tmp_path):
    moved = Path(shutil.copytree(given, tmp_path / "elsewhere"))
    report(moved, tmp_path / "again")
    first = {p.relative_to(written[0]): p for p in written[0].rglob("*") if p.is_file()}
    names = {p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*")}
    assert names - {Path("plots")} == set(first)
    for name, path in sorted(first.items()):
        assert path.read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_what_was_not_measured_is_not_in_the_report(copied, tmp_path):
    output = tmp_path / "report"
    report(copied, output)
    (output / "notes.txt").write_text("mine")
    (copied / "conditions.csv").write_text("id,condition\n")
    seal_corpus(copied)
    absent = {"encoder_scores": None, "robustness": None, "rejection": None}
    report(copied, output, name="mine", **absent)
    assert not (output / "robustness.png").exists()
    assert (output / "notes.txt").read_text() == "mine"
    results = results_in(output)
    assert results["robustness"] == [] and results["conditions"] == {}
    assert results["rejection"] == {} and results["encoder"] == []
    text = summary_in(output)
    for absent in ("noise", "Rejection", "rejected", "temperature", "Condition"):
        assert absent not in text
    assert "The paper has no figures for this corpus" in text


def forbid_measuring(monkeypatch) -> None:
    monkeypatch.setattr(stage, "_measure", lambda *_: pytest.fail("measured again"))


def test_a_report_that_is_up_to_date_is_not_made_again(
    given, tmp_path, monkeypatch, snapshot
):
    output = tmp_path / "report"
    first = report(given, output)
    assert str(first) == (
        f"{output / 'index.html'}: ALN, α 0.8 has 85.00% on test and 87.50% on valid"
    )
    (output / "notes.txt").write_text("mine")
    before = snapshot(output)
    assert json.loads(before["identity.json"])["files"].keys() == (
        before.keys() - {"identity.json", "notes.txt", "index.html"}
    )
    forbid_measuring(monkeypatch)
    again = report(given, output)
    assert again == replace(first, up_to_date=True)
    assert str(again).startswith(f"{output / 'index.html'}: up to date; ALN, α 0.8 has")
    assert snapshot(output) == before
    with pytest.raises(pytest.fail.Exception):
        report(given, output, force=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda given, _: edit_csv(given / "conditions.csv", lambda t: t.iloc[::-1]),
        lambda given, _: edit_json(given / "encoder.json", recipe={}),
        lambda given, _: edit_json(given / "targets.json", by=1),
        lambda given, _: finish(given / "teacher", seed=2),
        lambda given, _: finish(given / "baseline1", recogniser="another"),
        lambda _, output: (output / "plots" / "history.csv").unlink(),
        lambda _, output: (output / "results.md").write_text("damaged"),
        lambda _, output: (output / "index.html").unlink(),
    ],
)
def test_what_changes_a_report_makes_it_stale(
    given, written, tmp_path, monkeypatch, change
):
    copy = Path(shutil.copytree(given, tmp_path / "given"))
    output = Path(shutil.copytree(written[0], tmp_path / "report"))
    forbid_measuring(monkeypatch)
    assert report(copy, output).up_to_date
    change(copy, output)
    with pytest.raises(pytest.fail.Exception):
        report(copy, output)


NO_AUDIO = ReportParams(audio="none", seed=1)


def test_other_parameters_make_a_report_stale(given, written, monkeypatch):
    forbid_measuring(monkeypatch)
    for params in (NO_AUDIO, replace(NO_AUDIO, audio="linked")):
        with pytest.raises(pytest.fail.Exception):
            report(given, written[0], params)


def test_titles_of_systems():
    assert title_of("baseline2") == BASELINE2
    assert title_of("aln_linguistic-0.25") == "ALN linguistic, α 0.25"


def change_file(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: shutil.rmtree(g / "teacher"), "no finished .*dvc repro teacher"),
        (lambda g: change_file(g / "student/aln-0.8/history.csv"), "not as its stage"),
        (
            lambda g: (g / "baseline1/transcripts.csv").unlink(),
            "baseline1: not as .*dvc repro baseline1",
        ),
        (
            lambda g: (g / "targets.json").write_text("{}"),
            "targets.json: no shares .*dvc repro targets",
        ),
        (
            lambda g: (g / "targets.json").unlink(),
            "targets.json: no shares .*dvc repro targets",
        ),
        (lambda g: change_file(g / "manifest.csv"), "teacher: made from another manif"),
        (
            lambda g: change_file(g / "quarantine.csv"),
            "baseline1: made from another quarantine",
        ),
        (
            lambda g: finish(g / "student/aln-0.5", seeds=[3], selection="best_valid"),
            "robustness: made from another student aln-0.5 .*dvc repro robustness",
        ),
        (
            lambda g: change_file(g / "rejection/rejection.json"),
            "rejection: not as its stage .*dvc repro rejection",
        ),
        (
            lambda g: change_file(g / "conditions.csv"),
            "conditions.csv: not as it was written.*prepare-corpus",
        ),
    ],
)
def test_what_cannot_be_used_is_named(copied, tmp_path, change, message):
    change(copied)
    check_refused(copied, tmp_path, message)


def test_students_with_other_seeds_are_not_compared(copied, tmp_path):
    finish(copied / "student/aln-0.8", seeds=[1, 2], selection="last")
    with pytest.raises(PipelineError, match=r"aln-0.8 and baseline2 .*selection"):
        report(copied, tmp_path / "report", robustness=None, rejection=None)


def test_encoder_scores_without_a_control_are_refused(copied, tmp_path):
    edit_json(copied / "encoder.json", conditions={"clean": {"trained": 90.0}})
    check_refused(copied, tmp_path, "encoder.json: not the scores of an encoder")


def check_refused(given: Path, tmp_path: Path, message: str) -> None:
    """The error has `message`, and the previous report stays as it was."""
    output = tmp_path / "report"
    output.mkdir()
    (output / "results.md").write_text("previous")
    with pytest.raises(PipelineError, match=message):
        report(given, output)
    assert [path.name for path in output.iterdir()] == ["results.md"]
    assert (output / "results.md").read_text() == "previous"


@pytest.mark.parametrize(("teachers", "students"), [(1, 1), (2, 1), (3, 5)])
def test_few_points_can_be_projected(teachers, students):
    generator = np.random.default_rng(3)
    teacher = generator.normal(size=(teachers, 4))
    student = generator.normal(size=(students, 4))
    perplexity = capped_perplexity(30.0, teachers + students)
    placed = project(teacher, student, perplexity=perplexity, seed=0)
    assert [part.shape for part in placed] == [(teachers, 2), (students, 2)]
    assert np.isfinite(np.concatenate(placed)).all()


def test_perplexity_is_lowered_only_for_few_points(written):
    assert capped_perplexity(30.0, 91) == 30.0
    assert capped_perplexity(30.0, 90) == pytest.approx(89 / 3)
    assert written[1]["perplexity"] == [30.0, pytest.approx(23 / 3)]


def test_joint_projection_keeps_near_what_is_near():
    generator = np.random.default_rng(1)
    centres = 10 * np.eye(3, 8).repeat(15, axis=0)
    teacher = centres + generator.normal(scale=0.1, size=centres.shape)
    student = centres + generator.normal(scale=0.1, size=centres.shape)
    left, right = project(teacher, student, perplexity=8.0, seed=0)
    distances = np.linalg.norm(left[:, None] - right[None], axis=-1)
    assert (distances.argmin(axis=1) // 15 == np.arange(45) // 15).all()


HOSTILE = [
    *("$x$ $\\frac{1$", "a`b", "``", "<script>alert(1)</script>", "[x](http://a.b)"),
    *("a|b", "**bold**", "\u202e\u0627\u0628\u200f", "back\\", "# head", "_silence_"),
    300 * "W",
]


def test_hostile_labels_break_neither_summary_nor_figures(written, tmp_path, caplog):
    given = build(tmp_path / "given", intents=HOSTILE, conditions=tuple(HOSTILE))
    scores = given / "baseline1" / "scores.json"
    scores.write_text(json.dumps({"recogniser": "<i>*mine*</i> [a](b)"}))
    finish_all(given)
    output = tmp_path / "report"
    report(given, output, replace(NO_AUDIO, tsne_intents=10))

    def tokens(folder: Path) -> list:
        parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
        blocks = parser.parse(summary_in(folder))
        return blocks + [one for block in blocks for one in block.children or ()]

    found, usual = tokens(output), tokens(written[0])
    # Only our own headings, emphasis and pictures.
    for kind in ("heading_open", "strong_open", "em_open", "image", "link_open"):
        assert sum(one.type == kind for one in found) == sum(
            one.type == kind for one in usual
        )
    assert not {"html_block", "html_inline", "s_open"} & {one.type for one in found}
    shown = "".join(one.content for one in found if one.type == "text")
    for condition in HOSTILE:
        assert condition.replace("\u202e", "[U+202E]") in shown
    assert not caplog.records
    for path in output.glob("*.png"):
        picture = imread(path)
        assert max(picture.shape) < 2200, path
        edges = [picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]]
        assert all((edge == 1).all() for edge in edges), path


@pytest.fixture
def slotted(tmp_path) -> Path:
    """Everything a report of a corpus with slots reads."""
    given = tmp_path / "given"
    return build(given, intents=FRAMES, slots=SLOTS, held_out=(FRAMES[-1],))


def test_a_corpus_with_slots_is_measured_by_frame_and_by_slot(slotted, tmp_path):
    output = tmp_path / "report"
    report(slotted, output)
    results = results_in(output)
    # Four and two of 20 are wrong: two and one of them have another action.
    row = results["systems"]["aln-0.8"]
    slots = {"action": (90, 95), "object": (80, 90), "where": (90, 95)}
    for slot, runs in slots.items():
        assert row[f"test_{slot}_accuracy"] == statistics.mean(runs)
        deviation = pytest.approx(statistics.stdev(runs), abs=1e-4)
        assert row[f"test_{slot}_accuracy_std"] == deviation
    assert row["test_accuracy"] == row["test_object_accuracy"] == 85
    assert row["test_interval"] == row["test_object_accuracy_interval"]
    assert row["test_where_accuracy_interval"][0] > row["test_interval"][0]
    test = on_test(slotted, "aln-0.8")
    parts = {
        name: test[name].str.split("|", expand=True) for name in ("intent", "predicted")
    }
    by_slot = [
        by_hand(test.assign(intent=parts["intent"][n], predicted=parts["predicted"][n]))
        for n in range(3)
    ]
    mean = statistics.mean(one["macro_f1"] for one in by_slot)
    assert row["test_macro_f1"] == pytest.approx(mean, abs=1e-4)

    # One run gets an utterance of the five wrong whose combination train lacks.
    assert results["combinations"]["unseen"]["aln-0.8"] == 90
    assert results["combinations"]["seen"]["aln-0.8"] == pytest.approx(83.3333)
    text = summary_in(output)
    assert "| system | seen (15) | unseen (5) |" in text
    assert "Frame accuracy and macro-F1 in percent" in text
    counts = results["table1"]
    assert [counts[split]["intents"] for split in ("train", "test")] == [3, 4]
    assert counts["train"]["values"] == dict.fromkeys(SLOTS, 2)


def test_values_are_listed_and_never_frames(slotted, tmp_path):
    output = tmp_path / "report"
    report(slotted, output)
    results = results_in(output)
    (heat,) = (one for one in results["values"] if one["value"] == "heat")
    # Of 10, each seed misses two and one; as many lights are taken for heat.
    assert heat["slot"] == "object" and heat["support"] == 10
    assert heat["recall"] == pytest.approx((80 + 90) / 2)
    assert len(results["values"]) == len(results["recognition"]["intents"]) == 6
    confusion = pd.read_csv(output / "plots" / "confusion.csv")
    assert set(confusion["actual"]) == {
        f"{slot}: {value}"
        for slot, *own in zip(SLOTS, *(f.split("|") for f in FRAMES), strict=True)
        for value in own
    }
    files = [output / "results.json", output / "results.md"]
    texts = [path.read_text() for path in (*files, *output.glob("plots/*.csv"))]
    assert len(texts) == 5
    assert not any(frame in text for text in texts for frame in FRAMES)
    assert "on\\|" not in texts[1] and "off\\|" not in texts[1]
    inputs = reports.inputs_of(slotted)
    manifest = inputs.corpus.read_usable()
    found = stage._measure(NO_AUDIO, inputs, stage._check_inputs(inputs), manifest)
    assert found.projection.shown == ["off", "on"]


def test_published_corpora_are_compared_with_table_1():
    counts = {"utterances": 23132, "minutes": 882.951, "mean_seconds": 2.2902}
    fsc = {
        "train": counts | {"intents": 31},
        "valid": counts | {"intents": 31},
        "test": {
            "utterances": 3790,
            "minutes": 154.58,
            "mean_seconds": 2.45,
            "intents": 31,
        },
    }
    assert table1_differences("fsc", fsc) == [
        "test, utterances: 3,790, the paper has 3,793 (−3)"
    ]
    assert "- test, utterances: 3,790" in corpus_table("fsc", fsc)
    fsc["test"]["utterances"] = 3793
    assert "Train and test match the paper's" in corpus_table("fsc", fsc)
