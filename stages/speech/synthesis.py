"""Speech synthesis with espeak-ng, with the alignment of phonemes and words.

The library comes from the wheel `espeakng-loader` and is called through ctypes in
short-lived child processes (`stages/speech/child.py`).
"""

import ctypes
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np

from stages.core.errors import ConfigurationError
from stages.speech import child

SAMPLE_RATE = 22_050
"""Of espeak-ng's audio, hertz."""

ACCENTS = {
    "en-029": "en-029",
    "en-gb": "en",
    "en-gb-scotland": "en-gb-scotland",
    "en-gb-x-gbclan": "en-gb-x-gbclan",
    "en-gb-x-gbcwmd": "en-gb-x-gbcwmd",
    "en-gb-x-rp": "en-gb-x-rp",
    "en-us": "en-us",
    "en-us-nyc": "en-us-nyc",
}
"""The English accents of espeak-ng (`lang/gmw`), with its names for them."""

_SECONDS_ALLOWED = 0.5
"""Time limit of a child for each utterance; it needs a hundredth of that."""

# Voices that sound like machines or effects rather than people.
_UNNATURAL = re.compile(
    r"Demonic|UniRobot|anikaRobot|robosoft\d*|whisperf?|croak|fast|Tweaky|announcer"
)


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    Attributes:
        accent: one of `ACCENTS`.
        variant: file name in espeak-ng's `voices/!v`, which sets the vocal tract.
        definition: the lines of a variant of our own, in the format of those files
            (espeak-ng's docs/voices.md); `variant` is then only its name.
        rate: words a minute, 80 to 450; espeak-ng's default is 175.
        pitch: base pitch, 0 to 99; 50 is normal.
        pitch_range: liveliness of the intonation, 0 to 99; 50 is normal.
        engine: the synthesiser, one of `stages/speech/engines.py`; for others than
            espeak, see there what accent and variant are.
    """

    accent: str
    variant: str
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50
    definition: str = ""
    engine: str = "espeak"


@dataclass(frozen=True)
class Spoken:
    """One spoken utterance.

    Attributes:
        samples: (samples,) int16 at `SAMPLE_RATE`.
        phonemes: (name, first sample) in order; `_:` and the like are silence.
        words: (character offset, characters, first sample) in order. espeak-ng runs
            some words together («of the»), which are then one entry.
    """

    samples: np.ndarray
    phonemes: list[tuple[str, int]]
    words: list[tuple[int, int, int]]


def variants() -> list[str]:
    """The sorted names of all voice variants in the installed wheel."""
    return sorted(path.name for path in (_data_folder() / "voices" / "!v").iterdir())


def natural_variants() -> list[str]:
    """The variants that sound like people."""
    return [name for name in variants() if not _UNNATURAL.fullmatch(name)]


def family(variant: str) -> str:
    """The variant without its number, which is the same person; m1 and f1 stay."""
    stem = variant.rstrip("0123456789").lower()
    return stem if len(stem) > 1 else variant


def version() -> str:
    """espeak-ng's version; another one can speak the same text differently."""
    info = _library().espeak_Info
    info.restype = ctypes.c_char_p
    return str(info(None).decode())


def speak(
    voice: Voice, texts: Sequence[str], *, seed: int, apart: bool = False
) -> list[Spoken]:
    """Speak `texts` in order in a fresh process; equal arguments give equal bytes.

    Args:
        voice: who speaks.
        texts: what.
        seed: of the noise in a voice.
        apart: whether each is spoken as if it were the only one. Otherwise its samples
            depend on those before it.

    Raises:
        ConfigurationError: an unknown accent or variant (espeak-ng would silently use
            another one).
        PipelineError: the child failed or hung.
    """
    _check_voice(voice)
    request = {"voice": asdict(voice), "texts": list(texts), "seed": seed}
    samples, events = child.ask(
        "synthesis",
        {**request, "apart": apart},
        f"espeak-ng speaking as {voice}",
        seconds=_SECONDS_ALLOWED,
    )
    return [
        Spoken(
            audio,
            [(name, at) for name, at in event["phonemes"]],
            [(start, length, at) for start, length, at in event["words"]],
        )
        for audio, event in zip(samples, events, strict=True)
    ]


def _data_folder() -> Path:
    return Path(espeakng_loader.get_data_path())


def _check_voice(voice: Voice) -> None:
    known_variants = [voice.variant] if voice.definition else variants()
    for kind, name, known in (
        ("accent", voice.accent, list(ACCENTS)),
        ("variant", voice.variant, known_variants),
    ):
        if name not in known:
            raise ConfigurationError(
                f"unknown espeak-ng {kind}",
                found=repr(name),
                expected=f"one of {', '.join(known)}",
            )


# The rest of this module runs in the child. Numbers and layouts are from espeak-ng's
# public header `speak_lib.h`.

_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_END_OF_EVENTS, _WORD, _PHONEME = 0, 1, 7


class _Identifier(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identifier),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_short),
    ctypes.c_int,
    ctypes.POINTER(_Event),
)


