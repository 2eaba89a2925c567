"""Pretraining the encoder on synthetic speech, as Lugosch et al. 2019 did on real.

Reads: a list of frequent words, the synthesiser, the demo corpus's voices (to avoid).
Writes: the checkpoint (safetensors) and beside it a `.json` with recipe and scores;
while it works, `<work>/speech-*/session-*.npz` (speech with its alignment) and
`<work>/training-*.pt`, from which an interrupted run goes on.
"""

import json
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from stages import espeak
from stages.acoustic.augment import augment
from stages.acoustic.checkpoint import save_checkpoint
from stages.acoustic.encoder import Encoder, EncoderConfiguration
from stages.acoustic.frames import FRAME_STEP, SAMPLE_RATE
from stages.acoustic.params import PretrainingParams
from stages.acoustic.phonemes import SPOKEN_SILENCE, plain_phoneme
from stages.acoustic.sentences import frequent_words, grammar_words, sentences
from stages.acoustic.speakers import draw_speaker
from stages.atomic import atomic_path, write_json
from stages.provenance import fingerprint
from stages.runtime import choose_device, progress, seed_everything

log = logging.getLogger(__name__)

PHONEME_STEP = FRAME_STEP // 4
SILENCE = 0
IGNORED = -100
"""A frame whose class is not known, as where espeak-ng ran two words together."""

_HELD_OUT_SESSIONS = 20

# Voices that sound like machines or effects rather than people.
_UNNATURAL = re.compile(
    r"Demonic|UniRobot|anikaRobot|robosoft\d*|whisperf?|croak|fast|Tweaky|announcer"
)


@dataclass(frozen=True)
class Plan:
    """What a session will be.

    Attributes:
        voice: who speaks.
        texts: the sentences.
        pauses: silence before each of them, seconds.
        warp: how much faster it is played.
        seed: of the synthesiser.
    """

    voice: espeak.Voice
    texts: list[str]
    pauses: list[float]
    warp: float
    seed: int


