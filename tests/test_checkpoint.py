"""Checkpoints: both kinds, refusals, and the fingerprint of what features depend on."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.acoustic.checkpoint import (
    Checkpoint,
    frozen_encoder,
    load_checkpoint,
    save_checkpoint,
)
from stages.acoustic.encoder import Encoder, EncoderConfiguration
from stages.core.errors import InputError

GOLDEN = Path(__file__).parent / "data" / "lugosch_encoder_small.npz"
SIZES = EncoderConfiguration(filters=4, channels=3, hidden=2, phonemes=3, words=5)
OURS = replace(SIZES, front_end="log-cmn", taps=21, kernel=3, ctc=True)
PHONEMES = ("_", "a", "ŋ")
WORDS = ("<silence>", "w", "x", "y", "z")


def make(configuration: EncoderConfiguration, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(configuration)


def weights_of(configuration: EncoderConfiguration) -> dict[str, Tensor]:
    return make(configuration).state_dict()


def saved(path: Path, weights: object) -> Path:
    torch.save(weights, path)
    return path


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_checkpoint(path, make(OURS), PHONEMES, WORDS)
    return path


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return saved(tmp_path / "model_state.pth", weights_of(SIZES))


def assert_frozen(checkpoint: Checkpoint) -> None:
    assert not any(module.training for module in checkpoint.encoder.modules())
    assert not any(weight.requires_grad for weight in checkpoint.encoder.parameters())


def test_a_loaded_encoder_is_frozen(ours: Path, public: Path) -> None:
    for checkpoint in (
        load_checkpoint(ours),
        load_checkpoint(public),
        frozen_encoder(SIZES, seed=1),
    ):
        assert_frozen(checkpoint)
        before = {
            name: weight.clone()
            for name, weight in checkpoint.encoder.state_dict().items()
        }
        wave = torch.randn(1, 6000)
        features = checkpoint.encoder(wave)
        assert not features.requires_grad
        assert torch.equal(features, checkpoint.encoder(wave))
        for name, weight in checkpoint.encoder.state_dict().items():
            assert torch.equal(weight, before[name])


@pytest.mark.parametrize("prefix", ["", "pretrained_model."])
def test_public_files_give_the_reference_values(tmp_path: Path, prefix: str) -> None:
    with np.load(GOLDEN) as golden:
        weights = {
            name.replace("weight/", prefix): torch.from_numpy(golden[name])
            for name in golden
            if name.startswith("weight/")
        }
        wave, expected = golden["wave/3"], golden["features/3"]
    if prefix:
        # A whole understanding model has layers behind the encoder.
        weights["intent_layers.0.weight"] = torch.zeros(3, 3)
    checkpoint = load_checkpoint(saved(tmp_path / "model_state.pth", weights))
    features = checkpoint.encoder(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    assert checkpoint.encoder.configuration == EncoderConfiguration(
        filters=8, channels=6, hidden=8, phonemes=5, words=20
    )
    assert checkpoint.phonemes == checkpoint.words == ()


def test_our_format_rounds_weights_to_half_precision(ours: Path) -> None:
    encoder, checkpoint = make(OURS), load_checkpoint(ours)
    assert checkpoint.encoder.configuration == OURS
    assert (checkpoint.phonemes, checkpoint.words) == (PHONEMES, WORDS)
    found = checkpoint.encoder.state_dict()
    assert found.keys() == encoder.state_dict().keys()
    rounded = 0
    for name, weight in encoder.state_dict().items():
        assert found[name].dtype == weight.dtype
        if ".filt_" in name:
            assert torch.equal(found[name], weight)
            continue
        # 11 bits of significand; below 2^-14 the step is 2^-24.
        bound = (weight.abs() * 2**-11).clamp_min(2**-25)
        assert ((found[name] - weight).abs() <= bound).all()
        rounded += int((found[name] != weight).sum())
    assert rounded


def test_what_was_loaded_is_saved_as_the_same_bytes(tmp_path: Path, ours: Path) -> None:
    checkpoint = load_checkpoint(ours)
    for number in range(5):
        again = tmp_path / f"again-{number}.safetensors"
        save_checkpoint(
            again, checkpoint.encoder, checkpoint.phonemes, checkpoint.words
        )
        assert again.read_bytes() == ours.read_bytes()
    assert load_checkpoint(again).fingerprint == checkpoint.fingerprint


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, zipped: bool
) -> None:
    path, trap = tmp_path / "model_state.pth", tmp_path / "sprung"
    weights = {**weights_of(SIZES), "word_linear.bias": _Trap(trap)}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"model_state\.pth: not a complete file"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(_Trap(trap), protocol=2))
    with pytest.raises(InputError):
        load_checkpoint(path)
    assert not trap.exists()
    # The trap does work.
    pickle.loads(path.read_bytes())
    assert trap.exists()


@pytest.mark.parametrize("name", ["encoder.safetensors", "model_state.pth"])
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    ours: Path, public: Path, name: str, share: float
) -> None:
    path = ours.with_name(name)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["encoder.safetensors", "model_state.pth"])
@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html>\n",
        bytes(range(256)) * 4,
        b"\x80\x02.",
        b"\x80\x02K\xff\x85h\x07.",
    ],
)
def test_what_is_no_checkpoint_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        torch.zeros(2),
        {"epoch": 3},
        {1: torch.zeros(2)},
        {},
        {"phoneme_layers.5.weight": torch.zeros(2)},
        {"pretrained_model.x": torch.zeros(2)},
        {**weights_of(SIZES), "phoneme_layers.14.weight_hh_l0": torch.zeros(6, 0)},
    ],
)
def test_weights_of_something_else_are_refused(tmp_path: Path, content: object) -> None:
    path = saved(tmp_path / "model_state.pth", content)
    with pytest.raises(InputError, match=r"model_state\.pth: not a"):
        load_checkpoint(path)


def test_a_missing_file_says_which_parameter_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors.*acoustic\.encoder"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "name, shape",
    [
        ("phoneme_layers.0.filt_b1", (5,)),
        ("word_layers.4.weight_ih_l0_reverse", (6, 9)),
    ],
)
@pytest.mark.parametrize("configuration", [SIZES, OURS])
def test_other_dimensions_name_weight_found_and_expected(
    public: Path,
    ours: Path,
    configuration: EncoderConfiguration,
    name: str,
    shape: tuple[int, ...],
) -> None:
    weights = weights_of(configuration)
    expected = tuple(weights[name].shape)
    if configuration == OURS:
        path = ours_with(ours, {name: torch.zeros(shape)})
    else:
        path = saved(public, {**weights, name: torch.zeros(shape)})
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    for part in (str(path), name, f"found {shape}", f"expected {expected}"):
        assert part in message


def ours_with(path: Path, weights: dict[str, Tensor], **metadata: str) -> Path:
    """Our checkpoint in `path` with some weights and metadata replaced."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = file.metadata()
    save_file({**tensors, **weights}, path, {**kept, **metadata})
    return path


