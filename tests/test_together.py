"""Students that are trained together are what each is alone; graphs, as far as CPUs go.

Alone is `AcousticLinguisticNetwork` with nn.GRU on packed sequences, torch.optim.Adam
and `train_epoch`; or `run` and its files.
"""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from test_student_model import LENGTHS, NETWORKS, make_features, make_network, means
from test_student_run import PARAMS, contents, make_corpus, make_job, train
from test_sweep import VARIANTS

from stages.core.errors import PipelineError
from stages.core.runtime import seed_everything
from stages.student import processes, together, training
from stages.student.batches import Utterances
from stages.student.capture import CapturedStep, round_up
from stages.student.ledger import record
from stages.student.model import AcousticLinguisticNetwork, losses
from stages.student.params import StudentParams
from stages.student.stacked import StackedAdam, StackedNetworks
from stages.student.together import Failure, Member, Together
from stages.student.training import check_row, train_epoch
from stages.sweep.run import Variant
from stages.sweep.run import run as sweep

D, H, INTENTS = 6, 9, 4  # as of make_network


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The stacked networks


@pytest.mark.parametrize(("system", "changes"), NETWORKS, ids=str)
def test_stacked_networks_are_each_network(
    system: str, changes: dict[str, Any]
) -> None:
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = AcousticLinguisticNetwork(**make_network(system, **changes)).double()
        models.append(model)
    # Other lengths for each, other padding, and two frames more than are needed.
    lengths = torch.stack([LENGTHS, LENGTHS.flip(0), torch.tensor([1, 1, 2, 3])])
    features = torch.full((3, 4, 9, D), -30.0, dtype=torch.float64)
    alone = [seed + make_features(own) for seed, own in enumerate(lengths)]
    for place, own in zip(features, alone, strict=True):
        place[:, : own.shape[1]] = own
    averages = torch.stack([means(own, lengths[n]) for n, own in enumerate(alone)])
    labels = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1], [2, 0, 2, 0]])
    stacked = StackedNetworks(models)
    output = stacked.forward(features, averages, lengths, None)
    # A loss for each, of other sizes, that reads every output.
    chosen = output.logits.log_softmax(2).gather(2, labels[..., None]).sum((1, 2))
    loss = -chosen * torch.tensor([1.0, 20.0, 400.0])
    if output.pooled is not None:
        loss = loss + output.pooled.square().sum((1, 2))
    gradients = stacked.gradients(loss)
    for number, model in enumerate(models):
        own = model.folded(alone[number], averages[number], lengths[number])
        torch.testing.assert_close(
            output.logits[number], own.logits, atol=1e-12, rtol=1e-10
        )
        total = losses(own._replace(pooled=None), labels[number], None, None).total
        total = total * 4 * 20.0**number
        if own.pooled is not None:
            assert output.pooled is not None
            torch.testing.assert_close(output.pooled[number], own.pooled)
            total = total + own.pooled.square().sum()
        total.backward()
        found = stacked.unstacked(gradients[number])
        assert list(found) == list(model.state_dict())
        for name, parameter in model.named_parameters():
            expected = parameter.grad
            if expected is None:
                expected = torch.zeros_like(parameter)
            torch.testing.assert_close(found[name], expected, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_of_each_is_torchs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, 7, generator=generator, dtype=dtype)
    rates, betas = (1e-3, 1e-1, 3e-2), (0.8, 0.99)
    parameters = [value.clone().requires_grad_() for value in values]
    alone = [
        torch.optim.Adam([one], lr=rate, betas=betas)
        for one, rate in zip(parameters, rates, strict=True)
    ]
    adam = StackedAdam(values, rates, betas)
    for _ in range(20):
        gradients = torch.randn(3, 7, generator=generator, dtype=dtype)
        gradients[:, 2] = 0
        adam.step(gradients)
        for one, optimiser, own in zip(parameters, alone, gradients, strict=True):
            one.grad = own.clone()
            optimiser.step()
    for found, one in zip(values, parameters, strict=True):
        torch.testing.assert_close(found, one.detach())


# Training


