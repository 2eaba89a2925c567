"""The grid of a sweep."""

import math
from dataclasses import astuple, dataclass

from stages.core.rules import among, between, check_rules, check_value, each
from stages.student.params import RECOMMENDED, SYSTEMS, VALUE_RULES

_MOST_STUDENTS = 100_000


@dataclass(frozen=True)
class SweepParams:
    """The grid of `aln-pipeline sweep`: every combination is a student.

    An empty list takes the value in `student`. Seeds are those in `student.seeds`.
    `systems` may have `recommended`, too.
    """

    systems: tuple[str, ...] = SYSTEMS
    alpha: tuple[float, ...] = (0.0, 0.2, 0.5, 0.8, 1.0)
    learning_rate: tuple[float, ...] = ()
    batch_size: tuple[int, ...] = ()
    gru_width: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the grid.

        Raises:
            ConfigurationError: no system or an unknown one, a value that cannot be
                trained with, or the same value twice.
        """
        rules = {name: each(rule, least=0) for name, rule in VALUE_RULES.items()}
        check_rules(
            "sweep", self, {**rules, "systems": each(among((*SYSTEMS, RECOMMENDED)))}
        )
        students = math.prod(max(len(values), 1) for values in astuple(self))
        small = between(1, _MOST_STUDENTS)
        check_value("number of combinations in sweep", students, small)
