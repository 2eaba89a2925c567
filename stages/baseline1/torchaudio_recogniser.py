"""CTC pipelines of torchaudio as recognisers, decoded greedily."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchaudio

from stages.acoustic.pretrained import loading
from stages.baseline1.params import Baseline1Params
from stages.baseline1.recogniser import Recogniser, Transcribe, recogniser_fingerprint
from stages.core.errors import InputError
from stages.core.hashing import hash_file


def torchaudio_recogniser(params: Baseline1Params) -> Recogniser:
    """The pipeline whose weights are in the file `params.model`.

    Raises:
        InputError: no file there, or its name is not that of a pipeline's weights.
    """
    known = {
        Path(bundle._path).name: name
        for name in sorted(dir(torchaudio.pipelines))
        # Not of its subclass, which only aligns.
        if type(bundle := getattr(torchaudio.pipelines, name))
        is torchaudio.pipelines.Wav2Vec2ASRBundle
    }
    weights = Path(params.model)
    if weights.name not in known or not weights.is_file():
        raise InputError(
            "no weights of a recogniser of torchaudio there",
            path=weights,
            expected=f"one of {', '.join(known)}",
            fix="download it from download.pytorch.org/torchaudio/models, and set "
            "baseline1.model to the file",
        )
    return Recogniser(
        name=f"torchaudio {known[weights.name]}",
        fingerprint=recogniser_fingerprint("torchaudio", weights=hash_file(weights)),
        on_cpu=False,
        loader=partial(_load, known[weights.name], weights),
    )


def _load(name: str, weights: Path, device: torch.device) -> Transcribe:
    """Load the weights of the pipeline `name`; nothing is downloaded."""
    bundle = getattr(torchaudio.pipelines, name)
    with loading(str(weights), f"torchaudio's {name}", fix="copy the file again"):
        model = bundle.get_model(
            # torchaudio looks for the file there first.
            dl_kwargs={"model_dir": str(weights.parent), "weights_only": True}
        )
    model = model.eval().to(device)
    labels = bundle.get_labels()

    def transcribe(wave: np.ndarray) -> str:
        emissions, _ = model(torch.from_numpy(wave)[None].to(device))
        best = emissions[0].argmax(dim=1).unique_consecutive().tolist()
        # Class 0 is the blank, | separates words.
        return "".join(labels[number] for number in best if number).replace("|", " ")

    return transcribe
