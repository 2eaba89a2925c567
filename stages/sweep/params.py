"""The grid of a sweep."""

from dataclasses import dataclass, fields

from stages.core.rules import check_rules
from stages.student.params import SYSTEMS, VALUE_RULES


@dataclass(frozen=True)
class SweepParams:
    """The grid of `aln-pipeline sweep`: every combination is a student.

    An empty list takes the value in `student`. Seeds are those in `student.seeds`.
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
        known = bool(self.systems) and all(one in SYSTEMS for one in self.systems)
        rules = {"systems": (known, f"some of {', '.join(SYSTEMS)}")}
        for name, (allows, expected) in VALUE_RULES.items():
            rules[name] = (all(map(allows, getattr(self, name))), f"each {expected}")
        check_rules("sweep", self, rules)
        for field in fields(self):
            values = getattr(self, field.name)
            once = len(set(values)) == len(values)
            check_rules("sweep", self, {field.name: (once, "each value once")})