@dataclass(frozen=True)
class Session:
    """One voice speaking some sentences.

    Attributes:
        audio: (samples,) int16 at 16 kHz.
        phonemes: names; phoneme_starts: their first samples, ascending.
        words: indices into the vocabulary, or IGNORED; word_starts likewise.
        sentence_starts: first sample of each sentence.
    """

    audio: np.ndarray
    phonemes: np.ndarray
    phoneme_starts: np.ndarray
    words: np.ndarray
    word_starts: np.ndarray
    sentence_starts: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Crops of equal length with a class a frame.

    Attributes:
        waves: (batch, samples) float32.
        phonemes: (batch, frames at 25 a second) int64.
        words: (batch, frames at 6.25 a second) int64.
    """

    waves: Tensor
    phonemes: Tensor
    words: Tensor


def run(
    params: PretrainingParams,
    *,
    avoided_voices: Path,
    output: Path,
    work: Path,
    device: str = "auto",
    workers: int = 2,
) -> dict[str, float]:
    """Speak, train, score, and write the checkpoint; goes on from an earlier run.

    Returns:
        the scores on held-out voices and accents, percent.

    Raises:
        ConfigurationError: a missing extra, an unknown accent or variant.
    """
    seed_everything(params.seed)
    target = choose_device(device)
    words, shares = frequent_words(params.vocabulary)
    vocabulary = sorted({*words, *grammar_words()})
    plans = _plan_sessions(params, avoided_voices, words, shares)
    # Named after what is said, so that other training parameters reuse the speech.
    said = fingerprint({"plans": [asdict(plan) for plan in plans]})[:12]
    sessions = _speak_sessions(plans, vocabulary, work / f"speech-{said}", workers)
    heard, held_out = sessions[: params.sessions], sessions[params.sessions :]
    inventory = _phoneme_inventory(sessions)
    encoder = Encoder(
        EncoderConfiguration(
            front_end="log-cmn",
            phonemes=len(inventory),
            words=len(vocabulary) + 1,
            ctc=True,
        )
    ).to(target)
    trained = fingerprint({"speech": said, **asdict(params)})[:12]
    saved = work / f"training-{trained}.pt"
    _train(params, encoder, _Corpus(heard, inventory), saved, target)
    scores = _score(encoder.cpu().eval(), _Corpus(held_out, inventory))
    names = ("<silence>", *vocabulary)
    save_checkpoint(output, encoder, tuple(inventory), names)
    hours = sum(len(one.audio) for one in heard) / SAMPLE_RATE / 3600
    write_json(
        output.with_suffix(".json"),
        {
            "recipe": asdict(params),
            "corpus": {
                "hours": round(hours, 2),
                "phonemes": len(inventory),
                "words": len(vocabulary),
            },
            "frame_accuracy": scores,
        },
    )
    return scores


def _plan_sessions(
    params: PretrainingParams, avoided: Path, words: list[str], shares: np.ndarray
) -> list[Plan]:
    """The sessions to speak; the held-out ones come last."""
    taken = {_family(name) for name in pd.read_csv(avoided)["variant"]}
    taken |= {_family(name) for name in params.held_out_variants}
    variants = [
        name
        for name in espeak.variants()
        if _family(name) not in taken and not _UNNATURAL.fullmatch(name)
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
        voice = espeak.Voice(
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
        # The synthesiser returns speech without the silence that a recording has
        # around it.
        pauses = generator.uniform(0, params.longest_pause, params.sentences)
        seed = params.seed * 1_000_003 + number
        plans.append(Plan(voice, texts, pauses.tolist(), warp, seed))
    return plans


def _family(variant: str) -> str:
    """Variants that differ in a number only are one person, but m1, f1 are not."""
    stem = variant.rstrip("0123456789").lower()
    return stem if len(stem) > 1 else variant


def _speak_sessions(
    plans: list[Plan],
    vocabulary: list[str],
    work: Path,
    workers: int,
) -> list[Session]:
    index = {word: number + 1 for number, word in enumerate(vocabulary)}

    def one(number: int) -> Session:
        path = work / f"session-{number:05d}.npz"
        if not path.exists():
            session = _speak_session(plans[number], index)
            with atomic_path(path) as beside, open(beside, "wb") as stream:
                np.savez(stream, **vars(session))
        with np.load(path) as arrays:
            return Session(**{name: arrays[name] for name in arrays})

    with ThreadPoolExecutor(workers) as pool:
        return list(
            progress(
                pool.map(one, range(len(plans))),
                total=len(plans),
                description="speaking",
                unit="session",
            )
        )


def _speak_session(plan: Plan, index: dict[str, int]) -> Session:
    spoken = espeak.speak(plan.voice, plan.texts, seed=plan.seed)
    rate = round(SAMPLE_RATE / plan.warp / 50) * 50
    scale = rate / espeak.SAMPLE_RATE
    pauses = [round(seconds * espeak.SAMPLE_RATE) for seconds in plan.pauses]
    parts, starts, place = [], [], 0
    for pause, one in zip(pauses, spoken, strict=True):
        parts += [np.zeros(pause, one.samples.dtype), one.samples]
        starts.append(place + pause)
        place += pause + len(one.samples)
    audio = torch.from_numpy(np.concatenate(parts)).float()
    audio = torchaudio.functional.resample(audio, espeak.SAMPLE_RATE, rate)
    phonemes, phoneme_starts, words, word_starts = [], [], [], []
    for text, one, start, pause in zip(plan.texts, spoken, starts, pauses, strict=True):
        # The silence before an utterance's first phoneme.
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
    """The word each event stands for and its first sample; None where it is several."""
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


def _phoneme_inventory(sessions: list[Session]) -> list[str]:
    """Every phoneme heard, silence first, then sorted."""
    names = {str(name) for one in sessions for name in one.phonemes}
    return [SPOKEN_SILENCE, *sorted(names - {SPOKEN_SILENCE})]


class _Corpus:
    """Sessions in memory, and random crops of them."""

    def __init__(self, sessions: list[Session], inventory: list[str]) -> None:
        self.sessions = sessions
        place = {name: number for number, name in enumerate(inventory)}
        self.phonemes = [
            np.array([place[str(name)] for name in one.phonemes]) for one in sessions
        ]

    def crops(self, size: int, seconds: float, generator: np.random.Generator) -> Batch:
        """`size` crops that begin up to 0.5 s before a random sentence."""
        samples = int(seconds * SAMPLE_RATE)
        waves = np.zeros((size, samples), np.float32)
        phonemes = np.zeros((size, samples // PHONEME_STEP), np.int64)
        words = np.zeros((size, samples // FRAME_STEP), np.int64)
        for row in range(size):
            number = int(generator.integers(len(self.sessions)))
            one = self.sessions[number]
            begin = int(generator.choice(one.sentence_starts))
            begin -= int(generator.integers(int(0.5 * SAMPLE_RATE)))
            begin = max(0, min(begin, len(one.audio) - samples))
            part = one.audio[begin : begin + samples]
            waves[row, : len(part)] = part / 32768
            phonemes[row] = _classes(
                self.phonemes[number], one.phoneme_starts, begin, PHONEME_STEP, samples
            )
            spoken = _classes(one.words, one.word_starts, begin, FRAME_STEP, samples)
            silent = (
                _classes(
                    self.phonemes[number],
                    one.phoneme_starts,
                    begin,
                    FRAME_STEP,
                    samples,
                )
                == SILENCE
            )
            words[row] = np.where(silent, SILENCE, spoken)
        return Batch(
            torch.from_numpy(waves),
            torch.from_numpy(phonemes),
            torch.from_numpy(words),
        )


def _classes(
    classes: np.ndarray, starts: np.ndarray, begin: int, step: int, samples: int
) -> np.ndarray:
    """The class at the centre of every frame of `step` samples."""
    centres = begin + step // 2 + step * np.arange(samples // step)
    return classes[np.clip(np.searchsorted(starts, centres, "right") - 1, 0, None)]


def _losses(encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of phonemes, of words, and CTC over the phonemes."""
    assert encoder.ctc_linear is not None
    hidden, _ = encoder.phoneme_module(batch.waves)
    features, _ = encoder.word_module(hidden, None)
    phoneme_loss = functional.cross_entropy(
        encoder.phoneme_linear(hidden).flatten(0, 1), batch.phonemes.flatten()
    )
    word_loss = functional.cross_entropy(
        encoder.word_linear(features).flatten(0, 1),
        batch.words.flatten(),
        ignore_index=IGNORED,
    )
    targets, lengths = _sequences(batch.phonemes)
    ctc_loss = functional.ctc_loss(
        encoder.ctc_linear(hidden).log_softmax(2).transpose(0, 1),
        targets,
        torch.full((len(hidden),), hidden.shape[1]),
        lengths,
        zero_infinity=True,
    )
    return phoneme_loss, word_loss, ctc_loss


