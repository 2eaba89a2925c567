"""The student: its network compared with numpy, its batches, file and parameters."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from stages.core.errors import CacheError, ConfigurationError
from stages.student.batches import Texts, Utterances
from stages.student.model import (
    AcousticLinguisticNetwork,
    Output,
    build,
    load_student,
    losses,
    save_student,
)
from stages.student.params import SYSTEMS, Architecture, StudentParams, Variant
from stages.student.training import measure_attention

D, H, INTENTS, WIDTH = 6, 9, 4, 5
LENGTHS = torch.tensor([4, 7, 1, 5])
TRANSFER_SYSTEMS = ("aln_linguistic", "aln")


# What an ablation changes, one at a time; only the first three concern all systems.
VARIANTS: list[dict[str, Any]] = [
    {"gru_bidirectional": False},
    {"frame_pooling": "mean"},
    {"frame_pooling": "attention"},
    {"attention": "self"},
    {"attention": "none"},
    {"mapping": "none"},
    {"scaling": False},
    {"initialisation": "pytorch"},
]
UTTERANCE: dict[str, Any] = {"transfer": "utterance", "teacher_classifier": True}
NETWORKS = [(system, {}) for system in SYSTEMS]
NETWORKS += [(system, change) for system in SYSTEMS for change in VARIANTS[:3]]
NETWORKS += [("aln", change) for change in VARIANTS[3:]]
NETWORKS += [
    (system, {**UTTERANCE, **change})
    for system in TRANSFER_SYSTEMS
    for change in (*VARIANTS[1:3], {"teacher_classifier": False})
]


def make_network(system: str, **changes: Any) -> dict[str, Any]:
    return {
        "system": system,
        "acoustic_dim": D,
        "linguistic_dim": None if system == "baseline2" else H,
        # Two slots, where each has its own weights of frames.
        "values": [1, 3] if "attention" in changes.values() else [INTENTS],
        "architecture": asdict(Architecture(gru_width=WIDTH, **changes)),
    }


def make_model(system: str, **changes: Any) -> AcousticLinguisticNetwork:
    torch.manual_seed(3)
    return build(make_network(system, **changes)).double()


def make_features(lengths: torch.Tensor = LENGTHS) -> torch.Tensor:
    """Random frames, padded with large values."""
    generator = torch.Generator().manual_seed(4)
    shape = (len(lengths), int(lengths.max()), D)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    for row, length in zip(features, lengths, strict=True):
        row[length:] = 50.0
    return features


def make_targets() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(len(LENGTHS), H, generator=generator, dtype=torch.float64)


def means(features: torch.Tensor, lengths: torch.Tensor = LENGTHS) -> torch.Tensor:
    pairs = zip(features, lengths, strict=True)
    return torch.stack([row[:length].mean(0) for row, length in pairs])


def both(
    model: AcousticLinguisticNetwork,
    features: torch.Tensor,
    lengths: torch.Tensor = LENGTHS,
) -> dict[str, Output]:
    return {
        "literal": model(features, lengths),
        "folded": model.folded(features, means(features, lengths), lengths),
    }


# The paper's equations, one utterance at a time, without padding.


def by_hand(
    model: AcousticLinguisticNetwork, changes: dict[str, Any], frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits and Ê_lang of one utterance (T, D)."""
    architecture = Architecture(**changes)
    attention, root = architecture.attention, np.sqrt(D) if architecture.scaling else 1
    weights = {name: value.numpy() for name, value in model.state_dict().items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    sequence, pooled = frames, None
    if model.system != "baseline2":
        sequence = linear("transfer", frames)
        pooled = sequence.mean(0)
    if model.system == "aln":
        source = frames if attention == "self" else sequence
        if attention != "self" and architecture.mapping == "before":
            source = linear("mapping", source)
        sequence = source
    if model.system == "aln" and attention != "none":
        query, key, value = (
            linear("query", frames),
            linear("key", source),
            linear("value", source),
        )
        sequence = np.empty_like(frames)
        for i, q in enumerate(query):
            weight = np.array([np.exp(np.dot(q, k) / root) for k in key])
            sequence[i] = sum(w * v for w, v in zip(weight, value, strict=True))
            sequence[i] /= weight.sum()
    directions = [gru_by_hand(weights, "", sequence)]
    if model.gru.bidirectional:
        directions.append(gru_by_hand(weights, "_reverse", sequence[::-1])[::-1])
    states = np.concatenate(directions, axis=1)
    match architecture.frame_pooling:
        case "max":
            by_slot = [states.max(0)] * len(model.values)
        case "mean":
            by_slot = [states.mean(0)] * len(model.values)
        case "attention":
            scores = np.exp(states @ weights["frame_scores.weight"].T)  # (T, slots)
            by_slot = [
                sum(score * states) / score.sum() for score in scores.T[..., None]
            ]
    owners = np.repeat(np.arange(len(model.values)), model.values)
    found = np.choose(owners, [linear("classifier", one) for one in by_slot])
    if model.system != "baseline2" and architecture.transfer == "utterance":
        pooled = linear("projection", np.mean(by_slot, axis=0))
        if architecture.teacher_classifier:
            found = found + linear("teacher_classifier", pooled)
    return found, pooled


def gru_by_hand(
    weights: dict[str, np.ndarray], suffix: str, sequence: np.ndarray
) -> np.ndarray:
    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    names = ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
    w, b, u, c = (weights[f"gru.{name}_l0{suffix}"] for name in names)
    state, states = np.zeros(WIDTH), []
    for frame in sequence:
        (ri, zi, ni), (rh, zh, nh) = (
            np.split(w @ frame + b, 3),
            np.split(u @ state + c, 3),
        )
        reset, update = sigmoid(ri + rh), sigmoid(zi + zh)
        state = (1 - update) * np.tanh(ni + reset * nh) + update * state
        states.append(state)
    return np.array(states)


@pytest.mark.parametrize(("system", "changes"), NETWORKS, ids=str)
def test_networks_compute_the_equations_of_the_paper(
    system: str, changes: dict[str, Any]
) -> None:
    model = make_model(system, **changes)
    features = make_features()
    with torch.no_grad():
        outputs = both(model, features)
    for number, length in enumerate(LENGTHS.tolist()):
        logits, pooled = by_hand(model, changes, features[number, :length].numpy())
        for output in outputs.values():
            np.testing.assert_allclose(output.logits[number], logits, atol=1e-12)
            if pooled is None:
                assert output.pooled is None
            else:
                assert output.pooled is not None
                np.testing.assert_allclose(output.pooled[number], pooled, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
def test_losses_are_equations_1_3_and_4(alpha: float) -> None:
    generator = np.random.default_rng(1)
    logits, pooled = generator.normal(size=(3, INTENTS)), generator.normal(size=(3, H))
    targets, labels = generator.normal(size=(3, H)), np.array([[2], [0], [3]])
    given = torch.tensor(logits)
    output = Output(given, torch.tensor(pooled), own=given)
    given = torch.tensor(labels), torch.tensor(targets), alpha, [INTENTS]
    loss = losses(output, *given)

    transfer = sum(
        (targets[i] - pooled[i]) @ (targets[i] - pooled[i]) for i in range(3)
    )
    transfer /= 3 * H
    chosen = [
        np.exp(row[label[0]]) / np.exp(row).sum()
        for row, label in zip(logits, labels, strict=True)
    ]
    intent = -np.log(chosen).mean()
    assert loss.transfer is not None
    assert float(loss.transfer) == pytest.approx(transfer, rel=1e-12)
    assert float(loss.intent) == pytest.approx(intent, rel=1e-12)
    total = alpha * transfer + (1 - alpha) * intent
    assert float(loss.total) == pytest.approx(total, rel=1e-12)


def test_the_loss_of_baseline2_is_the_intent_loss_alone() -> None:
    logits = torch.tensor([[1.0, 3.0]])
    output = Output(logits, None, own=logits)
    loss = losses(output, torch.tensor([[0]]), None, None, [2])
    assert loss.transfer is None
    assert float(loss.total) == pytest.approx(np.log(1 + np.exp(2.0)))


@pytest.mark.parametrize(("system", "changes"), NETWORKS, ids=str)
def test_logits_do_not_depend_on_batch_mates_or_padding(
    system: str, changes: dict[str, Any]
) -> None:
    model = make_model(system, **changes).float()
    features = make_features().float()
    other_padding = features.clone()
    for row, length in zip(other_padding, LENGTHS, strict=True):
        row[length:] = -7.0
    with torch.no_grad():
        together, padded = both(model, features), both(model, other_padding)
        for number, length in enumerate(LENGTHS.tolist()):
            rows = slice(number, number + 1)
            alone = both(model, features[rows, :length], LENGTHS[rows])
            for way, output in alone.items():
                for batch in (together[way], padded[way]):
                    torch.testing.assert_close(
                        batch.logits[rows], output.logits, atol=1e-6, rtol=1e-6
                    )


@pytest.mark.parametrize("way", ["literal", "folded"])
@pytest.mark.parametrize(("system", "changes"), NETWORKS, ids=str)
def test_padded_frames_get_no_gradient_and_real_ones_do(
    system: str, changes: dict[str, Any], way: str
) -> None:
    features = make_features().requires_grad_()
    both(make_model(system, **changes), features)[way].logits.square().sum().backward()
    assert features.grad is not None
    present = torch.arange(features.shape[1]) < LENGTHS[:, None]
    assert not features.grad[~present].any()
    # (In one direction the last frame has none unless it is the maximum.)
    assert features.grad[:, 0].any(1).all()


def gradients(
    model: AcousticLinguisticNetwork, way: str, alpha: float | None
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    targets = None if alpha is None else make_targets()
    labels = torch.tensor([[0], [1], [2], [3]])
    total = losses(
        both(model, make_features())[way], labels, targets, alpha, [INTENTS]
    ).total
    total.backward()
    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    return total.item(), found


@pytest.mark.parametrize(("system", "changes"), NETWORKS, ids=str)
def test_folding_keeps_losses_and_gradients(
    system: str, changes: dict[str, Any]
) -> None:
    model = make_model(system, **changes)
    alpha = None if system == "baseline2" else 0.8
    literal, expected = gradients(model, "literal", alpha)
    folded, found = gradients(model, "folded", alpha)
    assert folded == pytest.approx(literal, rel=1e-13)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-13, rtol=1e-10)
        if name != "key.bias":  # an equal shift of all scores has no effect
            assert gradient.abs().max() > 1e-6, name


def test_both_classifiers_learn_the_intent() -> None:
    """And the answer is the product of their probabilities."""
    model = make_model("aln_linguistic", **UTTERANCE)
    output = both(model, make_features())["folded"]
    assert output.taught is not None and output.pooled is not None
    product = output.own.softmax(1) * output.taught.softmax(1)
    expected = product / product.sum(1, keepdim=True)
    torch.testing.assert_close(output.logits.softmax(1), expected)
    labels, targets = torch.tensor([[0], [1], [2], [3]]), make_targets()
    loss = losses(output, labels, targets, 0.3, [INTENTS])
    transfer = (output.pooled - targets).square().mean()
    own, taught = (
        -one.log_softmax(1).gather(1, labels).mean()
        for one in (output.own, output.taught)
    )
    torch.testing.assert_close(loss.total, 0.3 * transfer + 0.7 * own + taught)


@pytest.mark.parametrize("system", TRANSFER_SYSTEMS)
def test_alpha_1_trains_the_transfer_layer_alone(system: str) -> None:
    _, found = gradients(make_model(system), "folded", 1.0)
    for name, gradient in found.items():
        assert gradient.any() == name.startswith("transfer."), name


@pytest.mark.parametrize("system", TRANSFER_SYSTEMS)
def test_alpha_0_ignores_the_teacher(system: str) -> None:
    model = make_model(system)
    output, labels = (
        both(model, make_features())["folded"],
        torch.tensor([[0], [1], [2], [3]]),
    )
    targets = make_targets()
    loss, other = (
        losses(output, labels, x, 0.0, [INTENTS]) for x in (targets, 9 * targets)
    )
    assert loss.transfer != other.transfer and loss.total == other.total


def test_sharpness_of_attention_is_that_of_each_real_frame() -> None:
    model, features = make_model("aln"), make_features()
    entropies, scores = [], []
    with torch.no_grad():
        for frames, length in zip(features, LENGTHS, strict=True):
            real = frames[:length]
            query, key = (
                model.query(real),
                model.key(model.mapping(model.transfer(real))),
            )
            scores.append((query @ key.T / np.sqrt(D)).numpy())
            weights = np.exp(scores[-1]) / np.exp(scores[-1]).sum(1, keepdims=True)
            entropies += list(-(weights * np.log(weights)).sum(1))
    offsets = np.concatenate([[0], LENGTHS.cumsum(0).numpy()])
    real = torch.cat(
        [row[:length] for row, length in zip(features, LENGTHS, strict=True)]
    )
    labels = np.zeros((len(LENGTHS), 1), np.int64)
    split = Utterances.from_arrays(real.numpy(), offsets, labels)
    found = measure_attention(model, split)
    assert found["attention_entropy"] == pytest.approx(np.mean(entropies), rel=1e-9)
    # Without biases yet, scores are what folding compares.
    largest = max(one.max() for one in scores)
    assert found["largest_score"] == pytest.approx(largest, rel=1e-9)
    none = measure_attention(make_model("aln", attention="none"), split)
    assert np.isnan(list(none.values())).all()


def test_dropout_applies_in_training_only() -> None:
    model = make_model("aln", dropout=0.5)
    features = make_features()
    training = [model(features, LENGTHS).logits for _ in range(2)]
    assert not torch.equal(*training)
    model.eval()
    assert torch.equal(*[model(features, LENGTHS).logits for _ in range(2)])


@pytest.mark.parametrize("mapping", ["before", "none"])
def test_each_frame_first_attends_to_itself(mapping: str) -> None:
    torch.manual_seed(0)
    network = make_network("aln", mapping=mapping)
    network |= {"acoustic_dim": 32, "linguistic_dim": 48}
    model = build(network)
    features = torch.randn(5, 32)
    source = model.transfer(features)
    if model.mapping is not None:
        source = model.mapping(source)
    keys = model.key(source)
    scores = (model.query(features) @ keys.T).detach().numpy()
    # W_q = W_k, orthogonal, and mapping inverts transfer: x·x'.
    np.testing.assert_allclose(
        scores, features.numpy() @ features.numpy().T, rtol=1e-4, atol=1e-4
    )
    assert (scores.argmax(1) == np.arange(5)).all()


# Batches


def make_utterances(count: int = 300) -> Utterances:
    generator = np.random.default_rng(2)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(1, 40, count))])
    frames = generator.normal(size=(offsets[-1], 3)).astype(np.float32)
    said = generator.integers(0, 10, count)
    vectors = generator.normal(size=(10, 2)).astype(np.float32)
    labels = generator.integers(0, 5, (count, 1))
    texts = Texts(
        torch.from_numpy(vectors),
        None,
        rows=torch.arange(10),
        labels=torch.zeros(10, 1, dtype=torch.int64),
    )
    return Utterances.from_arrays(frames, offsets, labels, said=said, texts=texts)


