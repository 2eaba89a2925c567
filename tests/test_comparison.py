"""Two runs compared: figures by hand, what is left out, revisions, bad input."""

import io
import json
import math
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PARAMS, pipeline

from stages.core.errors import PipelineError
from stages.report.comparison import compare_runs, read_run, run
from stages.report.intervals import mean_intervals
from stages.report.predictions import predictions_csv, read_predictions
from stages.report.systems import System, parse_name

INTENTS = ["off", "on", "play"]
COUNT = 60
UTTERANCES = pd.DataFrame(
    {
        "id": [f"u{number:02d}" for number in range(COUNT)],
        "speaker": [
            f"s{number % 7}" if number % 7 else None for number in range(COUNT)
        ],
        "text": [f"words {number % 11}" for number in range(COUNT)],
        "intent": [INTENTS[number % 3] for number in range(COUNT)],
        "wording": "seen",
    }
)
CSV = '''\
id,speaker,text,intent,wording,baseline1_text/0,aln-0.5/1,aln-0.5/2
a,,"play, ""now""",play,unseen,play,on,off
b,s1,lights on,on,seen,off,on,on
'''


def draw(seeds: int, share: float, number: int) -> np.ndarray:
    """Which utterances are right, (utterances, seeds), about `share` of them."""
    return np.random.default_rng(number).random((COUNT, seeds)) < share


def predict(name: str, right: np.ndarray, utterances: pd.DataFrame) -> System:
    """A system with those predictions right; the others are another intent."""
    runs = []
    for place, column in enumerate(right.T):
        wrong = [
            INTENTS[(INTENTS.index(one) + 1 + number % 2) % 3]
            for number, one in enumerate(utterances["intent"], place)
        ]
        predicted = np.where(column, utterances["intent"], wrong)
        runs.append(utterances.assign(seed=place, predicted=predicted, split="test"))
    kind, alpha = parse_name(name)
    return System(name, kind, alpha, pd.concat(runs), pd.DataFrame())


