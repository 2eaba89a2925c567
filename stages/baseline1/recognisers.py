"""Speech recognisers behind one small interface.

A recogniser is a description that can be sent to another process; `open` loads it and
gives the function that does the work. None is trained here.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from stages.acoustic.checkpoint import Checkpoint, load_checkpoint
from stages.acoustic.pretrained import loading
from stages.baseline1.language_model import bigram_arpa, ngram_arpa
from stages.baseline1.lexicon import build_lexicon, lexicon_text
from stages.baseline1.params import Baseline1Params
from stages.core.errors import ConfigurationError, InputError
from stages.core.files import write_text
from stages.core.hashing import fingerprint, hash_bytes, hash_file
from stages.core.runtime import one_thread
from stages.speech.loading import RESAMPLING, SAMPLE_RATE
from stages.speech.words import frequent_words

REVISION = 1
"""Of what the parameters and models do not tell: whoever changes what a recogniser
here writes raises it, and transcripts cached before are no longer used."""

Transcribe = Callable[[np.ndarray], str]
"""A wave, (samples,) float32 at 16 kHz, to what is said in it; perhaps nothing."""

# What espeak-ng says as a word of English; it spells or names other characters.
_SPOKEN = re.compile(r"[a-z0-9]+('[a-z0-9]+)*")

_BLANK = "<blank>"
_NEVER_SPOKEN = "_"
_WHISPER_WINDOW = 30 * SAMPLE_RATE

_PRETRAINED_FIX = (
    "set baseline1.model to a local folder with config.json, preprocessor_config.json, "
    "the tokenizer and model.safetensors, or to a hub name while online "
    "(HF_HUB_OFFLINE unset)"
)

_LEAST_SAMPLES = 400
"""What a frame of wav2vec2's convolutions hears: 25 ms, in which nothing is said."""


class Recogniser(Hashable, Protocol):
    """What makes text of speech.

    Attributes:
        name: what people call it, and what it was told of the corpus, if anything.
        fingerprint: of everything that its text depends on but the wave.
        on_cpu: whether most of its work is on the CPU whatever the device.
    """

    on_cpu: ClassVar[bool]

    @property
    def name(self) -> str:
        """See above."""

    @property
    def fingerprint(self) -> str:
        """See above."""

    def open(self, device: torch.device) -> Transcribe:
        """Load it, and give the function that transcribes."""


def choose_recogniser(
    params: Baseline1Params, *, texts: Sequence[str], work: Path, workers: int
) -> Recogniser:
    """The recogniser that the parameters name; not for `given`.

    Args:
        params: which one.
        texts: normalised texts of train, read if `language_model` is `train`.
        work: where lexicon and language model are kept, named after what they hold.
        workers: threads that may speak the lexicon.

    Raises:
        ConfigurationError: a missing extra, or a model of another kind.
        InputError: nothing usable at `model`.
    """
    if params.recogniser == "encoder":
        return _phoneme_recogniser(params, texts, work, workers)
    if params.recogniser == "transformers":
        return _pretrained_recogniser(params)
    if params.recogniser == "torchaudio":
        return _bundle_recogniser(params)
    return _sphinx_recogniser(params)


@dataclass(frozen=True)
class PhonemeRecogniser:
    """The phoneme/word encoder, its CTC head, and a beam search over a lexicon.

    Attributes:
        checkpoint: of the encoder.
        lexicon: a line a pronunciation.
        language_model: an ARPA file.
        search: arguments of the beam search.
    """

    on_cpu: ClassVar[bool] = True
    name: str
    fingerprint: str
    checkpoint: Path
    lexicon: Path
    language_model: Path
    search: tuple[tuple[str, float], ...]

    def open(self, device: torch.device) -> Transcribe:
        """Load encoder, lexicon and language model."""
        from torchaudio.models.decoder import ctc_decoder

        checkpoint = load_checkpoint(self.checkpoint)
        encoder = checkpoint.encoder.to(device)
        head = encoder.ctc_linear
        assert head is not None
        try:
            with _silent_stderr():
                decoder = ctc_decoder(
                    str(self.lexicon),
                    [_BLANK, *checkpoint.phonemes],
                    lm=str(self.language_model),
                    blank_token=_BLANK,
                    sil_token=_NEVER_SPOKEN,
                    unk_word="<unk>",
                    **dict(self.search),
                )
        except RuntimeError as error:  # of KenLM, which checks the whole file
            raise InputError(
                "not a language model that KenLM reads",
                path=self.language_model,
                found=str(error).split("threw ")[-1].splitlines()[0],
                fix="write the file again",
            ) from error

        @torch.inference_mode()
        def transcribe(wave: np.ndarray) -> str:
            with one_thread():
                samples = torch.from_numpy(wave)[None].to(device)
                hidden, _ = encoder.phoneme_module(samples)
                # (1, frames, classes)
                emissions = head(hidden).log_softmax(dim=2).float().cpu()
            (hypotheses,) = decoder(emissions)
            return " ".join(hypotheses[0].words) if hypotheses else ""

        return transcribe


