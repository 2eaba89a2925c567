"""The phoneme/word speech encoder of Lugosch et al. 2019, whole.

    16 kHz wave -> 80 sinc filters (401 taps, stride 80), |.|, max-pool 2
                -> front end (`raw`: LeakyReLU; `log-cmn`: log and mean removal)
                -> conv 60x5, LeakyReLU, conv 60x5, LeakyReLU
                -> 2 x [biGRU 128, average of 2 frames]    phoneme module, 25 frames/s
                -> 2 x [biGRU 128, average of 2 frames]    word module, 6.25 frames/s
                -> e_acoust: 256 values every 2,560 samples (160 ms)

Submodules are named as in the public `model_state.pth` files, so those load unchanged.
Source: Lugosch et al., «Speech Model Pre-training for End-to-End Spoken Language
Understanding», Interspeech 2019, section 2.

Every operation is masked: an utterance's features do not depend on the rest of its
batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from stages.acoustic.frames import SINC_STRIDE
from stages.core.errors import ConfigurationError
from stages.speech.loading import SAMPLE_RATE

FRONT_ENDS = ("raw", "log-cmn")

LEAKY_SLOPE = 0.2
LOG_FLOOR = 0.02
"""Added before the logarithm; about the filters' output for 16-bit silence."""


@dataclass(frozen=True)
class EncoderConfiguration:
    """Sizes and front end; the defaults are the paper's.

    Attributes:
        front_end: `raw` for the published weights, `log-cmn` for ours.
        filters: sinc filters; taps: their length, odd.
        channels: channels of both convolutions; kernel: their width, odd.
        hidden: width of each GRU direction; a frame has twice as many values.
        phonemes, words: outputs of the two classifiers used in pretraining.
        ctc: whether the phoneme module has a CTC head.
    """

    front_end: str = "raw"
    filters: int = 80
    taps: int = 401
    channels: int = 60
    kernel: int = 5
    hidden: int = 128
    phonemes: int = 42
    words: int = 10_000
    ctc: bool = False

    def __post_init__(self) -> None:
        if self.front_end not in FRONT_ENDS:
            raise ConfigurationError(
                "unknown front end",
                found=repr(self.front_end),
                expected=f"one of {', '.join(FRONT_ENDS)}",
            )


class SincFilters(nn.Module):
    """Band-pass filters with two learnt frequencies each (Ravanelli 2018)."""

    # Lower limit of widths and edges.
    _MINIMUM_HERTZ = 50.0

    def __init__(self, filters: int, taps: int) -> None:
        super().__init__()
        edges = _mel_edges(filters)
        self.taps = taps
        # Fractions of the sample rate in double precision, as in the public weights.
        self.filt_b1 = nn.Parameter(edges[:-1] / SAMPLE_RATE)
        self.filt_band = nn.Parameter((edges[1:] - edges[:-1]) / SAMPLE_RATE)

    def filter_bank(self) -> Tensor:
        """The filters' impulse responses, (filters, 1, taps) float32."""
        minimum = self._MINIMUM_HERTZ / SAMPLE_RATE
        low = self.filt_b1.abs() + minimum
        high = low + self.filt_band.abs() + minimum
        half = (self.taps - 1) // 2
        time = torch.arange(1, half + 1, dtype=low.dtype, device=low.device)

        def low_pass(edge: Tensor) -> Tensor:
            """2 f sinc(2 f n) for n = 1 .. half, (filters, half)."""
            return torch.sin(2 * math.pi * edge[:, None] * time) / (math.pi * time)

        right = low_pass(high) - low_pass(low)
        centre = 2 * (high - low)[:, None]
        band = torch.cat([right.flip(1), centre, right], dim=1)
        band = band / band.amax(dim=1, keepdim=True)
        # As the reference: a Hamming window at `taps` points over [0, taps], both ends
        # included.
        place = torch.linspace(0, 2 * math.pi, self.taps, dtype=low.dtype)
        window = 0.54 - 0.46 * torch.cos(place.to(low.device))
        return (band * window).float()[:, None, :]

    def forward(self, wave: Tensor) -> Tensor:
        """(batch, samples) -> (batch, filters, ceil(samples / 80))."""
        return functional.conv1d(
            wave[:, None, :],
            self.filter_bank(),
            stride=SINC_STRIDE,
            padding=self.taps // 2,
        )


def _bidirectional_gru(inputs: int, hidden: int) -> nn.GRU:
    return nn.GRU(inputs, hidden, batch_first=True, bidirectional=True)


