"""params.yaml -> the frozen dataclass of each stage's parameters.

A section is named after a stage, and its keys after the fields of that stage's
dataclass, whose defaults apply to keys that are left out. An unknown section or key is
an error, so that a typo is not ignored.
"""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from stages.acoustic.params import AcousticParams
from stages.baseline1.params import Baseline1Params
from stages.core.errors import ConfigurationError
from stages.core.rules import shown
from stages.corpus.params import CorpusParams
from stages.pretraining.params import PretrainingParams
from stages.rejection.params import RejectionParams
from stages.report.params import ReportParams
from stages.robustness.params import RobustnessParams
from stages.student.params import RecommendedParams, StudentParams
from stages.sweep.params import SweepParams
from stages.targets.params import TargetsParams
from stages.teacher.params import TeacherParams
from stages.unlabelled.params import UnlabelledParams

PARAMS_FILE = Path("params.yaml")


@dataclass(frozen=True)
class Params:
    """The content of params.yaml, one field for each section."""

    corpus: CorpusParams = field(default_factory=CorpusParams)
    acoustic: AcousticParams = field(default_factory=AcousticParams)
    unlabelled: UnlabelledParams = field(default_factory=UnlabelledParams)
    pretraining: PretrainingParams = field(default_factory=PretrainingParams)
    teacher: TeacherParams = field(default_factory=TeacherParams)
    targets: TargetsParams = field(default_factory=TargetsParams)
    baseline1: Baseline1Params = field(default_factory=Baseline1Params)
    student: StudentParams = field(default_factory=StudentParams)
    recommended: RecommendedParams = field(default_factory=RecommendedParams)
    sweep: SweepParams = field(default_factory=SweepParams)
    robustness: RobustnessParams = field(default_factory=RobustnessParams)
    rejection: RejectionParams = field(default_factory=RejectionParams)
    report: ReportParams = field(default_factory=ReportParams)


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Read the parameters in `path` and apply `overrides`.

    Args:
        path: a YAML file: sections of keys.
        overrides: each `section.key=value`, the value as in YAML.

    Raises:
        ConfigurationError: no such file, not YAML, an unknown section or key, or a
            value of the wrong type or out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "cannot be read",
            path=path,
            found=getattr(error, "strerror", None) or error,
            fix="run this in the folder with params.yaml, or give --params FILE",
        ) from None
    return parse_params(path, text, overrides)


def parse_params(path: Path, text: str, overrides: Sequence[str] = ()) -> Params:
    """Parse the parameters in `text`, the present or future content of `path`.

    Raises:
        ConfigurationError: as `load_params`.
    """
    sections = _sections(path, text)
    _check_listed(path, sections)
    for override in overrides:
        section, key, value = parse_override(override)
        keys = sections.get(section) or {}
        if isinstance(keys, dict):  # otherwise `_section` raises
            sections[section] = {**keys, key: value}
    kinds = get_type_hints(Params)
    _check_known(path, "section", sections, kinds)
    given = {
        name: _section(path, name, kinds[name], keys) for name, keys in sections.items()
    }
    return Params(**given)


def _check_listed(path: Path, sections: Mapping[str, Any]) -> None:
    """Check that student.alpha is a list, as the matrix in dvc.yaml requires."""
    keys = sections.get("student")
    alpha = keys.get("alpha") if isinstance(keys, dict) else None
    if isinstance(alpha, int | float) and not isinstance(alpha, bool):
        value = shown(alpha)
        raise ConfigurationError(
            "student.alpha is not a list; dvc.yaml has a stage for each value in it",
            path=path,
            found=value,
            expected=f"[{value}]",
            fix=f"write alpha: [{value}], or dvc exp run -S 'student.alpha=[{value}]'",
        )


def _sections(path: Path, text: str) -> dict[str, Any]:
    """The text as nested dictionaries."""
    sections = _parse(path, text)
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise ConfigurationError(
            "has no sections", path=path, found=_kind(sections), expected="a mapping"
        )
    return sections


def _parse(where: Path | str, text: str) -> Any:
    # As DVC does. PyYAML implements YAML 1.1, where 1e-3 is a text.
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe").load(text)
    # `!!int x`; `!!bool x`; `[[[[…`
    except (YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ConfigurationError(
            f"not YAML ({' '.join(str(error).split())})", path=where
        ) from None


def parse_override(override: str) -> tuple[str, str, Any]:
    """Split `section.key=value`; the value is parsed as YAML.

    Raises:
        ConfigurationError: another form, or the value is not YAML.
    """
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (section and dot and key and equals):
        raise ConfigurationError(
            "--set cannot be used", found=shown(override), expected="SECTION.KEY=VALUE"
        )
    return section, key, _parse(f"--set {override:.100}", text)


def _section(path: Path, name: str, kind: type, values: Any) -> Any:
    """The dataclass `kind` from the values of section `name`."""
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"section {name} has no keys",
            path=path,
            found=_kind(values),
            expected="a mapping",
        )
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}
    _check_known(path, f"key in section {name}", values, known)
    typed = {
        key: _typed(path, f"{name}.{key}", known[key], value)
        for key, value in values.items()
    }
    try:
        return kind(**typed)
    except ConfigurationError as error:
        raise ConfigurationError(str(error), path=path) from None


def _check_known(
    path: Path, what: str, found: Mapping[Any, Any], known: Mapping[str, Any]
) -> None:
    for name in found:
        if name not in known:
            typed = name if isinstance(name, str) else ""
            close = difflib.get_close_matches(typed, known, n=1)
            raise ConfigurationError(
                f"unknown {what}",
                path=path,
                found=shown(name),
                expected=f"one of {', '.join(known)}",
                fix=f"did you mean {close[0]!r}?" if close else None,
            )


def _typed(path: Path, name: str, kind: Any, value: Any) -> Any:
    """`value` as `kind`; a list becomes a tuple, and so does a single value.

    An integer stays one where a number is expected: DVC names folders after the values
    in the file, so 1 and 1.0 must stay different.
    """
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        values = value if isinstance(value, list) else [value]
        return tuple(_typed(path, name, item, one) for one in values)
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ConfigurationError(
            f"{name} cannot be used",
            path=path,
            found=f"{shown(value)}, {_kind(value)}",
            expected=_NAMES[kind],
        )
    return value


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "nothing",
}


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)
