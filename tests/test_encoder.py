"""The encoder: parity with the reference, and features that ignore the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.acoustic.encoder import (
    FRONT_ENDS,
    Encoder,
    EncoderConfiguration,
    SincFilters,
)
from stages.acoustic.frames import frame_count

GOLDEN = Path(__file__).parent / "data" / "lugosch_encoder_small.npz"


def tiny(front_end: str) -> Encoder:
    """A small frozen encoder whose features are of the order of one."""
    torch.manual_seed(0)
    encoder = Encoder(
        EncoderConfiguration(front_end, filters=4, channels=3, hidden=3, words=5)
    )
    for name, weight in encoder.state_dict().items():
        if ".filt_" not in name:
            weight.mul_(3)
    return encoder.eval().requires_grad_(False)


ENCODERS = {name: tiny(name) for name in FRONT_ENDS}


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def reference(golden: dict[str, np.ndarray]) -> Encoder:
    encoder = Encoder(
        EncoderConfiguration(filters=8, channels=6, hidden=8, phonemes=5, words=20)
    )
    weights = {
        name.removeprefix("weight/"): torch.from_numpy(array)
        for name, array in golden.items()
        if name.startswith("weight/")
    }
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)


@pytest.mark.parametrize("number", range(5))
def test_values_are_those_of_the_reference(
    golden: dict[str, np.ndarray], reference: Encoder, number: int
) -> None:
    wave = torch.from_numpy(golden[f"wave/{number}"])[None]
    hidden, _ = reference.phoneme_module(wave)
    features, _ = reference.word_module(hidden, None)
    for name, found in (
        ("features", features),
        ("phoneme_logits", reference.phoneme_linear(hidden)),
        ("word_logits", reference.word_linear(features)),
    ):
        expected = golden[f"{name}/{number}"]
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    front_end=st.sampled_from(FRONT_ENDS),
    lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=5),
    extra=st.integers(0, 6000),
)
def test_features_do_not_depend_on_batch_mates_or_padding(
    front_end: str, lengths: list[int], extra: int
) -> None:
    encoder = ENCODERS[front_end]
    batch = torch.zeros(len(lengths), max(lengths) + extra)
    for row, samples in enumerate(lengths):
        batch[row, :samples] = torch.from_numpy(noise(samples))
    together = encoder(batch, torch.tensor(lengths))
    for row, samples in enumerate(lengths):
        alone = encoder(batch[row : row + 1, :samples])[0]
        frames = frame_count(samples)
        assert alone.shape == (frames, encoder.dim)
        torch.testing.assert_close(together[row, :frames], alone, rtol=0, atol=1e-5)
        assert not together[row, frames:].any()


@settings(deadline=None)
@given(st.integers(1, 10**7))
def test_frame_count_is_every_stage_rounded_up(samples: int) -> None:
    count = samples
    for stride in (80, 2, 2, 2, 2, 2):
        count = int(np.ceil(count / stride))
    assert frame_count(samples) == count


@pytest.mark.parametrize("taps", [21, 401])
def test_sinc_filters_are_differences_of_windowed_low_passes(taps: int) -> None:
    filters = SincFilters(6, taps)
    place = np.arange(taps) - taps // 2
    low = np.abs(filters.filt_b1.detach().numpy()) + 50 / 16000
    high = low + np.abs(filters.filt_band.detach().numpy()) + 50 / 16000
    expected = [
        2 * b * np.sinc(2 * b * place) - 2 * a * np.sinc(2 * a * place)
        for a, b in zip(low, high, strict=True)
    ]
    expected = [np.hamming(taps) * one / one.max() for one in expected]
    found = filters.filter_bank().detach().numpy()
    assert found.shape == (6, 1, taps) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)


def test_initial_filters_pass_neighbouring_bands_of_equal_width_in_mel() -> None:
    bank = SincFilters(10, 401).filter_bank().detach().numpy()[:, 0]
    spectrum = np.abs(np.fft.rfft(bank, 16_000))  # a bin a hertz
    centres = (spectrum * np.arange(8001)).sum(1) / spectrum.sum(1)
    edges = 700 * (10 ** (np.linspace(45.2, 2826, 11) / 2595) - 1)
    assert (np.diff(centres) > 0).all()
    for band, low, high in zip(spectrum, edges[:-1], edges[1:], strict=True):
        assert low - 60 < band.argmax() < high + 160
        assert band[int((low + high) / 2) + 50] > 0.7 * band.max()
        assert band[int(high) + 400 :].max(initial=0) < 0.1 * band.max()


def test_negative_frequencies_count_as_positive_ones() -> None:
    filters = SincFilters(3, 21)
    bank = filters.filter_bank()
    with torch.no_grad():
        filters.filt_b1.neg_()
        filters.filt_band.neg_()
    assert torch.equal(filters.filter_bank(), bank)


def test_log_cmn_takes_the_mean_over_the_utterance_alone() -> None:
    encoder = ENCODERS["log-cmn"]
    bands = torch.rand(2, 4, 7)
    bands[1, :, 5:] = 0
    found = encoder._front_end(bands, torch.tensor([7, 5])).numpy()
    for row, count in ((0, 7), (1, 5)):
        logs = np.log(bands[row, :, :count].numpy() + 0.02)
        expected = logs - logs.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found[row, :, :count], expected, atol=1e-6)
        assert not found[row, :, count:].any()


def test_log_cmn_features_hardly_change_with_the_level() -> None:
    # Loud, so that what is added before the logarithm hardly counts.
    wave = 300 * torch.from_numpy(noise(16000))[None]
    encoder = ENCODERS["log-cmn"]
    assert (encoder(wave) - encoder(wave / 10)).abs().max() < 0.02
    assert (encoder(wave) - encoder(wave.flip(1))).abs().max() > 0.2


def test_training_reaches_every_weight_but_the_classifiers() -> None:
    encoder = tiny("log-cmn").requires_grad_(True)
    encoder(torch.from_numpy(noise(8000))[None]).square().sum().backward()
    reached = {
        name
        for name, weight in encoder.named_parameters()
        if weight.grad is not None and weight.grad.any()
    }
    heads = {name for name in encoder.state_dict() if "_linear." in name}
    assert len(heads) == 4
    assert reached == set(encoder.state_dict()) - heads
