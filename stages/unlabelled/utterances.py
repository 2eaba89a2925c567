"""The utterances: each sentence by voices and in conditions that it alone decides.

The speakers are the corpus's synthetic voices of train; a corpus that has none, because
people speak, gets drawn ones.
"""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import ConfigurationError
from stages.core.manifest import read_manifest
from stages.corpus.draws import number
from stages.corpus.params import CorpusParams
from stages.corpus.recipes import (
    Crowd,
    check_letters,
    general_sentences,
    made_apart,
    say,
)
from stages.corpus.voices import Speaker, read_speakers
from stages.unlabelled.params import UnlabelledParams
from stages.unlabelled.sentences import read_sentences

# Sentences that one process speaks: to start it takes as long as to speak them. And how
# many processes' sentences are in memory, for each worker.
_TOGETHER, _AHEAD = 25, 4


@dataclass(frozen=True)
class Utterances:
    """What is spoken.

    Attributes:
        params: synthesisers, conditions, silence and the seed.
        rows: columns text, file, row, speaker, condition and recipe.
        speakers: by name.
        crowd: of the babble.
        left_out: sentences of the file that the corpus has, or that it repeats.
    """

    params: CorpusParams
    rows: pd.DataFrame
    speakers: dict[str, Speaker]
    crowd: Crowd
    left_out: int

    def waves(
        self, recipes: Sequence[str], workers: int
    ) -> Generator[tuple[str, np.ndarray], None, None]:
        """Each recipe and its recording, (samples,) float32; not in their order.

        Raises:
            InputError: a sentence of which nothing is spoken; names the row.
        """
        rows = self.rows[self.rows["recipe"].isin(recipes)]
        if "babble" in set(rows["condition"]):
            self.crowd.tracks  # noqa: B018, once, before the threads
        jobs = [
            own[start : start + _TOGETHER]
            for _, own in rows.groupby("speaker")
            for start in range(0, len(own), _TOGETHER)
        ]
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(jobs), _AHEAD * workers):
                some = jobs[start : start + _AHEAD * workers]
                for job, waves in zip(some, pool.map(self._speak, some), strict=True):
                    yield from zip(job["recipe"], waves, strict=True)

    def _speak(self, rows: pd.DataFrame) -> list[np.ndarray]:
        """The recordings of rows of one speaker."""
        speaker = self.speakers[rows["speaker"].iloc[0]]
        waves = say(self.params, speaker, rows, self.crowd)
        return [wave / np.float32(32768) for wave in waves]


def plan_utterances(
    params: UnlabelledParams, corpus: CorpusParams, manifest: Path, root: Path
) -> Utterances:
    """Choose sentences, voices and conditions; nothing is spoken yet.

    Args:
        params: which sentences.
        corpus: its voices and conditions.
        manifest: of the corpus.
        root: the corpus root.

    Raises:
        ConfigurationError: a synthesiser is not installed, or too few voices.
        InputError: sentences or voices that cannot be used.
    """
    if corpus.adapter != "phrases":
        corpus = CorpusParams(train_voices=params.voices, seed=corpus.seed)
    table = read_manifest(manifest)
    sentences, left_out = read_sentences(params, table, manifest, root)
    speakers, voices = read_speakers(corpus, root)
    train = {one.name: one for one in speakers if one.split == "train"}
    if len(train) < params.utterances:
        raise ConfigurationError(
            "unlabelled.utterances cannot be used: each is by another train voice",
            found=params.utterances,
            expected=f"at most {len(train)}, the number of train voices",
            fix="add voices: unlabelled.voices, corpus.train_voices or voices.csv",
        )
    for engine in {one.voice.engine for one in train.values()}:
        check_letters(sentences, engine)
    own = replace(corpus, sessions="utterance", seed=params.seed)
    crowd = Crowd(general_sentences(own.seed), voices, own.seed, own.piper_voices)
    chosen = [
        sorted(train, key=lambda name: number(own.seed, text, name))[
            : params.utterances
        ]
        for text in sentences["text"]
    ]
    spoken = sentences.assign(speaker=chosen).explode("speaker", ignore_index=True)
    rows = pd.concat(
        [
            made_apart(own, train[name], rows, [0] * len(rows), crowd)
            for name, rows in spoken.groupby("speaker")
        ]
    )
    return Utterances(own, rows.sort_index(), train, crowd, left_out)