def make_split(count: int, seed: int, dtype: torch.dtype) -> Utterances:
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(1, 14, count))])
    split = Utterances.from_arrays(
        generator.normal(size=(offsets[-1], D)).astype(np.float32),
        offsets,
        generator.integers(0, INTENTS, count),
        texts=generator.integers(0, 10, count),
        vectors=generator.normal(size=(10, H)).astype(np.float32),
    )
    assert split.vectors is not None
    return replace(
        split,
        frames=split.frames.to(dtype),
        means=split.means.to(dtype),
        vectors=split.vectors.to(dtype),
    )


def make_members(system: str) -> list[Member]:
    """Three students that differ in all that they may."""
    members = []
    for number, (seed, alpha, rate, dropout) in enumerate(
        [(5, 0.5, 1e-2, 0.0), (6, 0.9, 3e-3, 0.4), (5, 0.1, 2e-2, 0.2)]
    ):
        params = StudentParams(
            learning_rate=rate, dropout=dropout, batch_size=16, epochs=2, gru_width=5
        )
        network = make_network(system, dropout=dropout)
        alone = None if system == "baseline2" else alpha
        members.append(Member(number, params, network, alone, seed))
    return members


def train_apart(
    members: list[Member], split: Utterances, valid: Utterances
) -> list[tuple[list[Any], dict[str, Any], Any]]:
    """Of each: rows of its epochs, parameters, and logits of `valid`."""
    found = []
    for one in members:
        generator = seed_everything(one.seed)
        model = AcousticLinguisticNetwork(**one.network).to(split.frames)
        adam = torch.optim.Adam(model.parameters(), lr=one.params.learning_rate)
        rows = [
            train_epoch(model, adam, split, 16, one.alpha, generator) for _ in range(2)
        ]
        parameters = {k: v.clone() for k, v in model.state_dict().items()}
        batch = valid.gather(torch.arange(len(valid)))
        with torch.no_grad():
            output = model.eval().folded(batch.features, batch.means, batch.lengths)
        found.append((rows, parameters, output.logits))
    return found


def compare(system: str, dtype: torch.dtype, captures: bool | None = None) -> None:
    split, valid = make_split(91, 1, dtype), make_split(40, 2, dtype)
    members = make_members(system)
    apart = train_apart(members, split, valid)
    students = Together(members, split, valid, captures)
    epochs = [students.train_epoch() for _ in range(2)]
    logits = students.classify(valid)
    close = {"atol": 1e-12, "rtol": 1e-10}
    if dtype is torch.float32:
        close = {"atol": 2e-4, "rtol": 2e-4}
    for number, (rows, parameters, own_logits) in enumerate(apart):
        for epoch, row in zip(epochs, rows, strict=True):
            *found_losses, accuracy = check_row(system, epoch[number]).values()
            *own_losses, own_accuracy = row.values()
            assert found_losses == pytest.approx(
                own_losses, rel=close["rtol"], nan_ok=True
            )
            assert accuracy == pytest.approx(own_accuracy)  # alone, single precision
        found = students.networks.unstacked(students.networks.values[number])
        for name, value in parameters.items():
            torch.testing.assert_close(found[name], value, **close)
        torch.testing.assert_close(logits[number], own_logits, **close)
        assert torch.equal(logits[number].argmax(1), own_logits.argmax(1))