@dataclass(frozen=True)
class PretrainedRecogniser:
    """A CTC or sequence-to-sequence model of transformers.

    Attributes:
        model: a folder or a hub's name.
        revision: of the latter.
    """

    on_cpu: ClassVar[bool] = False
    name: str
    fingerprint: str
    model: str
    revision: str

    def open(self, device: torch.device) -> Transcribe:
        """Load the model with its tokenizer and feature extractor."""
        return _open_pretrained(self.model, self.revision, device)


@dataclass(frozen=True)
class BundleRecogniser:
    """A CTC pipeline of torchaudio, its best class a frame; no language model.

    Attributes:
        pipeline: its name in `torchaudio.pipelines`.
        weights: the file, under the name that torchaudio gives it.
    """

    on_cpu: ClassVar[bool] = False
    name: str
    fingerprint: str
    pipeline: str
    weights: Path

    def open(self, device: torch.device) -> Transcribe:
        """Load the weights; nothing is downloaded."""
        import torchaudio

        bundle = getattr(torchaudio.pipelines, self.pipeline)
        try:
            model = bundle.get_model(
                # Found there, it is not looked for elsewhere.
                dl_kwargs={"model_dir": str(self.weights.parent), "weights_only": True}
            )
        # torch meets a damaged file with almost any exception.
        except Exception as error:
            raise InputError(
                f"not the weights of torchaudio's {self.pipeline}",
                path=self.weights,
                found=type(error).__name__,
                fix="copy the file again",
            ) from error
        model = model.eval().to(device)
        labels = bundle.get_labels()

        @torch.inference_mode()
        def transcribe(wave: np.ndarray) -> str:
            if len(wave) < _LEAST_SAMPLES:
                return ""
            with _threads(device):
                emissions, _ = model(torch.from_numpy(wave)[None].to(device))
            best = emissions[0].argmax(dim=1).unique_consecutive().tolist()
            # Class 0 is the blank, | parts words.
            letters = "".join(labels[number] for number in best if number)
            return " ".join(letters.replace("|", " ").split())

        return transcribe


@dataclass(frozen=True)
class SphinxRecogniser:
    """pocketsphinx with the English model that its wheel carries."""

    on_cpu: ClassVar[bool] = True
    name: str
    fingerprint: str

    def open(self, device: torch.device) -> Transcribe:
        """Load the wheel's own model; it runs on the CPU."""
        import pocketsphinx  # type: ignore[import-untyped]

        decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

        def transcribe(wave: np.ndarray) -> str:
            samples = (np.clip(wave, -1, 1) * 32767).astype(np.int16)
            decoder.start_utt()
            decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
            decoder.end_utt()
            hypothesis = decoder.hyp()
            return hypothesis.hypstr if hypothesis is not None else ""

        return transcribe


def _phoneme_recogniser(
    params: Baseline1Params, texts: Sequence[str], work: Path, workers: int
) -> PhonemeRecogniser:
    _require("flashlight.lib.text.decoder", "flashlight-text")
    if not Path(params.model).is_file():
        raise InputError(
            "no checkpoint of an encoder there",
            path=params.model,
            fix="set baseline1.model to one of `aln-pipeline pretraining`, such as "
            "data/demo/encoder.safetensors",
        )
    checkpoint = load_checkpoint(Path(params.model))
    _check_head(Path(params.model), checkpoint)
    heard = _spoken_words(texts) if params.language_model == "train" else []
    words, frequencies = frequent_words(params.vocabulary, contractions=True)
    own = sorted({word for text in heard for word in text})
    # First the train texts' own, which are kept of those that sound alike.
    listed = list(dict.fromkeys([*own, *words]))
    lexicon = _kept_lexicon(params, listed, checkpoint, work, workers)
    shares = dict(zip(words, frequencies.tolist(), strict=True))
    shares = {**dict.fromkeys(own, 0.0), **shares}
    if params.language_model == "train":
        model = _kept_model(work, ngram_arpa(heard, shares, params.order))
    elif params.language_model == "general":
        model = _kept_model(work, bigram_arpa(shares, *_web_counts()))
    else:
        model = Path(params.language_model)
        _check_arpa(model, lexicon)
    search = {
        "lm_weight": params.language_model_weight,
        "word_score": params.word_score,
        "beam_size": params.beam_size,
        "beam_size_token": params.beam_tokens,
        "beam_threshold": params.beam_threshold,
    }
    told = {
        "general": "bigram of general English",
        "train": f"{params.order}-gram of the train texts",
    }
    return PhonemeRecogniser(
        name=f"phoneme CTC of {Path(params.model).name}, "
        f"{told.get(params.language_model, model.name)}",
        fingerprint=_identity(
            params,
            checkpoint=hash_file(Path(params.model)),
            lexicon=hash_file(lexicon),
            language_model=hash_file(model),
            search=search,
            encoder=checkpoint.fingerprint,
        ),
        checkpoint=Path(params.model),
        lexicon=lexicon,
        language_model=model,
        search=tuple(search.items()),
    )


