"""Effects on recordings: rooms, noise, babble, a telephone line.

Waves are (samples,) float64 at 16 kHz. The demo's conditions and the robustness stage
use them. Pretraining augments speech in other ways (`stages/pretraining/augmentation`):
without other talkers, with decaying noise as echoes instead of image sources, and
without the band limits and quantisation of a telephone.
"""

import numpy as np
from scipy import signal

from stages.speech.loading import SAMPLE_RATE

_SPEED_OF_SOUND = 343.0
_LONGEST_ECHO = 0.35
_SIZES = (3.0, 3.0, 2.5), (7.0, 6.0, 3.2)
_MU = 255

# Image sources all have one sign and add up to a rumble that no room has.
_RUMBLE = signal.butter(2, 100, "highpass", fs=SAMPLE_RATE, output="sos")


def add_babble(
    wave: np.ndarray, crowd: np.ndarray, decibels: float, generator: np.random.Generator
) -> np.ndarray:
    """`wave` with several people talking in the background.

    Args:
        wave: (samples,).
        crowd: (voices, more samples), one talker a row.
        decibels: power of the wave over that of the babble.
        generator: chooses where each talker starts.
    """
    return add_noise(wave, listen(crowd, len(wave), generator), decibels)


def add_noise(wave: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """`wave` plus `noise`, both (samples,), at a signal-to-noise ratio of `decibels`.

    The ratio of mean squares over all samples, pauses included, as in Kaldi's
    wav-reverberate and torchaudio's `add_noise`.
    """
    power = np.mean(wave**2) / max(float(np.mean(noise**2)), 1e-12)
    return wave + noise * np.sqrt(power / 10 ** (decibels / 10))


def listen(
    crowd: np.ndarray, samples: int, generator: np.random.Generator
) -> np.ndarray:
    """Babble, (samples,): the sum of random parts of the rows of `crowd`.

    Args:
        crowd: (voices, more samples), one talker a row.
        samples: length of the babble.
        generator: chooses where each talker starts.
    """
    babble = np.zeros(samples)
    for talker in crowd:
        start = int(generator.integers(len(talker) - samples))
        babble += talker[start : start + samples]
    return babble


def shaped_noise(
    samples: int, gains: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Gaussian noise, (samples,), with the amplitude spectrum `gains`.

    Args:
        samples: length of the noise.
        gains: at equally spaced frequencies from 0 to 8 kHz, (frequencies,).
        generator: of the noise.
    """
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    given = np.linspace(0, SAMPLE_RATE / 2, len(gains))
    return np.fft.irfft(spectrum * np.interp(hertz, given, gains), samples)


def add_hiss(
    wave: np.ndarray, decibels: float, generator: np.random.Generator
) -> np.ndarray:
    """`wave` plus white noise with `decibels` less power."""
    deviation = np.sqrt(np.mean(wave**2) / 10 ** (decibels / 10))
    return wave + deviation * generator.standard_normal(len(wave))


def reverberate(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`wave` in a room with the impulse response `response`, (samples,)."""
    return signal.fftconvolve(wave, response)[: len(wave)]


def room_response(generator: np.random.Generator) -> np.ndarray:
    """Impulse response of a random shoebox room, by image sources, (samples,).

    Walls 2.5 to 7 m apart reflect 80 to 90% of the pressure; speaker and microphone are
    at least 1 m apart. Source: Allen & Berkley 1979.
    """
    size = generator.uniform(*_SIZES)
    reflection = generator.uniform(0.8, 0.9)
    mouth, ear = _places(size, generator)
    return _image_sources(size, mouth, ear, reflection, _LONGEST_ECHO)


def room_with_decay(t60: float, generator: np.random.Generator) -> np.ndarray:
    """As `room_response`, for a room with a `decay_time` of `t60` seconds within 1%.

    The reflection of its walls follows Eyring's formula (1930). Image sources of a room
    with smooth walls decay more slowly than that, so an exponential corrects the rest.
    """
    size = generator.uniform(*_SIZES)
    mouth, ear = _places(size, generator)
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    exponent = 24 * np.log(10) / _SPEED_OF_SOUND * size.prod() / (surface * t60)
    reflection = np.exp(-exponent / 2)  # of the pressure; of the energy its square
    response = _image_sources(size, mouth, ear, reflection, t60)
    response = signal.sosfilt(_RUMBLE, response)
    time = np.arange(len(response)) / SAMPLE_RATE
    while abs((found := decay_time(response)) / t60 - 1) > 0.01:
        response = response * 10 ** (-3 * time * (1 / t60 - 1 / found))
    return response / np.abs(response).max()


def decay_time(response: np.ndarray) -> float:
    """Seconds in which an impulse response decays by 60 dB.

    Twice the time from -5 to -35 dB of Schroeder's integral (T30 of ISO 3382-1).
    """
    energy = np.cumsum(response[::-1] ** 2)[::-1]
    level = 10 * np.log10(np.maximum(energy / energy[0], 1e-12))
    falls = np.flatnonzero((level <= -5) & (level >= -35))
    slope, _ = np.polyfit(falls / SAMPLE_RATE, level[falls], 1)
    return float(-60 / slope)


def _places(
    size: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of speaker and microphone in a room, (3,) each, at least 1 m apart."""
    while True:
        mouth, ear = generator.uniform(0.4, size - 0.4, (2, 3))
        if np.linalg.norm(mouth - ear) >= 1.0:
            return mouth, ear


def _image_sources(
    size: np.ndarray,
    mouth: np.ndarray,
    ear: np.ndarray,
    reflection: float,
    longest: float,
) -> np.ndarray:
    """The impulse response of a shoebox room from the direct path on, (samples,).

    Args:
        size: of the room, (3,) metres.
        mouth: position of the speaker, (3,).
        ear: position of the microphone, (3,).
        reflection: share of the pressure that a wall reflects.
        longest: delay of the last echo, seconds.
    """
    reach = np.ceil(longest * _SPEED_OF_SOUND / (2 * size)).astype(int)
    offsets, bounces = [], []
    for axis in range(3):
        cells = np.arange(-reach[axis], reach[axis] + 1)
        # Two images a cell: mirrored an even and an odd number of times.
        images = np.concatenate(
            [2 * cells * size[axis] + mouth[axis], 2 * cells * size[axis] - mouth[axis]]
        )
        offsets.append((images - ear[axis]) ** 2)
        bounces.append(np.concatenate([np.abs(2 * cells), np.abs(2 * cells - 1)]))
    response = np.zeros(int(longest * SAMPLE_RATE) + 1)
    # A plane of images at a time: memory for the whole grid grows with longest³.
    for offset, bounce in zip(offsets[0], bounces[0], strict=True):
        distance = np.sqrt(offset + offsets[1][:, None] + offsets[2]).ravel()
        count = (bounce + bounces[1][:, None] + bounces[2]).ravel()
        delay = distance / _SPEED_OF_SOUND
        near = delay < longest
        strength = reflection ** count[near] / distance[near]
        np.add.at(response, (delay[near] * SAMPLE_RATE).astype(int), strength)
    sounding = np.flatnonzero(response)
    response = response[sounding[0] : sounding[-1] + 1]
    return response / np.abs(response).max()


def telephone(wave: np.ndarray) -> np.ndarray:
    """`wave` over a narrow-band line: 300 to 3,400 Hz, 8 kHz, 8-bit mu-law."""
    band = signal.butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos")
    narrow = signal.resample_poly(signal.sosfilt(band, wave), 1, 2)
    peak = max(float(np.abs(narrow).max()), 1e-9)
    squeezed = np.sign(narrow) * np.log1p(_MU * np.abs(narrow / peak)) / np.log1p(_MU)
    coded = np.round((squeezed + 1) / 2 * _MU) / _MU * 2 - 1
    decoded = np.sign(coded) * (np.expm1(np.abs(coded) * np.log1p(_MU))) / _MU
    return signal.resample_poly(decoded * peak, 2, 1)[: len(wave)]
