"""The file of sentence templates, checked; every message names the line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hassil.expression import Expression
from hassil.numbers import get_rbnf_engine
from hassil.parse_expression import parse_sentence
from hassil.parser import ParseError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stages.core.errors import InputError
from stages.core.json_lines import as_text
from stages.core.labels import SEPARATOR
from stages.core.table import CONTROL, clean_text, not_utf8

_MOST_NUMBERS = 10_000
_KINDS: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "text in quotation marks",
}


@dataclass(frozen=True)
class Template:
    """A template, also of a rule or a list's value, and the line it is in."""

    text: str
    expression: Expression
    line: int


@dataclass(frozen=True)
class Value:
    """A value of a list: what it means, and what is said."""

    out: str
    said: Template


@dataclass(frozen=True)
class ValueList:
    """A list; without values, any text is in it (a wildcard)."""

    values: list[Value]


@dataclass
class Grammar:
    """What templates refer to."""

    file: Path
    language: str
    lists: dict[str, ValueList]
    rules: dict[str, Template]
    checked: set[str] = field(default_factory=set)
    """Lists whose values were checked."""
    branches: dict[int, dict[str, tuple[Expression, int]]] = field(default_factory=dict)
    """Of each choice, by its id: its branches and their weights."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Keys of the file that mean nothing here, and the line of the first of each."""

    def ignore(self, node: "Node", *known: str) -> None:
        """Note the keys of `node` but for the known ones."""
        for name, (line, *_) in (node.value.lc.data or {}).items():
            if name not in known:
                self.ignored.setdefault(str(name), line + 1)

    def add_range(self, name: str, line: int, numbers: tuple[int, int, int]) -> None:
        """Add a list of numbers: from, to and step."""
        self.lists[name] = ValueList(list(_numbers(self, line, numbers)))


@dataclass(frozen=True)
class Block:
    """Templates of an intent, with fixed values of some slots."""

    intent: str
    slots: dict[str, str]
    templates: list[Template]
    grammar: Grammar


def read_grammar(file: Path) -> list[Block]:
    """The blocks of `file`.

    Raises:
        InputError: it is not a grammar; names the line.
    """
    try:
        # A round trip keeps the lines.
        found = YAML().load(file.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The values of a duplicate key are long.
        reason = error.problem.partition(" with value")[0]
        raise InputError(
            f"line {mark.line + 1} is not YAML ({reason})", path=file
        ) from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"not YAML ({reason})", path=file) from None
    top = Node(file, found, 1)
    intents = top.get("intents", dict)
    if intents is None:
        raise InputError("has no intents", path=file, expected="the key intents")
    language = top.get("language", str)
    grammar = Grammar(file, str(language.value) if language else "en", {}, {})
    grammar.ignore(top, "language", "intents", "lists", "expansion_rules")
    _add(grammar, top)
    blocks: list[Block] = []
    for name, intent in intents.items(dict):
        grammar.ignore(intent, "data")
        data = intent.get("data", list)
        own = [] if data is None else list(data.each(dict))
        before = len(blocks)
        for one in own:
            grammar.ignore(one, "sentences", "slots", "lists", "expansion_rules")
            sentences = one.get("sentences", list)
            templates = [] if sentences is None else [*map(_parse, sentences.each(str))]
            if templates:
                blocks.append(Block(name, _slots(one), templates, _local(grammar, one)))
        if len(blocks) == before:
            raise intent.wrong(f"has no sentences for the intent {name}")
    if not blocks:
        raise intents.wrong("has no sentences")
    return blocks


@dataclass(frozen=True)
class Node:
    """A part of the file."""

    file: Path
    value: Any
    line: int

    def wrong(self, what: str, **more: Any) -> InputError:
        """An error in this line."""
        return InputError(f"line {self.line} {what}", path=self.file, **more)

    def get(self, name: str, kind: type) -> "Node | None":
        """The value of a key, of that kind; None if there is none."""
        if not isinstance(self.value, dict):
            raise self.wrong(f"is not {_KINDS[dict]}", found=repr(self.value)[:60])
        found = self.value.get(name)
        return None if found is None else self._at(name, found, kind, f"{name}: ")

    def items(self, kind: type) -> Iterator[tuple[str, "Node"]]:
        """The names and values of a mapping."""
        for name, value in self.value.items():
            node = self._at(name, value, kind, f"{name}: ")
            yield node._label(as_text(name)), node

    def each(self, kind: type | None = None) -> Iterator["Node"]:
        """The values of a list."""
        for place, value in enumerate(self.value):
            yield self._at(place, value, kind, "")

    def single(self) -> "Node":
        """A single value, as text."""
        if not isinstance(self.value, str | int | float):
            raise self.wrong(
                "is not a single value",
                found=repr(self.value)[:60],
                fix="put text in quotation marks",
            )
        return Node(self.file, as_text(self.value), self.line)

    def text(self) -> str:
        """A single value that can be a label."""
        return self._label(self.single().value)

    def _label(self, text: str) -> str:
        text = clean_text(text)
        if not text or SEPARATOR in text or CONTROL.search(text):
            raise self.wrong(
                f"has a name or value that is empty, or contains {SEPARATOR!r} or a "
                "control character",
                found=repr(text),
                fix="write a template in a list as {in: template, out: value}",
            )
        return text

    def _at(self, key: Any, value: Any, kind: type | None, name: str) -> "Node":
        # What is merged (`<<: *name`) has no line here.
        lines = self.value.lc.data or {}
        line = lines.get(key, [self.line - 1])[0] + 1
        if kind is not None and not isinstance(value, kind):
            raise InputError(
                f"line {line} is not {name}{_KINDS[kind]}",
                path=self.file,
                found=repr(value)[:60],
            )
        return Node(self.file, value, line)


