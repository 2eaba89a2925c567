"""An exported model: what PyTorch gives, in a folder that needs no PyTorch."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from conftest import change_identity, pipeline, write_tone
from huggingface_hub import ModelCard

from stages.acoustic.checkpoint import frozen_encoder
from stages.acoustic.encoder import FRONT_ENDS, EncoderConfiguration
from stages.core.checksums import read_sealed, write_sealed
from stages.core.labels import Labels
from stages.export.graph import Confidence, whole_graph
from stages.export.quantisation import quantise
from stages.export.run import _accuracies
from stages.inference.classifier import (
    IntentClassifier,
    OnnxModel,
    OnnxSession,
    Prediction,
)
from stages.rejection.calibration import SCORES
from stages.speech.loading import load_audio
from stages.student.model import AcousticLinguisticNetwork, build
from stages.student.params import SYSTEMS

TEMPERATURE = 1.7
ARCHITECTURES = [
    {},
    {"attention": "self", "mapping": "none"},
    {"attention": "none"},
    {"mapping": "none", "scaling": False},
    {"frame_pooling": "mean", "gru_bidirectional": False},
    {"frame_pooling": "attention", "attention": "none"},
    {"transfer": "utterance", "teacher_classifier": True},
]


def network(
    system: str, seed: int = 0, values: tuple[int, ...] = (5,), **architecture: object
) -> AcousticLinguisticNetwork:
    torch.manual_seed(seed)
    found = build(
        {
            "system": system,
            "acoustic_dim": 16,
            "linguistic_dim": None if system == "baseline2" else 12,
            "values": values,
            "architecture": {"gru_width": 7, **architecture},
        }
    )
    with torch.no_grad():
        for weight in found.parameters():
            # As after training, where no map is orthogonal and no bias zero.
            weight.add_(torch.randn_like(weight) * 0.2)
    return found.eval().requires_grad_(False)


def encoder(front_end: str = "log-cmn"):
    sizes = EncoderConfiguration(front_end, channels=8, hidden=8, phonemes=4, words=2)
    return frozen_encoder(sizes, seed=1).encoder


def waves(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(lengths)
    return [generator.normal(0, 0.1, one).astype(np.float32) for one in lengths]


def opened(folder: Path, model: onnx.ModelProto) -> OnnxModel:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return OnnxModel(folder / "model.onnx")


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("score", SCORES)
def test_the_graph_gives_what_the_equations_give_each_alone(
    tmp_path: Path, system: str, architecture: dict, score: str
) -> None:
    student, speech = network(system, **architecture), encoder()
    model = opened(
        tmp_path, whole_graph(speech, [student], Confidence(TEMPERATURE, score))
    )
    batch = waves(1, 2_560, 2_561, 17_000, 60_000)
    outputs = model(batch)
    for row, wave in enumerate(batch):
        features = speech(torch.from_numpy(wave)[None])
        logits = student(features, torch.tensor([features.shape[1]])).logits[0]
        expected = (logits / TEMPERATURE).softmax(0)
        np.testing.assert_allclose(outputs.probabilities[row], expected, atol=2e-6)
        energy = score == "energy"
        value = logits.logsumexp(0) if energy else expected.max()
        np.testing.assert_allclose(outputs.scores[row], value, rtol=1e-5)
        shares = outputs.attention[row]
        assert shares[: features.shape[1]].sum() == pytest.approx(1, abs=1e-5)
        assert not shares[features.shape[1] :].any()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("transfer", ["frames", "utterance"])
@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_each_slot_has_its_own_probabilities(
    tmp_path: Path, pooling: str, transfer: str, count: int, score: str
) -> None:
    speech, batch, sizes = encoder(), waves(1, 9_000, 40_000), (2, 3, 4)
    changes = {"frame_pooling": pooling, "transfer": transfer}
    changes["teacher_classifier"] = transfer == "utterance"
    students = [network("aln", seed, values=sizes, **changes) for seed in range(count)]
    model = whole_graph(speech, students, Confidence(TEMPERATURE, score))
    outputs = opened(tmp_path, model)(batch)
    for row, wave in enumerate(batch):
        features = speech(torch.from_numpy(wave)[None])
        lengths = torch.tensor([features.shape[1]])
        each = [one(features, lengths).logits[0].split(sizes) for one in students]
        expected = []
        for slot in range(len(sizes)):
            mean = torch.stack([one[slot].softmax(0) for one in each]).mean(0)
            logits = mean.log() if count > 1 else each[0][slot]
            expected.append((logits / TEMPERATURE).softmax(0))
        found = outputs.probabilities[row]
        np.testing.assert_allclose(found, torch.cat(expected), atol=2e-6)
        if score == "energy":
            value = np.mean([sum(part.logsumexp(0) for part in one) for one in each])
        else:
            value = np.prod([part.max() for part in expected])
        np.testing.assert_allclose(outputs.scores[row], value, rtol=1e-5)


def test_a_rejected_command_is_wrong_though_its_value_is_none(tmp_path: Path) -> None:
    """`none` is also the answer for what is rejected."""
    table = pd.DataFrame(
        {"split": ["valid", "test"], "path": "a.wav", "intent": ["none", "none"]}
    )
    rejected = Prediction("none", 0.9, True, {}, [("none", 0.9)], 0.1, np.ones(1))
    found = _accuracies(
        lambda paths: [rejected] * len(paths),
        Labels({"room": ["hall", "none"]}),
        tmp_path,
        table,
    )
    assert (found["test"], found["test_with_rejection"]) == (100, 0)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_what_is_beyond_a_length_is_ignored(tmp_path: Path, front_end: str) -> None:
    model = whole_graph(encoder(front_end), [network("aln")], Confidence(1, "energy"))
    session = OnnxSession(model.SerializeToString())
    (wave,) = waves(30_000)
    lengths = np.array([20_000], np.int64)
    loud = session.run({"waveform": wave[None], "lengths": lengths})
    cut = session.run({"waveform": wave[None, :20_000], "lengths": lengths})
    np.testing.assert_array_equal(loud.probabilities, cut.probabilities)


def test_several_seeds_answer_with_the_mean_of_their_probabilities(
    tmp_path: Path,
) -> None:
    students = [network("aln", seed) for seed in range(3)]
    speech, batch = encoder(), waves(9_000, 40_000)
    for score in SCORES:
        each = [
            opened(tmp_path, whole_graph(speech, [one], Confidence(1, score)))(batch)
            for one in students
        ]
        model = whole_graph(speech, students, Confidence(1, score))
        together = opened(tmp_path, model)(batch)
        mean = np.mean([one.probabilities for one in each], axis=0)
        np.testing.assert_allclose(together.probabilities, mean, atol=1e-6)
        expected = np.mean([one.scores for one in each], axis=0)
        if score == "max_probability":
            expected = mean.max(axis=1)
        np.testing.assert_allclose(together.scores, expected, rtol=1e-5)


def test_the_attention_of_aln_follows_its_equation(tmp_path: Path) -> None:
    """With mean pooling, a frame's share is its mean weight over the queries."""
    student, speech = network("aln", frame_pooling="mean"), encoder()
    model = opened(tmp_path, whole_graph(speech, [student], Confidence(1, "energy")))
    (wave,) = waves(50_000)
    features = speech(torch.from_numpy(wave)[None])
    source = student.mapping(student.transfer(features))  # type: ignore[misc]
    scores = student.query(features) @ student.key(source).mT / student.scale
    expected = scores.softmax(-1)[0].mean(0)
    np.testing.assert_allclose(model([wave]).attention[0], expected, atol=1e-5)


