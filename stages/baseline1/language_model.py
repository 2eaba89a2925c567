"""N-gram language models, written as ARPA files for the beam search."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path

from stages.core.errors import InputError
from stages.core.files import write_text
from stages.core.hashing import hash_bytes, hash_file

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"

_END_SHARE = 0.125
"""Probability that a text ends after a word, without other knowledge: one in eight."""

_MOST_LISTED = 0.9
"""Most of the probability after a word that its counted pairs can take."""

_LEAST_SHARE = 1e-9
"""Of a word that is not in the list of frequencies."""

_NEVER = 1e-99  # as ARPA files write it


def write_model(folder: Path, arpa: str) -> Path:
    """Write a language model to a file named after its content; returns its path."""
    path = folder / f"language-model-{hash_bytes(arpa.encode())[:12]}.arpa"
    try:
        check_model(path)
    except InputError:
        write_text(path, arpa)
    return path


def check_model(path: Path) -> None:
    """Raise InputError if a file of `write_model` is missing or has changed."""
    if not path.is_file() or not path.stem.endswith(hash_file(path)[:12]):
        raise InputError(
            "not as it was written, by its name",
            path=path,
            fix="run `aln-pipeline baseline1`",
        )


def bigram_arpa(
    shares: Mapping[str, float],
    words: Mapping[str, float],
    pairs: Mapping[tuple[str, str], float],
) -> str:
    """A bigram model of counted pairs of words that backs off to each word's share.

    p(w | h) = c(h w) / c(h) for a counted pair. Rare pairs are missing from the counts,
    so after most h some probability is left for the other words.

    Args:
        shares: of each word of the vocabulary; need not sum to one.
        words: c(h) of single words.
        pairs: c(h w), h can be `BEGIN`; pairs out of the vocabulary are left out.
    """
    base = _with_end(shares)
    after: dict[str, dict[str, float]] = {}
    for (first, second), count in pairs.items():
        if second in shares and (first in shares or first == BEGIN):
            after.setdefault(first, {})[second] = count
    # KenLM needs a bigram; this one has the probability that backing off gives.
    listed: dict[tuple[str, ...], float] = {(BEGIN, END): _END_SHARE}
    backoff: dict[tuple[str, ...], float] = {}
    for first in sorted(after):
        counts = after[first]
        total = sum(counts.values())
        # A text can end after any word.
        listed[first, END] = _END_SHARE
        if len(counts) < len(shares):
            whole = max(words.get(first, 0.0), total / _MOST_LISTED) / (1 - _END_SHARE)
            rest = 1 - _END_SHARE - sum(base[word] for word in counts)
            backoff[(first,)] = (1 - _END_SHARE - total / whole) / rest
        else:  # no word is left to back off to
            whole = total / (1 - _END_SHARE)
        for word in sorted(counts):
            listed[first, word] = counts[word] / whole
    return _arpa([{(word,): share for word, share in base.items()}, listed], backoff)


def ngram_arpa(
    texts: Sequence[Sequence[str]], shares: Mapping[str, float], order: int
) -> str:
    """An n-gram of `texts`, interpolated with `shares` as by Witten and Bell 1991.

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), where t(h) is the number of
    distinct words after h, and h' is h without its first word. The unigram is
    interpolated with `shares`, so every word of the vocabulary can follow any other.

    Args:
        texts: the words of each.
        shares: of each word of the vocabulary, which has every word of `texts`.
        order: words in the longest n-gram, 2 or more.
    """
    # A text of n words has n-grams up to its begin and end.
    order = min(order, 2 + max(map(len, texts)))
    counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for text in texts:
        words = (BEGIN, *text, END)
        for end in range(2, len(words) + 1):  # the begin is never predicted
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
    """The probability of the end, and of each word in sorted order."""
    raised = {word: max(shares[word], _LEAST_SHARE) for word in sorted(shares)}
    total = sum(raised.values()) / (1 - _END_SHARE)
    return {END: _END_SHARE, **{word: share / total for word, share in raised.items()}}


def _arpa(
    levels: list[dict[tuple[str, ...], float]],
    backoff: Mapping[tuple[str, ...], float],
) -> str:
    """Probabilities by length and back-off weights, in ARPA's format."""
    # The begin is given, not predicted; the unknown word is never chosen.
    tables = [{(BEGIN,): _NEVER, (UNKNOWN,): _NEVER, **levels[0]}, *levels[1:]]
    lines = ["\\data\\"]
    lines += [f"ngram {n}={len(table)}" for n, table in enumerate(tables, 1)]
    for n, table in enumerate(tables, 1):
        lines += ["", f"\\{n}-grams:"]
        for ngram in sorted(table):
            line = f"{log10(table[ngram]):.6f}\t{' '.join(ngram)}"
            if n < len(tables) and ngram[-1] != END:
                line += f"\t{log10(backoff.get(ngram, 1.0)):.6f}"
            lines.append(line)
    return "\n".join([*lines, "", "\\end\\", ""])
