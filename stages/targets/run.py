"""Cache E_lang, the teacher's embedding of each distinct text (paper, section 2.2).

Reads the tables of the corpus and the teacher's folder. Writes two caches, keyed by the
hash of the normalised text, and the digests of what the corpus needs: the *targets*,
vectors of the teacher's width, and the *posteriors*, its probabilities of the values of
each slot, side by side. One pass gives both; only texts that a cache lacks are
computed.

E_lang = MeanPool(e_lang), the mean of the last hidden states over the real tokens,
including [CLS] and [SEP], as the paper pools the whole sequence output; padding is
excluded. `targets.pooling` has alternatives.

All batches have the same number of texts, and the texts of a batch the same length. A
text's vector then has the same bits whatever is computed with it, and the digest does
not depend on how often the cache was filled. (A matrix product of few rows is summed in
another order than one of many; one text at a time would also work, but is slower.)

Students learn from the targets of train, of texts without recordings and of unlabelled
sentences only. Those of valid and test are for figures: the texts pass through a
finished teacher and reach no training. Next to the cache, `targets.json` has

    between_intents   the share of E_lang's variance that lies between intents, over the
                      distinct texts of `train`, and over those of valid and test that
                      train lacks (`unseen`; null for fewer than two)
    targets           the hash of the vectors of the manifest's texts, by which students
                      know whether these changed; other texts do not matter to most
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.cache.digest import digest_path, read_digest, summary_path, write_digest
from stages.cache.format import Header, describe_header
from stages.cache.store import CacheReader, CacheWriter
from stages.core.corpus_files import CorpusFiles
from stages.core.files import write_json
from stages.core.hashing import fingerprint
from stages.core.labels import Labels, segments
from stages.core.manifest import read_labels, read_manifest
from stages.core.results import require
from stages.core.runtime import RunOptions, choose_device, progress, quiet_transformers
from stages.core.text import text_key
from stages.targets.params import REVISION, TargetsParams
from stages.teacher.bert import equal_batches, load, load_classifier
from stages.teacher.mean_head import MeanClassifier

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
    between_intents: dict[str, float | None]

    def __str__(self) -> str:
        """One line for the terminal."""
        line = (
            f"{self.cache}: targets of {self.texts:,} texts, {self.dim} values each, "
            f"{self.computed:,} of them new"
        )
        share = self.between_intents["train"]
        if share is not None:
            line += f"; {100 * share:.0f}% of train's variance is between intents"
        return line


def run(
    params: TargetsParams,
    corpus: CorpusFiles,
    *,
    teacher: Path,
    cache: Path,
    posteriors: Path,
    options: RunOptions,
) -> Summary:
    """Bring both caches up to date with the corpus, and write their digests.

    Args:
        params: the pooling.
        corpus: its tables have the texts.
        teacher: the teacher's folder.
        cache: the folder of the cache of targets.
        posteriors: the folder of that of posteriors.
        options: the device.

    Raises:
        CacheError: no finished teacher of these intents in `teacher`, or one that gives
            NaN.
        InputError: an unusable table or teacher.
    """
    where = choose_device(options.device)
    labels = read_labels(corpus.intents)
    by_key = {text_key(text): text for text in corpus.read_all_texts()}
    with quiet_transformers():
        headers = _headers(teacher, params.pooling, corpus, labels)
        with (
            CacheWriter(cache, headers[0]) as vectors,
            CacheWriter(posteriors, headers[1]) as probabilities,
        ):
            missing = {*vectors.missing(by_key), *probabilities.missing(by_key)}
            if missing:
                texts = [text for key, text in by_key.items() if key in missing]
                model, tokenizer = load_classifier(teacher, where)
                found = embed(model, tokenizer, texts, labels.sizes, params.pooling)
                bar = progress(
                    found, total=len(texts), description="targets", unit="text"
                )
                for text, vector, probability in bar:
                    id, key = text_id(text), text_key(text)
                    vectors.add(id, key, vector[None])
                    probabilities.add(id, key, probability[None])
            rows = [(text_id(text), key) for key, text in by_key.items()]
            # Under the lock, since `cache gc` removes what the digest does not name.
            for writer in (vectors, probabilities):
                writer.flush()
                folder, code = writer.directory, writer.header.fingerprint
                write_digest(digest_path(folder), folder, code, rows)
    table = read_manifest(corpus.manifest)
    shares = _between_intents(
        table, CacheReader(cache, fingerprint=headers[0].fingerprint)
    )
    features = dict(read_digest(digest_path(cache)).rows.values())
    own = {key: features[key] for key in table["text"].map(text_key)}
    summary = {
        "between_intents": shares,
        "targets": fingerprint({**describe_header(headers[0]), "features": own}),
    }
    write_json(summary_path(cache), summary)
    return Summary(cache, len(by_key), len(missing), headers[0].dim, shares)


def text_id(text: str) -> str:
    """A normalised text's id, without spaces: no such text has an underscore."""
    return text.replace(" ", "_") or "_"


