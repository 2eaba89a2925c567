"""Sentence templates in the format of Home Assistant's intents, parsed by hassil.

    language: en
    intents:
      TurnOn:
        data:
          - sentences: ["(turn|switch) on [the] {room} lights"]
            slots: {action: activate}
    lists:
      room: {values: [kitchen, {in: living room, out: lounge}]}
      level: {range: {from: 0, to: 100, step: 10}}
    expansion_rules: {please: "(please|could you)"}

A grammar can have millions of sentences, so they are not listed but drawn, with
`stages/corpus/draws.py`: the intents in equal parts; of an intent, first the fixed
slots, then a template; at a choice, a branch as often as it has values of a slot. A new
template or value changes only the draws that it wins.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    TextChunk,
)

from stages.core.errors import InputError
from stages.core.labels import INTENT, NONE, SEPARATOR
from stages.core.table import clean_text
from stages.corpus.draws import choose, number
from stages.corpus.grammar_file import Block, Grammar, Template, read_grammar
from stages.corpus.params import CorpusParams

# Draws in a row that give no new sentence, after which there are taken to be no more.
_VAIN = 1000


def read_templates(params: CorpusParams, file: Path) -> tuple[pd.DataFrame, str]:
    """A sample of the sentences in `file`, and how many there are.

    Returns:
        text, split, intent, group, file and row of each sentence, and a message.

    Raises:
        InputError: the file cannot be used; names the line.
    """
    blocks = read_grammar(file)
    _check_slots(params, file, blocks)
    intents = list(dict.fromkeys(block.intent for block in blocks))
    rows: list[tuple[str, str, str, str]] = []
    for place, intent in enumerate(intents):
        own = [block for block in blocks if block.intent == intent]
        count = (params.sentences + place) // len(intents)
        for text, frame, line in _sample(params, file, own, count):
            rows.append((text, frame, intent, f"line {line}"))
    table = pd.DataFrame(rows, columns=["text", "intent", "group", "row"])
    every = sum(
        _count(block.grammar, template.expression)
        for block in blocks
        for template in block.templates
    )
    most = f"up to {every:,}" if every < 10**15 else "more than 10^15"
    note = f"{file}: {len(table):,} of {most} sentences are said"
    if ignored := blocks[0].grammar.ignored:
        lines = sorted(ignored.items(), key=lambda pair: pair[1])
        names = [f"{name} (line {line})" for name, line in lines]
        note += f"; ignored: {', '.join(names)}"
    return table.assign(split="", file=file), note


def _check_slots(params: CorpusParams, file: Path, blocks: list[Block]) -> None:
    """Check templates once, and that some sentence has each slot."""
    known = {INTENT}
    for block in blocks:
        known |= block.slots.keys()
        for template in block.templates:
            known |= {
                reference.slot_name
                for reference in _lists(block.grammar, template, template.expression)
            }
    for slot in params.slots:
        if slot not in known:
            raise InputError(
                f"no sentence has the slot {slot}",
                path=file,
                expected=", ".join(sorted(known)),
                fix="correct corpus.slots",
            )


def _lists(
    grammar: Grammar,
    template: Template,
    expression: Expression,
    inside: tuple[str, ...] = (),
) -> Iterator[ListReference]:
    """The lists that a template refers to; checks that it can be expanded."""

    def wrong(what: str, known: Any = None) -> InputError:
        return InputError(
            f"line {template.line} {what}",
            path=grammar.file,
            found=repr(template.text),
            expected=", ".join(sorted(known)) if known else None,
        )

    match expression:
        case ListReference():
            name = expression.list_name
            if numbers := expression.get_inline_range():
                grammar.add_range(name, template.line, numbers)
            if name not in grammar.lists:
                raise wrong(f"names the unknown list {{{name}}}", grammar.lists)
            if not (values := grammar.lists[name].values):
                raise wrong(f"names the list {{{name}}}, which any text is in")
            yield expression
            if f"{{{name}}}" in inside:
                raise wrong(f"names the list {{{name}}}, which contains itself")
            if name not in grammar.checked:
                grammar.checked.add(name)
                for value in values:
                    below = (*inside, f"{{{name}}}")
                    yield from _lists(grammar, value.said, value.said.expression, below)
        case RuleReference(rule_name=name):
            if name not in grammar.rules:
                raise wrong(f"names the unknown rule <{name}>", grammar.rules)
            if name in inside:
                raise wrong(f"names the rule <{name}>, which contains itself")
            rule = grammar.rules[name]
            yield from _lists(grammar, rule, rule.expression, (*inside, name))
        case Group():
            for item in expression.items:
                yield from _lists(grammar, template, item, inside)


def _count(grammar: Grammar, expression: Expression) -> int:
    """How many sentences an expression has, equal ones included."""
    match expression:
        case ListReference(list_name=name):
            return sum(
                _count(grammar, value.said.expression)
                for value in grammar.lists[name].values
            )
        case RuleReference(rule_name=name):
            return _count(grammar, grammar.rules[name].expression)
        case Alternative():
            return sum(_count(grammar, item) for item in expression.items)
        case Group():
            counts = [_count(grammar, item) for item in expression.items]
            orders = isinstance(expression, Permutation)
            return math.prod(counts) * (math.factorial(len(counts)) if orders else 1)
    return 1


def _weight(grammar: Grammar, expression: Expression) -> int:
    """How many values of a slot an expression can have; 0 if it has no slot."""
    match expression:
        case ListReference(list_name=name):
            return len({value.out for value in grammar.lists[name].values})
        case RuleReference(rule_name=name):
            return _weight(grammar, grammar.rules[name].expression)
        case Alternative():
            return sum(_weight(grammar, item) for item in expression.items)
        case Group():
            return max((_weight(grammar, one) for one in expression.items), default=0)
    return 0


def _branches(
    grammar: Grammar, choice: Alternative
) -> dict[str, tuple[Expression, int]]:
    """The branches of a choice and their weights, by name."""
    known = grammar.branches.get(id(choice))
    if known is None:
        known = grammar.branches[id(choice)] = {
            key(one): (one, max(1, _weight(grammar, one))) for one in choice.items
        }
    return known


def _sample(
    params: CorpusParams, file: Path, blocks: list[Block], count: int
) -> Iterator[tuple[str, str, int]]:
    """Up to `count` different sentences of an intent: text, frame and line."""
    fixed: dict[str, dict[str, tuple[Block, Template]]] = {}
    for block in blocks:
        of_slots = fixed.setdefault(repr(sorted(block.slots.items())), {})
        for one in block.templates:
            name = one.text
            # Lists and rules of its own make the same text another template.
            while name in of_slots and of_slots[name][0].grammar is not block.grammar:
                name += " "
            of_slots[name] = block, one
    seen: set[tuple[str, str]] = set()
    turn = vain = 0
    while len(seen) < count and vain < _VAIN:
        turn += 1
        vain += 1
        base = (params.seed, blocks[0].intent, turn)
        slots = choose(dict.fromkeys(fixed, 1), *base)
        name = choose(dict.fromkeys(fixed[slots], 1), *base, slots)
        block, template = fixed[slots][name]
        text, found = Walk(block, template, base).sentence()
        found[INTENT] = found.get(INTENT, block.intent)
        frame = block.intent
        if params.slots:
            frame = SEPARATOR.join(found.get(slot, NONE) for slot in params.slots)
        if (text, frame) not in seen:
            seen.add((text, frame))
            vain = 0
            yield text, frame, template.line


@dataclass(frozen=True)
class Walk:
    """One draw of a sentence, along the expressions of its template.

    Attributes:
        block: the template's.
        template: what to say.
        base: of the draws.
    """

    block: Block
    template: Template
    base: tuple[object, ...]

    def sentence(self) -> tuple[str, dict[str, str]]:
        """The text, and the value of each slot."""
        slots = dict(self.block.slots)
        text = self._say(self.template.expression, (self.template.text,), slots)
        return clean_text(text), slots

    def _say(
        self, expression: Expression, at: tuple[object, ...], slots: dict[str, str]
    ) -> str:
        """The text of an expression; adds to `slots`.

        Args:
            expression: what to say.
            at: where it is, for the draws.
            slots: the values so far.
        """
        grammar = self.block.grammar
        match expression:
            case TextChunk():
                return expression.original_text
            case ListReference():
                return self._value(expression, at, slots)
            case RuleReference(rule_name=name):
                return self._say(grammar.rules[name].expression, (*at, name), slots)
            case Alternative():
                branches = _branches(grammar, expression)
                weights = {name: weight for name, (_, weight) in branches.items()}
                chosen = choose(weights, *self.base, *at)
                return self._say(branches[chosen][0], (*at, chosen), slots)
            case Permutation(items=items):
                items = sorted(items, key=lambda one: number(*self.base, *at, key(one)))
                return "".join(self._say(one, (*at, key(one)), slots) for one in items)
            case Group(items=items):
                parts = enumerate(items)
                return "".join(self._say(one, (*at, n), slots) for n, one in parts)
        raise AssertionError(expression)

    def _value(
        self, reference: ListReference, at: tuple[object, ...], slots: dict[str, str]
    ) -> str:
        values = self.block.grammar.lists[reference.list_name].values
        outs = dict.fromkeys((value.out for value in values), 1)
        out = choose(outs, *self.base, *at)
        said = {one.said.text: one.said for one in values if one.out == out}
        text = choose(dict.fromkeys(said, 1), *self.base, *at, out)
        if slots.setdefault(reference.slot_name, out) != out:
            raise InputError(
                f"line {self.template.line} has two values for the slot "
                f"{reference.slot_name}",
                path=self.block.grammar.file,
                found=repr(self.template.text),
                fix="write {list:slot} to name another slot",
            )
        return self._say(said[text].expression, (*at, out, text), slots)


def key(expression: Expression) -> str:
    """A name for a branch, by which other branches do not change its draws."""
    match expression:
        case TextChunk():
            return expression.original_text
        case ListReference():
            return f"{{{expression.list_name}:{expression.slot_name}}}"
        case RuleReference(rule_name=name):
            return f"<{name}>"
        case Group(items=items):
            mark = {Alternative: "|", Permutation: ";"}.get(type(expression), "")
            return f"({mark.join(map(key, items))})"
    raise AssertionError(expression)