@pytest.mark.parametrize(
    "metadata, complaint",
    [
        ({"format": "other"}, "not an encoder checkpoint"),
        ({"version": "2"}, "version '2'.*version '1'"),
        ({"configuration": "{"}, "unusable metadata"),
        ({"configuration": '{"front_end": "mel"}'}, "unusable metadata.*'mel'"),
        ({"configuration": '{"colour": 1}'}, "unusable metadata.*colour"),
        ({"configuration": '{"hidden": 0}'}, "unusable metadata"),
        ({"phonemes": "no list"}, "unusable metadata"),
    ],
)
def test_unusable_metadata_is_refused(
    ours: Path, metadata: dict[str, str], complaint: str
) -> None:
    ours_with(ours, {}, **metadata)
    with pytest.raises(InputError, match=rf"encoder\.safetensors: .*{complaint}"):
        load_checkpoint(ours)


def test_weights_that_are_no_numbers_are_named(ours: Path) -> None:
    ours_with(ours, {"phoneme_layers.5.bias": torch.tensor([0.0, torch.nan, 0.0])})
    with pytest.raises(InputError, match=r"phoneme_layers\.5\.bias contains NaN"):
        load_checkpoint(ours)


def test_weights_missing_or_left_over_are_named(public: Path) -> None:
    weights = weights_of(SIZES)
    bias = weights.pop("word_layers.0.bias_ih_l0")
    saved(public, weights)
    with pytest.raises(InputError, match=r"word_layers\.0\.bias_ih_l0 is missing"):
        load_checkpoint(public)
    saved(public, {**weights_of(SIZES), "word_layers.9.bias_ih_l0": bias})
    with pytest.raises(InputError, match=r"word_layers\.9\.bias_ih_l0 is unexpected"):
        load_checkpoint(public)


def test_the_fingerprint_changes_with_any_weight_but_the_classifiers(
    public: Path,
) -> None:
    weights = weights_of(SIZES)
    original = load_checkpoint(public).fingerprint
    seen = {original}
    for name in sorted(weights):
        changed = weights[name].clone()
        changed.view(-1)[-1] += 1e-3
        saved(public, {**weights, name: changed})
        found = load_checkpoint(public).fingerprint
        if "_linear." in name:
            assert found == original, name
        else:
            assert found not in seen, name
            seen.add(found)
    assert len(seen) == 1 + len(weights) - 4


def test_the_fingerprint_changes_with_the_front_end_not_with_the_classifiers(
    tmp_path: Path,
) -> None:
    def identity(configuration: EncoderConfiguration) -> str:
        encoder = Encoder(configuration)
        trunk = {k: v for k, v in weights_of(OURS).items() if "_linear." not in k}
        encoder.load_state_dict(trunk, strict=False)
        path = tmp_path / "encoder.safetensors"
        save_checkpoint(path, encoder, (), ())
        return load_checkpoint(path).fingerprint

    same = identity(OURS)
    assert identity(replace(OURS, phonemes=7, words=9, ctc=False)) == same
    assert identity(replace(OURS, front_end="raw")) != same
    assert identity(replace(OURS, taps=23)) != same


def test_a_random_encoder_is_its_seed_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = frozen_encoder(SIZES, seed=1)
    assert torch.equal(torch.rand(2), expected)
    assert frozen_encoder(SIZES, seed=1).fingerprint == one.fingerprint
    assert frozen_encoder(SIZES, seed=2).fingerprint != one.fingerprint
