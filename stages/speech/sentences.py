"""General English: sentences of a small grammar, and random words.

In pretraining, the encoder must learn how words sound, not what a corpus says. So half
of the text is random words, where no word predicts the next, and half comes from a
grammar, where words run together as they do in natural speech. No corpus is used for
either. To measure rejection, only the grammar is used.
"""

# Lists are easier to read and to extend as text.
# ruff: noqa: SIM905

from collections.abc import Iterator

import numpy as np

_DETERMINERS = "the a this that my your our their his her some every another".split()
_ADJECTIVES = (
    "big small old new good bad long short young early late happy quiet loud green "
    "white black dark bright cold warm hot heavy quick slow strong easy hard clean "
    "open full empty rich poor public private local foreign modern simple strange"
).split()
_PEOPLE = (
    "man woman boy girl teacher doctor friend brother sister mother father child "
    "student driver writer player king neighbor officer captain uncle visitor"
).split()
_THINGS = (
    "house door window table chair book letter story picture city street river field "
    "garden school office station train car road bridge paper bottle glass box bag "
    "coat hat shoe dog cat horse bird fish tree flower hand head heart night morning "
    "week year summer winter water bread coffee tea sugar money game team song film "
    "newspaper language number room kitchen wall floor phone clock machine market"
).split()
_VERBS = (
    "saw found took gave left kept lost sold bought made wanted needed liked loved "
    "opened closed carried followed watched heard brought called changed played read "
    "washed painted finished started remembered forgot showed moved raised set put"
).split()
_PREPOSITIONS = (
    "in on at under over near behind beside before after with without from to for "
    "about through across into around"
).split()
_ADVERBS = (
    "now then here there again always never often sometimes today yesterday tomorrow "
    "slowly quickly already almost soon together outside upstairs"
).split()
_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve fifteen twenty "
    "thirty forty fifty hundred thousand"
).split()
_OPENINGS = (
    "i think|do you know that|we said|it is clear that|when|because|if|although|"
    "they told us that|she knew|maybe|please ask whether|i wonder why|"
    "can you tell me whether|he asked how"
).split("|")


def grammar_words() -> list[str]:
    """Every word of the grammar, sorted."""
    lists = (
        _DETERMINERS,
        _ADJECTIVES,
        _PEOPLE,
        _THINGS,
        _VERBS,
        _PREPOSITIONS,
        _ADVERBS,
        _NUMBERS,
        " ".join(_OPENINGS).split(),
    )
    return sorted({word for words in lists for word in words})


def sentences(
    words: list[str], shares: np.ndarray, generator: np.random.Generator
) -> Iterator[str]:
    """Generate sentences without end, lower case, single spaces between words.

    Args:
        words: the vocabulary of random sentences.
        shares: each word's share of a text; `frequent_words` returns both.
        generator: of everything random.
    """
    # Flattened, so that rare words are spoken too.
    weights = shares**0.3
    weights = weights / weights.sum()
    # An array, since `choice` would convert a list for every sentence.
    known = np.array(words)
    while True:
        if generator.random() < 0.5:
            count = int(generator.integers(1, 9))
            yield " ".join(generator.choice(known, size=count, p=weights))
        else:
            yield sentence(generator)


def sentence(generator: np.random.Generator) -> str:
    """A sentence of the grammar, lower case."""

    def one(words: list[str]) -> str:
        return words[int(generator.integers(len(words)))]

    def sometimes(probability: float) -> bool:
        return bool(generator.random() < probability)

    def noun_phrase(nouns: list[str]) -> list[str]:
        adjective = [one(_ADJECTIVES)] if sometimes(0.4) else []
        if sometimes(0.15):
            return [one(_NUMBERS), *adjective, one(nouns)]
        return [one(_DETERMINERS), *adjective, one(nouns)]

    clause = one(_OPENINGS).split() if sometimes(0.3) else []
    clause += [*noun_phrase(_PEOPLE), one(_VERBS), *noun_phrase(_THINGS)]
    if sometimes(0.5):
        clause += [one(_PREPOSITIONS), *noun_phrase(_THINGS)]
    if sometimes(0.3):
        clause.append(one(_ADVERBS))
    return " ".join(clause)