def embed(
    classifier: PreTrainedModel | MeanClassifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    sizes: Sequence[int],
    pooling: str = "mean",
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each of `texts` with its E_lang and its posterior, the short ones first.

    Args:
        classifier: the teacher.
        tokenizer: its tokenizer.
        texts: normalised.
        sizes: how many values each slot has.
        pooling: one of `POOLINGS`.

    Yields:
        text; E_lang, (hidden,) float32; probabilities, (values of all slots,) float32.
    """
    last: list[torch.Tensor] = []  # hidden states, (batch, tokens, hidden)
    hook = classifier.base_model.register_forward_hook(
        lambda module, given, output: last.append(output.last_hidden_state)
    )
    try:
        for places, batch in equal_batches(tokenizer, texts, _AT_ONCE):
            special = batch.pop("special_tokens_mask").to(classifier.device)
            with torch.inference_mode():
                # (batch, values of all slots)
                logits = classifier(**batch.to(classifier.device)).logits.float()
                vectors = pool(last.pop().float(), special, pooling).cpu().numpy()
                parts = [part.softmax(1) for part in segments(logits, sizes)]
                posteriors = torch.cat(parts, 1).cpu().numpy()
            # Then fillers.
            for row in zip(places, vectors, posteriors, strict=False):
                yield texts[row[0]], *row[1:]
    finally:
        hook.remove()


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


def _between_intents(
    table: pd.DataFrame, vectors: CacheReader
) -> dict[str, float | None]:
    """The share of E_lang's variance between intents, of `train` and `unseen` texts."""
    table = table.assign(key=table["text"].map(text_key))
    train = table[table["split"] == "train"]
    unseen = table[~table["key"].isin(train["key"])]
    shares: dict[str, float | None] = {}
    for name, rows in (("train", train), ("unseen", unseen)):
        rows = rows.drop_duplicates(["key", "intent"])
        # (texts, hidden)
        states = vectors.load(rows["key"].tolist())[0].astype(np.float64)
        groups = pd.DataFrame(states).groupby(rows["intent"].to_numpy())
        total = ((states - states.mean(0)) ** 2).sum() if len(rows) > 1 else 0
        within = ((states - groups.transform("mean").to_numpy()) ** 2).sum()
        shares[name] = round(float(1 - within / total), 4) if total else None
    return shares


def _headers(
    teacher: Path, pooling: str, corpus: CorpusFiles, labels: Labels
) -> tuple[Header, Header]:
    """The headers of targets and posteriors from the teacher in the folder `teacher`.

    Raises:
        CacheError: no finished teacher of these intents there.
    """
    fix = "run `aln-pipeline train-teacher`"
    identity = require(teacher, {"intents": corpus.intents}, fix=fix, alone=True)
    parameters, files = identity["parameters"], identity["files"]
    hashes = {name: files[name] for name in files if name not in _REPORTS}
    made_by: dict[str, Any] = {"files": hashes, "pooling": pooling}
    if REVISION > 1:
        made_by["revision"] = REVISION
    limits = {"max_tokens": parameters["max_tokens"]}
    targets = Header(
        kind="targets",
        encoder=PurePath(parameters["model"]).name,
        fingerprint=fingerprint(made_by),
        parameters={"pooling": pooling, **limits},
        dim=load(AutoConfig, str(teacher)).hidden_size,
        dtype="float32",
        frame_step=0,
    )
    # Students check that what they learn are probabilities of their own intents.
    intents = {"intents": labels.fingerprint}
    posteriors = replace(
        targets,
        kind="posteriors",
        fingerprint=fingerprint({**made_by, "pooling": None, **intents}),
        parameters={**limits, **intents},
        dim=sum(labels.sizes),
    )
    return targets, posteriors