def test_a_batch_has_each_utterance_padded_on_the_right() -> None:
    data = make_utterances()
    rows = torch.tensor([5, 0, 299, 5])
    batch = data.gather(rows)
    assert batch.features.shape[1] == int(data.lengths[rows].max())
    assert data.said is not None and data.texts is not None
    assert batch.targets is not None
    for place, row in enumerate(rows.tolist()):
        length = int(data.lengths[row])
        start = int(data.lengths[:row].sum())
        own = data.frames[start : start + length]
        assert batch.lengths[place] == length
        assert torch.equal(batch.features[place, :length], own)
        torch.testing.assert_close(batch.means[place], own.mean(0))
        assert batch.labels[place] == data.labels[row]
        assert torch.equal(batch.targets[place], data.texts.vectors[data.said[row]])


def test_an_epoch_has_every_utterance_once_in_a_seeded_order() -> None:
    data = make_utterances()

    def epoch(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [rows.tolist() for rows in data.shuffled(16, generator)]

    batches = epoch(1)
    assert sorted(row for batch in batches for row in batch) == list(range(len(data)))
    assert max(map(len, batches)) == 16 and len(batches) == 19
    assert epoch(1) == batches
    assert {frozenset(b) for b in epoch(2)}.isdisjoint(frozenset(b) for b in batches)
    by_length = [row for rows in data.by_length for row in rows.tolist()]
    assert sorted(by_length) == list(range(len(data)))


def test_an_epoch_pads_little_and_is_not_sorted_by_length() -> None:
    data = make_utterances()
    batches = data.shuffled(16, torch.Generator().manual_seed(1))
    padded = sum(len(rows) * int(data.lengths[rows].max()) for rows in batches)
    assert padded < 1.2 * int(data.lengths.sum())  # unsorted: about 1.9
    longest = [int(data.lengths[rows].max()) for rows in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


# The file


def write_student(path: Path, **changes: Any) -> AcousticLinguisticNetwork:
    model = build(make_network("aln"))
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    metadata = {
        "network": make_network("aln"),
        "intents": ["a", "b", "c", "d"],
        "seed": 7,
        **changes,
    }
    save_student(path, weights, metadata)
    return model


def test_a_student_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved = write_student(path)
    model, metadata = load_student(path)
    assert metadata["seed"] == 7 and metadata["network"] == make_network("aln")
    assert not model.training
    features = make_features().float()
    with torch.no_grad():
        found, expected = model(features, LENGTHS), saved(features, LENGTHS)
    assert torch.equal(found.logits, expected.logits)


def test_one_student_always_has_the_same_bytes(tmp_path: Path) -> None:
    model = write_student(tmp_path / "model.safetensors")
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    metadata = {name: name for name in "abcdefgh"}
    contents = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_student(path, weights, metadata)
        contents.add(path.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"network": {**make_network("aln"), "acoustic_dim": D + 1}}, "size mismatch"),
        ({"network": {**make_network("aln"), "system": "aln2"}}, "aln2"),
        ({"network": {**make_network("aln"), "architecture": {"depth": 2}}}, "depth"),
        ({"intents": ["a", "b"]}, "intents"),
    ],
)
def test_a_student_that_does_not_fit_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    path = tmp_path / "model.safetensors"
    write_student(path, **changes)
    with pytest.raises(CacheError, match=rf"model\.safetensors: .*{complaint}"):
        load_student(path)


