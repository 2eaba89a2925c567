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

from stages.acoustic.pretrained import check_weights, loading
from stages.baseline1.params import Baseline1Params
from stages.baseline1.recogniser import Recogniser, Transcribe, recogniser_fingerprint
from stages.core.errors import ConfigurationError
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
    options = {"revision": params.revision or "main", "trust_remote_code": False}
    with loading(params.model, "the recogniser", fix=_FIX):
        config = AutoConfig.from_pretrained(params.model, **options)
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
        loader=partial(_load, params.model, config, options),
    )


def _load(
    name: str, config: Any, options: dict[str, Any], device: torch.device
) -> Transcribe:
    """Load the model with its tokenizer and feature extractor."""
    with loading(name, "the recogniser", fix=_FIX):
        ctc = type(config) in MODEL_FOR_CTC_MAPPING
        kind: Any = AutoModelForCTC if ctc else AutoModelForSpeechSeq2Seq
        model, report = kind.from_pretrained(
            name,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by `check_weights`
            **options,
        )
        recognise: Any = pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(name, **options),
            feature_extractor=AutoFeatureExtractor.from_pretrained(name, **options),
            device=device,
        )
    check_weights(name, model, report)

    def transcribe(wave: np.ndarray) -> str:
        # Whisper transcribes more than its window only with time stamps.
        long = config.model_type == "whisper" and len(wave) > _WHISPER_WINDOW
        output = recognise(
            {"raw": wave, "sampling_rate": SAMPLE_RATE},
            **({"return_timestamps": True} if long else {}),
        )
        return str(output["text"])

    return transcribe
