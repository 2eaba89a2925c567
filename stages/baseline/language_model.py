"""N-gram language models, written as ARPA files for the beam search."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log10

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"

_END_SHARE = 0.125
"""How often a text ends after a word, where nothing else is known: one in eight."""

_LEAST_SHARE = 1e-9
"""Of a word that the list of frequencies does not have."""

_NEVER = -99.0


def unigram_arpa(shares: Mapping[str, float]) -> str:
    """A model that knows how frequent words are, and nothing of their order.

    Args:
        shares: of each word; need not sum to one.
    """
    return _arpa([{(word,): share for word, share in _with_end(shares).items()}], {})


def ngram_arpa(
    texts: Iterable[Sequence[str]], shares: Mapping[str, float], order: int
) -> str:
    """An n-gram of `texts`, interpolated as Witten and Bell 1991 do, over `shares`.

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), where t(h) is the number of
    distinct words after h, h' is h without its first word, and below the unigram stand
    `shares`; so every word of the vocabulary may follow any other.

    Args:
        texts: words of each.
        shares: of each word of the vocabulary, which holds every word of `texts`.
        order: words in the longest n-gram, 1 or more.
    """
    counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for text in texts:
        words = (BEGIN, *text, END)
        for end in range(2, len(words) + 1):  # the begin itself is never predicted
            for length in range(1, min(order, end) + 1):
                counts[length - 1][words[end - length : end]] += 1
    base = _with_end(shares)
    after = Counter[tuple[str, ...]]()  # c(h)
    kinds = Counter[tuple[str, ...]]()  # t(h)
    for counted in counts:
        for ngram, count in counted.items():
            after[ngram[:-1]] += count
            kinds[ngram[:-1]] += 1
    total, different = after[()], kinds[()]
    levels: list[dict[tuple[str, ...], float]] = [
        {
            (word,): (counts[0][(word,)] + different * share) / (total + different)
            for word, share in base.items()
        }
    ]
    for counted in counts[1:]:
        below = levels[-1]
        levels.append(
            {
                ngram: (count + kinds[ngram[:-1]] * below[ngram[1:]])
                / (after[ngram[:-1]] + kinds[ngram[:-1]])
                for ngram, count in counted.items()
            }
        )
    backoff = {
        history: kinds[history] / (after[history] + kinds[history])
        for history in kinds
        if history
    }
    return _arpa(levels, backoff)


def _with_end(shares: Mapping[str, float]) -> dict[str, float]:
    """Probabilities of each word and of the end, in sorted order."""
    raised = {word: max(shares[word], _LEAST_SHARE) for word in sorted(shares)}
    total = sum(raised.values()) / (1 - _END_SHARE)
    return {END: _END_SHARE, **{word: share / total for word, share in raised.items()}}


def _arpa(
    levels: list[dict[tuple[str, ...], float]],
    backoff: Mapping[tuple[str, ...], float],
) -> str:
    """Probabilities by length and back-off weights, in ARPA's format."""
    if len(levels) == 1:
        # KenLM refuses a mere unigram: this says what backing off would.
        levels = [*levels, {(BEGIN, END): levels[0][(END,)]}]
    # The begin is given, not predicted; the unknown word is never chosen.
    unigrams: dict[tuple[str, ...], float | None] = {
        (BEGIN,): None,
        (UNKNOWN,): None,
        **levels[0],
    }
    tables: list[Mapping[tuple[str, ...], float | None]] = [unigrams, *levels[1:]]
    lines = ["\\data\\"]
    lines += [f"ngram {n}={len(table)}" for n, table in enumerate(tables, 1)]
    for n, table in enumerate(tables, 1):
        lines += ["", f"\\{n}-grams:"]
        for ngram in sorted(table):
            share = table[ngram]
            line = f"{_NEVER if share is None else log10(share):.6f}\t{' '.join(ngram)}"
            if n < len(tables) and ngram[-1] != END:
                line += f"\t{log10(backoff.get(ngram, 1.0)):.6f}"
            lines.append(line)
    return "\n".join([*lines, "", "\\end\\", ""])