class Encoder(nn.Module):
    """Waves to e_acoust, with the classifiers that pretraining uses.

    Args:
        configuration: sizes and front end.
    """

    def __init__(self, configuration: EncoderConfiguration) -> None:
        super().__init__()
        self.configuration = c = configuration
        width = 2 * c.hidden
        self.phoneme_layers = nn.ModuleDict(
            {
                "0": SincFilters(c.filters, c.taps),
                "5": nn.Conv1d(c.filters, c.channels, c.kernel, padding=c.kernel // 2),
                "9": nn.Conv1d(c.channels, c.channels, c.kernel, padding=c.kernel // 2),
                "14": _bidirectional_gru(c.channels, c.hidden),
                "18": _bidirectional_gru(width, c.hidden),
            }
        )
        self.word_layers = nn.ModuleDict(
            {
                "0": _bidirectional_gru(width, c.hidden),
                "4": _bidirectional_gru(width, c.hidden),
            }
        )
        self.phoneme_linear = nn.Linear(width, c.phonemes)
        self.word_linear = nn.Linear(width, c.words)
        # Class 0 is CTC's blank.
        self.ctc_linear = nn.Linear(width, c.phonemes + 1) if c.ctc else None

    @property
    def dim(self) -> int:
        """Values in a frame of e_acoust."""
        return 2 * self.configuration.hidden

    def forward(self, waves: Tensor, samples: Tensor | None = None) -> Tensor:
        """e_acoust of a batch.

        Args:
            waves: (batch, samples) float32 at 16 kHz, zero beyond each utterance.
            samples: (batch,) int64 lengths; None if all have the full length.

        Returns:
            (batch, frames, 2 * hidden), zero beyond `frame_count` of each utterance.
        """
        return self.word_module(*self.phoneme_module(waves, samples))[0]

    def phoneme_module(
        self, waves: Tensor, samples: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The hidden phonemes, (batch, frames, 2 * hidden) at 25 a second.

        Returns:
            the hidden phonemes, zero beyond each utterance, and their (batch,) counts.
        """
        layers = self.phoneme_layers
        bands = layers["0"](waves).abs()
        count = None if samples is None else _halved(samples, SINC_STRIDE)
        # The values are absolute, so zeros never win the max-pooling.
        bands = _masked(bands, count)
        bands = functional.max_pool1d(bands, 2, ceil_mode=True)
        count = _halved(count)
        hidden = self._front_end(bands, count)
        for name in ("5", "9"):
            hidden = functional.leaky_relu(layers[name](hidden), LEAKY_SLOPE)
            hidden = _masked(hidden, count)
        frames = hidden.transpose(1, 2)
        for name in ("14", "18"):
            frames, count = _recur(layers[name], frames, count)
        return frames, count

    def word_module(
        self, frames: Tensor, count: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden phonemes -> e_acoust, (batch, frames, 2 * hidden) at 6.25 a second."""
        for layer in self.word_layers.values():
            frames, count = _recur(layer, frames, count)
        return frames, count

    def _front_end(self, bands: Tensor, count: Tensor | None) -> Tensor:
        """(batch, filters, frames) -> the same shape, zero beyond each utterance."""
        if self.configuration.front_end == "raw":
            return functional.leaky_relu(bands, LEAKY_SLOPE)
        bands = _masked(torch.log(bands + LOG_FLOOR), count)
        # In single precision, sums over minutes would be off by 1e-4.
        total = bands.sum(dim=2, keepdim=True, dtype=torch.float64)
        frames = bands.shape[2] if count is None else count[:, None, None]
        return _masked(bands - (total / frames).float(), count)


def _recur(
    layer: nn.Module, frames: Tensor, count: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A bidirectional GRU, then the average of two frames (of one at an odd end).

    (batch, frames, inputs) -> (batch, ceil(frames / 2), 2 * hidden)
    """
    if count is None:
        frames, _ = layer(frames)
    else:
        packed = pack_padded_sequence(
            frames, count.cpu(), batch_first=True, enforce_sorted=False
        )
        packed, _ = layer(packed)
        frames, _ = pad_packed_sequence(
            packed, batch_first=True, total_length=frames.shape[1]
        )
    total = frames.shape[1]
    if total % 2:
        frames = functional.pad(frames, (0, 0, 0, 1))
    pairs = frames.unflatten(1, (-1, 2)).sum(2)
    place = torch.arange(pairs.shape[1], device=frames.device)[None, :]
    whole = torch.full_like(place[:, 0], total) if count is None else count
    # Frames in each average: 2, at the end 1 or 2; 1 beyond it, where the sum is 0.
    members = (whole[:, None] - 2 * place).clamp(1, 2)
    return pairs / members[:, :, None], _halved(count)


def _halved(count: Tensor | None, by: int = 2) -> Tensor | None:
    return None if count is None else (count + by - 1) // by


def _masked(values: Tensor, count: Tensor | None) -> Tensor:
    """Zero (batch, channels, frames) beyond each utterance's count."""
    if count is None:
        return values
    place = torch.arange(values.shape[2], device=values.device)
    return values * (place < count[:, None])[:, None, :]


def _mel_edges(filters: int) -> Tensor:
    """(filters + 1,) edges in hertz, equally spaced in mel from 30 Hz, float64."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    highest = SAMPLE_RATE / 2 - 100
    mels = torch.linspace(mel(30), mel(highest), filters + 1, dtype=torch.float64)
    return 700 * (10 ** (mels / 2595) - 1)
