"""What lies between a mouth and a file: a room, other people, a telephone.

Waves are (samples,) float64 at 16 kHz. These are the conditions of the demo;
pretraining makes its own, other ones, so that a condition here is one never heard.
"""

import numpy as np
from scipy import signal

SAMPLE_RATE = 16_000
_SPEED_OF_SOUND = 343.0
_LONGEST_ECHO = 0.35
_MU = 255


def add_babble(
    wave: np.ndarray, crowd: np.ndarray, decibels: float, generator: np.random.Generator
) -> np.ndarray:
    """`wave` with several people talking behind it.

    Args:
        wave: (samples,).
        crowd: (voices, more samples): each row one talker.
        decibels: power of the wave over that of the babble.
        generator: where each talker is listened in on.
    """
    babble = np.zeros_like(wave)
    for talker in crowd:
        start = int(generator.integers(len(talker) - len(wave)))
        babble += talker[start : start + len(wave)]
    power = np.mean(wave**2) / max(float(np.mean(babble**2)), 1e-12)
    return wave + babble * np.sqrt(power / 10 ** (decibels / 10))


def add_hiss(
    wave: np.ndarray, decibels: float, generator: np.random.Generator
) -> np.ndarray:
    """`wave` with white noise whose power is so many decibels below the wave's."""
    deviation = np.sqrt(np.mean(wave**2) / 10 ** (decibels / 10))
    return wave + deviation * generator.standard_normal(len(wave))


def reverberate(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`wave` heard through the impulse response of `room_response`, (samples,)."""
    return signal.fftconvolve(wave, response)[: len(wave)]


def room_response(generator: np.random.Generator) -> np.ndarray:
    """Impulse response of a random shoebox room, by image sources, (samples,).

    Walls 2.5 to 7 m apart that reflect 80 to 90% of the pressure, speaker and
    microphone at least 1 m from each other. Source: Allen & Berkley 1979.
    """
    size = generator.uniform((3.0, 3.0, 2.5), (7.0, 6.0, 3.2))
    reflection = generator.uniform(0.8, 0.9)
    while True:
        mouth, ear = generator.uniform(0.4, size - 0.4, (2, 3))
        if np.linalg.norm(mouth - ear) >= 1.0:
            break
    reach = np.ceil(_LONGEST_ECHO * _SPEED_OF_SOUND / (2 * size)).astype(int)
    offsets, bounces = [], []
    for axis in range(3):
        cells = np.arange(-reach[axis], reach[axis] + 1)
        # Two images a cell: mirrored an even and an odd number of times.
        images = np.concatenate(
            [2 * cells * size[axis] + mouth[axis], 2 * cells * size[axis] - mouth[axis]]
        )
        offsets.append((images - ear[axis]) ** 2)
        bounces.append(np.concatenate([np.abs(2 * cells), np.abs(2 * cells - 1)]))
    distance = np.sqrt(
        offsets[0][:, None, None] + offsets[1][:, None] + offsets[2]
    ).ravel()
    count = (bounces[0][:, None, None] + bounces[1][:, None] + bounces[2]).ravel()
    delay = distance / _SPEED_OF_SOUND
    heard = delay < _LONGEST_ECHO
    strength = reflection ** count[heard] / distance[heard]
    place = (delay[heard] * SAMPLE_RATE).astype(int)
    response = np.bincount(place, strength)
    response = response[place.min() :]
    return response / np.abs(response).max()


def telephone(wave: np.ndarray) -> np.ndarray:
    """`wave` after a narrow-band line: 300 to 3,400 Hz, 8 kHz, 8-bit mu-law."""
    band = signal.butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos")
    narrow = signal.resample_poly(signal.sosfilt(band, wave), 1, 2)
    peak = max(float(np.abs(narrow).max()), 1e-9)
    squeezed = np.sign(narrow) * np.log1p(_MU * np.abs(narrow / peak)) / np.log1p(_MU)
    coded = np.round((squeezed + 1) / 2 * _MU) / _MU * 2 - 1
    decoded = np.sign(coded) * (np.expm1(np.abs(coded) * np.log1p(_MU))) / _MU
    return signal.resample_poly(decoded * peak, 2, 1)[: len(wave)]
