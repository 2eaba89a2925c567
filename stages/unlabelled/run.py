"""Unlabelled speech: speak sentences that have no label, and encode them.

Reads the manifest, the encoder, and the voices or the sentences in the corpus root.
Writes below `output`:

    manifest.csv      id,text,speaker,condition,key: the utterances; features have the
                      same key
    features/         a feature cache; it and its digest are there if there is an
                      utterance
    features.digest   its digest
    identity.json     what manifest.csv was made from

The manifest's own train voices speak, or drawn ones. No recording is written: it goes
from memory into the encoder. Its key is its recipe (`stages/corpus/recipes.py`), and
depends on no other sentence, so nothing is spoken or encoded twice, and an interrupted
run resumes.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from stages.acoustic.encoding import (
    cache_waves,
    choose_encode,
    choose_runtime,
    feature_header,
    load_encoder,
)
from stages.acoustic.params import AcousticParams
from stages.cache.digest import digest_path, read_digest
from stages.cache.store import CacheReader
from stages.core.errors import CacheError
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint
from stages.core.results import identify, is_finished, model_files, record
from stages.core.runtime import RunOptions
from stages.corpus.params import CorpusParams
from stages.unlabelled.params import REVISION, UnlabelledParams
from stages.unlabelled.utterances import Utterances, plan_utterances

_MANIFEST, _FEATURES = "manifest.csv", "features"
_COLUMNS = ["id", "text", "speaker", "condition", "key"]


@dataclass(frozen=True)
class Summary:
    """What the stage wrote, or found."""

    output: Path
    table: pd.DataFrame  # manifest.csv
    left_out: int = 0
    extracted: int | None = None  # None: up to date

    def __str__(self) -> str:
        """One line for the terminal."""
        if self.table.empty:
            return f"{self.output}: no sentences, as unlabelled.sentences says"
        state, done = "up to date; ", ""
        if self.extracted is not None:
            kept = len(self.table) - self.extracted
            state, done = "", f", {self.extracted} extracted now, {kept} kept"
        line = (
            f"{self.output}: {state}{len(self.table)} utterances of "
            f"{self.table['text'].nunique()} sentences by "
            f"{self.table['speaker'].nunique()} voices{done}"
        )
        if self.left_out:
            line += (
                f"; {self.left_out} sentences of the file are left out: repeated, or "
                "in the corpus"
            )
        return line


def run(
    params: UnlabelledParams,
    acoustic: AcousticParams,
    corpus: CorpusParams,
    manifest: Path,
    *,
    root: Path,
    output: Path,
    options: RunOptions,
) -> Summary:
    """Bring the utterances and their features up to date.

    Args:
        params: which sentences.
        acoustic: the encoder, and how features are stored.
        corpus: its voices and conditions.
        manifest: of the corpus.
        root: the corpus root.
        output: folder of the result.
        options: as of extraction, and force. Workers are threads that speak.

    Raises:
        ConfigurationError: a synthesiser is not installed, or too few voices.
        InputError: sentences, voices or an encoder that cannot be used. Finished
            extraction is kept.
        CacheError: a damaged part, or another process is writing.
    """
    utterances, table = None, pd.DataFrame(columns=_COLUMNS)
    if params.sentences:
        utterances = plan_utterances(params, corpus, manifest, root)
        names = [f"unlabelled/{key[:16]}" for key in utterances.rows["recipe"]]
        table = utterances.rows.assign(id=names, key=utterances.rows["recipe"])
        table = table[_COLUMNS]
    left_out = utterances.left_out if utterances else 0
    parameters = {
        "acoustic": asdict(acoustic),
        "utterances": fingerprint({"keys": table["key"].tolist()}),
    }
    model = model_files(Path(acoustic.encoder))
    identity = identify("unlabelled", REVISION, parameters, model)
    complete = is_finished(output, identity) and _is_cached(output, table)
    if complete and not options.force:
        return Summary(output, table, left_out)
    extracted = 0
    if utterances is None:
        digest_path(output / _FEATURES).unlink(missing_ok=True)
    else:
        extracted = _extract(utterances, table, acoustic, output, options)
    with atomic_path(output / _MANIFEST) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    record(output, identity, [_MANIFEST])
    return Summary(output, table, left_out, extracted)


def _is_cached(output: Path, table: pd.DataFrame) -> bool:
    """Whether the features of all utterances are there."""
    if table.empty:
        return True
    try:
        digest = read_digest(digest_path(output / _FEATURES))
        reader = CacheReader(output / _FEATURES, fingerprint=digest.header.fingerprint)
    except CacheError:
        return False
    return all(key in reader for key in table["key"])


def _extract(
    utterances: Utterances,
    table: pd.DataFrame,
    acoustic: AcousticParams,
    output: Path,
    options: RunOptions,
) -> int:
    """Bring the cache and the digest up to date; returns how many were new."""
    encoder = load_encoder(acoustic)
    runtime = choose_runtime(encoder, acoustic, options)
    return cache_waves(
        output / _FEATURES,
        replace(feature_header(encoder, acoustic), kind="unlabelled"),
        choose_encode(encoder, runtime, graphs=output),
        list(zip(table["id"], table["key"], strict=True)),
        lambda keys: utterances.waves(keys, options.workers),
    )