def _slots(block: Node) -> dict[str, str]:
    slots = block.get("slots", dict)
    if slots is None:
        return {}
    return {name: value.text() for name, value in slots.items(object)}


def _local(grammar: Grammar, block: Node) -> Grammar:
    """The grammar with the lists and rules of a block."""
    if not {"lists", "expansion_rules"} & block.value.keys():
        return grammar
    lists, rules = dict(grammar.lists), dict(grammar.rules)
    local = Grammar(
        grammar.file, grammar.language, lists, rules, ignored=grammar.ignored
    )
    _add(local, block)
    return local


def _add(grammar: Grammar, node: Node) -> None:
    """Add the lists and rules of a node."""
    if lists := node.get("lists", dict):
        for name, one in lists.items(dict):
            grammar.lists[name] = _list(grammar, name, one)
    if rules := node.get("expansion_rules", dict):
        for name, one in rules.items(str):
            grammar.rules[name] = _parse(one)


def _list(grammar: Grammar, name: str, node: Node) -> ValueList:
    grammar.ignore(node, "values", "range", "wildcard")
    if values := node.get("values", list):
        found = [_value(grammar, one) for one in values.each()]
    elif numbers := node.get("range", dict):
        grammar.ignore(numbers, "from", "to", "step")
        try:
            # By way of text, because a fraction would be cut off.
            start, stop = (int(str(numbers.value[key])) for key in ("from", "to"))
            step = int(str(numbers.value.get("step", 1)))
        except (KeyError, ValueError, TypeError):
            raise numbers.wrong(
                f"has no range for the list {{{name}}}",
                found=repr(dict(numbers.value)),
                expected="whole numbers: from, to and perhaps step",
            ) from None
        found = list(_numbers(grammar, numbers.line, (start, stop, step)))
    elif node.value.get("wildcard"):
        return ValueList([])
    else:
        found = []
    if not found:
        raise node.wrong(
            f"has no values for the list {{{name}}}", expected="values or a range"
        )
    return ValueList(found)


def _value(grammar: Grammar, node: Node) -> Value:
    if not isinstance(node.value, Mapping):
        text = node.text()
        return Value(text, _parse(Node(node.file, text, node.line)))
    grammar.ignore(node, "in", "out")
    said = node.get("in", object)
    if said is None:
        raise node.wrong("has no `in`", found=repr(dict(node.value)))
    out = node.get("out", object) or said
    return Value(out.text(), _parse(said.single()))


def _numbers(
    grammar: Grammar, line: int, numbers: tuple[int, int, int]
) -> Iterator[Value]:
    """The numbers of a range (from, to, step), said in words."""
    start, stop, step = numbers
    if step < 1 or not start <= stop or (stop - start) // step >= _MOST_NUMBERS:
        raise InputError(
            f"line {line} has a range that cannot be used",
            path=grammar.file,
            found=f"{start} to {stop} in steps of {step}",
            expected=f"1 to {_MOST_NUMBERS:,} numbers, ascending",
        )
    for one in range(start, stop + 1, step):
        try:
            words = get_rbnf_engine(grammar.language).format_number(one).text
        except ValueError:
            raise InputError(
                f"line {line} has numbers in a language whose numbers are not known",
                path=grammar.file,
                found=grammar.language,
                fix="write them as values: {in: twenty, out: 20}",
            ) from None
        yield Value(str(one), _parse(Node(grammar.file, words, line)))


def _parse(node: Node) -> Template:
    text = str(node.value)
    try:
        return Template(text, parse_sentence(text).expression, node.line)
    # hassil asserts that brackets are not empty.
    except (ParseError, AssertionError, RecursionError) as error:
        # The message of its subclass is for developers.
        reason = f" ({error})" if type(error) is ParseError else ""
        raise node.wrong(
            f"cannot be parsed{reason}",
            found=repr(text),
            expected="pairs of brackets that are not empty: (one|other), [optional], "
            "{list}, <rule>",
        ) from None
