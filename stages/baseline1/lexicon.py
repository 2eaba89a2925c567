"""The pronunciations of words, in the phonemes of the encoder's CTC head."""

from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages.core.checksums import check_sum, write_sums
from stages.core.errors import ConfigurationError
from stages.core.files import write_text
from stages.speech import synthesis
from stages.speech.phonemes import SPOKEN_SILENCE, plain_phoneme

_VARIANT = "m1"
_AT_ONCE = 1000

_HOMOPHONES = 6
"""Most words of one pronunciation; torchaudio's beam search leaves out more."""


def build_lexicon(
    words: Sequence[str],
    *,
    accents: Sequence[str],
    phonemes: Collection[str],
    workers: int = 2,
) -> dict[str, list[tuple[str, ...]]]:
    """The pronunciations of each word that has one, as espeak-ng speaks it alone.

    Args:
        words: the most important first: of words that sound alike, the first are kept.
        accents: of espeak-ng.
        phonemes: names of the encoder's classes; pronunciations with other phonemes are
            left out.
        workers: threads that wait for espeak-ng.

    Raises:
        ConfigurationError: an unknown accent, or no word has a pronunciation.
    """
    jobs = [
        (accent, words[start : start + _AT_ONCE])
        for accent in accents
        for start in range(0, len(words), _AT_ONCE)
    ]

    def pronounce(job: tuple[str, Sequence[str]]) -> list[tuple[str, ...]]:
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

    sounds_of: dict[str, list[tuple[str, ...]]] = {word: [] for word in words}
    with ThreadPoolExecutor(workers) as pool:
        for (_, some), sounds in zip(jobs, pool.map(pronounce, jobs), strict=True):
            for word, sound in zip(some, sounds, strict=True):
                found = sounds_of[word]
                if sound and sound not in found and set(sound) <= set(phonemes):
                    found.append(sound)
    alike = Counter[tuple[str, ...]]()
    for word, sounds in sounds_of.items():
        alike.update(sounds)
        sounds_of[word] = [sound for sound in sounds if alike[sound] <= _HOMOPHONES]
    lexicon = {word: sounds for word, sounds in sounds_of.items() if sounds}
    if not lexicon:
        raise ConfigurationError(
            "no word can be pronounced with the encoder's phonemes",
            found=f"{len(words)} words",
            fix="use an encoder of `aln-pipeline pretraining`",
        )
    return lexicon


def write_lexicon(path: Path, lexicon: dict[str, list[tuple[str, ...]]]) -> None:
    """Write a lexicon, and its checksum next to it."""
    write_text(path, lexicon_text(lexicon))
    write_sums(_sums(path), [path.name])


def check_lexicon(path: Path) -> None:
    """Raise InputError if a lexicon is missing or not as it was written."""
    check_sum(path, _sums(path).name, fix="run `aln-pipeline baseline1`")


def _sums(path: Path) -> Path:
    return path.with_suffix(".sha256")


def lexicon_text(lexicon: dict[str, list[tuple[str, ...]]]) -> str:
    """One pronunciation per line: the word, a tab, its phonemes; sorted."""
    return "".join(
        f"{word}\t{' '.join(sound)}\n"
        for word in sorted(lexicon)
        for sound in lexicon[word]
    )