def _pretrained_recogniser(params: Baseline1Params) -> PretrainedRecogniser:
    from transformers import (
        MODEL_FOR_CTC_MAPPING,
        MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
        AutoConfig,
    )

    with loading(params.model, "the recogniser", fix=_PRETRAINED_FIX):
        config = AutoConfig.from_pretrained(
            params.model, revision=params.revision or "main", trust_remote_code=False
        )
    kinds = (*MODEL_FOR_CTC_MAPPING, *MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING)
    if type(config) not in kinds:
        raise ConfigurationError(
            f"{params.model} is no speech recogniser",
            found=f"a {config.model_type}",
            expected="a CTC or sequence-to-sequence model, such as wav2vec2 or whisper",
        )
    folder = Path(params.model)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return PretrainedRecogniser(
        name=f"{config.model_type} of {folder.name if files else params.model}",
        fingerprint=_identity(
            params,
            files={path.name: hash_file(path) for path in files if path.is_file()},
            commit=getattr(config, "_commit_hash", None),
        ),
        model=params.model,
        revision=params.revision,
    )


def _bundle_recogniser(params: Baseline1Params) -> BundleRecogniser:
    import torchaudio

    known = {
        Path(bundle._path).name: name
        for name in sorted(dir(torchaudio.pipelines))
        # Not of a kind derived from it, which only aligns.
        if type(bundle := getattr(torchaudio.pipelines, name))
        is torchaudio.pipelines.Wav2Vec2ASRBundle
    }
    weights = Path(params.model)
    if not weights.is_file():
        raise InputError(
            "no weights of a pipeline there",
            path=weights,
            expected=f"one of {', '.join(known)}",
            fix="download it from download.pytorch.org/torchaudio/models, and set "
            "baseline1.model to the file",
        )
    if weights.name not in known:
        raise ConfigurationError(
            "torchaudio has no recogniser whose weights are called so",
            found=weights.name,
            expected=f"one of {', '.join(known)}",
        )
    return BundleRecogniser(
        name=f"torchaudio {known[weights.name]}",
        fingerprint=_identity(params, weights=hash_file(weights)),
        pipeline=known[weights.name],
        weights=weights,
    )


def _sphinx_recogniser(params: Baseline1Params) -> SphinxRecogniser:
    _require("pocketsphinx", "-e '.[pocketsphinx]'")
    from importlib.metadata import version

    number = version("pocketsphinx")
    return SphinxRecogniser(
        name=f"pocketsphinx {number}",
        fingerprint=_identity(params, version=number),
    )


def _open_pretrained(name: str, revision: str, device: torch.device) -> Transcribe:
    from transformers import (
        MODEL_FOR_CTC_MAPPING,
        AutoConfig,
        AutoFeatureExtractor,
        AutoModelForCTC,
        AutoModelForSpeechSeq2Seq,
        AutoTokenizer,
        pipeline,
    )

    options = {"revision": revision or "main", "trust_remote_code": False}
    with loading(name, "the recogniser", fix=_PRETRAINED_FIX):
        config = AutoConfig.from_pretrained(name, **options)
        ctc = type(config) in MODEL_FOR_CTC_MAPPING
        kind: Any = AutoModelForCTC if ctc else AutoModelForSpeechSeq2Seq
        model, report = kind.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **options
        )
        recognise: Any = pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(name, **options),
            feature_extractor=AutoFeatureExtractor.from_pretrained(name, **options),
            device=device,
        )
    # transformers would make up what is not there; training alone needs this one.
    missing = sorted(
        key for key in report["missing_keys"] if not key.endswith("masked_spec_embed")
    )
    if missing:
        raise InputError(
            f"weight {missing[0]} is missing from the checkpoint",
            path=name,
            fix="use a checkpoint of the whole recogniser",
        )

    def transcribe(wave: np.ndarray) -> str:
        if len(wave) < _LEAST_SAMPLES:
            return ""
        # Whisper hears more than its window only with time stamps.
        long = config.model_type == "whisper" and len(wave) > _WHISPER_WINDOW
        with _threads(device):
            said = recognise(
                {"raw": wave, "sampling_rate": SAMPLE_RATE},
                **({"return_timestamps": True} if long else {}),
            )
        return " ".join(said["text"].split())

    return transcribe