class _Engine:
    """espeak-ng in this process, collecting audio and events of one utterance."""

    def __init__(self, voice: Voice, seed: int, data: Path) -> None:
        self.library = _library()
        rate = self.library.espeak_Initialize(
            _SYNCHRONOUS, 0, str(data).encode(), _PHONEME_EVENTS | _DO_NOT_EXIT
        )
        if rate != SAMPLE_RATE:
            raise RuntimeError(f"espeak-ng answered a sample rate of {rate}")
        self.chunks: list[np.ndarray] = []
        self.phonemes: list[tuple[str, int]] = []
        self.words: list[tuple[int, int, int]] = []
        # Kept on self: ctypes does not keep a callback alive.
        self.callback = _Callback(self._receive)
        self.library.espeak_SetSynthCallback(self.callback)
        # Variants with breath or roughness draw noise from espeak-ng's own generator.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        name = f"{ACCENTS[voice.accent]}+{voice.variant}"
        if self.library.espeak_SetVoiceByName(name.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {name}")
        for parameter, value in (
            (_RATE, voice.rate),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            self.library.espeak_SetParameter(parameter, value, 0)

    def speak(self, text: str) -> Spoken:
        self.chunks, self.phonemes, self.words = [], [], []
        data = text.encode()
        status = self.library.espeak_Synth(
            data, len(data) + 1, 0, 0, 0, _UTF8, None, None
        )
        if status != 0 or self.library.espeak_Synchronize() != 0:
            raise RuntimeError(f"espeak-ng could not speak {text!r}")
        samples = np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)
        return Spoken(samples, self.phonemes, self.words)

    def _receive(self, audio, count, events) -> int:  # type: ignore[no-untyped-def]
        if audio and count > 0:
            self.chunks.append(np.ctypeslib.as_array(audio, (count,)).copy())
        for event in events:
            if event.type == _END_OF_EVENTS:
                break
            if event.type == _PHONEME:
                name = event.id.string.decode(errors="replace")
                self.phonemes.append((name, event.sample))
            elif event.type == _WORD:
                # text_position counts from 1.
                start = event.text_position - 1
                self.words.append((start, event.length, event.sample))
        return 0


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(espeakng_loader.get_library_path())


def _data_with(voice: Voice, folder: Path) -> Path:
    """A folder with links to espeak-ng's data, and the variant of `voice`.

    espeak-ng finds a variant by its file name only.
    """
    data = _data_folder()
    for path in data.iterdir():
        if path.name != "voices":
            (folder / path.name).symlink_to(path)
    (folder / "voices" / "!v").mkdir(parents=True)
    (folder / "voices" / "!v" / voice.variant).write_text(voice.definition, "utf-8")
    return folder


def _serve() -> None:
    """Answer one request of `speak`."""
    request = json.load(sys.stdin)
    voice = Voice(**request["voice"])
    with tempfile.TemporaryDirectory() as folder:
        data = _data_with(voice, Path(folder)) if voice.definition else _data_folder()
        engine = _Engine(voice, request["seed"], data)
        spoken = [
            child.apart(engine.speak, text) if request["apart"] else engine.speak(text)
            for text in request["texts"]
        ]
    events = [{"phonemes": one.phonemes, "words": one.words} for one in spoken]
    child.answer([one.samples for one in spoken], events)


if __name__ == "__main__":
    _serve()
