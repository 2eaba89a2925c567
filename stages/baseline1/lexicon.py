"""How words sound, in the phonemes that the encoder's CTC head knows."""

from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from stages.core.errors import ConfigurationError
from stages.speech import synthesis
from stages.speech.phonemes import SPOKEN_SILENCE, plain_phoneme

_VARIANT = "m1"
_AT_ONCE = 1000

_HOMOPHONES = 6
"""Words of one pronunciation that the beam search keeps apart; it leaves out more."""


def build_lexicon(
    words: Sequence[str],
    *,
    accents: Sequence[str],
    phonemes: Collection[str],
    workers: int = 2,
) -> dict[str, list[tuple[str, ...]]]:
    """The pronunciations of each word that has one, as espeak-ng says it alone.

    Args:
        words: the most important ones first: of those that sound alike, the first are
            kept.
        accents: of espeak-ng.
        phonemes: names of the encoder's classes; a pronunciation with others is left
            out.
        workers: threads that wait for espeak-ng.

    Raises:
        ConfigurationError: an unknown accent, or no word can be written so.
    """
    jobs = [
        (accent, words[start : start + _AT_ONCE])
        for accent in accents
        for start in range(0, len(words), _AT_ONCE)
    ]

    def speak(job: tuple[str, Sequence[str]]) -> list[tuple[str, ...]]:
        accent, some = job
        spoken = synthesis.speak(synthesis.Voice(accent, _VARIANT), some, seed=0)
        return [
            tuple(
                name
                for name in (plain_phoneme(phoneme) for phoneme, _ in one.phonemes)
                if name != SPOKEN_SILENCE
            )
            for one in spoken
        ]

    said: dict[str, list[tuple[str, ...]]] = {word: [] for word in words}
    with ThreadPoolExecutor(workers) as pool:
        for (_, some), sounds in zip(jobs, pool.map(speak, jobs), strict=True):
            for word, sound in zip(some, sounds, strict=True):
                if sound and sound not in said[word] and set(sound) <= set(phonemes):
                    said[word].append(sound)
    alike = Counter[tuple[str, ...]]()
    for word, sounds in said.items():
        alike.update(sounds)
        said[word] = [sound for sound in sounds if alike[sound] <= _HOMOPHONES]
    lexicon = {word: sounds for word, sounds in said.items() if sounds}
    if not lexicon:
        raise ConfigurationError(
            "no word can be said in the encoder's phonemes",
            found=f"{len(words)} words",
            fix="use an encoder of `aln-pipeline pretraining`",
        )
    return lexicon


def lexicon_text(lexicon: dict[str, list[tuple[str, ...]]]) -> str:
    """A line a pronunciation: the word, a tab, its phonemes; sorted."""
    return "".join(
        f"{word}\t{' '.join(sound)}\n"
        for word in sorted(lexicon)
        for sound in lexicon[word]
    )
