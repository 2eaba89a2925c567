"""Speech synthesis with the package piper-tts, with voices from files.

A voice is `NAME.onnx` with its description `NAME.onnx.json`, which can have several
speakers. Noise makes its speech less even, drawn by the graph itself; so each utterance
is spoken in a process of its own (`stages/speech/child.py`), with the same noise.
"""

import json
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np
from scipy import signal

from stages.core.errors import ConfigurationError, InputError, needs_extra
from stages.core.hashing import fingerprint, hash_file
from stages.speech import child
from stages.speech.loading import SAMPLE_RATE
from stages.speech.synthesis import Voice

_SECONDS_ALLOWED = 60
"""Time limit for each utterance; a large voice needs about a second."""


def voices(folder: str) -> list[tuple[str, str]]:
    """The sorted speakers, as numbers in text, and names of the voices in a folder.

    Raises:
        ConfigurationError: no folder is given.
        InputError: it has no voice, or a voice without its description.
    """
    if not folder:
        raise ConfigurationError(
            "no folder with piper's voices", fix="set corpus.piper_voices"
        )
    files = sorted(Path(folder).glob("*.onnx"))
    if not files:
        raise InputError(
            "no voice of piper",
            path=folder,
            expected="NAME.onnx and NAME.onnx.json",
            fix="put voices there, or set corpus.piper to 0",
        )
    return [
        (str(speaker), file.stem)
        for file in files
        for speaker in range(_describe(file)["num_speakers"])
    ]


def version(folder: str, voice: Voice) -> str:
    """A hash of all that makes the same text sound differently.

    Raises:
        ConfigurationError: piper-tts is not installed, or lacks the voice.
        InputError: the folder cannot be used.
    """
    with needs_extra("piper"):
        import piper  # noqa: F401
    known = voices(folder)
    if (voice.accent, voice.variant) not in known:
        raise ConfigurationError(
            f"{folder} has no such voice of piper",
            found=f"variant {voice.variant!r}, accent {voice.accent!r}",
            expected="variant: "
            + ", ".join(sorted({name for _, name in known}))
            + "; accent: the number of a speaker, such as 0",
        )
    return _version(folder, voice.variant)


@cache
def _version(folder: str, name: str) -> str:
    file = Path(folder) / f"{name}.onnx"
    packages = {name: package_version(name) for name in ("piper-tts", "onnxruntime")}
    files = [hash_file(file), hash_file(_description(file))]
    return fingerprint({"packages": packages, "files": files})


def speak(
    voice: Voice, texts: Sequence[str], *, folder: str, seed: int
) -> list[np.ndarray]:
    """Each of `texts`, (samples,) float64 at 16 kHz; equal arguments give equal bytes.

    Args:
        voice: variant is a voice's name, accent the number of its speaker; the pitch
            has no effect.
        texts: what to say.
        folder: with the voices.
        seed: of the noise.

    Raises:
        ConfigurationError: piper-tts is not installed.
        PipelineError: it failed or hung.
    """
    with needs_extra("piper"):
        import piper  # noqa: F401
    file = Path(folder).absolute() / f"{voice.variant}.onnx"
    rate = _describe(file)["audio"]["sample_rate"]
    request = {
        "file": str(file),
        "speaker": int(voice.accent),
        "length": 175 / voice.rate,
        "texts": list(texts),
        "seed": seed,
    }
    waves, _ = child.ask(
        "piper_voices",
        request,
        f"piper speaking as {voice.variant}",
        seconds=_SECONDS_ALLOWED,
    )
    return [
        signal.resample_poly(wave.astype(float), SAMPLE_RATE, rate) for wave in waves
    ]


def _description(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _describe(file: Path) -> dict:
    path = _description(file)
    if not path.is_file():
        raise InputError("the voice has no description", path=file, expected=path.name)
    try:
        found = json.loads(path.read_text("utf-8"))
        int(found["num_speakers"]), int(found["audio"]["sample_rate"])
    except (ValueError, KeyError, TypeError):
        raise InputError("not the description of a piper voice", path=path) from None
    return found


def _serve() -> None:
    """Answer one request of `speak`."""
    import onnxruntime
    from piper.config import (
        PiperConfig,
        SynthesisConfig,
    )
    from piper.voice import PiperVoice

    request = json.load(sys.stdin)
    file = Path(request["file"])
    # A fork has no threads but its own. A graph draws by the seed of its loading.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    onnxruntime.set_seed(request["seed"])
    session = onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"]
    )
    voice = PiperVoice(session, PiperConfig.from_dict(_describe(file)))
    settings = SynthesisConfig(
        speaker_id=request["speaker"], length_scale=request["length"]
    )

    def said(text: str) -> np.ndarray:
        chunks = voice.synthesize(text, settings)
        parts = [chunk.audio_float_array for chunk in chunks]
        return np.concatenate([np.zeros(1, np.float32), *parts])

    waves = [child.apart(said, text) for text in request["texts"]]
    child.answer(waves, [None] * len(waves))


if __name__ == "__main__":
    _serve()
