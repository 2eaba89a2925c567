"""Speech synthesis with flite, a program that the user installs.

A process speaks each text, because flite's voices load in milliseconds.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from scipy import signal

from stages.core.errors import ConfigurationError, PipelineError
from stages.speech.loading import SAMPLE_RATE
from stages.speech.synthesis import Voice

_SECONDS_ALLOWED = 60
_HERTZ = 110
"""Mean pitch of a voice with the pitch 50. Only the voice kal16 can change it."""

# kal is kal16 at 8 kHz; awb_time knows only the words of the time.
_UNUSED = ("kal", "awb_time")


@cache
def voices() -> list[str]:
    """The sorted names of the voices in the installed program.

    Raises:
        ConfigurationError: it is not installed.
    """
    known = _output("-lv").partition(":")[2].split()
    return sorted(set(known) - set(_UNUSED))


@cache
def version() -> str:
    """The version and the voices; others speak the same text differently."""
    (line,) = [one for one in _output("--help").splitlines() if "version:" in one]
    return f"{line.partition('version:')[2].split()[0]} with {', '.join(voices())}"


def speak(voice: Voice, texts: Sequence[str]) -> list[np.ndarray]:
    """Each of `texts`, (samples,) float64 at 16 kHz; equal arguments give equal bytes.

    Args:
        voice: variant is one of `voices()`; accent and pitch_range have no effect.
        texts: what to say.

    Raises:
        ConfigurationError: flite is not installed, or lacks the voice.
        PipelineError: it failed or hung.
    """
    if voice.variant not in voices():
        raise ConfigurationError(
            "unknown flite voice",
            found=repr(voice.variant),
            expected=f"one of {', '.join(voices())}",
        )
    with tempfile.TemporaryDirectory() as folder:
        return [_speak(voice, text, Path(folder) / "said.wav") for text in texts]


def _speak(voice: Voice, text: str, file: Path) -> np.ndarray:
    features = {
        "duration_stretch": 175 / voice.rate,
        "int_f0_target_mean": _HERTZ * (0.5 + voice.pitch / 100),
    }
    settings = [f"--setf {name}={value:.3f}" for name, value in features.items()]
    command = ["-voice", voice.variant, *" ".join(settings).split()]
    _output(*command, "-t", text, "-o", str(file))
    samples, rate = soundfile.read(file)
    return signal.resample_poly(samples, SAMPLE_RATE, rate)


@cache
def _program() -> str:
    program = shutil.which("flite")
    if program is None:
        raise ConfigurationError(
            "this needs the program flite, which is not installed",
            fix="apt-get install flite, or set corpus.flite to 0",
        )
    return program


def _output(*arguments: str) -> str:
    try:
        return subprocess.run(
            [_program(), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS_ALLOWED,
            check=True,
        ).stdout
    except subprocess.TimeoutExpired:
        raise PipelineError("flite hung", found=" ".join(arguments)) from None
    except subprocess.CalledProcessError as error:
        raise PipelineError("flite failed", found=error.stderr[-300:]) from None
