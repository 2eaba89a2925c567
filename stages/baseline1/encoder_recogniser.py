"""The phoneme/word encoder as a recogniser: CTC head, lexicon, n-gram, beam search."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchaudio.models.decoder import ctc_decoder

from stages.acoustic.checkpoint import Checkpoint, load_checkpoint
from stages.baseline1.language_model import bigram_arpa, ngram_arpa, write_model
from stages.baseline1.lexicon import build_lexicon, check_lexicon, write_lexicon
from stages.baseline1.params import REVISION, Baseline1Params
from stages.baseline1.recogniser import Recogniser, Transcribe, recogniser_fingerprint
from stages.core.errors import InputError
from stages.core.hashing import fingerprint, hash_file
from stages.core.text import name_some
from stages.speech.words import frequent_words

# What espeak-ng reads as an English word; other characters it spells or names.
_PRONOUNCEABLE = re.compile(r"[a-z0-9]+('[a-z0-9]+)*")

_BLANK = "<blank>"
_NEVER_SPOKEN = "_"


def encoder_recogniser(
    params: Baseline1Params, texts: Sequence[str], *, work: Path, workers: int
) -> Recogniser:
    """The recogniser of `params`, its lexicon and language model written.

    Args:
        params: checkpoint, lexicon, language model and beam search.
        texts: normalised texts of train, read if `language_model` is `train`.
        work: folder of lexicons and language models, named after their content.
        workers: threads that wait for espeak-ng.

    Raises:
        ConfigurationError: no word can be written in the encoder's phonemes.
        InputError: an unusable checkpoint, language model or texts.
    """
    path = Path(params.model)
    checkpoint = _load_with_head(path)
    spoken = _spoken_words(texts) if params.language_model == "train" else []
    own = sorted({word for text in spoken for word in text})
    words, frequencies = frequent_words(params.vocabulary, contractions=True)
    # The corpus's own words first: of words that sound alike, the first are kept.
    listed = list(dict.fromkeys([*own, *words]))
    lexicon = _write_lexicon(params, listed, checkpoint, work, workers)
    shares = dict(zip(words, frequencies.tolist(), strict=True))
    shares = {**dict.fromkeys(own, 0.0), **shares}
    if params.language_model == "train":
        model = write_model(work, ngram_arpa(spoken, shares, params.order))
        description = f"{params.order}-gram of the train texts"
    elif params.language_model == "general":
        model = write_model(work, bigram_arpa(shares, *_web_counts()))
        description = "bigram of general English"
    else:
        model = Path(params.language_model)
        description = model.name
        _check_arpa(model, lexicon)
    search = {
        "lm_weight": params.language_model_weight,
        "word_score": params.word_score,
        "beam_size": params.beam_size,
        "beam_size_token": params.beam_tokens,
        "beam_threshold": params.beam_threshold,
    }
    return Recogniser(
        name=f"phoneme CTC of {path.name}, {description}",
        fingerprint=recogniser_fingerprint(
            "encoder",
            checkpoint=hash_file(path),
            lexicon=hash_file(lexicon),
            language_model=hash_file(model),
            search=search,
            encoder=checkpoint.fingerprint,
        ),
        on_cpu=True,
        loader=partial(_load, path, lexicon, model, search),
    )


def _load(
    path: Path,
    lexicon: Path,
    language_model: Path,
    search: Mapping[str, float],
    device: torch.device,
) -> Transcribe:
    """Load the checkpoint in `path`, the lexicon and the ARPA file."""
    checkpoint = load_checkpoint(path)
    encoder = checkpoint.encoder.to(device)
    head = encoder.ctc_linear
    assert head is not None
    try:
        with _silent_stderr():
            decoder = ctc_decoder(
                str(lexicon),
                [_BLANK, *checkpoint.phonemes],
                lm=str(language_model),
                blank_token=_BLANK,
                sil_token=_NEVER_SPOKEN,
                unk_word="<unk>",
                **search,
            )
    except RuntimeError as error:  # from KenLM, which checks the whole file
        raise InputError(
            "not a language model that KenLM can read",
            path=language_model,
            found=str(error).split("threw ")[-1].splitlines()[0],
            fix="write the file again",
        ) from error

    def transcribe(wave: np.ndarray) -> str:
        hidden, _ = encoder.phoneme_module(torch.from_numpy(wave)[None].to(device))
        # (1, frames, classes)
        emissions = head(hidden).log_softmax(dim=2).float().cpu()
        (hypotheses,) = decoder(emissions)
        return " ".join(hypotheses[0].words) if hypotheses else ""

    return transcribe


def _load_with_head(path: Path) -> Checkpoint:
    """The checkpoint of an encoder that can transcribe."""
    checkpoint = load_checkpoint(path)
    if checkpoint.encoder.ctc_linear is None or not checkpoint.phonemes:
        raise InputError(
            "the encoder cannot transcribe",
            path=path,
            found="no CTC head over named phonemes",
            expected="a checkpoint of `aln-pipeline pretraining`",
            fix="set baseline1.model to data/demo/encoder.safetensors, or "
            "baseline1.recogniser to another",
        )
    return checkpoint


def _spoken_words(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text that espeak-ng can pronounce."""
    spoken = [
        [word for word in text.split() if _PRONOUNCEABLE.fullmatch(word)]
        for text in texts
    ]
    if not any(spoken):
        raise InputError(
            "no train text has a word for the language model",
            expected="English words",
            fix="set baseline1.language_model to general",
        )
    return spoken


def _web_counts() -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Counts of words and of pairs of words on the web (Brants and Franz 2006)."""
    import wordsegment

    wordsegment.load()
    pairs = {
        (first, second): count
        for first, second in map(str.split, wordsegment.BIGRAMS)
        if (count := wordsegment.BIGRAMS[f"{first} {second}"])
    }
    return dict(wordsegment.UNIGRAMS), pairs


def _write_lexicon(
    params: Baseline1Params,
    words: Sequence[str],
    checkpoint: Checkpoint,
    work: Path,
    workers: int,
) -> Path:
    """The lexicon's file, made once, because that takes half a minute."""
    identity = {
        "words": list(words),
        "accents": list(params.accents),
        "phonemes": list(checkpoint.phonemes),
        "revision": REVISION,
    }
    path = work / f"lexicon-{fingerprint(identity)[:12]}.txt"
    try:
        check_lexicon(path)
    except InputError:
        lexicon = build_lexicon(
            words,
            accents=params.accents,
            phonemes=checkpoint.phonemes,
            workers=workers,
        )
        write_lexicon(path, lexicon)
    return path


def _check_arpa(path: Path, lexicon: Path) -> None:
    """Check that `path` is an ARPA file with bigrams and words of the lexicon."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        first = lines.index("\\1-grams:")
        last = lines.index("\\2-grams:")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the language model",
            path=path,
            found=getattr(error, "strerror", None) or "not text",
            expected="an ARPA file",
        ) from None
    except ValueError:
        raise InputError(
            "not an ARPA file with bigrams or longer n-grams",
            path=path,
            expected="\\1-grams: and \\2-grams: on lines of their own",
        ) from None
    known = {line.split("\t")[0] for line in lexicon.read_text("utf-8").splitlines()}
    words = [row[1] for line in lines[first:last] if len(row := line.split("\t")) > 1]
    if not known.intersection(words):
        raise InputError(
            "the language model has no word of the lexicon",
            path=path,
            found=name_some([word for word in words if word[0] != "<"]) or "none",
            expected="English words in lower case",
        )


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide what a C library writes to stderr: KenLM's progress bar."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
