"""Augmentation of clean speech for pretraining: random channels, noise and levels.

Every crop gets, each with a probability of its own: a random equaliser with a low-pass
and missing bands, reverberation, coloured noise at 5 to 35 dB, clipping, silenced
spans; and a random level. The linear parts are one product in the frequency domain.
"""

import torch
from torch import Tensor

from stages.speech.loading import SAMPLE_RATE


def augment(waves: Tensor, generator: torch.Generator) -> Tensor:
    """(batch, samples) float32 in -1..1 -> the same, as if recorded elsewhere."""
    batch, samples = waves.shape
    length = 1 << (samples + SAMPLE_RATE // 2 - 1).bit_length()
    hertz = torch.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    response = _equaliser(batch, hertz, generator)
    response = response * torch.fft.rfft(_room(batch, generator), length)
    speech = torch.fft.irfft(torch.fft.rfft(waves, length) * response, length)
    speech = speech[:, :samples]
    speech = speech + _noise(speech, generator)
    speech = speech / speech.abs().amax(dim=1, keepdim=True).clamp_min(1e-4)
    # The peak is 1, so a limit below it clips.
    limit = _uniform((batch, 1), 0.2, 0.7, generator)
    limit = torch.where(_chance(batch, 0.1, generator), limit, 1.0)
    speech = speech.clamp(-limit, limit) / limit
    level = 10 ** (_uniform((batch, 1), -30, 0, generator) / 20)
    return _silence_spans(speech, generator) * level


def _equaliser(batch: int, hertz: Tensor, generator: torch.Generator) -> Tensor:
    """(batch, frequencies) gains: smooth within 12 dB, low-pass, missing bands."""
    knots = 12 * torch.randn(batch, 1, 10, generator=generator).clamp(-2, 2) / 2
    octaves = torch.log2(hertz.clamp_min(60) / 60) / 7.1
    # Interpolate between knots that are equally spaced in octaves.
    place = octaves * (knots.shape[2] - 1)
    left = place.floor().long().clamp(0, knots.shape[2] - 2)
    share = place - left
    decibels = knots[:, 0, left] * (1 - share) + knots[:, 0, left + 1] * share
    decibels = decibels * _chance(batch, 0.7, generator)
    cutoff = _uniform((batch, 1), 3000, 7500, generator)
    cutoff = torch.where(_chance(batch, 0.3, generator), cutoff, 1e9)
    decibels = decibels - 48 * (torch.log2(hertz.clamp_min(1) / cutoff)).clamp_min(0)
    gains = 10 ** (decibels / 20)
    for _ in range(2):
        low = _uniform((batch, 1), 100, 6000, generator)
        high = low + _uniform((batch, 1), 100, 600, generator)
        missing = (hertz > low) & (hertz < high) & _chance(batch, 0.3, generator)
        gains = gains * ~missing
    return gains


def _room(batch: int, generator: torch.Generator) -> Tensor:
    """(batch, samples) impulse responses: a direct path, then decaying noise."""
    samples = SAMPLE_RATE // 2
    time = torch.arange(samples) / SAMPLE_RATE
    decay = _uniform((batch, 1), 0.08, 0.5, generator)
    tail = torch.randn(batch, samples, generator=generator)
    # 60 dB down after `decay` seconds.
    tail = tail * torch.exp(-6.9 * time / decay) * (time > 0.002)
    tail = tail / tail.square().sum(dim=1, keepdim=True).sqrt()
    strength = _uniform((batch, 1), 0.1, 0.9, generator)
    tail = tail * strength * _chance(batch, 0.5, generator)
    tail[:, 0] = 1.0
    return tail


def _noise(speech: Tensor, generator: torch.Generator) -> Tensor:
    """(batch, samples) noise whose spectrum falls or rises by a random slope."""
    batch, samples = speech.shape
    white = torch.randn(batch, samples, generator=generator)
    spectrum = torch.fft.rfft(white)
    hertz = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE).clamp_min(50)
    slope = _uniform((batch, 1), -1.5, 0.3, generator)
    noise = torch.fft.irfft(spectrum * (hertz / 1000) ** slope, samples)
    noise = noise / noise.square().mean(dim=1, keepdim=True).sqrt()
    level = speech.square().mean(dim=1, keepdim=True).sqrt()
    decibels = _uniform((batch, 1), 5, 35, generator)
    noise = noise * level * 10 ** (-decibels / 20)
    return noise * _chance(batch, 0.85, generator)


def _silence_spans(speech: Tensor, generator: torch.Generator) -> Tensor:
    """Silence up to two spans of at most 120 ms in a third of the crops."""
    batch, samples = speech.shape
    place = torch.arange(samples)
    for _ in range(2):
        start = _uniform((batch, 1), 0, samples, generator)
        end = start + _uniform((batch, 1), 0.02, 0.12, generator) * SAMPLE_RATE
        silent = (place >= start) & (place < end) & _chance(batch, 0.33, generator)
        speech = speech * ~silent
    return speech


def _uniform(
    shape: tuple[int, int], low: float, high: float, generator: torch.Generator
) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _chance(batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """(batch, 1) of booleans, each true with `probability`."""
    return torch.rand((batch, 1), generator=generator) < probability
