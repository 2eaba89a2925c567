"""Compare two runs, paired by test utterance: `aln-pipeline report --compare A B`.

Reads `results.json` and `predictions.csv` of two reports and writes `comparison.html`:
every system that both have, and the best ALN of A against that of B, whose α may
differ; the utterances on which they differ; and the parameters and inputs that differ.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.errors import CacheError, InputError
from stages.core.files import write_text
from stages.core.text import name_some
from stages.report.markdown import format_gain, format_p
from stages.report.predictions import read_predictions
from stages.report.rendering import render
from stages.report.statistics import compare, differences, hits
from stages.report.systems import System


@dataclass(frozen=True)
class Run:
    """A report that is compared with another.

    Attributes:
        name: as the user calls it.
        best: the name of its best ALN.
        labels: of its corpus: each slot and value.
        settings: by result, such as `teacher` or `aln-0.8`, its parameters, revision of
            code and hashes of inputs, as JSON by name.
        systems: by name, with predictions on test.
    """

    name: str
    best: str
    labels: set[str]
    settings: dict[str, dict[str, str]]
    systems: dict[str, System]

    @property
    def intents(self) -> pd.Series:
        """The intent of every test utterance by id."""
        test = self.systems[self.best].test.drop_duplicates("id")
        return test.set_index("id")["intent"]


@dataclass(frozen=True)
class Pair:
    """A system of A and one of B.

    Attributes:
        first: the system of A.
        second: the system of B.
        accuracies: of both on the utterances compared, in percent, mean over seeds.
        compared: the `statistics.Comparison` of both.
        flips: of `find_flips`.
    """

    first: System
    second: System
    accuracies: tuple[float, float]
    compared: dict[str, Any]
    flips: list[dict[str, Any]]

    @property
    def title(self) -> str:
        """Of the system; of both if they are not called the same."""
        titles = self.first.title, self.second.title
        return titles[0] if titles[0] == titles[1] else " : ".join(titles)


@dataclass(frozen=True)
class RunComparison:
    """Two runs compared.

    Attributes:
        names: of A and B.
        utterances: how many are compared.
        left_out: test utterances that are not, by reason; no empty reasons.
        unpaired: systems that only A and only B have.
        settings: of `changed_settings`.
        pairs: the best ALNs, then the other systems that both runs have.
    """

    names: tuple[str, str]
    utterances: int
    left_out: dict[str, list[str]]
    unpaired: tuple[list[str], list[str]]
    settings: list[tuple[str, list[str], str, str]]
    pairs: list[Pair]


@dataclass(frozen=True)
class Summary:
    """The best ALNs compared."""

    page: Path
    best: Pair

    def __str__(self) -> str:
        """One line for the end of a command."""
        gain = format_gain(self.best.compared)
        p = format_p(self.best.compared["p"])
        return f"{self.page}: {self.best.title}: {gain} points; McNemar's p {p}"


def read_run(name: str, folder: Path) -> Run:
    """The run that the user calls `name`, from the folder of its report.

    Raises:
        CacheError: a file is missing or damaged.
    """
    systems = read_predictions(folder / "predictions.csv")
    path = folder / "results.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        labels = {f"{one['slot']}: {one['value']}" for one in found["values"]}
        settings = {one["result"]: _settings(one) for one in found["provenance"]}
        best = found["best"]["aln"]
        systems[best]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"not the results of a report with these predictions ({error!r})",
            path=path,
            fix="run `dvc repro report`, or `aln-pipeline report --force`",
        ) from error
    return Run(name, best, labels, settings, systems)


def compare_runs(first: Run, second: Run) -> RunComparison:
    """Compare every system that both have, and the best ALNs.

    Raises:
        InputError: their labels differ, or no utterance is in both with one intent.
    """
    if other := first.labels ^ second.labels:
        raise InputError(
            f"the labels of {first.name} and {second.name} differ",
            found=f"{name_some(sorted(other))} in only one of them",
            fix="compare runs of one corpus",
        )
    ids, left_out = _common(first, second)
    names = [(first.best, second.best)]
    names += [
        (name, name)
        for name in first.systems
        if name in second.systems and (name, name) not in names
    ]
    pairs = [
        (_only(first.systems[one], ids), _only(second.systems[other], ids))
        for one, other in names
    ]
    measured = differences(pairs)
    return RunComparison(
        names=(first.name, second.name),
        utterances=len(ids),
        left_out=left_out,
        unpaired=(
            [name for name in first.systems if name not in [one for one, _ in names]],
            [name for name in second.systems if name not in [one for _, one in names]],
        ),
        settings=changed_settings(first.settings, second.settings),
        pairs=[
            _pair(*pair, found) for pair, found in zip(pairs, measured, strict=True)
        ],
    )


def _common(first: Run, second: Run) -> tuple[pd.Index, dict[str, list[str]]]:
    """The ids to compare, and those left out by reason."""
    one, other = first.intents, second.intents
    both = one.index.intersection(other.index)
    same = both[(one[both] == other[both]).to_numpy()]
    left_out = {
        f"only in {first.name}": one.index.difference(both),
        f"only in {second.name}": other.index.difference(both),
        "with another intent": both.difference(same),
    }
    named = {why: sorted(ids) for why, ids in left_out.items() if len(ids)}
    if same.empty:
        reasons = (f"{len(ids):,} {why}" for why, ids in named.items())
        raise InputError(
            f"{first.name} and {second.name} have no test utterance in common",
            found=", ".join(reasons),
            expected="the same ids with the same intents",
            fix="compare runs of one corpus",
        )
    return same, named


def _only(system: System, ids: pd.Index) -> System:
    rows = system.predictions
    return replace(system, predictions=rows[rows["id"].isin(ids)])


def _pair(first: System, second: System, difference: Mapping[str, Any]) -> Pair:
    one, other = (100 * hits(system).to_numpy().mean() for system in (first, second))
    return Pair(
        first,
        second,
        (float(one), float(other)),
        asdict(compare(first, second, difference)),
        find_flips(first, second),
    )


def find_flips(first: System, second: System) -> list[dict[str, Any]]:
    """The utterances that A and B get right with another share of their seeds.

    Those that B loses most come first. Keys id, speaker (empty if unknown), text,
    intent; how many seeds are right in A and B, right_a and right_b; and what most
    seeds predict, predicted_a and predicted_b, of several the first by name.
    """
    one, other = hits(first), hits(second)
    gain = (other.mean(axis=1) - one.mean(axis=1)).round(9)
    utterances = first.test.drop_duplicates("id").set_index("id")
    table = utterances[["speaker", "text", "intent"]].assign(
        speaker=utterances["speaker"].fillna(""),
        right_a=one.sum(axis=1),
        right_b=other.sum(axis=1),
        predicted_a=_most_frequent(first),
        predicted_b=_most_frequent(second),
        gain=gain,
    )
    table = table[table["gain"] != 0].reset_index().sort_values(["gain", "id"])
    return table.drop(columns="gain").to_dict("records")


def _most_frequent(system: System) -> pd.Series:
    """What most seeds predict, by id."""
    counts = system.test.value_counts(["id", "predicted"]).reset_index()
    counts = counts.sort_values(["count", "predicted"], ascending=[False, True])
    return counts.drop_duplicates("id").set_index("id")["predicted"]


def changed_settings(
    first: Mapping[str, Mapping[str, str]], second: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, list[str], str, str]]:
    """What differs between results that both runs have.

    The setting's name, the results for which it differs in the same way, and its values
    in A and B, `–` if there is none.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for result, one in first.items():
        other = second.get(result, one)
        for name in {*one, *other}:
            values = one.get(name, "–"), other.get(name, "–")
            if values[0] != values[1]:
                found.setdefault((name, *values), []).append(result)
    return [(name, found[name, a, b], a, b) for name, a, b in sorted(found)]


def _settings(result: Mapping[str, Any]) -> dict[str, str]:
    """What determines a result, by name; students are results themselves."""
    settings = {
        **dict(_flatten(result["parameters"])),
        "revision of the code": str(result["revision"]),
    }
    for name, sha256 in result["inputs"].items():
        if not name.startswith("student "):
            settings[f"input {name}"] = sha256[:16] if sha256 else "–"
    return settings


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def run(names: tuple[str, str], folders: tuple[Path, Path], *, output: Path) -> Summary:
    """Compare two reports and write `comparison.html` into `output`.

    Args:
        names: what the user calls A and B.
        folders: of their reports.
        output: created.

    Raises:
        CacheError: a report is incomplete or damaged.
        InputError: the runs cannot be compared.
    """
    first, second = (read_run(*one) for one in zip(names, folders, strict=True))
    found = compare_runs(first, second)
    page = output / "comparison.html"
    write_text(page, render("comparison.html", found=found))
    return Summary(page, found.pairs[0])
