"""Where does fine-tuning the teacher spend its time, and what do the shortcuts save?

Generates texts like those of Fluent Speech Commands' train split: 23,132 utterances in
248 wordings of about five words, some more frequent than others. Runs some steps of
both stages, plain and with each shortcut, and prints how long the whole recipe takes at
that pace and where the time of a step goes:

    plain            as the paper: every utterance a row, batches of 32
    by length        teacher.group_by_length
    masked only      teacher.masked_only; only in the masked-LM stage
    repeats 4, 8     teacher.repeats_per_row
    all, repeats 8   the three together

for a BERT of the size of bert-base-uncased, initialised at random, and for the demo's.
Times are CPU times of one thread. The ways take turns of a few steps each; the pace of
a way is the median of its steps.

With --learn it also trains a teacher like the demo's on these texts, one epoch of each
stage, plain and with repeats, and prints its accuracy.

    python -m benchmarks.teacher [--steps N] [--turns N] [--models base demo] [--learn]
"""

import argparse
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizer,
)

from pipeline.params import load_params
from stages.core.corpus_files import CorpusFiles
from stages.core.manifest import COLUMNS, write_manifest
from stages.core.runtime import RunOptions, quiet_transformers
from stages.teacher.params import TeacherParams
from stages.teacher.run import run
from stages.teacher.training import (
    Labelled,
    Masked,
    Rows,
    Stage,
    fit,
    merge_repeats,
    rows_at_once,
    steps_an_epoch,
)
from stages.teacher.vocabulary import build_vocabulary

_UTTERANCES = 23_132
_WORDINGS = 248
_INTENTS = 31
_MODELS: dict[str, dict[str, int]] = {
    "base": {"vocab_size": 30_522},
    "demo": {
        "vocab_size": 1000,
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
    },
}
_WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "by length": {"group_by_length": True},
    "masked only": {"masked_only": True},
    "repeats 4": {"repeats_per_row": 4},
    "repeats 8": {"repeats_per_row": 8},
    "all, repeats 8": {
        "group_by_length": True,
        "masked_only": True,
        "repeats_per_row": 8,
    },
}
_EPOCHS = {"mlm": TeacherParams().mlm_epochs, "intent": TeacherParams().intent_epochs}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--steps", type=int, default=4, help="in a turn, after one more"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--models", nargs="*", choices=_MODELS, default=list(_MODELS))
    parser.add_argument("--learn", action="store_true")
    arguments = parser.parse_args()
    texts, intents = make_texts()
    vocabulary = build_vocabulary(texts, size=1000)
    tokenizer = BertTokenizer(vocab=vocabulary)
    lengths = [len(tokenizer(text).input_ids) for text in texts]
    print(
        f"{len(texts):,} utterances, {len(set(texts))} wordings, "
        f"{np.mean(lengths):.1f} tokens; {torch.get_num_threads()} threads"
    )
    with quiet_transformers(), tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            _measure(model, tokenizer, texts, intents, arguments, Path(folder))
        if arguments.learn:
            _learn(texts, intents, Path(folder))


