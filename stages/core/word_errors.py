"""Word errors of a recogniser, counted by jiwer under one normalisation.

Reference and hypothesis both pass `texts.normalise_text`: case, punctuation and the
shapes of apostrophes are no errors, and `2` is not `two`. A corpus's word error rate is
the sum of substitutions, deletions and insertions over the reference words of all its
utterances, so it may exceed 1, and is not the mean of the utterances' rates.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from stages.core.text import normalise_text


@dataclass(frozen=True)
class WordErrors:
    """What became of the words of some utterances.

    Attributes:
        utterances: how many.
        empty: of these, in how many nothing was recognised.
        words: of the references.
        substitutions, deletions, insertions: of words, with the least of them together.
        confusions: (said, recognised) of each substitution, a deletion's or an
            insertion's other side empty, with how often; the most frequent first.
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
        """The word error rate in percent; NaN where no word was said."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100 * errors / self.words if self.words else float("nan")


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Count the word errors of `hypotheses`, one for each of `references`."""
    said = [normalise_text(text) for text in references]
    heard = [normalise_text(text) for text in hypotheses]
    confusions = Counter[tuple[str, str]]()
    totals = Counter[str]()
    for reference, hypothesis in zip(said, heard, strict=True):
        if not reference:  # jiwer takes none that is empty
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
        empty=sum(not text for text in heard),
        words=sum(len(text.split()) for text in said),
        substitutions=totals["substitute"],
        deletions=totals["delete"],
        insertions=totals["insert"],
        confusions=order,
    )