def test_int8_weights_take_a_quarter_and_stay_near(tmp_path: Path) -> None:
    sizes = EncoderConfiguration("log-cmn", phonemes=4, words=2, hidden=8)
    speech = frozen_encoder(sizes, seed=1).encoder
    whole = whole_graph(speech, [network("aln")], Confidence(1, "max_probability"))
    small = quantise(whole)
    onnx.checker.check_model(small)
    large = [one for one in whole.graph.initializer if np.prod(one.dims) >= 1024]
    names = {one.name for one in small.graph.initializer}
    assert large and not {one.name for one in large} & names
    assert small.ByteSize() < 0.45 * whole.ByteSize()
    batch = waves(9_000, 40_000)
    found = opened(tmp_path, small)(batch).probabilities
    expected = opened(tmp_path, whole)(batch).probabilities
    assert 0 < np.abs(found - expected).max() < 0.05


# The command, on the corpus of sine waves.


def test_it_exports_the_best_on_valid_with_a_card(
    finished: Path, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    result = pipeline("export", "model")
    assert result.exit_code == 0, result.output
    about = json.loads(Path("model/model.json").read_text("utf-8"))
    scores = {
        path.parent.name: json.loads(path.read_text("utf-8"))["valid_accuracy"]
        for path in Path("cache/tiny/student").glob("*/metrics.json")
    }
    assert scores[about["student"]] == max(scores.values())
    assert about["trained_on"]["utterances"] == {"test": 6, "train": 12, "valid": 6}
    card = ModelCard.load("model/README.md")
    values = {one.dataset_split: one.metric_value for one in card.data.eval_results}
    assert values["test"] == pytest.approx(about["accuracy"]["test"] / 100, abs=1e-6)
    assert "{{" not in card.content and f"# {about['student']}" in card.content
    requirements = Path("model/requirements.txt").read_text("utf-8").split()
    assert [line.split("==")[0] for line in requirements] == [
        "click",
        "numpy",
        "onnxruntime",
        "soundfile",
    ]
    before = snapshot(Path("model"))
    assert pipeline("export", "model").exit_code == 0
    assert snapshot(Path("model")) == before


def test_every_student_is_exported_and_gives_its_own_predictions(
    finished: Path,
) -> None:
    for folder in sorted(Path("cache/tiny/student").iterdir()):
        assert pipeline("export", folder.name, "model").exit_code == 0
        classifier = IntentClassifier("model")
        lines = (folder / "predictions.csv").read_text("utf-8").splitlines()[1:]
        manifest = Path("cache/tiny/manifest.csv").read_text("utf-8").splitlines()[1:]
        paths = {line.split(",")[0]: line.split(",")[1] for line in manifest}
        for line in lines:
            _, id, _, _, predicted, _ = line.split(",")
            answer = classifier(f"data/tiny/{paths[id]}", reject=False)
            assert answer.intent == predicted


def test_an_ensemble_and_int8_weights(finished: Path) -> None:
    result = pipeline("export", "aln-0.5", "model", "--ensemble", "--int8")
    assert result.exit_code == 0, result.output
    assert "int8" in result.output and "float32" in result.output
    about = json.loads(Path("model/model.json").read_text("utf-8"))
    assert about["weights"] == "int8" and about["seeds"] == [1]


def test_a_model_that_differs_from_pytorch_is_not_kept(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.export import run

    def broken(*arguments: object) -> onnx.ModelProto:
        model = whole_graph(*arguments)  # type: ignore[arg-type]
        for node in model.graph.node:
            if node.output[0] == "probabilities":
                node.attribute[0].i = 0  # a softmax over the batch
        return model

    monkeypatch.setattr(run, "whole_graph", broken)
    result = pipeline("export", "model")
    assert result.exit_code == 2 and "does not give what PyTorch gives" in result.output
    assert not Path("model").exists()


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ((), "expected [STUDENT] DIR"),
        (("a", "b", "c"), "expected [STUDENT] DIR"),
        (("bert", "model"), "no such student; found bert; expected one of baseline2"),
        (("data",), "data: not an empty folder or an earlier export; found tiny"),
        (("params.yaml",), "params.yaml: not an empty folder or an earlier export"),
        (("aln-1",), "expected [STUDENT] DIR"),
    ],
)
def test_mistakes(finished: Path, arguments: tuple[str, ...], complaint: str) -> None:
    result = pipeline("export", *arguments)
    assert result.exit_code == 2 and complaint in result.output