def _sequences(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frame classes -> phoneme sequences for CTC: no repeats, no silence, one up."""
    changes = functional.pad(frames[:, 1:] != frames[:, :-1], (1, 0), value=True)
    kept = changes & (frames != SILENCE)
    return frames[kept] + 1, kept.sum(1)


def _train(
    params: PretrainingParams,
    encoder: Encoder,
    corpus: _Corpus,
    saved: Path,
    device: torch.device,
) -> None:
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=params.learning_rate, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        params.learning_rate,
        total_steps=params.steps,
        pct_start=0.08,
        final_div_factor=1000,
    )
    first = 0
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
        log.info("going on from step %d", first)
    bar = progress(total=params.steps, description="pretraining", unit="step")
    bar.update(first)
    encoder.train()
    began = time.monotonic()
    for step in range(first, params.steps):
        # Seeded by step, so that a resumed run sees what an unbroken one would.
        crops = np.random.default_rng((params.seed, step))
        noise = torch.Generator().manual_seed(params.seed * 1_000_003 + step)
        seconds = float(crops.choice(params.lengths))
        batch = corpus.crops(params.batch_size, seconds, crops)
        waves = augment(batch.waves, noise).to(device)
        batch = Batch(waves, batch.phonemes.to(device), batch.words.to(device))
        losses = _losses(encoder, batch)
        loss = losses[0] + losses[1] + params.ctc_weight * losses[2]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.update()
        shown = [one.item() for one in losses]
        bar.set_postfix_str("phonemes {:.2f} words {:.2f} ctc {:.2f}".format(*shown))
        if (step + 1) % params.checkpoint_steps == 0 or step + 1 == params.steps:
            pace = (step + 1 - first) / (time.monotonic() - began)
            log.info(
                "step %d of %d, %.2f a second; losses: phonemes %.3f, words %.3f, "
                "ctc %.3f",
                step + 1,
                params.steps,
                pace,
                *shown,
            )
            with atomic_path(saved) as beside:
                torch.save(
                    {
                        "encoder": encoder.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "step": step + 1,
                    },
                    beside,
                )
    bar.close()


@torch.inference_mode()
def _score(encoder: Encoder, corpus: _Corpus) -> dict[str, float]:
    """Percent of frames right on held-out voices and accents, clean and augmented.

    Silence is left out of phonemes and words alike.
    """
    assert encoder.ctc_linear is not None
    scores = {}
    for condition in ("clean", "augmented"):
        crops = np.random.default_rng(0)
        noise = torch.Generator().manual_seed(0)
        right = {"phoneme": [], "word": []}  # type: dict[str, list[Tensor]]
        wrong = total = 0
        for _ in range(10):
            batch = corpus.crops(32, 2.56, crops)
            waves = batch.waves
            if condition == "augmented":
                waves = augment(waves, noise)
            hidden, _ = encoder.phoneme_module(waves)
            features, _ = encoder.word_module(hidden, None)
            for name, logits, classes in (
                ("phoneme", encoder.phoneme_linear(hidden), batch.phonemes),
                ("word", encoder.word_linear(features), batch.words),
            ):
                spoken = classes > SILENCE
                right[name].append((logits.argmax(2) == classes)[spoken])
            targets, lengths = _sequences(batch.phonemes)
            guesses, counts = _sequences(encoder.ctc_linear(hidden).argmax(2))
            for guess, one in zip(
                guesses.split(counts.tolist()),
                targets.split(lengths.tolist()),
                strict=True,
            ):
                wrong += torchaudio.functional.edit_distance(
                    (guess - 1).tolist(), one.tolist()
                )
                total += len(one)
        for name, parts in right.items():
            share = torch.cat(parts).float().mean().item()
            scores[f"{name}_frames_{condition}"] = round(100 * share, 2)
        scores[f"phoneme_error_rate_{condition}"] = round(100 * wrong / total, 2)
    return scores


def read_scores(path: Path) -> dict[str, object]:
    """What stands beside a checkpoint: recipe and scores; empty if nothing does."""
    beside = path.with_suffix(".json")
    return json.loads(beside.read_text("utf-8")) if beside.is_file() else {}
