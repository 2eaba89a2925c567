"""Parameters of the robustness stage."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import ConfigurationError

NOISES = ("white", "pink", "speech", "babble")
SHORTEST_T60, LONGEST_T60 = 0.1, 2.0
REVERBERATION = "reverberation"


@dataclass(frozen=True)
class RobustnessParams:
    """What is done to the test split's recordings before they are classified.

    Attributes:
        noise: what is added: `white`; `pink`, whose power falls by 3 dB an octave;
            `speech`, stationary with the mean spectrum of the train split; `babble`,
            six talkers of the train split; or a folder of recordings, such as those
            of MUSAN. Babble by default: it lies in the band of speech and changes as
            speech does, so that no front end subtracts it as it may a steady noise,
            and it needs nothing but the corpus.
        snr: signal-to-noise ratios in decibels, each for every noise; the ratio of the
            mean squares over all samples of a recording.
        reverberation: `simulated`, in shoebox rooms; a folder of impulse responses; or
            `none`.
        t60: seconds in which the sound of a simulated room falls by 60 dB. By default
            those of a furnished living room or a small office.
    """

    noise: tuple[str, ...] = ("babble",)
    snr: tuple[float, ...] = (20, 10, 5, 0)
    reverberation: str = "simulated"
    t60: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what no recording can be spoilt by.

        Raises:
            ConfigurationError: names the parameter, what it is and what it may be.
        """
        names = [noise_name(noise) for noise in self.noise]
        rules = {
            "noise": (
                len(set(names)) == len(names) > 0
                and all(names)
                and not {"clean", REVERBERATION} & set(names),
                f"some of {', '.join(NOISES)}, or folders, whose last names differ "
                f"and are not clean or {REVERBERATION}",
            ),
            "snr": (
                len(set(self.snr)) == len(self.snr) > 0
                and all(map(math.isfinite, self.snr)),
                "different numbers, at least one",
            ),
            "reverberation": (
                bool(noise_name(self.reverberation)),
                "simulated, none, or a folder",
            ),
            "t60": (
                SHORTEST_T60 <= self.t60 <= LONGEST_T60,
                f"{SHORTEST_T60} to {LONGEST_T60} seconds; for more, a folder of "
                "impulse responses as robustness.reverberation",
            ),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise ConfigurationError(
                    f"robustness.{name} cannot be used",
                    found=repr(getattr(self, name)),
                    expected=expected,
                )


def noise_name(noise: str) -> str:
    """What a kind of noise, or a folder of it, is called; also as a folder's name."""
    return noise if noise in NOISES else re.sub(r"[^\w.-]", "_", Path(noise).name)