def test_another_file_is_refused_as_a_student(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CacheError, match=r"model\.safetensors: no student there.*run"):
        load_student(path)
    write_student(path)
    for content in (b"not safetensors at all", path.read_bytes()[:-4]):
        path.write_bytes(content)
        with pytest.raises(CacheError, match=r"model\.safetensors: not a student"):
            load_student(path)
    save_file({"weight": np.zeros(2, np.float32)}, path)
    with pytest.raises(CacheError, match="not a student"):
        load_student(path)


# Parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("betas", (0.9,)),
        ("betas", (0.9, 1.0)),
        ("batch_size", 0),
        ("epochs", 0),
        ("seeds", ()),
        ("seeds", (1, 1)),
        ("seeds", (-1, 2)),
        ("seeds", (1, 2**63)),
        ("alpha", ()),
        ("alpha", (0.5, 0.5)),
        ("alpha", (0.5, 1.1)),
        ("gru_width", 0),
        ("dropout", 1.0),
        ("frame_pooling", "sum"),
        ("attention", "both"),
        ("mapping", "after"),
        ("initialisation", "zero"),
        ("selection", "best_test"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"student\.{name} .*expected"):
        StudentParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("system", "alpha", "complaint"),
    [
        ("aln2", 0.5, "one of baseline2, aln_linguistic, aln"),
        ("baseline2", 0.5, "leave --alpha out"),
        ("aln", None, "from 0 to 1"),
        ("aln_linguistic", 1.5, "from 0 to 1"),
        ("aln", -0.1, "from 0 to 1"),
    ],
)
def test_a_variant_that_does_not_exist_is_refused(
    system: str, alpha: float | None, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Variant(system, alpha, StudentParams())
