"""Parameters of the student stage, and what they may be."""

import math
from dataclasses import dataclass

from stages.errors import ConfigurationError

SYSTEMS = ("baseline2", "aln_linguistic", "aln")
SELECTIONS = ("best_valid", "last")


@dataclass(frozen=True)
class StudentParams:
    """How the students are trained.

    Learning rate, batch size, epochs and α are the paper's (section 3.2.2, Table 3).
    The rest it leaves open: the GRU is as wide as the encoder's own, 128 units a
    direction, so that the intent layer takes 256 values a frame and pools 256; dropout
    is off, since the paper names none.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.999)  # of Adam
    batch_size: int = 64
    epochs: int = 100
    seeds: tuple[int, ...] = (1, 2, 3)  # a model each; the report gives their mean
    alpha: tuple[float, ...] = (0.5, 0.8)  # weights of the transfer loss to be tried
    gru_width: int = 128  # units a direction
    gru_bidirectional: bool = True
    dropout: float = 0.0  # of the pooled GRU outputs, before the last linear layer
    # Which epoch's weights are kept: that of the highest accuracy on valid (ties: the
    # lower intent loss on valid, then the earlier epoch), or the last one.
    selection: str = "best_valid"

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with.

        Raises:
            ConfigurationError: names the parameter, what it is and what it may be.
        """
        rate, betas, seeds = self.learning_rate, self.betas, self.seeds
        rules = {
            "learning_rate": (rate > 0 and math.isfinite(rate), "a number above 0"),
            "betas": (
                len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
                "two numbers from 0 to below 1",
            ),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "epochs": (self.epochs >= 1, "1 or more"),
            "seeds": (
                len(set(seeds)) == len(seeds) > 0 and min(seeds) >= 0,
                "different numbers from 0 up, at least one",
            ),
            "alpha": (
                len(set(self.alpha)) == len(self.alpha) > 0
                and all(0 <= alpha <= 1 for alpha in self.alpha),
                "different numbers from 0 to 1, at least one",
            ),
            "gru_width": (self.gru_width >= 1, "1 or more"),
            "dropout": (0 <= self.dropout < 1, "a number from 0 to below 1"),
            "selection": (
                self.selection in SELECTIONS,
                f"one of {', '.join(SELECTIONS)}",
            ),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise ConfigurationError(
                    f"student.{name} cannot be used",
                    found=repr(getattr(self, name)),
                    expected=expected,
                )


def check_system(system: str, alpha: float | None) -> None:
    """Hold a system against `SYSTEMS`, and α against what that system takes.

    Raises:
        ConfigurationError: unknown system; α out of 0 to 1, missing or too much.
    """
    if system not in SYSTEMS:
        raise ConfigurationError(
            "unknown system",
            found=repr(system),
            expected=f"one of {', '.join(SYSTEMS)}",
        )
    if system == "baseline2":
        if alpha is not None:
            raise ConfigurationError(
                "baseline2 has no transfer loss to weigh",
                found=f"alpha {alpha}",
                fix="leave --alpha out",
            )
    elif alpha is None or not 0 <= alpha <= 1:
        raise ConfigurationError(
            f"{system} needs the weight of its transfer loss",
            found=f"alpha {alpha}",
            expected="a number from 0 to 1",
            fix="give --alpha",
        )
