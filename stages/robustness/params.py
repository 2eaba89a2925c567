"""Parameters of the robustness stage."""

import re
from dataclasses import dataclass
from pathlib import Path

from stages.core.rules import Rule, between, check_rules, check_value, each

REVISION = 1
"""Bump it when the same inputs and parameters give another result."""

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
            of MUSAN. The default is babble: it has the band of speech and changes as
            speech does, so no front end can subtract it like a steady noise, and it
            needs only the corpus.
        snr: signal-to-noise ratios in decibels, for every noise: the ratio of the
            mean squares over all samples of a recording.
        reverberation: `simulated`, in shoebox rooms; a folder of impulse responses; or
            `none`.
        t60: seconds in which the sound of a simulated room falls by 60 dB. The default
            is that of a furnished living room or a small office.
    """

    noise: tuple[str, ...] = ("babble",)
    snr: tuple[float, ...] = (20, 10, 5, 0)
    reverberation: str = "simulated"
    t60: float = 0.5

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: names the parameter, its value and what is expected.
        """
        t60 = between(SHORTEST_T60, LONGEST_T60)
        rules = {
            "snr": each(between(-100, 100)),
            "t60": Rule(
                t60.allows,
                f"{t60.expected} seconds; for more, a folder of impulse responses as "
                "robustness.reverberation",
            ),
        }
        check_rules("robustness", self, rules)
        named = Rule(
            lambda noises: (
                len(names := {noise_name(noise) for noise in noises}) == len(noises)
                and not {"", "..", "clean", REVERBERATION} & names
            ),
            f"some of {', '.join(NOISES)}, or folders, whose last names differ and "
            f"are not clean or {REVERBERATION}",
        )
        check_value("robustness.noise", self.noise, named)
        folder = Rule(
            lambda one: noise_name(one) not in ("", ".."),
            "simulated, none, or a folder",
        )
        check_value("robustness.reverberation", self.reverberation, folder)


def noise_name(noise: str) -> str:
    """The name of a kind of noise, or of a folder of it; also of its cache folders."""
    return noise if noise in NOISES else re.sub(r"[^\w.-]", "_", Path(noise).name)
