"""Synthetic speech with its alignment, the training data of pretraining.

In a session, one voice speaks several sentences in one go; the synthesiser reports when
each phoneme and word begins.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
import torchaudio

from stages.core.files import atomic_path
from stages.core.hashing import fingerprint
from stages.core.runtime import progress
from stages.pretraining.params import REVISION, PretrainingParams
from stages.pretraining.speakers import draw_speaker
from stages.speech import synthesis
from stages.speech.loading import SAMPLE_RATE
from stages.speech.phonemes import SPOKEN_SILENCE, plain_phoneme
from stages.speech.sentences import sentences
from stages.speech.synthesis import family

IGNORED = -100
"""Class of an unknown word, for instance where espeak-ng ran two words together."""

_HELD_OUT_SESSIONS = 20


@dataclass(frozen=True)
class Plan:
    """What a session will say, and how.

    Attributes:
        voice: the speaker.
        texts: the sentences.
        pauses: silence before each sentence, seconds.
        warp: playback speed, 1 for unchanged.
        seed: of the synthesiser.
    """

    voice: synthesis.Voice
    texts: list[str]
    pauses: list[float]
    warp: float
    seed: int


@dataclass(frozen=True)
class Session:
    """One voice speaking several sentences.

    Attributes:
        audio: (samples,) int16 at 16 kHz.
        phonemes: names; phoneme_starts: their first samples, ascending.
        words: classes of words, or IGNORED; word_starts: their first samples.
        sentence_starts: first sample of each sentence.
    """

    audio: np.ndarray
    phonemes: np.ndarray
    phoneme_starts: np.ndarray
    words: np.ndarray
    word_starts: np.ndarray
    sentence_starts: np.ndarray


def plan_sessions(
    params: PretrainingParams, avoided: Path, words: list[str], shares: np.ndarray
) -> list[Plan]:
    """Plan the sessions; the held-out ones come last."""
    taken = {family(name) for name in pd.read_csv(avoided)["variant"]}
    taken |= {family(name) for name in params.held_out_variants}
    variants = [
        name for name in synthesis.natural_variants() if family(name) not in taken
    ]
    generator = np.random.default_rng(params.seed)
    text = sentences(words, shares, generator)
    plans = []
    for number in range(params.sessions + _HELD_OUT_SESSIONS):
        held_out = number >= params.sessions
        accents = params.held_out_accents if held_out else params.accents
        accent = str(generator.choice(accents))
        known = params.held_out_variants if held_out else variants
        variant, definition = str(generator.choice(known)), ""
        if not held_out and generator.random() < params.drawn_speakers:
            variant = f"drawn-{number}"
            definition = draw_speaker(variant, generator)
        voice = synthesis.Voice(
            accent=accent,
            variant=variant,
            rate=int(generator.integers(120, 240)),
            pitch=int(generator.integers(15, 86)),
            pitch_range=int(generator.integers(15, 86)),
            definition=definition,
        )
        # Playing speech faster or slower moves its formants as a shorter or longer
        # vocal tract does.
        warp = 1.0 if held_out else float(generator.choice(np.arange(86, 117, 3))) / 100
        texts = [next(text) for _ in range(params.sentences)]
        # The synthesiser returns speech without silence around it.
        pauses = generator.uniform(0, params.longest_pause, params.sentences)
        seed = params.seed * 1_000_003 + number
        plans.append(Plan(voice, texts, pauses.tolist(), warp, seed))
    return plans


def speech_name(plans: list[Plan], vocabulary: list[str]) -> str:
    """A name for the speech of `plans`, a hash of everything that determines it."""
    spoken = {
        "revision": REVISION,
        "plans": [asdict(plan) for plan in plans],
        "vocabulary": vocabulary,
        "synthesiser": synthesis.version(),
    }
    return fingerprint(spoken)[:12]


def speak_sessions(
    plans: list[Plan],
    vocabulary: list[str],
    folder: Path,
    workers: int,
) -> list[Session]:
    """Speak the sessions that are missing from `folder` or damaged.

    Args:
        plans: one for each session.
        vocabulary: every word of their texts; a word's class is its index plus 1.
        folder: gets two files a session, see `load_session`.
        workers: number of processes that speak.

    Returns:
        the sessions in the order of their plans.

    Raises:
        ConfigurationError: an unknown accent or variant, or no synthesiser.
        PipelineError: the synthesiser failed.
    """
    index = {word: number + 1 for number, word in enumerate(vocabulary)}

    def one(number: int) -> Session:
        try:
            return load_session(folder, number)
        except (OSError, ValueError, KeyError, BadZipFile):
            _save_session(folder, number, _speak_session(plans[number], index))
            return load_session(folder, number)

    with ThreadPoolExecutor(workers) as pool:
        return list(
            progress(
                pool.map(one, range(len(plans))),
                total=len(plans),
                description="speaking",
                unit="session",
            )
        )


def load_session(folder: Path, number: int) -> Session:
    """Read a session from `folder`; its audio stays on disk, memory-mapped."""
    alignment, audio = _session_paths(folder, number)
    with np.load(alignment) as arrays:
        return Session(np.load(audio, mmap_mode="r"), **arrays)


def _save_session(folder: Path, number: int, session: Session) -> None:
    arrays = dict(vars(session))
    alignment, audio = _session_paths(folder, number)
    with atomic_path(audio) as temporary, temporary.open("wb") as stream:
        np.save(stream, arrays.pop("audio"))
    with atomic_path(alignment) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _session_paths(folder: Path, number: int) -> tuple[Path, Path]:
    stem = f"session-{number:05d}"
    return folder / f"{stem}.npz", folder / f"{stem}.npy"


def _speak_session(plan: Plan, index: dict[str, int]) -> Session:
    spoken = synthesis.speak(plan.voice, plan.texts, seed=plan.seed)
    rate = round(SAMPLE_RATE / plan.warp / 50) * 50
    scale = rate / synthesis.SAMPLE_RATE
    pauses = [round(seconds * synthesis.SAMPLE_RATE) for seconds in plan.pauses]
    parts, starts, place = [], [], 0
    for pause, one in zip(pauses, spoken, strict=True):
        parts += [np.zeros(pause, one.samples.dtype), one.samples]
        starts.append(place + pause)
        place += pause + len(one.samples)
    audio = torch.from_numpy(np.concatenate(parts)).float()
    audio = torchaudio.functional.resample(audio, synthesis.SAMPLE_RATE, rate)
    phonemes, phoneme_starts, words, word_starts = [], [], [], []
    for text, one, start, pause in zip(plan.texts, spoken, starts, pauses, strict=True):
        # Silence until the sentence's first phoneme.
        for name, at in [(SPOKEN_SILENCE, -pause), *one.phonemes]:
            phonemes.append(plain_phoneme(name))
            phoneme_starts.append((start + at) * scale)
        for word, at in _aligned_words(text, one.words):
            words.append(index[word] if word else IGNORED)
            word_starts.append((start + at) * scale)
    return Session(
        audio.clamp(-32768, 32767).round().numpy().astype(np.int16),
        np.array(phonemes),
        np.array(phoneme_starts),
        np.array(words),
        np.array(word_starts),
        np.array(starts) * scale,
    )


def _aligned_words(
    text: str, events: list[tuple[int, int, int]]
) -> list[tuple[str | None, int]]:
    """The word of each event and its first sample; None where it is several words."""
    starts, place = {}, 0
    words = text.split(" ")
    for number, word in enumerate(words):
        starts[place] = number
        place += len(word) + 1
    numbers = [starts.get(offset) for offset, _, _ in events]
    following = [*numbers, len(words)][1:]
    return [
        (words[now] if now is not None and after == now + 1 else None, at)
        for now, after, (_, _, at) in zip(numbers, following, events, strict=True)
    ]


def phoneme_inventory(sessions: list[Session]) -> list[str]:
    """Every phoneme that is spoken: silence first, then sorted."""
    names = {str(name) for one in sessions for name in one.phonemes}
    return [SPOKEN_SILENCE, *sorted(names - {SPOKEN_SILENCE})]
