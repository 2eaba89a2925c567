"""Parameters of the student stage, and what they may be."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from stages.core.errors import ConfigurationError

SYSTEMS = ("baseline2", "aln_linguistic", "aln")


SELECTIONS = ("best_valid", "last")


FRAME_POOLINGS = ("max", "mean")


ATTENTIONS = ("cross", "self", "none")


INITIALISATIONS = ("aligned", "pytorch")


# What a single value of these may be, in `student` and in the grid `sweep`.
_SINGLE: dict[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (
        lambda value: value > 0 and math.isfinite(value),
        "a number above 0",
    ),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "gru_width": (lambda value: value >= 1, "1 or more"),
    "dropout": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "alpha": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
}


@dataclass(frozen=True)
class Architecture:
    """What the paper leaves open about the networks, or what an ablation takes away.

    Attributes:
        gru_width: units a direction. As the encoder's own, so that the intent layer
            takes 256 values a frame and pools 256.
        gru_bidirectional: whether the GRU also runs from the end to the beginning, as
            the encoder's do; an utterance is complete when it is classified.
        dropout: of the pooled GRU outputs, before the last linear layer; off, since the
            paper names none.
        frame_pooling: of the GRU outputs over the frames; section 2.5 has max.
        attention: what ALN's keys and values are: `cross`, ê_lang, as in eq. 2; `self`,
            e_acoust; or `none`: z is the mapped ê_lang.
        mapping: whether ê_lang passes the mapping layer `before` keys and values are
            made of it, as in section 2.4, or f_k and f_v take it as it is.
        scaling: whether scores are divided by √d_k, as in eq. 2.
        initialisation: `aligned` or PyTorch's own; see `model._begin_at_self`.
    """

    gru_width: int = 128
    gru_bidirectional: bool = True
    dropout: float = 0.0
    frame_pooling: str = "max"
    attention: str = "cross"
    mapping: str = "before"
    scaling: bool = True
    initialisation: str = "aligned"


@dataclass(frozen=True)
class StudentParams(Architecture):
    """How the students are trained.

    Learning rate, batch size, epochs and α are the paper's (section 3.2.2, Table 3).
    """

    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.999)  # of Adam
    batch_size: int = 64
    epochs: int = 100
    seeds: tuple[int, ...] = (1, 2, 3)  # a model each; the report gives their mean
    alpha: tuple[float, ...] = (0.5, 0.8)  # weights of the transfer loss to be tried
    # Which epoch's weights are kept: that of the highest accuracy on valid (ties: the
    # lower intent loss on valid, then the earlier epoch), or the last one.
    selection: str = "best_valid"

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with.

        Raises:
            ConfigurationError: names the parameter, what it is and what it may be.
        """
        betas, seeds = self.betas, self.seeds
        rules = {
            **{
                name: (holds(getattr(self, name)), expected)
                for name, (holds, expected) in _SINGLE.items()
                if name != "alpha"
            },
            "betas": (
                len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
                "two numbers from 0 to below 1",
            ),
            "epochs": (self.epochs >= 1, "1 or more"),
            "seeds": (
                len(set(seeds)) == len(seeds) > 0
                and min(seeds) >= 0
                and max(seeds) < 2**63,
                "different numbers from 0 to below 2^63, at least one",
            ),
            "alpha": (
                len(set(self.alpha)) == len(self.alpha) > 0
                and all(map(_SINGLE["alpha"][0], self.alpha)),
                "different numbers from 0 to 1, at least one",
            ),
            **{
                name: (getattr(self, name) in known, f"one of {', '.join(known)}")
                for name, known in (
                    ("frame_pooling", FRAME_POOLINGS),
                    ("attention", ATTENTIONS),
                    ("initialisation", INITIALISATIONS),
                    ("selection", SELECTIONS),
                )
            },
            "mapping": (
                self.mapping == "before"
                or (self.mapping == "none" and self.attention != "none"),
                "before; or none, with attention",
            ),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise ConfigurationError(
                    f"student.{name} cannot be used",
                    found=repr(getattr(self, name)),
                    expected=expected,
                )

    def architecture(self) -> dict[str, Any]:
        """The fields of `Architecture`, by name."""
        return {field.name: getattr(self, field.name) for field in fields(Architecture)}


def as_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` by a name of `StudentParams`, 1 as 1.0 where that is a number.

    So that what is written 1 and 1.0 is one student. What is not a parameter is kept.
    """
    kinds = get_type_hints(StudentParams)
    found = dict(values)
    for name, value in values.items():
        if kinds.get(name) is float:
            found[name] = float(value)
        elif kinds.get(name) == tuple[float, ...]:
            found[name] = type(value)(map(float, value))
    return found


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
