"""Word errors of a recogniser, aligned by jiwer.

Reference and hypothesis are normalised (`text.normalise_text`), so case, punctuation
and kinds of apostrophes do not count as errors, but `2` for `two` does. The word error
rate is the sum of substitutions, deletions and insertions over the reference words of
all utterances; it can exceed 100% and is not the mean over utterances.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from stages.core.text import normalise_text


@dataclass(frozen=True)
class WordErrors:
    """Counts over a set of utterances.

    Attributes:
        utterances: number of utterances.
        empty: number of empty hypotheses.
        words: number of reference words.
        substitutions, deletions, insertions: of the alignment with the fewest errors.
        confusions: ((said, recognised), count) of each error, the most frequent first;
            a deletion has an empty `recognised`, an insertion an empty `said`.
    """

    utterances: int
    empty: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    confusions: list[tuple[tuple[str, str], int]]

    @property
    def rate(self) -> float:
        """The word error rate in percent; NaN without reference words."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100 * errors / self.words if self.words else float("nan")


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Count the word errors of `hypotheses`, one per reference."""
    said = [normalise_text(text) for text in references]
    recognised = [normalise_text(text) for text in hypotheses]
    confusions = Counter[tuple[str, str]]()
    totals = Counter[str]()
    for reference, hypothesis in zip(said, recognised, strict=True):
        if not reference:  # jiwer does not accept empty references
            for word in hypothesis.split():
                confusions["", word] += 1
                totals["insert"] += 1
            continue
        words, guesses = reference.split(), hypothesis.split()
        (chunks,) = jiwer.process_words(reference, hypothesis).alignments
        for chunk in chunks:
            if chunk.type == "equal":
                continue
            these = words[chunk.ref_start_idx : chunk.ref_end_idx]
            those = guesses[chunk.hyp_start_idx : chunk.hyp_end_idx]
            count = max(len(these), len(those))
            totals[chunk.type] += count
            these += [""] * (count - len(these))
            those += [""] * (count - len(those))
            confusions.update(zip(these, those, strict=True))
    order = sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
    return WordErrors(
        utterances=len(said),
        empty=sum(not text for text in recognised),
        words=sum(len(text.split()) for text in said),
        substitutions=totals["substitute"],
        deletions=totals["delete"],
        insertions=totals["insert"],
        confusions=order,
    )
