"""Parameters of the sweep: its grid."""

from dataclasses import dataclass, fields

from stages.core.errors import ConfigurationError
from stages.student.params import _SINGLE, SYSTEMS


@dataclass(frozen=True)
class SweepParams:
    """The grid of `aln-pipeline sweep`: every combination is a student.

    What is empty is as in `student`. Seeds are those of `student.seeds`.
    """

    systems: tuple[str, ...] = SYSTEMS
    alpha: tuple[float, ...] = (0.0, 0.2, 0.5, 0.8, 1.0)
    learning_rate: tuple[float, ...] = ()
    batch_size: tuple[int, ...] = ()
    gru_width: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a grid that is none.

        Raises:
            ConfigurationError: an unknown system, none, a value that cannot be trained
                with, or one that stands twice.
        """
        unknown = [name for name in self.systems if name not in SYSTEMS]
        if unknown or not self.systems:
            raise ConfigurationError(
                "sweep.systems cannot be used",
                found=repr(self.systems),
                expected=f"some of {', '.join(SYSTEMS)}",
            )
        for field in fields(self):
            values = getattr(self, field.name)
            if len(set(values)) < len(values):
                raise ConfigurationError(
                    f"sweep.{field.name} has a value twice",
                    found=repr(values),
                    expected="each value once",
                    fix="leave out one of the two",
                )
        for name, (holds, expected) in _SINGLE.items():
            for value in getattr(self, name):
                if not holds(value):
                    raise ConfigurationError(
                        f"sweep.{name} cannot be used",
                        found=repr(value),
                        expected=expected,
                    )
