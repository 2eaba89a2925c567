"""Checks of a section of params.yaml."""

from collections.abc import Mapping

from stages.core.errors import ConfigurationError


def check_rules(
    section: str, values: object, rules: Mapping[str, tuple[bool, str]]
) -> None:
    """Check the parameters of a section.

    Args:
        section: its name in params.yaml.
        values: the dataclass of its parameters.
        rules: by parameter: whether its value can be used, and what can.

    Raises:
        ConfigurationError: names the first parameter that cannot be used.
    """
    for name, (holds, expected) in rules.items():
        if not holds:
            raise ConfigurationError(
                f"{section}.{name} cannot be used",
                found=repr(getattr(values, name)),
                expected=expected,
            )


def one_of(known: tuple[str, ...]) -> str:
    """The `expected` of a parameter that takes one of `known`."""
    return f"one of {', '.join(known)}"