def write_run(
    folder: Path,
    rights: dict[str, np.ndarray],
    utterances: pd.DataFrame = UTTERANCES,
    intents: list[str] = INTENTS,
    **parameters: object,
) -> None:
    """The report of a run, its last system the best ALN."""
    folder.mkdir(parents=True, exist_ok=True)
    systems = [predict(*one, utterances) for one in rights.items()]
    (folder / "predictions.csv").write_bytes(predictions_csv(systems))
    found = {
        "best": {"aln": list(rights)[-1]},
        "provenance": [
            {"result": name, "revision": 1, "parameters": parameters, "inputs": {}}
            for name in rights
        ],
        "values": [{"slot": "intent", "value": intent} for intent in intents],
    }
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs with another best α, two seeds each."""
    folders = tmp_path / "A", tmp_path / "B"
    write_run(folders[0], {"baseline2": draw(2, 0.5, 1), "aln-0.5": draw(2, 0.6, 2)})
    write_run(
        folders[1],
        {
            "aln-0.5": draw(2, 0.7, 3),
            "baseline2": draw(2, 0.9, 4),
            "aln-0.8": draw(2, 0.9, 5),
        },
    )
    return folders


def compared(folders: tuple[Path, Path]):
    return compare_runs(*(read_run(folder.name, folder) for folder in folders))


def exact_p(first: int, second: int) -> float:
    """Of all ways to split the discordant, the share that is as rare as this one."""
    ways = [math.comb(first + second, k) for k in range(first + second + 1)]
    return sum(way for way in ways if way <= ways[first]) / sum(ways)


def text_of(page: str) -> tuple[str, Counter[str]]:
    """What the page shows, and how often it has each element."""
    shown, tags = [], Counter()
    parser = HTMLParser()
    parser.handle_data = shown.append
    parser.handle_starttag = lambda tag, attributes: tags.update([tag])
    parser.feed(page)
    return " ".join(" ".join(shown).split()), tags


def test_predictions_are_a_sorted_table_that_is_read_back(tmp_path):
    rows = pd.read_csv(io.StringIO(CSV), keep_default_na=False)
    rows["speaker"] = rows["speaker"].replace("", None)
    own = rows[["id", "speaker", "text", "intent", "wording"]].assign(split="test")
    valid = own.assign(split="valid", id="v", predicted="on", seed=0)
    systems = []
    for name, seeds in (("baseline1_text", [0]), ("aln-0.5", [2, 1])):
        given = [
            own.assign(seed=seed, predicted=rows[f"{name}/{seed}"])[::-1]
            for seed in seeds
        ]
        given = pd.concat([valid, *given])
        systems.append(System(name, *parse_name(name), given, pd.DataFrame()))
    path = tmp_path / "predictions.csv"
    path.write_bytes(predictions_csv(systems))
    assert path.read_text() == CSV
    found = read_predictions(path)
    assert predictions_csv(list(found.values())) == CSV.encode()
    aln = found["aln-0.5"]
    assert (aln.seeds, aln.alpha, aln.title) == ([1, 2], 0.5, "ALN, α 0.5")
    assert aln.test["speaker"].isna().tolist() == [True, False] * 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("speaker,", "", "columns id, text"),
        ("aln-0.5/2", "aln-0.5/x", "invalid literal"),
        ("aln-0.5/2", "other/2", "other"),
        (",off,on,on", ",off,on", "fields are missing"),
        (",off,on,on", ",off,on,on,on", "Expected 8 fields"),
        ("b,s1", "a,s1", "two rows of a"),
        (CSV, "", "No columns"),
        (CSV, CSV.splitlines()[0], "fields are missing"),
    ],
)
def test_damaged_predictions_are_named(tmp_path, old, new, message):
    path = tmp_path / "predictions.csv"
    path.write_text(CSV.replace(old, new))
    with pytest.raises(PipelineError, match=rf"{path}: .*{message}.*fix: run `dvc"):
        read_predictions(path)


def test_a_report_without_results_is_named(runs):
    results = runs[0] / "results.json"
    results.write_text(results.read_text().replace("aln-0.5", "aln-0.7"))
    with pytest.raises(PipelineError, match=r"results.json: .*these predictions.*'aln"):
        compared(runs)
    results.unlink()
    with pytest.raises(PipelineError, match=r"results.json: .*No such file"):
        compared(runs)


def test_the_figures_are_those_counted_by_hand(runs):
    found = compared(runs)
    rights = {
        "ALN, α 0.5 : ALN, α 0.8": (draw(2, 0.6, 2), draw(2, 0.9, 5)),
        "Baseline-2, acoustic embeddings": (draw(2, 0.5, 1), draw(2, 0.9, 4)),
        "ALN, α 0.5": (draw(2, 0.6, 2), draw(2, 0.7, 3)),
    }
    assert [pair.title for pair in found.pairs] == list(rights)
    assert (found.utterances, found.left_out) == (COUNT, {})
    for pair, (one, other) in zip(found.pairs, rights.values(), strict=True):
        assert pair.accuracies == pytest.approx((100 * one.mean(), 100 * other.mean()))
        gains = 100 * (other.mean(1) - one.mean(1))
        assert pair.compared["difference"] == pytest.approx(gains.mean(), abs=1e-4)
        (interval,) = mean_intervals(gains[:, None], UTTERANCES)
        assert pair.compared["difference_interval"] == pytest.approx(interval, abs=1e-4)
        alone = (one & ~other).sum(0), (other & ~one).sum(0)
        assert pair.compared["first_alone"] == alone[0].mean()
        assert pair.compared["second_alone"] == alone[1].mean()
        ps = [exact_p(*counts) for counts in zip(*alone, strict=True)]
        assert pair.compared["p"] == pytest.approx(min(1, sum(ps)), rel=1e-3)
    best = found.pairs[0].compared
    assert best["p"] < 0.1 and best["difference"] > 0


def test_flips_are_the_utterances_with_another_share_of_right_seeds(tmp_path):
    folders = tmp_path / "A", tmp_path / "B"
    one, other = draw(2, 0.5, 6), draw(4, 0.7, 7)
    write_run(folders[0], {"aln-0.5": one})
    write_run(folders[1], {"aln-0.5": other})
    (pair,) = compared(folders).pairs
    predicted = {
        letter: read_predictions(folder / "predictions.csv")["aln-0.5"].test
        for letter, folder in zip("ab", folders, strict=True)
    }
    expected = []
    for number, row in enumerate(UTTERANCES.fillna("").to_dict("records")):
        right = {"a": sum(one[number]), "b": sum(other[number])}
        if 2 * right["a"] == right["b"]:
            continue
        flip = {key: row[key] for key in ("id", "speaker", "text", "intent")}
        for letter, table in predicted.items():
            votes = Counter(table.loc[table["id"] == row["id"], "predicted"])
            most = max(votes.values())
            flip[f"right_{letter}"] = right[letter]
            flip[f"predicted_{letter}"] = min(
                name for name, count in votes.items() if count == most
            )
        expected.append((right["b"] - 2 * right["a"], row["id"], flip))
    found = [{key: flip[key] for key in sorted(flip)} for flip in pair.flips]
    assert found == [dict(sorted(flip.items())) for *_, flip in sorted(expected)]
    assert 10 < len(found) < COUNT


@pytest.mark.parametrize(("first", "second", "pairs"), [(1, 3, 3), (3, 2, 2)])
def test_seeds_are_paired_by_their_place(tmp_path, first, second, pairs):
    folders = tmp_path / "A", tmp_path / "B"
    one, other = draw(first, 0.5, 8), draw(second, 0.7, 9)
    write_run(folders[0], {"aln-0.5": one})
    write_run(folders[1], {"aln-0.5": other})
    (pair,) = compared(folders).pairs
    alone = [sum(one[:, k % first] & ~other[:, k]) for k in range(pairs)]
    assert pair.compared["seeds"] == pairs
    assert pair.compared["first_alone"] == pytest.approx(np.mean(alone), abs=1e-4)
    # Every seed counts in the accuracies.
    assert pair.accuracies == pytest.approx((100 * one.mean(), 100 * other.mean()))


def test_only_common_utterances_with_the_same_intent_count(tmp_path):
    folders = tmp_path / "A", tmp_path / "B"
    right = draw(1, 0.5, 10)
    write_run(folders[0], {"aln-0.5": right})
    changed = UTTERANCES.iloc[2:].copy()
    changed.loc[5, "intent"] = "off"  # was play
    changed.loc[9, "id"] = "u99"
    write_run(folders[1], {"aln-0.5": right[2:]}, changed)
    found = compared(folders)
    assert found.left_out == {
        "only in A": ["u00", "u01", "u09"],
        "only in B": ["u99"],
        "with another intent": ["u05"],
    }
    kept = np.delete(right, [0, 1, 5, 9], axis=0)
    assert found.utterances == len(kept)
    assert found.pairs[0].accuracies == pytest.approx([100 * kept.mean()] * 2)
    assert found.pairs[0].flips == []
    run(("A", "B"), folders, output=tmp_path)
    shown, _ = text_of((tmp_path / "comparison.html").read_text())
    assert "Left out: 3 only in A , u00, u01, u09 ." in shown


def test_runs_of_other_corpora_are_refused(runs, tmp_path):
    rights = {"aln-0.5": draw(1, 0.5, 1)}
    write_run(tmp_path / "C", rights, UTTERANCES.assign(id=UTTERANCES["id"] + "x"))
    with pytest.raises(PipelineError, match=r"no test utterance in common.*60 only in"):
        compared((runs[0], tmp_path / "C"))
    write_run(tmp_path / "C", rights, intents=[*INTENTS, "stop"])
    with pytest.raises(PipelineError, match=r"A and C differ.*: stop in only"):
        compared((runs[0], tmp_path / "C"))


def test_what_differs_is_shown_once_for_all_results(tmp_path):
    rights = {"baseline2": draw(1, 0.5, 1), "aln-0.5": draw(1, 0.5, 1)}
    folders = tmp_path / "A", tmp_path / "B"
    write_run(folders[0], rights, epochs=40, same=[0.5], gone={"deep": None})
    write_run(
        folders[1], {**rights, "recommended": draw(1, 0.5, 1)}, epochs=5, same=[0.5]
    )
    path = folders[1] / "results.json"
    found = json.loads(path.read_text())
    found["best"]["aln"] = "aln-0.5"
    found["provenance"][0] |= {
        "revision": 2,
        "inputs": {"manifest": "0123456789abcdefg", "student aln-0.5": "0"},
    }
    path.write_text(json.dumps(found))
    result = compared(folders)
    both = ["baseline2", "aln-0.5"]
    assert result.settings == [
        ("epochs", both, "40", "5"),
        ("gone.deep", both, "null", "–"),
        ("input manifest", ["baseline2"], "–", "0123456789abcdef"),
        ("revision of the code", ["baseline2"], "1", "2"),
    ]
    assert result.unpaired == ([], ["recommended"])
    run(("A", "B"), folders, output=tmp_path)
    shown, _ = text_of((tmp_path / "comparison.html").read_text())
    assert "epochs baseline2, aln-0.5 40 5" in shown
    assert "Systems that only B has: Recommended" in shown


def test_the_page_shows_hostile_text_as_text_and_is_the_same_twice(tmp_path):
    hostile = "<script>alert(1)</script>&lt;'\"`$x$\u202e{{ 7 * 7 }}"
    table = UTTERANCES.assign(
        **{name: UTTERANCES[name].fillna("") + hostile for name in ("speaker", "text")},
        id=UTTERANCES["id"] + hostile,
    )
    names = f"A{hostile}", f"B{hostile}"
    folders = tmp_path / "A", tmp_path / "B"
    for number, folder in enumerate(folders):
        write_run(folder, {"aln-0.5": draw(1, 0.5, number)}, table, **{hostile: number})
    summary = run(names, folders, output=tmp_path / "out")
    page = summary.page.read_bytes()
    shown, tags = text_of(page.decode())
    plain, plain_tags = text_of_plain(tmp_path)
    assert tags == plain_tags
    assert (
        shown.count(hostile.replace("\u202e", "[U+202E]")) >= plain.count("words") > 10
    )
    run(names, folders, output=tmp_path / "out")
    assert summary.page.read_bytes() == page
    assert str(summary).startswith(f"{summary.page}: ALN, α 0.5: ")


def text_of_plain(folder: Path) -> tuple[str, Counter[str]]:
    """The same page of runs without hostile text."""
    folders = folder / "C", folder / "D"
    for number, one in enumerate(folders):
        write_run(one, {"aln-0.5": draw(1, 0.5, number)}, epochs=number)
    return text_of(run(("C", "D"), folders, output=folder).page.read_text())


GRAPH = """\
stages:
  report:
    cmd: "true"
    outs: [report/predictions.csv]
    metrics: [report/results.json: {cache: false}]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commits `start` without a report, `before` with one, and another in report/."""
    from dvc.repo import Repo

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        done = subprocess.run(
            ["git", *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    Path("dvc.yaml").write_text(GRAPH)
    git("init", "-q")
    Repo.init().close()
    git("add", "-A")
    git("commit", "-qm", "start")
    git("tag", "start")
    rights = {"baseline2": draw(2, 0.5, 1), "aln-0.5": draw(2, 0.5, 1)}
    write_run(Path("report"), rights, epochs=40)
    with Repo() as repo:
        repo.commit(force=True)
    git("add", "-A")
    git("commit", "-qm", "before")
    git("tag", "before")
    start, before = git("rev-parse", "start"), git("rev-parse", "before")
    git("update-ref", f"refs/exps/{start[:2]}/{start[2:]}/brave-name", before)
    shutil.copytree("report", "kept")
    rights = {"baseline2": draw(2, 0.8, 2), "aln-0.8": draw(2, 0.8, 2)}
    write_run(Path("report"), rights, epochs=5)
    return tmp_path


def test_the_report_is_compared_with_a_revision(repository):
    pages = []
    for name in ("kept", "before", "HEAD", "brave-name"):
        done = pipeline("report", "--compare", name, "report", "--output", "out")
        assert done.exit_code == 0, done.output
        assert "out/comparison.html: ALN, α 0.5 : ALN, α 0.8: +" in done.output
        page = Path("out", "comparison.html").read_text()
        shown, _ = text_of(page)
        assert f"A is {name} , B is report" in shown
        assert "epochs baseline2 40 5" in shown
        pages.append(page.replace(f">{name}", ">"))
    assert len(set(pages)) == 1
    assert pipeline("report", "--compare", "kept", "report").exit_code == 0
    assert Path("report", "comparison.html").is_file()


def test_a_report_that_is_not_there_is_named(repository):
    def error(name: str) -> str:
        done = pipeline("report", "--compare", name, "report")
        assert done.exit_code == 2
        return done.stderr

    assert "'none' is neither the folder of a report nor a revision" in error("none")
    assert "start has no report to compare; found no report/results.json" in error(
        "start"
    )
    shutil.rmtree(".dvc/cache")
    assert "report/predictions.csv: DVC has no copy of it for revision before" in error(
        "before"
    )
