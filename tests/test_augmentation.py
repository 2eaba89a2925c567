"""Augmentation of the students' batches, compared with loops over utterances."""

from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import pytest
import torch

from stages.core.errors import ConfigurationError
from stages.core.labels import Labels
from stages.student import training
from stages.student.augmentation import drop_frames, mask_features
from stages.student.batches import Batch, Utterances
from stages.student.params import StudentParams, Variant
from stages.student.training import Checkpoint, Student, train_student

LENGTHS = [1, 7, 40, 3]


def make_utterances() -> Utterances:
    """Frames whose first value says which one it is."""
    offsets = np.cumsum([0, *LENGTHS])
    frames = np.random.default_rng(1).standard_normal((offsets[-1], 5))
    frames[:, 0] = np.arange(len(frames))
    labels = np.arange(len(LENGTHS))[:, None] % 2
    return Utterances.from_arrays(frames.astype(np.float32), offsets, labels)


def make_batch() -> Batch:
    return make_utterances().gather(torch.arange(len(LENGTHS)))


def test_frames_are_left_out_in_order_with_their_means() -> None:
    generator, batch = torch.Generator().manual_seed(1), make_batch()
    kept = np.zeros(len(LENGTHS))
    for _ in range(200):
        made = drop_frames(batch, 0.3, generator)
        kept += made.lengths.numpy()
        assert made.features.shape[1] == made.lengths.max()
        assert made.labels is batch.labels
        for row, length in enumerate(made.lengths.tolist()):
            frames, given = made.features[row], batch.features[row]
            places = (frames[:length, 0] - given[0, 0]).long()
            assert (places.diff() > 0).all() and places.max() < LENGTHS[row]
            assert torch.equal(frames[:length], given[places])
            assert (frames[length:] == frames[length - 1]).all()
            torch.testing.assert_close(made.means[row], frames[:length].mean(0))
    assert kept[0] == 200  # its only frame stays
    assert abs(kept[2] / (200 * LENGTHS[2]) - 0.7) < 0.02


def test_one_frame_stays_of_each_utterance() -> None:
    made = drop_frames(make_batch(), 1 - 1e-9, torch.Generator().manual_seed(1))
    assert made.lengths.tolist() == [1, 1, 1, 1]
    assert torch.equal(made.means, made.features[:, 0])


def test_masked_features_are_constant_and_keep_their_means() -> None:
    generator, batch = torch.Generator().manual_seed(1), make_batch()
    shares = []
    for _ in range(500):
        made = mask_features(batch, 0.4, generator)
        for row, length in enumerate(LENGTHS):
            frames, given = made.features[row, :length], batch.features[row, :length]
            masked = (frames == batch.means[row]).all(0)  # (D)
            assert torch.equal(frames[:, ~masked], given[:, ~masked])
            torch.testing.assert_close(frames.mean(0), made.means[row])
        shares.append(masked.float().mean())
    found = torch.stack(shares)  # of the last utterance
    assert abs(found.mean() - 0.2) < 0.03
    assert ((found > 0) & (found < 1)).any()  # each feature on its own


@pytest.mark.parametrize("name", ["frame_dropout", "feature_masking"])
def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    labels, split = Labels({"intent": ["a", "b"]}), make_utterances()

    def train(params: StudentParams, checkpoint: Checkpoint | None = None) -> Student:
        variant = Variant("baseline2", None, params)
        network = {
            "system": "baseline2",
            "acoustic_dim": 5,
            "linguistic_dim": None,
            "values": [2],
            "architecture": asdict(variant.architecture),
        }
        return train_student(
            variant,
            8,
            network=network,
            labels=labels,
            train=split,
            valid=split,
            checkpoint=checkpoint,
        )

    params = StudentParams(batch_size=2, epochs=3, gru_width=4, **{name: 0.3})
    whole = train(params)
    plain = train(replace(params, **{name: 0.0}))
    assert plain.history[0]["loss"] != whole.history[0]["loss"]
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    epochs = Mock(wraps=training.train_epoch, side_effect=[DEFAULT, KeyboardInterrupt])
    monkeypatch.setattr(training, "train_epoch", epochs)
    checkpoint = Checkpoint(tmp_path / "one.pt", "identity")
    with pytest.raises(KeyboardInterrupt):
        train(params, checkpoint)
    epochs.reset_mock(side_effect=True)
    resumed = train(params, checkpoint)
    assert epochs.call_count == 2
    np.testing.assert_equal(resumed.history, whole.history)
    np.testing.assert_equal(resumed.weights, whole.weights)


@pytest.mark.parametrize(
    ("name", "share"), [("frame_dropout", 1.0), ("feature_masking", 1.1)]
)
def test_a_share_must_be_possible(name: str, share: float) -> None:
    for value in (share, -0.1, float("nan")):
        with pytest.raises(ConfigurationError, match=rf"student\.{name} .* 1"):
            StudentParams(**{name: value})