def _spoken_words(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text, but for those that cannot be said.

    Raises:
        InputError: none is left.
    """
    heard = [
        [word for word in text.split() if _SPOKEN.fullmatch(word)] for text in texts
    ]
    if not any(heard):
        raise InputError(
            "no train text has a word to make a language model of",
            fix="set baseline1.language_model to general",
        )
    return heard


def _web_counts() -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """How often words and pairs of them stood on the web (Brants and Franz 2006)."""
    try:
        import wordsegment  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigurationError(
            "the counts of pairs of words are not installed",
            fix="pip install wordsegment",
        ) from None
    wordsegment.load()
    pairs = {
        (first, second): count
        for first, second in map(str.split, wordsegment.BIGRAMS)
        if (count := wordsegment.BIGRAMS[f"{first} {second}"])
    }
    return dict(wordsegment.UNIGRAMS), pairs


def _kept_lexicon(
    params: Baseline1Params,
    words: Sequence[str],
    checkpoint: Checkpoint,
    work: Path,
    workers: int,
) -> Path:
    """The lexicon's file; it is spoken once, since that takes half a minute."""
    identity = {
        "words": list(words),
        "accents": list(params.accents),
        "phonemes": list(checkpoint.phonemes),
        "revision": REVISION,
    }
    path = work / f"lexicon-{fingerprint(identity)[:12]}.txt"
    if not path.is_file():
        lexicon = build_lexicon(
            words,
            accents=params.accents,
            phonemes=checkpoint.phonemes,
            workers=workers,
        )
        write_text(path, lexicon_text(lexicon))
    return path


def _kept_model(work: Path, arpa: str) -> Path:
    """The file of a language model, named after what it holds."""
    data = arpa.encode()
    path = work / f"language-model-{hash_bytes(data)[:12]}.arpa"
    if not path.is_file() or path.read_bytes() != data:
        write_text(path, arpa)
    return path


def _check_head(path: Path, checkpoint: Checkpoint) -> None:
    if checkpoint.encoder.ctc_linear is None or not checkpoint.phonemes:
        raise InputError(
            "the encoder cannot transcribe",
            path=path,
            found="no CTC head over named phonemes",
            expected="a checkpoint of `aln-pipeline pretraining`",
            fix="set baseline1.model to data/demo/encoder.safetensors, or "
            "baseline1.recogniser to another",
        )


def _check_arpa(path: Path, lexicon: Path) -> None:
    """An ARPA file with bigrams that knows words of the lexicon.

    Raises:
        InputError: it is not.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        first = lines.index("\\1-grams:")
        last = lines.index("\\2-grams:")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "no readable language model there",
            path=path,
            found=getattr(error, "strerror", None) or "no text",
            expected="an ARPA file",
        ) from None
    except ValueError:
        raise InputError(
            "not an ARPA file with bigrams or longer",
            path=path,
            expected="\\1-grams: and \\2-grams: on lines of their own",
        ) from None
    known = {line.split("\t")[0] for line in lexicon.read_text("utf-8").splitlines()}
    words = [row[1] for line in lines[first:last] if len(row := line.split("\t")) > 1]
    if not known.intersection(words):
        raise InputError(
            "the language model has no word of the lexicon",
            path=path,
            found=", ".join([word for word in words if word[0] != "<"][:3]) or "none",
            expected="English words in lower case",
        )


def _identity(params: Baseline1Params, **values: Any) -> str:
    """The fingerprint of a recogniser; of `params` only what kind it is."""
    return fingerprint(
        {
            "recogniser": params.recogniser,
            "resampling": RESAMPLING,
            "revision": REVISION,
            **values,
        }
    )


def _require(module: str, package: str) -> None:
    try:
        __import__(module)
    except ImportError:
        raise ConfigurationError(
            f"the recogniser needs {module.split('.')[0]}",
            fix=f"pip install {package}",
        ) from None


def _threads(device: torch.device) -> AbstractContextManager[None]:
    """One thread on a CPU, where results must not depend on their number."""
    return one_thread() if device.type == "cpu" else nullcontext()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep what a C library writes to stderr to ourselves: KenLM's bar."""
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, io.UnsupportedOperation):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(number)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
