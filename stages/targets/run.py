"""Cache E_lang, the teacher's embedding of each distinct text (paper, section 2.2).

Reads the manifest and the teacher's folder. Writes vectors of the teacher's width to
the cache of targets, keyed by the hash of the normalised text, and the digest of those
the manifest needs. Only texts that are not cached yet are computed.

E_lang = MeanPool(e_lang), the mean of the last hidden states over the real tokens,
including [CLS] and [SEP], as the paper pools the whole sequence output; padding is
excluded. `targets.pooling` has alternatives.

All batches have the same number of texts, and the texts of a batch the same length. A
text's vector then has the same bits whatever is computed with it, and the digest does
not depend on how often the cache was filled. (A matrix product of few rows is summed in
another order than one of many; one text at a time would also work, but is slower.)

Students learn from the targets of the train split only. Those of valid and test are for
the figure of embeddings: the texts pass through a finished teacher and reach no
training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.cache.digest import digest_path, write_digest
from stages.cache.format import Header
from stages.cache.store import CacheWriter
from stages.core.corpus_files import CorpusFiles
from stages.core.hashing import fingerprint
from stages.core.manifest import read_manifest
from stages.core.results import require
from stages.core.runtime import RunOptions, choose_device, progress, quiet_transformers
from stages.core.text import normalise_text, text_key
from stages.targets.params import REVISION, TargetsParams
from stages.teacher.bert import equal_batches, load, load_classifier

# The files about its training; all others decide the vectors.
_REPORTS = {"history.csv", "predictions.csv", "scores.json"}
_AT_ONCE = 8


@dataclass(frozen=True)
class Summary:
    """What `run` did."""

    cache: Path
    texts: int
    computed: int
    dim: int

    def __str__(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.cache}: targets of {self.texts:,} texts, {self.dim} values each, "
            f"{self.computed:,} of them new"
        )


def run(
    params: TargetsParams,
    corpus: CorpusFiles,
    *,
    teacher: Path,
    cache: Path,
    options: RunOptions,
) -> Summary:
    """Bring the cache of targets up to date with the manifest and write its digest.

    Args:
        params: the pooling.
        corpus: its manifest names the texts.
        teacher: the teacher's folder.
        cache: the folder of the cache.
        options: the device.

    Raises:
        CacheError: no finished teacher in `teacher`, or one that gives NaN.
        InputError: an unusable manifest or teacher.
    """
    where = choose_device(options.device)
    table = read_manifest(corpus.manifest)
    texts = sorted({normalise_text(text) for text in table["text"]})
    by_key = {text_key(text): text for text in texts}
    with quiet_transformers():
        header = _header(teacher, params.pooling)
        with CacheWriter(cache, header) as writer:
            missing = [by_key[key] for key in writer.missing(by_key)]
            if missing:
                model, tokenizer = load_classifier(teacher, where)
                vectors = embed(model, tokenizer, missing, params.pooling)
                bar = progress(
                    vectors, total=len(missing), description="targets", unit="text"
                )
                for text, vector in bar:
                    key = text_key(text)
                    writer.add(text_id(text), key, vector[None])
            writer.flush()
            # Under the lock, since `cache gc` removes what the digest does not name.
            rows = [(text_id(text), key) for key, text in by_key.items()]
            write_digest(digest_path(cache), cache, header.fingerprint, rows)
    return Summary(cache, texts=len(texts), computed=len(missing), dim=header.dim)


def text_id(text: str) -> str:
    """A normalised text's id, without spaces: no such text has an underscore."""
    return text.replace(" ", "_") or "_"


def embed(
    classifier: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pooling: str = "mean",
) -> Iterator[tuple[str, np.ndarray]]:
    """Each of `texts` with its E_lang, (hidden,) float32, the short ones first."""
    model: PreTrainedModel = classifier.base_model  # type: ignore[assignment]
    for places, batch in equal_batches(tokenizer, texts, _AT_ONCE):
        special = batch.pop("special_tokens_mask").to(model.device)
        with torch.inference_mode():
            # (batch, tokens, hidden)
            states = model(**batch.to(model.device)).last_hidden_state
            vectors = pool(states.float(), special, pooling).cpu().numpy()
        for place, vector in zip(places, vectors, strict=False):  # then fillers
            yield texts[place], vector


def pool(states: torch.Tensor, special: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a text, of texts without padding.

    Args:
        states: last hidden states, (batch, tokens, hidden).
        special: 1 where a token is special, (batch, tokens).
        pooling: one of `POOLINGS`. `mean_words` pools a text of only special tokens
            over these.

    Returns:
        (batch, hidden).
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "mean":
        return states.mean(dim=1)
    words = 1 - special
    words = torch.where(words.any(dim=1, keepdim=True), words, 1).unsqueeze(-1)
    return (states * words).sum(dim=1) / words.sum(dim=1)


def _header(teacher: Path, pooling: str) -> Header:
    """The header of the targets from the teacher in the folder `teacher`.

    Raises:
        CacheError: no finished teacher there.
    """
    fix = "run `aln-pipeline train-teacher`"
    identity = require(teacher, {}, fix=fix, alone=True)
    parameters, files = identity["parameters"], identity["files"]
    hashes = {name: files[name] for name in files if name not in _REPORTS}
    made_by: dict[str, Any] = {"files": hashes, "pooling": pooling}
    if REVISION > 1:
        made_by["revision"] = REVISION
    return Header(
        kind="targets",
        encoder=PurePath(parameters["model"]).name,
        fingerprint=fingerprint(made_by),
        parameters={"pooling": pooling, "max_tokens": parameters["max_tokens"]},
        dim=load(AutoConfig, str(teacher)).hidden_size,
        dtype="float32",
        frame_step=0,
    )