def make_texts() -> tuple[list[str], list[int]]:
    """Texts and intents of every utterance: wordings of an intent share its words."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = [
        "".join(generator.choice(letters, n)) for n in generator.integers(2, 9, 150)
    ]
    wordings = []
    for number in range(_WORDINGS):
        own = [words[number % _INTENTS], words[31 + number % _INTENTS]]
        more = generator.choice(words[62:], int(generator.integers(1, 6))).tolist()
        wordings.append(" ".join(generator.permutation(own + more)))
    shares = generator.gamma(2, size=_WORDINGS)
    drawn = generator.choice(_WORDINGS, _UTTERANCES, p=shares / shares.sum())
    drawn[:_WORDINGS] = range(_WORDINGS)
    return [wordings[n] for n in drawn], [int(n) % _INTENTS for n in drawn]


@dataclass
class _Clock:
    """Stands in for a progress bar, and notes when each part of a step ends."""

    steps: list[dict[str, float]] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        # Not the clock on the wall: what else the machine does would count too.
        self.marks[name] = time.process_time() / torch.get_num_threads()

    def update(self, count: int = 1) -> None:
        if not count:  # at the start
            self.mark("end")
            return
        before = self.marks["end"]
        self.mark("end")
        order = ("forward", "backward", "optimiser", "end")
        ends = [before, self.marks["start"], *(self.marks[name] for name in order)]
        names = ("collating", "forward", "backward, clipping", "optimiser", "rest")
        self.steps.append(dict(zip(names, np.diff(ends).tolist(), strict=True)))

    def set_postfix(self, **shown: Any) -> None:
        pass


def _measure(
    name: str,
    tokenizer: BertTokenizer,
    texts: list[str],
    intents: list[int],
    arguments: argparse.Namespace,
    folder: Path,
) -> None:
    config = BertConfig(**_MODELS[name], num_labels=_INTENTS)
    minutes: dict[str, dict[str, float]] = {}
    for stage, kind in (
        ("mlm", BertForMaskedLM),
        ("intent", BertForSequenceClassification),
    ):
        torch.manual_seed(0)
        model = kind(config)
        found: dict[str, list[dict[str, float]]] = defaultdict(list)
        steps = {}
        ways = [w for w in _WAYS if stage == "mlm" or w != "masked only"]
        for _ in range(arguments.turns):
            for way in ways:
                params = replace(TeacherParams(), **_WAYS[way])
                rows = _rows(stage, params, tokenizer, texts, intents)
                steps[way] = steps_an_epoch(rows, params) * _EPOCHS[stage]
                found[way] += _steps(
                    stage, model, rows, params, tokenizer, arguments.steps, folder
                )
        print(f"\n{name}, {stage}: a plain step")
        medians = _medians(found["plain"])
        total = sum(medians.values())
        for part, seconds in medians.items():
            print(f"  {part:20} {1000 * seconds:8.1f} ms {100 * seconds / total:5.1f}%")
        minutes[stage] = {
            way: steps[way] * float(np.median([sum(s.values()) for s in runs])) / 60
            for way, runs in found.items()
        }
        _print(f"{name}, {stage}, {_EPOCHS[stage]} epochs", minutes[stage])
    intent = {"masked only": minutes["intent"]["plain"], **minutes["intent"]}
    both = {way: minutes["mlm"][way] + intent[way] for way in _WAYS}
    _print(f"{name}, both stages", both)


def _rows(
    stage: str,
    params: TeacherParams,
    tokenizer: BertTokenizer,
    texts: list[str],
    intents: list[int],
) -> Rows:
    """The corpus as the stage makes it."""
    tokens = {
        text: dict(tokenizer(text, return_special_tokens_mask=stage == "mlm"))
        for text in set(texts)
    }
    rows = []
    for place, count in merge_repeats(texts, params.repeats_per_row):
        row = {**tokens[texts[place]], "count": count}
        rows.append(row if stage == "mlm" else {**row, "labels": intents[place]})
    return Rows(rows)


def _steps(
    stage: str,
    model: Any,
    rows: Rows,
    params: TeacherParams,
    tokenizer: BertTokenizer,
    count: int,
    folder: Path,
) -> list[dict[str, float]]:
    """Seconds of each part of some steps; the first step is left out."""
    size = rows_at_once(rows, params)
    drawn = np.random.default_rng(0).permutation(len(rows))
    batches, epochs = [drawn[: (count + 1) * size]], 1
    if params.group_by_length:
        # Batches of similar length, short and long, as in a whole epoch; each twice,
        # since the first step is left out.
        order = sorted(drawn, key=lambda place: len(rows.rows[place]["input_ids"]))
        starts = (np.arange(count) + 0.5) / count * (len(order) - size)
        batches = [order[int(start) : int(start) + size] for start in starts]
        epochs = 2
    clock = _Clock()
    handles = [
        model.register_forward_pre_hook(lambda *_: clock.mark("start")),
        model.register_forward_hook(lambda *_: clock.mark("forward")),
        register_optimizer_step_pre_hook(lambda *_: clock.mark("backward")),
        register_optimizer_step_post_hook(lambda *_: clock.mark("optimiser")),
    ]
    taken = []
    try:
        for batch in batches:
            clock.steps.clear()
            fit(
                model,
                Rows([rows.rows[place] for place in batch]),
                Masked(tokenizer, params) if stage == "mlm" else Labelled(tokenizer),
                stage=Stage(
                    stage,
                    learning_rate=1e-5,
                    epochs=epochs,
                    device=torch.device("cpu"),
                    folder=folder / stage,
                    minutes=60,
                    bar=clock,
                ),
                params=params,
            )
            taken += clock.steps[1:]
    finally:
        for handle in handles:
            handle.remove()
    return taken


def _learn(texts: list[str], intents: list[int], folder: Path) -> None:
    """Train with repeats of 1, 4 and 8; valid has every wording once."""
    wordings = dict(zip(texts, intents, strict=True))
    spoken = {
        "train": list(zip(texts, intents, strict=True)),
        "valid": list(wordings.items()),
        "test": list(wordings.items())[:1],
    }
    rows = [
        (
            f"made/{split}/{n:05d}",
            f"{split}/{n}",
            split,
            "",
            text,
            f"{intent:02d}",
            2.3,
            "",
        )
        for split, said in spoken.items()
        for n, (text, intent) in enumerate(said)
    ]
    write_manifest(folder / "manifest.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    demo = load_params(Path("params.yaml")).teacher
    print()
    for repeats in (1, 4, 8):
        began = time.process_time()
        done = run(
            replace(demo, mlm_epochs=1, intent_epochs=1, repeats_per_row=repeats),
            CorpusFiles(folder),
            output=folder / f"teacher-{repeats}",
            work=folder / "work",
            checkpoint_minutes=60,
            options=RunOptions(device="cpu"),
        )
        print(
            f"demo, an epoch of each stage, repeats {repeats}: "
            f"{done.scores['valid_accuracy']:.2f}% of the wordings, "
            f"{time.process_time() - began:.0f} s of CPU time"
        )


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    return {part: float(np.median([one[part] for one in steps])) for part in steps[0]}


def _print(title: str, minutes: dict[str, float]) -> None:
    print(title)
    for way, value in minutes.items():
        ratio = minutes["plain"] / value
        print(f"  {way:20} {value:8.1f} min {ratio:5.2f} x as fast as plain")


if __name__ == "__main__":
    main()
