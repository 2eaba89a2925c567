"""Check a section of params.yaml."""

from collections.abc import Mapping

from stages.core.errors import ConfigurationError


def check_rules(
    section: str, values: object, rules: Mapping[str, tuple[bool, str]]
) -> None:
    """Raise an error for the first parameter that is not valid.

    Args:
        section: its name in params.yaml.
        values: the dataclass of its parameters.
        rules: for each parameter, if it is valid, and a description of valid values.

    Raises:
        ConfigurationError: names the parameter, its value and the valid values.
    """
    for name, (holds, expected) in rules.items():
        if not holds:
            raise ConfigurationError(
                f"{section}.{name} cannot be used",
                found=repr(getattr(values, name)),
                expected=expected,
            )


def one_of(known: tuple[str, ...]) -> str:
    """The description of a parameter that must be one of `known`."""
    return f"one of {', '.join(known)}"
