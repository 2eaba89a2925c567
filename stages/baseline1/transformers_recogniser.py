"""CTC and sequence-to-sequence models of transformers as recognisers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    pipeline,
)

from stages.acoustic.pretrained import loading
from stages.baseline1.params import Baseline1Params
from stages.baseline1.recogniser import (
    LEAST_SAMPLES,
    Recogniser,
    Transcribe,
    cpu_on_one_thread,
    recogniser_fingerprint,
)
from stages.core.errors import ConfigurationError, InputError
from stages.core.hashing import hash_file
from stages.speech.loading import SAMPLE_RATE

_WHISPER_WINDOW = 30 * SAMPLE_RATE

_FIX = (
    "set baseline1.model to a local folder with config.json, preprocessor_config.json, "
    "the tokenizer and model.safetensors, or to a hub name while online "
    "(HF_HUB_OFFLINE unset)"
)


def transformers_recogniser(params: Baseline1Params) -> Recogniser:
    """The recogniser in the folder, or of the hub's name, `params.model`.

    Raises:
        ConfigurationError: a model of another kind.
        InputError: no model there.
    """
    with loading(params.model, "the recogniser", fix=_FIX):
        config = AutoConfig.from_pretrained(params.model, **_options(params.revision))
    kinds = (*MODEL_FOR_CTC_MAPPING, *MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING)
    if type(config) not in kinds:
        raise ConfigurationError(
            f"{params.model} is not a speech recogniser",
            found=f"a {config.model_type}",
            expected="a CTC or sequence-to-sequence model, such as wav2vec2 or whisper",
        )
    folder = Path(params.model)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return Recogniser(
        name=f"{config.model_type} of {folder.name if files else params.model}",
        fingerprint=recogniser_fingerprint(
            "transformers",
            files={path.name: hash_file(path) for path in files if path.is_file()},
            commit=getattr(config, "_commit_hash", None),
        ),
        on_cpu=False,
        load=partial(_load, params.model, params.revision),
    )


def _load(name: str, revision: str, device: torch.device) -> Transcribe:
    """Load the model with its tokenizer and feature extractor."""
    options = _options(revision)
    with loading(name, "the recogniser", fix=_FIX):
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
    _check_whole(name, report["missing_keys"])

    def transcribe(wave: np.ndarray) -> str:
        if len(wave) < LEAST_SAMPLES:
            return ""
        # Whisper transcribes more than its window only with time stamps.
        long = config.model_type == "whisper" and len(wave) > _WHISPER_WINDOW
        with cpu_on_one_thread(device):
            output = recognise(
                {"raw": wave, "sampling_rate": SAMPLE_RATE},
                **({"return_timestamps": True} if long else {}),
            )
        return " ".join(output["text"].split())

    return transcribe


def _options(revision: str) -> dict[str, Any]:
    return {"revision": revision or "main", "trust_remote_code": False}


def _check_whole(name: str, missing: set[str]) -> None:
    """Raise an InputError if weights are missing; transformers makes them up."""
    # Training alone needs masked_spec_embed.
    needed = sorted(key for key in missing if not key.endswith("masked_spec_embed"))
    if needed:
        raise InputError(
            f"weight {needed[0]} is missing from the checkpoint",
            path=name,
            fix="use a checkpoint of the whole recogniser",
        )
