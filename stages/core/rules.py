"""Check a section of params.yaml: every parameter has a rule."""

import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from stages.core.errors import ConfigurationError

_LONGEST_TEXT = 1000  # characters
_MOST_VALUES = 1000  # in a list
_MOST_SHOWN = 100  # characters of a value in a message
_NOT_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control, surrogate, end of line or paragraph


@dataclass(frozen=True)
class Rule:
    """Which values a parameter can have.

    Attributes:
        allows: whether it can have a value, of the right type.
        expected: a description of the values.
    """

    allows: Callable[[Any], bool]
    expected: str


def between(
    low: float, high: float, *, above: bool = False, below: bool = False
) -> Rule:
    """Numbers from `low` to `high`; NaN is none.

    Args:
        low: the lowest value.
        high: the highest value.
        above: without `low` itself.
        below: without `high` itself.
    """
    first, last = (
        f"{one:,}" if isinstance(one, int) else f"{one:g}" for one in (low, high)
    )
    first = f"above {first} and" if above else f"{first} to"
    last = f"below {last}" if below else f"{'at most ' * above}{last}"
    return Rule(
        lambda value: (
            low <= value <= high
            and not (above and value == low)
            and not (below and value == high)
        ),
        f"{first} {last}",
    )


def among(known: Collection[str]) -> Rule:
    """One of the texts in `known`."""
    return Rule(lambda value: value in known, one_of(known))


def one_of(known: Collection[str]) -> str:
    """The description of a value that must be one of `known`."""
    return f"one of {', '.join(known)}"


def each(rule: Rule, *, least: int = 1) -> Rule:
    """Lists of at least so many different values that `rule` allows."""
    return Rule(
        lambda values: (
            least <= len(values) <= _MOST_VALUES
            and len(set(values)) == len(values)
            and all(map(rule.allows, values))
        ),
        f"{least} to {_MOST_VALUES:,} different values, each {rule.expected}",
    )


def _is_text(value: str) -> bool:
    return len(value) <= _LONGEST_TEXT and not any(
        unicodedata.category(character) in _NOT_TEXT for character in value
    )


TEXT_OR_NOTHING = Rule(
    _is_text, f"at most {_LONGEST_TEXT:,} characters, none of them a control character"
)
TEXT = Rule(
    lambda value: value != "" and _is_text(value),
    f"1 to {_LONGEST_TEXT:,} characters, none of them a control character",
)
SEED = between(0, 2**32 - 1)  # numpy's limit
_BY_TYPE = {
    bool: Rule(lambda value: True, "true or false"),
    str: TEXT,
    tuple: each(TEXT),
}


def check_rules(section: str, values: Any, rules: Mapping[str, Rule]) -> None:
    """Raise an error for the first parameter that is not valid.

    Args:
        section: its name in params.yaml.
        values: the dataclass of its parameters.
        rules: by parameter. Texts, lists of texts, true and false can do without.

    Raises:
        ConfigurationError: names the parameter, its value and the valid values.
    """
    for field in fields(values):
        value = getattr(values, field.name)
        rule = rules.get(field.name) or _BY_TYPE[type(value)]
        check_value(f"{section}.{field.name}", value, rule)


def check_value(name: str, value: Any, rule: Rule) -> None:
    """Raise an error if `rule` does not allow the value of the parameter `name`.

    Raises:
        ConfigurationError: names the parameter, its value and the valid values.
    """
    if not rule.allows(value):
        raise ConfigurationError(
            f"{name} cannot be used", found=shown(value), expected=rule.expected
        )


def shown(value: object) -> str:
    """A value in a message, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number that is too large"
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
