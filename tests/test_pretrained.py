"""Encoders of transformers give what the plain model gives for one wave alone."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from conftest import PRETRAINED, save_pretrained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperFeatureExtractor,
)

from stages.acoustic.pretrained import SUPPORTED, load_pretrained
from stages.core.errors import ConfigurationError, InputError, PipelineError

LAYERS = PRETRAINED["wav2vec2"]["num_hidden_layers"]
DIM = PRETRAINED["wav2vec2"]["hidden_size"]
WINDOW = 1  # seconds, of the tiny Whisper


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """A wave with a loud end and an offset, which normalisation takes away."""
    wave = np.random.default_rng((samples, seed)).normal(0.05, 0.1, samples)
    return (wave * np.linspace(0.3, 1, samples)).astype(np.float32)


@pytest.fixture
def copied(pretrained: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an encoder, which a test can change."""

    def folder(kind: str) -> Path:
        return Path(
            shutil.copytree(pretrained(kind), tmp_path / kind.replace(" ", "-"))
        )

    return folder


def edit(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def edit_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


@cache
def plain_model(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder).eval()


def hidden_states(folder: Path, wave: np.ndarray) -> list[np.ndarray]:
    """Every hidden state by the whole plain model, each (frames, dim)."""
    model = plain_model(folder)
    if model.config.model_type == "whisper":
        model = model.encoder
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        inputs = torch.from_numpy(extractor(wave, sampling_rate=16_000).input_features)
    else:
        exact = wave.astype(np.float64)
        exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)
        exact = np.pad(exact, (0, max(0, 400 - len(exact))))
        inputs = torch.from_numpy(exact).float()[None]
    with torch.no_grad():
        found = model(inputs, output_hidden_states=True)
    # The library does not say whether the last is before or after the layer norm.
    states = [*found.hidden_states[:-1], found.last_hidden_state]
    if model.main_input_name == "input_features":
        states = [state[:, : -(-len(wave) // 320)] for state in states]
    return [state[0].numpy() for state in states]


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal to 1e-5 of the largest value."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


# --------------------------------------------------------------------- features


def test_every_supported_type_is_tested() -> None:
    tested = {kind.split()[0] for kind in PRETRAINED}
    assert tested == set(SUPPORTED)


@pytest.mark.parametrize("kind", PRETRAINED)
def test_each_layer_is_what_the_whole_model_gives(
    pretrained: Callable[[str], Path], kind: str
) -> None:
    wave = noise(9_001)
    expected = hidden_states(pretrained(kind), wave)
    assert len(expected) == LAYERS + 1
    for layer, states in enumerate(expected):
        encoder = load_pretrained(str(pretrained(kind)), layer=layer)
        (found,) = encoder.encode([wave])
        assert_alike(found, states)
        assert found.shape[1] == encoder.dim == DIM
        # Those above would cost time for nothing.
        assert len(getattr(encoder.model, "encoder", encoder.model).layers) == layer
    # Else the comparisons above would say little.
    spread = [np.abs(a - b).max() for a, b in pairwise(expected)]
    assert min(spread) > 0.01


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert stable", "wavlm", "whisper"])
def test_no_bit_depends_on_the_batch(
    pretrained: Callable[[str], Path], kind: str
) -> None:
    encoder = load_pretrained(str(pretrained(kind)), pooling=3)

    @settings(
        max_examples=8,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(st.lists(st.integers(1, 16_000 * WINDOW), min_size=1, max_size=5))
    def together_as_alone(lengths: list[int]) -> None:
        waves = [noise(samples, seed) for seed, samples in enumerate(lengths)]
        # Two of one length, too, would be a batch without padding.
        waves.append(noise(lengths[0], seed=99))
        found = encoder.encode(waves)
        assert len(found) == len(waves)
        for wave, features in zip(waves, found, strict=True):
            np.testing.assert_array_equal(features, encoder.encode([wave])[0])

    together_as_alone()


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert stable", "data2vec-audio"])
def test_short_waves_have_a_frame(pretrained: Callable[[str], Path], kind: str) -> None:
    encoder = load_pretrained(str(pretrained(kind)))
    for samples, frames in ((1, 1), (399, 1), (400, 1), (719, 1), (720, 2)):
        (found,) = encoder.encode([noise(samples)])
        assert found.shape == (frames, DIM)
        assert_alike(found, hidden_states(pretrained(kind), noise(samples))[-1])


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
@pytest.mark.parametrize("pooling", [1, 2, 5, 1000])
def test_pooling_is_the_mean_of_what_is_there(
    pretrained: Callable[[str], Path], kind: str, pooling: int
) -> None:
    encoder = load_pretrained(str(pretrained(kind)), layer=2, pooling=pooling)
    assert encoder.frame_step == 320 * pooling
    (found,) = encoder.encode([noise(8_720)])
    single = hidden_states(pretrained(kind), noise(8_720))[2]
    assert len(single) == (28 if kind == "whisper" else 27)
    expected = [
        np.mean(
            [frame.astype(np.float64) for frame in single[start:][:pooling]], axis=0
        )
        for start in range(0, len(single), pooling)
    ]
    assert_alike(found, np.array(expected))


def test_input_normalisation_is_that_of_the_model(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("wav2vec2 stable")
    wave = noise(4000)
    normalised = load_pretrained(str(folder)).encode([wave, 3 * wave + 0.1])
    assert_alike(normalised[1], normalised[0])
    edit(folder / "preprocessor_config.json", do_normalize=False)
    found = load_pretrained(str(folder)).encode([wave, 3 * wave])
    assert np.abs(found[1] - found[0]).max() > 0.01
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        assert_alike(found[0], model(torch.from_numpy(wave)[None])[0][0].numpy())


def test_an_adapter_is_left_out(tmp_path: Path) -> None:
    save_pretrained(tmp_path, "wav2vec2", add_adapter=True)
    (found,) = load_pretrained(str(tmp_path)).encode([noise(6000)])
    model = AutoModel.from_pretrained(tmp_path).eval()
    wave = (noise(6000) - noise(6000).mean()) / noise(6000).std()
    with torch.no_grad():
        expected = model(torch.from_numpy(wave)[None], output_hidden_states=True)
    assert len(expected.last_hidden_state[0]) < len(found)
    assert_alike(found, expected.hidden_states[-1][0].numpy())


def test_whisper_reads_a_window_and_no_more(pretrained: Callable[[str], Path]) -> None:
    encoder = load_pretrained(str(pretrained("whisper")))
    assert encoder.longest_seconds == WINDOW
    counts = {1: 1, 320: 1, 321: 2, 15_999: 50, 16_000: 50}
    found = encoder.encode([noise(samples) for samples in counts])
    assert [len(features) for features in found] == list(counts.values())
    # What the rounding of the manifest's seconds lets through is cut.
    window, longer = encoder.encode([noise(16_002)[:16_000], noise(16_002)])
    assert np.array_equal(window, longer)
    assert load_pretrained(str(pretrained("hubert"))).longest_seconds is None


def test_other_strides_give_another_frame_step(copied: Callable[[str], Path]) -> None:
    folder = copied("whisper")
    edit(folder / "preprocessor_config.json", chunk_length=2, hop_length=320)
    encoder = load_pretrained(str(folder), pooling=2)
    assert (encoder.frame_step, encoder.longest_seconds) == (1280, 2)
    assert [len(one) for one in encoder.encode([noise(1281), noise(32_000)])] == [2, 25]
    folder = copied("wav2vec2")
    edit(folder / "config.json", conv_stride=[5, 2, 2, 2, 2, 2, 1])
    encoder = load_pretrained(str(folder), pooling=2)
    assert encoder.frame_step == 320
    # Of the model 2 and 3 frames: one of 400 samples, and one for each 160 more.
    assert encoder.least_samples == 400
    assert [len(one) for one in encoder.encode([noise(719), noise(720)])] == [1, 2]


# ----------------------------------------------------------------------- frozen


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
def test_frozen_in_full_precision_whatever_the_checkpoint(
    copied: Callable[[str], Path], kind: str
) -> None:
    folder = copied(kind)
    edit_weights(
        folder,
        lambda weights: weights.update({k: v.half() for k, v in weights.items()}),
    )
    edit(folder / "config.json", dtype="float16")
    encoder = load_pretrained(str(folder))
    seen = []

    def look(module: Any, inputs: Any) -> None:
        cudnn = torch.backends.cudnn
        seen.append(
            (
                torch.is_inference_mode_enabled(),
                module.training,
                cudnn.allow_tf32,
                cudnn.deterministic,
            )
        )

    for module in encoder.model.modules():
        module.register_forward_pre_hook(look)
    (found,) = encoder.encode([noise(4000)])
    assert found.dtype == np.float32
    assert set(seen) == {(True, False, False, True)}
    for value in encoder.model.parameters():
        assert value.dtype == torch.float32
        assert not value.requires_grad


# --------------------------------------------------------------------- identity


def printed(folder: Path, **options: Any) -> str:
    return load_pretrained(str(folder), **options).fingerprint


def test_where_it_lies_and_what_ran_change_no_fingerprint(
    pretrained: Callable[[str], Path], copied: Callable[[str], Path]
) -> None:
    encoder = load_pretrained(str(pretrained("wav2vec2")), layer=2)
    before = encoder.fingerprint
    encoder.encode([noise(4000), noise(500)])
    assert encoder.fingerprint == before
    folder = copied("wav2vec2")
    assert printed(folder, layer=2) == printed(folder, layer=-2) == before
    # What features do not depend on.
    edit(folder / "config.json", mask_time_prob=0.1, vocab_size=77, layerdrop=0.0)

    def others(weights: dict[str, torch.Tensor]) -> None:
        weights["masked_spec_embed"] += 1
        weights["encoder.layers.2.final_layer_norm.bias"] += 1

    edit_weights(folder, others)
    assert printed(folder, layer=2) == before
    assert printed(folder) != printed(pretrained("wav2vec2"))


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm stable", "whisper"])
def test_layer_pooling_and_weights_change_the_fingerprint(
    copied: Callable[[str], Path], kind: str
) -> None:
    folder = copied(kind)
    prints = [printed(folder, layer=layer) for layer in range(LAYERS + 1)]
    prints += [printed(folder, layer=1, pooling=2), printed(folder, pooling=2)]

    dense = "fc1" if kind == "whisper" else "feed_forward.intermediate_dense"

    def nudge(weights: dict[str, torch.Tensor]) -> None:
        weights[f"encoder.layers.0.{dense}.bias"][3] += 1e-3

    edit_weights(folder, nudge)
    prints += [printed(folder), printed(folder, layer=1)]
    assert len(set(prints)) == len(prints)
    assert printed(folder, layer=0) == prints[0]


@pytest.mark.parametrize(
    "kind, file, entries",
    [
        ("wav2vec2", "preprocessor_config.json", {"do_normalize": False}),
        ("wav2vec2", "config.json", {"hidden_act": "relu"}),
        ("wav2vec2", "config.json", {"feat_extract_activation": "relu"}),
        ("wav2vec2", "config.json", {"layer_norm_eps": 1e-3}),
        ("wav2vec2", "config.json", {"num_attention_heads": 3}),
        ("wav2vec2", "config.json", {"do_stable_layer_norm": True}),
        ("wav2vec2", "config.json", {"conv_stride": [5, 2, 2, 2, 2, 2, 1]}),
        ("wavlm", "config.json", {"max_bucket_distance": 9}),
        ("whisper", "config.json", {"activation_function": "relu"}),
        ("whisper", "config.json", {"encoder_attention_heads": 3}),
        ("whisper", "preprocessor_config.json", {"n_fft": 512}),
        ("whisper", "preprocessor_config.json", {"chunk_length": 2, "hop_length": 320}),
        ("whisper", "preprocessor_config.json", {"padding_value": 0.1}),
    ],
)
def test_a_setting_that_changes_features_changes_the_fingerprint(
    copied: Callable[[str], Path], kind: str, file: str, entries: dict[str, Any]
) -> None:
    folder = copied(kind)
    before = load_pretrained(str(folder))
    edit(folder / file, **entries)
    after = load_pretrained(str(folder))
    assert after.fingerprint != before.fingerprint
    wave = noise(9000)
    one, other = before.encode([wave])[0], after.encode([wave])[0]
    assert one.shape != other.shape or np.abs(one - other).max() > 1e-4


def test_it_describes_itself(pretrained: Callable[[str], Path]) -> None:
    encoder = load_pretrained(f"{pretrained('whisper')}/", layer=-2, pooling=4)
    assert encoder.description == "whisper layer 2 of 3, mean of 4 frames"
    assert encoder.parameters == {
        "model": "whisper",
        "layer": 2,
        "layers": 3,
        "pooling": 4,
        "hidden_size": DIM,
        "feature_extractor": {
            "chunk_length": WINDOW,
            "hop_length": 160,
            "n_fft": 400,
            "padding_value": 0.0,
        },
    }
    waves = load_pretrained(str(pretrained("wav2vec2"))).parameters
    assert waves["feature_extractor"] == {"do_normalize": True}


# ------------------------------------------------------------------ checkpoints


def test_a_model_with_a_head_and_old_names_is_the_same_encoder(
    copied: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copied("wav2vec2")
    head = Wav2Vec2ForCTC(Wav2Vec2Config.from_pretrained(folder))
    head.wav2vec2.load_state_dict(load_file(folder / "model.safetensors"))
    head.save_pretrained(tmp_path / "head")
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "head")

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for new, old in (("0", "g"), ("1", "v")):
            conv = "wav2vec2.encoder.pos_conv_embed.conv"
            value = weights.pop(f"{conv}.parametrizations.weight.original{new}")
            weights[f"{conv}.weight_{old}"] = value
        del weights["wav2vec2.masked_spec_embed"]

    edit_weights(tmp_path / "head", rename)
    capfd.readouterr()
    assert printed(tmp_path / "head") == printed(folder)
    # No bar, and no report on the head.
    assert capfd.readouterr() == ("", "")


def test_plain_pytorch_files_are_read_but_not_run(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("hubert")
    expected = printed(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert printed(folder) == expected

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({**weights, "code": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load the weights; found Unpickling"):
        load_pretrained(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_refused(copied: Callable[[str], Path], file: str) -> None:
    folder = copied("wavlm")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    for content in (b"", b"no weights", whole[:-1]):
        (folder / file).write_bytes(content)
        with pytest.raises(InputError, match=r"wavlm: cannot load the weights.*fix"):
            load_pretrained(str(folder))


DAMAGED = {
    "wav2vec2": "encoder.layers.1.attention.k_proj.weight",
    "wav2vec2 stable": "encoder.layer_norm.weight",
    "hubert": "encoder.pos_conv_embed.batch_norm.running_mean",
    "wavlm": "encoder.layers.0.attention.rel_attn_embed.weight",
    "whisper": "encoder.layers.1.fc1.weight",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_weight_that_is_not_there_is_no_random_one(
    copied: Callable[[str], Path], kind: str
) -> None:
    folder = copied(kind)
    edit_weights(folder, lambda weights: weights.pop(DAMAGED[kind]))
    message = f"{folder}: weight {DAMAGED[kind]} is missing from the checkpoint; fix: "
    with pytest.raises(InputError, match=message):
        load_pretrained(str(folder))
    # Nothing below it needs it.
    if "layer" in DAMAGED[kind] and kind != "wavlm":
        load_pretrained(str(folder), layer=1)


@pytest.mark.parametrize(
    "value, complaint",
    [
        (
            torch.ones(2, 3),
            r"has other dimensions; found \(2, 3\); .* \(12, 12\)",
        ),
        (torch.full((12, 12), torch.nan), "contains NaN or infinite values"),
        (torch.full((12, 12), torch.inf), "contains NaN or infinite values"),
    ],
)
def test_an_unusable_weight_is_named(
    copied: Callable[[str], Path], value: torch.Tensor, complaint: str
) -> None:
    folder, name = copied("wav2vec2"), DAMAGED["wav2vec2"]
    edit_weights(folder, lambda weights: weights.update({name: value}))
    with pytest.raises(InputError, match=f"{folder}: weight {name} {complaint}"):
        load_pretrained(str(folder))


# ----------------------------------------------------------------------- errors


@pytest.mark.parametrize("layer", [LAYERS + 1, -LAYERS - 2])
def test_a_layer_out_of_range_shows_the_range(
    pretrained: Callable[[str], Path], layer: int
) -> None:
    message = f"found {layer}; expected 0 to 3, or -4 to -1"
    with pytest.raises(ConfigurationError, match=message):
        load_pretrained(str(pretrained("hubert")), layer=layer)


def test_another_kind_of_model_shows_the_list(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=r"'bert'; expected one of .*wav2vec2"):
        load_pretrained(str(tmp_path))
    edit(tmp_path / "config.json", model_type="no such type")
    with pytest.raises(ConfigurationError, match="'no such type'; expected one of"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    "file, message",
    [
        ("config.json", "no config.json; fix: set acoustic.encoder"),
        ("preprocessor_config.json", "cannot load preprocessor_config.json"),
        ("model.safetensors", "no file named model.safetensors, or pytorch_model.bin"),
    ],
)
def test_a_missing_or_damaged_file_is_named(
    copied: Callable[[str], Path], file: str, message: str
) -> None:
    folder = copied("wav2vec2")
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"^{folder}: .*{message}"):
        load_pretrained(str(folder))
    if file.endswith(".json"):
        (folder / file).write_text("{")
        with pytest.raises(InputError, match=f"cannot load {file}; .*not a valid JSON"):
            load_pretrained(str(folder))


@pytest.mark.parametrize(
    "kind, file, entries, message",
    [
        ("wav2vec2", "config.json", {"hidden_size": "wide"}, "cannot load config.json"),
        ("wav2vec2", "config.json", {"hidden_act": "none"}, "cannot load the weights"),
        (
            "wav2vec2",
            "preprocessor_config.json",
            {"sampling_rate": 8000},
            "found 8000 Hz; expected 16000 Hz",
        ),
        (
            "wav2vec2",
            "preprocessor_config.json",
            {"feature_extractor_type": "WhisperFeatureExtractor"},
            "found WhisperFeatureExtractor; expected Wav2Vec2FeatureExtractor",
        ),
        (
            "whisper",
            "preprocessor_config.json",
            {"feature_extractor_type": "Wav2Vec2FeatureExtractor"},
            "found Wav2Vec2FeatureExtractor; expected WhisperFeatureExtractor",
        ),
        (
            "whisper",
            "preprocessor_config.json",
            {"chunk_length": 2},
            "found 10 mel bands, 200 frames a window, dither 0; expected 10 mel bands, "
            "100 frames",
        ),
        (
            "whisper",
            "preprocessor_config.json",
            {"feature_size": 20, "dither": 0.5},
            "found 20 mel bands, 100 frames a window, dither 0.5; expected 10 mel",
        ),
    ],
)
def test_settings_that_cannot_be_used_say_why(
    copied: Callable[[str], Path],
    kind: str,
    file: str,
    entries: dict[str, Any],
    message: str,
) -> None:
    folder = copied(kind)
    edit(folder / file, **entries)
    with pytest.raises(InputError, match=f"^{folder}: .*{message}"):
        load_pretrained(str(folder))


@pytest.mark.parametrize("name", ["facebook/not-in-the-cache", "no/such/folder"])
def test_a_model_that_is_not_there_says_where_to_put_it(name: str) -> None:
    with pytest.raises(PipelineError) as raised:
        load_pretrained(name)
    assert str(raised.value).startswith(f"{name}: cannot load config.json; found ")
    for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert file in str(raised.value).partition("fix: ")[2]


def test_a_hub_name_and_its_revision_are_read_from_the_cache(
    pretrained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny"
    commits = {"wav2vec2": "a" * 40, "wavlm": "b" * 40}
    for kind, commit in commits.items():
        shutil.copytree(pretrained(kind), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commits["wav2vec2"])
    newest = load_pretrained("someone/tiny")
    assert newest.fingerprint == printed(pretrained("wav2vec2"))
    # None of a pinned encoder's files are the newest ones.
    BertConfig().save_pretrained(repository / "snapshots" / ("d" * 40))
    (repository / "refs" / "main").write_text("d" * 40)
    with pytest.raises(ConfigurationError, match="'bert'"):
        load_pretrained("someone/tiny")
    pinned = load_pretrained("someone/tiny", revision=commits["wavlm"])
    assert pinned.fingerprint == printed(pretrained("wavlm"))
    with pytest.raises(InputError, match="someone/tiny: cannot load config"):
        load_pretrained("someone/tiny", revision="c" * 40)
