"""The synthesisers: espeak-ng, which is installed, and piper and flite, where they are.

engine   accent                 variant
espeak   one of ACCENTS         one of espeak-ng's, the vocal tract
piper    number of the speaker  name of the voice's file
flite    none                   name of the voice
"""

from collections.abc import Sequence

import numpy as np
from scipy import signal

from stages.speech import flite, piper_voices, synthesis
from stages.speech.synthesis import Voice

ENGINES = ("espeak", "piper", "flite")


def people(engine: str, folder: str) -> dict[str, list[tuple[str, str]]]:
    """Each person that an engine speaks as: accents and variants.

    Args:
        engine: one of `ENGINES`.
        folder: of piper's voices.

    Raises:
        ConfigurationError: it is not installed.
        InputError: piper has no voices.
    """
    match engine:
        case "flite":
            return {name: [("", name)] for name in flite.voices()}
        case "piper":
            known = piper_voices.voices(folder)
            return {f"{name} {speaker}": [(speaker, name)] for speaker, name in known}
    found: dict[str, list[tuple[str, str]]] = {}
    for variant in synthesis.natural_variants():
        pairs = [(accent, variant) for accent in synthesis.ACCENTS]
        found.setdefault(synthesis.family(variant), []).extend(pairs)
    return found


def version(voice: Voice, folder: str) -> str:
    """Of the voice's engine; another one can speak the same text differently.

    Raises:
        ConfigurationError: it is not installed, or piper lacks the voice.
        InputError: piper has no voices.
    """
    match voice.engine:
        case "flite":
            return flite.version()
        case "piper":
            return piper_voices.version(folder, voice)
    return synthesis.version()


def speak(
    voice: Voice,
    texts: Sequence[str],
    *,
    seed: int,
    folder: str = "",
    apart: bool = False,
) -> list[np.ndarray]:
    """Each of `texts`, (samples,) float64 at 16 kHz; equal arguments give equal bytes.

    Args:
        voice: who speaks.
        texts: what.
        seed: of the noise in a voice.
        folder: of piper's voices.
        apart: whether what is said does not depend on the texts before it; only espeak
            has it otherwise.

    Raises:
        ConfigurationError: the engine is not installed, or lacks the voice.
        PipelineError: the engine failed or hung.
    """
    match voice.engine:
        case "flite":
            return flite.speak(voice, texts)
        case "piper":
            return piper_voices.speak(voice, texts, folder=folder, seed=seed)
    spoken = synthesis.speak(voice, texts, seed=seed, apart=apart)
    # 16,000 / 22,050 = 320 / 441.
    return [signal.resample_poly(one.samples / 32768, 320, 441) for one in spoken]
