"""Who speaks sentences: the voices in `voices.csv`, or drawn ones.

Drawn voices are named `train-001` and so on. No person, which is a family of voice
variants or a voice of piper or flite, is in two splits. More voices keep the first
ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path

from stages.core.errors import ConfigurationError
from stages.core.manifest import SPLITS
from stages.corpus.draws import number, uniform
from stages.corpus.params import ENGINES, CorpusParams
from stages.speech.engines import people
from stages.speech.recording import CROWD, crowd_of, read_voices, voice_of
from stages.speech.synthesis import Voice

# Whose turn it is to get a person. flite has four.
_TURNS = ("train", "valid", "test", "train", CROWD)
_CROWD = 4
_Known = Callable[[str], dict[str, list[tuple[str, str]]]]
_RANGES = {"rate": (130, 220), "pitch": (25, 75), "pitch_range": (25, 75)}


@dataclass(frozen=True)
class Speaker:
    """A voice of a split.

    Attributes:
        name: also of the folder of its recordings.
        split: train, valid or test.
        number: a seed of its own.
        voice: how it sounds.
    """

    name: str
    split: str
    number: int
    voice: Voice


def read_speakers(
    params: CorpusParams, root: Path
) -> tuple[list[Speaker], list[tuple[int, Voice]]]:
    """The speakers of each split, and the voices of the babble with seeds of their own.

    Raises:
        ConfigurationError: an engine is not installed, or has no voice for a split.
        InputError: `voices.csv` or a voice of piper cannot be used.
    """
    file = root / "voices.csv"
    known = cache(partial(_people, params))
    if not file.exists():
        speakers = [
            Speaker(f"{split}-{place + 1:03d}", split, place, voice)
            for split in SPLITS
            for place, voice in enumerate(
                _draw(params, split, getattr(params, f"{split}_voices"), known)
            )
        ]
        crowd: list[tuple[int, Voice]] = []
    else:
        table = read_voices(file)
        speakers = [
            Speaker(row.speaker, row.split, place, voice_of(row))
            for place, row in enumerate(table.itertuples(index=False))
            if row.split != CROWD
        ]
        crowd = crowd_of(table)
    return speakers, crowd or list(enumerate(_draw(params, CROWD, _CROWD, known)))


def _draw(
    params: CorpusParams, split: str, count: int, known: _Known
) -> Iterator[Voice]:
    """So many voices of a split."""
    weights = {name: getattr(params, name) for name in ENGINES}
    if split == CROWD:  # an engine with few voices has none left for it
        weights = {"espeak": 1}
    taken = dict.fromkeys(weights, 0)
    for place in range(count):
        # The one that is most behind its share.
        engine = max(
            (name for name in weights if weights[name]),
            key=lambda name: (
                weights[name] * (place + 1) / sum(weights.values()) - taken[name]
            ),
        )
        pairs = known(engine)[split]
        if not pairs:
            raise ConfigurationError(
                f"{engine} has no voice for {split}",
                expected=f"{_TURNS.index(split) + 1} or more voices",
                fix=f"set corpus.{engine} or corpus.{split}_voices to 0",
            )
        accent, variant = pairs[taken[engine] % len(pairs)]
        taken[engine] += 1
        rate, pitch, pitch_range = (
            uniform(low, high, params.seed, split, place, name)
            for name, (low, high) in _RANGES.items()
        )
        yield Voice(accent, variant, rate, pitch, pitch_range, engine=engine)


def _people(params: CorpusParams, engine: str) -> dict[str, list[tuple[str, str]]]:
    """The accents and variants of an engine by split, in the order of their turn."""
    every = people(engine, params.piper_voices)
    found: dict[str, list[list[tuple[str, str]]]] = {split: [] for split in _TURNS}
    order = sorted(every, key=lambda name: number(params.seed, engine, name))
    for place, name in enumerate(order):
        pairs = sorted(every[name], key=lambda pair: number(params.seed, *pair))
        found[_TURNS[place % len(_TURNS)]].append(pairs)
    # Everybody once, then everybody with another accent.
    return {
        split: [pair for turn in zip_longest(*pairs) for pair in turn if pair]
        for split, pairs in found.items()
    }