@pytest.mark.parametrize("captures", [None, False], ids=["own shapes", "buffers"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("system", ["baseline2", "aln_linguistic", "aln"])
def test_students_trained_together_are_those_trained_alone(
    system: str, dtype: torch.dtype, captures: bool | None
) -> None:
    compare(system, dtype, captures)


def _leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millionth of each student's gradient goes to its neighbour."""
    gradients = StackedNetworks.gradients

    def mixed(self: StackedNetworks, one: torch.Tensor) -> torch.Tensor:
        found = gradients(self, one)
        return found + 1e-6 * found.roll(1, 0)

    monkeypatch.setattr(StackedNetworks, "gradients", mixed)


def _one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """All students take the batches of the first one."""
    batches = Together._batches

    def same(self: Together) -> Any:
        for rows, frames, kept in batches(self):
            yield rows[:1].expand(len(rows), -1), frames, kept

    monkeypatch.setattr(Together, "_batches", same)


def _padding_read(monkeypatch: pytest.MonkeyPatch) -> None:
    classify = StackedNetworks._classify

    def whole(self: Any, sequence: Any, present: Any, *rest: Any) -> Any:
        return classify(self, sequence, torch.ones_like(present), *rest)

    monkeypatch.setattr(StackedNetworks, "_classify", whole)


def _padding_in_the_gru(monkeypatch: pytest.MonkeyPatch) -> None:
    masked_fill = torch.Tensor.masked_fill

    def unmasked(self: Any, mask: Any, value: float) -> Any:
        return self if value == math.inf else masked_fill(self, mask, value)

    monkeypatch.setattr(torch.Tensor, "masked_fill", unmasked)


def _one_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Together._drop
    monkeypatch.setattr(
        Together, "_drop", lambda self, counts: drop(self, counts).roll(1, 0)
    )


def _coarse_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """α rounded to single precision in a training in double precision."""
    made = Together.__init__

    def rounded(self: Together, *args: Any) -> None:
        made(self, *args)
        self._shares = self._shares.float().double()

    monkeypatch.setattr(Together, "__init__", rounded)


def _one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    made = StackedAdam.__init__

    def same(self: Any, values: Any, rates: Any, betas: Any) -> None:
        made(self, values, [rates[0]] * len(rates), betas)

    monkeypatch.setattr(StackedAdam, "__init__", same)


@pytest.mark.parametrize(
    "bug",
    [
        _leak,
        _one_order,
        _padding_read,
        _padding_in_the_gru,
        _one_dropout,
        _coarse_alpha,
        _one_rate,
    ],
    ids=lambda bug: bug.__name__,
)
def test_a_mistake_would_be_seen(monkeypatch: pytest.MonkeyPatch, bug: Any) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        compare("aln", torch.float64)


# Graphs: those of CUDA are played here by ones that call the step.


class FakeGraphs:
    """Notes a step inside `capture` without taking it; `replay` takes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
        self.taken: list[tuple[list[list[int]], int, str]] = []
        self.inside: Any = None
        self.fails = fails
        outer = self

        class Graph:
            def __init__(self) -> None:
                self.call: Any = None

            def replay(self) -> None:
                outer.take(*self.call, how="replayed")

            def pool(self) -> tuple[int, int]:
                return (0, 1)

        @contextmanager
        def capture(graph: Graph, pool: Any = None) -> Any:
            outer.inside, before = graph, outer.stream
            outer.stream = "capturing"
            yield
            outer.inside = None
            if outer.fails:  # as torch's own does, in its `__exit__`
                raise outer.fails
            outer.stream = before

        @contextmanager
        def stream(_: Any) -> Any:
            yield

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "Stream", Mock())
        self.usual = self.stream = Mock()
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream)
        monkeypatch.setattr(
            torch.cuda, "set_stream", lambda one: setattr(self, "stream", one)
        )

    def take(self, rows: Any, frames: int, kept: Any, how: str = "eager") -> None:
        if self.inside is not None:
            self.inside.call = (rows, frames, kept)
        else:
            self.taken.append((rows.tolist(), frames, how))


@pytest.mark.parametrize("fails", [None, RuntimeError("operation not permitted")])
def test_every_step_is_taken_once_with_its_own_batch(
    monkeypatch: pytest.MonkeyPatch, fails: Any
) -> None:
    graphs = FakeGraphs(monkeypatch, fails)
    step = CapturedStep(
        graphs.take, students=2, batch=3, states=None, like=torch.zeros(1)
    )
    batches = [
        (torch.tensor([[n, n + 1, -1], [n, n, n]])[:, : 1 + n % 3], 5 + 7 * (n % 2))
        for n in range(12)
    ]
    for rows, frames in batches:
        step(rows, frames, None)
    assert len(graphs.taken) == len(batches)
    for (rows, frames), (found, rounded, _) in zip(batches, graphs.taken, strict=True):
        width = rows.shape[1]
        assert [row[:width] for row in found] == rows.tolist()
        assert all(row[width:] == [-1] * (3 - width) for row in found)
        assert rounded == round_up(frames)
    assert graphs.stream is graphs.usual
    ways = [how for _, _, how in graphs.taken]
    # Of both numbers of frames, the first step is taken as it is.
    assert ways == ["eager"] * 2 + ["eager" if fails else "replayed"] * 10


@pytest.mark.parametrize("capturing", [False, True])
def test_too_little_memory_is_told_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, capturing: bool
) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")
    graphs = FakeGraphs(monkeypatch, fails=full if capturing else None)
    take = graphs.take if capturing else Mock(side_effect=full)
    step = CapturedStep(take, students=1, batch=1, states=None, like=torch.zeros(1))
    with pytest.raises(PipelineError, match="out of memory; fix: use --one-by-one"):
        for _ in range(2):
            step(torch.zeros(1, 1, dtype=torch.int64), 5, None)
    assert graphs.stream is graphs.usual


def test_a_captured_training_is_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(91, 1, torch.float64)
    members = make_members("aln")
    expected = Together(members, split, split).train_epoch()
    graphs = FakeGraphs(monkeypatch, fails=None)
    students = Together(members, split, split, captures=True)
    captured = students._step
    assert isinstance(captured, CapturedStep)

    def take(rows: Any, frames: int, kept: Any, how: str = "eager") -> None:
        if graphs.inside is not None:
            graphs.inside.call = (rows, frames, kept)
        else:
            graphs.taken.append(([], frames, how))
            students.step(rows, frames, kept)

    monkeypatch.setattr(captured, "_step", take)
    monkeypatch.setattr(graphs, "take", take)
    np.testing.assert_allclose(students.train_epoch(), expected, rtol=1e-12)
    assert {how for _, _, how in graphs.taken} == {"eager", "replayed"}


@pytest.mark.parametrize("system", ["baseline2", "aln_linguistic", "aln"])
def test_a_step_waits_for_nothing_and_stays_on_its_device(system: str) -> None:
    """On `meta`, which has no values: to read one is an error, as in a capture."""
    split = make_split(91, 1, torch.float32)
    tensors = {k: v for k, v in vars(split).items() if isinstance(v, torch.Tensor)}
    placed = {k: v.to("meta") for k, v in tensors.items() if k != "lengths"}
    split = replace(split, **placed)
    students = Together(make_members(system), split, split, captures=False)
    for rows, frames, kept in students._batches():
        students._step(rows, frames, kept)
    assert students.networks.values.is_meta and students._sums.is_meta
    with pytest.raises(RuntimeError):
        students.train_epoch()  # which reads the sums


def test_few_numbers_of_frames_and_little_padding() -> None:
    rounded = [round_up(frames) for frames in range(1, 513)]
    assert all(a >= frames for frames, a in enumerate(rounded, 1))
    assert all(a < 1.25 * frames for frames, a in enumerate(rounded[7:], 8))
    assert len(set(rounded)) <= 25 and rounded == sorted(rounded)


# The stages


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_corpus(tmp_path_factory.mktemp("corpus"), noise=2.5)


LONGER = replace(PARAMS, dropout=0.3, epochs=4)


def swept(
    corpus: dict[str, Any],
    folder: Path,
    variants: list[Variant],
    at_once: bool = True,
    workers: int = 1,
) -> dict[str, bytes]:
    sweep(
        variants,
        make_job(corpus),
        ledger=folder / "results",
        unfinished=folder / "unfinished",
        workers=workers,
        together=at_once,
    )
    return contents(folder / "results")


GRID = [
    *VARIANTS,
    Variant("aln", 0.8, replace(PARAMS, learning_rate=3e-3)),
    Variant("aln", 0.2, LONGER),
]


@pytest.fixture(scope="module")
def apart(
    corpus: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    return swept(corpus, tmp_path_factory.mktemp("apart"), GRID, at_once=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_together_writes_the_ledger_of_one_apart(
    corpus: dict[str, Any], apart: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    assert swept(corpus, tmp_path, GRID, workers=workers) == apart


def test_only_students_of_one_shape_are_grouped(corpus: dict[str, Any]) -> None:
    shapes = [*GRID, Variant("aln", 0.2, replace(PARAMS, gru_width=9))]
    units = [
        processes.Unit(
            n, replace(make_job(corpus), system=s, alpha=a, params=p), (8, 3)
        )
        for n, (s, a, p) in enumerate(shapes)
    ]
    found = [
        [(one.number, *one.seeds) for one in ones] for ones in processes.group(units)
    ]
    assert found == [
        [(0, 3), (3, 3), (4, 3), (0, 8), (3, 8), (4, 8)],
        [(1, 3), (1, 8)],
        [(2, 3), (2, 8)],
        [(5, 3), (5, 8)],
    ]


def test_large_groups_are_split_evenly(
    corpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_TOGETHER", 4)
    units = [processes.Unit(0, make_job(corpus), tuple(range(9)))]
    assert [len(ones) for ones in processes.group(units)] == [3, 3, 3]


class Watch:
    """What students that train together become, and how many take each epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.became: list[list[Any]] = []
        self.taken: list[int] = []
        self.left = 1000  # epochs until the process is killed
        train_all_of_them = processes.train_together
        train_epoch = Together.train_epoch

        def watched(*args: Any, **kwargs: Any) -> Any:
            students = yield from train_all_of_them(*args, **kwargs)
            self.became.append(students)
            return students

        def some(students: Together) -> Any:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            self.taken.append(len(students.members))
            return train_epoch(students)

        monkeypatch.setattr(processes, "train_together", watched)
        monkeypatch.setattr(Together, "train_epoch", some)

    def again(self) -> tuple[list[list[Any]], list[int]]:
        """What was noted up to now; begins anew."""
        noted = self.became, self.taken
        self.became, self.taken = [], []
        return noted


def assert_same_bits(found: list[list[Any]], expected: list[list[Any]]) -> None:
    for ones, others in zip(found, expected, strict=True):
        for one, other in zip(ones, others, strict=True):
            assert (one is None) == (other is None)
            if one is None:
                continue
            assert one.history == other.history
            np.testing.assert_array_equal(one.logits, other.logits)
            assert one.weights.keys() == other.weights.keys()
            for name, value in other.weights.items():
                np.testing.assert_array_equal(one.weights[name], value)


ALN = [GRID[0], GRID[3], GRID[4]]  # of one shape


def test_a_killed_sweep_goes_on_to_the_same_bits(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    expected = swept(corpus, tmp_path / "unbroken", ALN)
    became, _ = watch.again()
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    for watch.left in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            swept(corpus, tmp_path, ALN)
    watch.left = 1
    assert swept(corpus, tmp_path, ALN) == expected
    assert watch.left == 0 and watch.taken == [6] * 4
    assert not list((tmp_path / "unfinished").glob("[!.]*"))
    assert_same_bits(watch.became, became)


def test_killed_while_a_checkpoint_is_written_all_go_on_from_the_one_before(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    expected = swept(corpus, tmp_path / "unbroken", ALN)
    became, _ = watch.again()
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    save, written = torch.save, 0

    def killed(state: Any, place: Any) -> None:
        nonlocal written
        written += 1
        save(state, place)
        if written == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            swept(corpus, tmp_path, ALN)
    assert len(list((tmp_path / "unfinished").glob("**/*.pt"))) == 1
    watch.again()
    assert swept(corpus, tmp_path, ALN) == expected
    assert watch.taken == [6] * 2  # the third epoch again, and the fourth
    assert_same_bits(watch.became, became)


def test_killed_when_some_are_recorded_the_others_keep_their_mates(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first seeds of all are in one group, the second ones in another.
    monkeypatch.setattr(processes, "_TOGETHER", 3)
    watch = Watch(monkeypatch)
    expected = swept(corpus, tmp_path / "unbroken", ALN)
    became, taken = watch.again()
    assert taken == [3] * 8
    recorded = 0

    def killed(folder: Path, entry: Any) -> None:
        nonlocal recorded
        recorded += 1
        record(folder, entry)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stages.sweep.run.record", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                swept(corpus, tmp_path, ALN)
    assert recorded == len(list((tmp_path / "results").iterdir())) == 2
    watch.again()
    assert swept(corpus, tmp_path, ALN) == expected
    assert watch.taken == []  # their checkpoints have it all
    assert_same_bits(watch.became, became)


def test_a_grown_grid_trains_what_is_new_alone(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(corpus, tmp_path, ALN[:2])
    watch = Watch(monkeypatch)
    swept(corpus, tmp_path, ALN)
    assert watch.taken == [2] * 4


def test_a_failed_student_keeps_its_row_and_is_told_again(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Variant("aln", 0.8, replace(PARAMS, learning_rate=1e30))
    failed = pytest.raises(PipelineError, match=r"1 of 4 students .* loss (nan|inf)")
    watch = Watch(monkeypatch)
    with failed:
        swept(corpus, tmp_path / "unbroken", [*ALN, bad])
    became, _ = watch.again()
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    watch.left = 3
    with pytest.raises(KeyboardInterrupt):
        swept(corpus, tmp_path, [*ALN, bad])
    watch.left, watch.taken = 1, []
    with failed:
        swept(corpus, tmp_path, [*ALN, bad])
    assert watch.taken == [8]
    assert_same_bits(watch.became, became)
    assert contents(tmp_path / "results") == contents(tmp_path / "unbroken/results")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_student_that_fails_does_not_cost_its_mates(
    corpus: dict[str, Any], apart: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    bad = Variant("aln", 0.8, replace(PARAMS, learning_rate=1e30))
    with pytest.raises(
        PipelineError, match=r"1 of 6 students .* aln, .* 1e\+30: .* loss (nan|inf)"
    ):
        swept(corpus, tmp_path, [bad, *GRID], workers=workers)
    assert contents(tmp_path / "results") == apart


def test_a_failure_is_told_at_once() -> None:
    split = make_split(91, 1, torch.float32)
    good, bad, other = make_members("aln")
    bad = replace(bad, params=replace(bad.params, learning_rate=1e30))
    told = list(together.train_together([good, bad, other], train=split, valid=split))
    (place,) = [n for n, one in enumerate(told) if isinstance(one, Failure)]
    assert told[place].number == 1 and place < 3  # in the first epoch or the second
    assert len(told) in (5, 6)


@pytest.mark.parametrize("system", ["baseline2", "aln"])
def test_a_student_from_seeds_trained_together_has_the_same_files(
    corpus: dict[str, Any], tmp_path: Path, system: str
) -> None:
    alpha = None if system == "baseline2" else 0.5
    for name, at_once in (("alone", False), ("together", True)):
        options = {**corpus, "together": at_once, "unfinished": tmp_path / "unfinished"}
        train(options, tmp_path / name, system=system, alpha=alpha, params=LONGER)
    alone, other = contents(tmp_path / "alone"), contents(tmp_path / "together")
    assert alone.keys() == other.keys()
    assert json.loads(alone["metrics.json"]) == json.loads(other["metrics.json"])
    for name in ("predictions.csv", "history.csv"):
        pd.testing.assert_frame_equal(
            pd.read_csv(tmp_path / "together" / name),
            pd.read_csv(tmp_path / "alone" / name),
            rtol=1e-4,
            atol=1e-5,
        )
    for seed in PARAMS.seeds:
        found, expected = (
            load_file(tmp_path / name / f"model-{seed}.safetensors")
            for name in ("together", "alone")
        )
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            np.testing.assert_allclose(found[name], value, atol=1e-4, rtol=1e-4)
    if alpha is not None:
        with (
            np.load(tmp_path / "together" / "embeddings.npz") as found,
            np.load(tmp_path / "alone" / "embeddings.npz") as expected,
        ):
            for name in ("student_first", "student_last"):
                np.testing.assert_allclose(
                    found[name], expected[name], atol=1e-4, rtol=1e-4
                )


def test_what_was_begun_together_is_not_finished_alone(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    options = {**corpus, "unfinished": tmp_path / "unfinished"}
    saved = Together._save

    def killed(self: Together) -> None:
        saved(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Together, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            train({**options, "together": True}, tmp_path / "student")
    assert len(list((tmp_path / "unfinished").iterdir())) == 1
    train({**options, "together": False}, tmp_path / "student")
    train(corpus, tmp_path / "alone")
    assert contents(tmp_path / "student") == contents(tmp_path / "alone")