def test_only_an_export_is_replaced(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    Path("link").symlink_to(folder)
    assert pipeline("export", "link").exit_code == 0
    assert Path("link").is_symlink() and (folder / "model.onnx").is_file()
    assert pipeline("export", "link").exit_code == 0
    (folder / "thesis.txt").write_text("years")
    result = pipeline("export", "link")
    assert result.exit_code == 2 and "found thesis.txt" in result.output
    assert (folder / "thesis.txt").read_text() == "years"


def test_results_of_other_students_are_refused(finished: Path) -> None:
    change_identity(Path("cache/tiny/student/aln-1"))
    result = pipeline("export", "baseline2", "model")
    assert result.exit_code == 2 and "dvc repro rejection" in result.output
    assert pipeline("rejection").exit_code == 0
    result = pipeline("export", "baseline2", "model")
    assert result.exit_code == 2 and "dvc repro report" in result.output


def test_another_share_than_rejection_was_run_with_is_refused(finished: Path) -> None:
    result = pipeline("export", "model", "--set", "rejection.share=0.2")
    assert result.exit_code == 2 and not Path("model").exists()
    assert "another rejection.share; found 0.05; expected 0.2" in result.stderr


def test_without_rejection_or_report_it_says_what_to_run(finished: Path) -> None:
    Path("report/results.json").unlink()
    result = pipeline("export", "model")
    assert result.exit_code == 2 and "dvc repro report" in result.output
    Path("cache/tiny/rejection/identity.json").unlink()
    result = pipeline("export", "model")
    assert result.exit_code == 2 and "dvc repro rejection" in result.output


# The classifier.


def test_paths_arrays_and_lists_give_the_same(exported: Path, tmp_path: Path) -> None:
    classifier = IntentClassifier(exported)
    paths = []
    for number, seconds in enumerate((0.3, 1.1, 0.05)):
        paths.append(tmp_path / f"{number}.wav")
        write_tone(paths[-1], 300 * 3**number, seconds, number)
    alone = [classifier(path) for path in paths]
    arrays = [load_audio(path) for path in paths]
    stereo = np.stack([arrays[0], arrays[0]], axis=1)
    for found in (
        classifier(paths),
        classifier(arrays, 16_000),
        [classifier(stereo, 16_000), *alone[1:]],
    ):
        for one, other in zip(alone, found, strict=True):
            assert dict(one.ranked) == pytest.approx(dict(other.ranked), abs=1e-6)
            assert (one.intent, one.seconds) == (other.intent, other.seconds)
    found = classifier(paths[0].read_bytes())
    assert dict(found.ranked) == pytest.approx(dict(alone[0].ranked), abs=1e-6)
    for one, wave in zip(alone, arrays, strict=True):
        assert one.seconds == len(wave) / 16_000
        assert len(one.attention) == -(-len(wave) // 2560)
        assert sum(value for _, value in one.ranked) == pytest.approx(1, abs=1e-5)
        assert one.probability == one.ranked[0][1] == max(v for _, v in one.ranked)
    assert classifier([]) == []


def test_a_score_below_the_threshold_is_none(exported: Path, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 300, 0.3, 0)
    classifier = IntentClassifier(exported)
    about = exported / "model.json"
    for threshold, rejected in ((-1e9, False), (1e9, True)):
        content = read_sealed(about)
        content["rejection"]["threshold"] = threshold
        write_sealed(about, content)
        classifier = IntentClassifier(exported)
        answer = classifier(tmp_path / "a.wav")
        assert answer.rejected is rejected
        assert answer.intent == ("none" if rejected else answer.ranked[0][0])
        assert not classifier(tmp_path / "a.wav", reject=False).rejected


def test_silence_is_none(exported: Path, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 300, 0.3, 0)
    about = read_sealed(exported / "model.json")
    about["rejection"]["threshold"] = -1e9
    write_sealed(exported / "model.json", about)
    classifier, wave = IntentClassifier(exported), load_audio(tmp_path / "a.wav")
    assert not classifier(wave, 16_000).rejected
    # The encoder is nearly blind to level.
    assert classifier(wave / 100, 16_000).rejected
    assert classifier(np.zeros(8000), 16_000).intent == "none"


def test_unusable_audio_is_refused(exported: Path) -> None:
    classifier = IntentClassifier(exported)
    for wave, complaint in (
        (np.zeros((2, 3, 4)), "not a recording"),
        (np.zeros((2, 300)), "not a recording"),  # (channels, samples)
        (np.full(300, 1e30), "not samples"),
        (np.zeros(0), "not a recording"),
        (np.array([0.0, np.nan]), "not samples"),
        (np.zeros(16_000 * 121), "too long"),
    ):
        with pytest.raises(Exception, match=complaint):
            classifier(wave, 16_000)
    for rate in (None, 0, -16_000, 44_100.0, "16000"):
        with pytest.raises(TypeError, match="sample_rate"):
            classifier(np.zeros(100), rate)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="too small a common factor"):
        classifier(np.zeros(100), 44_101)
    with pytest.raises(TypeError, match="a recording or a list"):
        classifier({"a.wav": 1})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="floats"):
        classifier(np.zeros(100, np.int16), 16_000)


def test_a_damaged_model_is_refused(exported: Path, tmp_path: Path) -> None:
    content = bytearray((exported / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (exported / "model.onnx").write_bytes(content)
    with pytest.raises(Exception, match=r"model\.onnx: not the file that was exported"):
        IntentClassifier(exported)
    path = exported / "model.json"
    text = path.read_text("utf-8")
    for changed in ("{}", "[", text.replace('"threshold": ', '"threshold": 9')):
        path.write_text(changed, "utf-8")
        with pytest.raises(Exception, match=r"model\.json: not the description"):
            IntentClassifier(exported)
    with pytest.raises(Exception, match="not an exported model"):
        IntentClassifier(exported.parent / "nowhere")
