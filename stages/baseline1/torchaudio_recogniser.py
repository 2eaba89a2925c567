"""CTC pipelines of torchaudio as recognisers, decoded greedily."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchaudio

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


def torchaudio_recogniser(params: Baseline1Params) -> Recogniser:
    """The pipeline whose weights are in the file `params.model`.

    Raises:
        ConfigurationError: no pipeline has weights of this name.
        InputError: no file there.
    """
    known = {
        Path(bundle._path).name: name
        for name in sorted(dir(torchaudio.pipelines))
        # Not of its subclass, which only aligns.
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
            "no recogniser of torchaudio has weights of this name",
            found=weights.name,
            expected=f"one of {', '.join(known)}",
        )
    return Recogniser(
        name=f"torchaudio {known[weights.name]}",
        fingerprint=recogniser_fingerprint("torchaudio", weights=hash_file(weights)),
        on_cpu=False,
        load=partial(_load, known[weights.name], weights),
    )


def _load(name: str, weights: Path, device: torch.device) -> Transcribe:
    """Load the weights of the pipeline `name`; nothing is downloaded."""
    bundle = getattr(torchaudio.pipelines, name)
    try:
        model = bundle.get_model(
            # torchaudio looks for the file there first.
            dl_kwargs={"model_dir": str(weights.parent), "weights_only": True}
        )
    # torch can raise almost any exception on a damaged file.
    except Exception as error:
        raise InputError(
            f"not the weights of torchaudio's {name}",
            path=weights,
            found=type(error).__name__,
            fix="copy the file again",
        ) from error
    model = model.eval().to(device)
    labels = bundle.get_labels()

    @torch.inference_mode()
    def transcribe(wave: np.ndarray) -> str:
        if len(wave) < LEAST_SAMPLES:
            return ""
        with cpu_on_one_thread(device):
            emissions, _ = model(torch.from_numpy(wave)[None].to(device))
        best = emissions[0].argmax(dim=1).unique_consecutive().tolist()
        # Class 0 is the blank, | separates words.
        letters = "".join(labels[number] for number in best if number)
        return " ".join(letters.replace("|", " ").split())

    return transcribe
