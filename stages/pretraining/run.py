"""Pretraining the encoder on synthetic speech, as Lugosch et al. 2019 did on real.

Reads: a list of frequent words, the synthesiser, the demo corpus's voices (to avoid),
perhaps a checkpoint to begin with and what stands beside it.
Writes: the checkpoint (safetensors) and beside it a `.json` with recipe and scores;
while it works, `<work>/speech-*/session-*.np[yz]` (speech and its alignment) and
`<work>/training-*.pt`, from which an interrupted run goes on.
"""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from stages.acoustic.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from stages.acoustic.encoder import Encoder, EncoderConfiguration
from stages.core.errors import InputError
from stages.core.files import atomic_path, locked, write_json
from stages.core.hashing import fingerprint, hash_file
from stages.core.runtime import choose_device, progress, seed_everything
from stages.pretraining.augmentation import augment
from stages.pretraining.crops import SILENCE, Batch, Crops
from stages.pretraining.params import PretrainingParams
from stages.pretraining.peers import Peers, accompanied
from stages.pretraining.recurrence import BidirectionalGRU
from stages.pretraining.sentences import grammar_words
from stages.pretraining.sessions import (
    IGNORED,
    load_session,
    phoneme_inventory,
    plan_sessions,
    speak_sessions,
    speech_name,
)
from stages.speech import synthesis
from stages.speech.loading import SAMPLE_RATE
from stages.speech.words import frequent_words

log = logging.getLogger(__name__)

# Raised when the same parameters and speech train otherwise, so that no training goes
# on from one of another kind.
_VERSION = 3

_PIECE = 8  # crops


@dataclass(frozen=True)
class _Training:
    """What every process of a training knows.

    Attributes:
        params: how it is trained.
        speech: folder of the sessions.
        phonemes, words: what the classes are called, silence first.
        start: checkpoint whose weights it begins with; None for random ones.
        saved: where it goes on from.
        device: a CPU or CUDA device of torch.
    """

    params: PretrainingParams
    speech: Path
    phonemes: tuple[str, ...]
    words: tuple[str, ...]
    start: Path | None
    saved: Path
    device: str


def run(
    params: PretrainingParams,
    *,
    avoided_voices: Path,
    output: Path,
    work: Path,
    start: Path | None = None,
    device: str = "auto",
    workers: int = 2,
) -> dict[str, float]:
    """Speak, train, score, and write the checkpoint; goes on from an earlier run.

    Args:
        params: of speech and training.
        avoided_voices: CSV with a column `variant`: voices never heard.
        output: the checkpoint, safetensors.
        work: folder for speech and what an interrupted run goes on from.
        start: a checkpoint whose weights it begins with; random ones without. Classes
            that it does not have begin at random.
        device: `auto`, `cpu` or `cuda`.
        workers: processes that speak and, on a CPU, share each step's crops.

    Returns:
        the scores on held-out voices and accents, percent.

    Raises:
        ConfigurationError: an unknown accent or variant.
        InputError: no usable checkpoint at `start`.
        CacheError: another process works in `work`.
        PipelineError: one of the processes died.
    """
    target = choose_device(device)
    before = None if start is None else _described(start)
    words, shares = frequent_words(params.vocabulary)
    vocabulary = sorted({*words, *grammar_words()})
    plans = plan_sessions(params, avoided_voices, words, shares)
    # Named after what is said, so that other training parameters reuse the speech.
    said = speech_name(plans, vocabulary)
    decisive = {
        "version": _VERSION,
        "speech": said,
        "start": before and before["sha256"],
        **asdict(params),
    }
    del decisive["checkpoint_steps"]
    with locked(work):
        speech = work / f"speech-{said}"
        sessions = speak_sessions(plans, vocabulary, speech, workers)
        heard, held_out = sessions[: params.sessions], sessions[params.sessions :]
        training = _Training(
            params,
            speech,
            tuple(phoneme_inventory(sessions)),
            ("<silence>", *vocabulary),
            start,
            work / f"training-{fingerprint(decisive)[:12]}.pt",
            str(target),
        )
        encoder = _begun(training)
        crops = Crops(heard, training.phonemes)
        processes = min(workers, _pieces(params)) if target.type == "cpu" else 1
        with accompanied(processes, _follow, training) as peers:
            _train(training, encoder, crops, peers)
    scores = _score(encoder.cpu().eval(), Crops(held_out, training.phonemes))
    save_checkpoint(output, encoder, training.phonemes, training.words)
    hours = sum(len(one.audio) for one in heard) / SAMPLE_RATE / 3600
    notes = {
        "recipe": asdict(params),
        "corpus": {
            "synthesiser": f"espeak-ng {synthesis.version()}",
            "hours": round(hours, 2),
            "phonemes": len(training.phonemes),
            "words": len(vocabulary),
        },
        "pretraining_scores": scores,
    }
    if before is not None:
        notes["began_with"] = before
    write_json(output.with_suffix(".json"), notes)
    return scores


def _described(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's hash, and what stands beside it of how it was made."""
    load_checkpoint(checkpoint)  # refused now, not after minutes of speaking
    beside = checkpoint.with_suffix(".json")
    notes: Any = {}
    if beside.is_file():
        try:
            notes = json.loads(beside.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"not readable as JSON ({error})", path=beside) from error
    if not isinstance(notes, dict):
        raise InputError(
            "not what pretraining writes beside a checkpoint",
            path=beside,
            found=type(notes).__name__,
            expected="a JSON object",
            fix="remove the file, or put the right one there",
        )
    # What it is worth (`conditions…`) is measured later, and of its own weights.
    notes = {name: notes[name] for name in notes if not name.startswith("conditions")}
    return {"sha256": hash_file(checkpoint), **notes}


def _begun(training: _Training) -> Encoder:
    """The encoder as training begins; the same in every process."""
    seed_everything(training.params.seed)
    start = None if training.start is None else load_checkpoint(training.start)
    sizes = (
        EncoderConfiguration(front_end="log-cmn")
        if start is None
        else start.encoder.configuration
    )
    configuration = replace(
        sizes, phonemes=len(training.phonemes), words=len(training.words), ctc=True
    )
    if training.device == "cpu":
        encoder = Encoder(configuration, BidirectionalGRU)
    else:  # CUDA's own is faster.
        encoder = Encoder(configuration)
    if start is not None:
        _take_over(encoder, training, start)
    return encoder.to(training.device)


@torch.no_grad()
def _take_over(encoder: Encoder, training: _Training, start: Checkpoint) -> None:
    """Give `encoder` the weights of `start`, those of classes by their names."""
    blank = ("<blank>",)
    classes = {
        "phoneme_linear": (training.phonemes, start.phonemes),
        "word_linear": (training.words, start.words),
        "ctc_linear": (blank + training.phonemes, blank + start.phonemes),
    }
    given = start.encoder.state_dict()
    for name, weight in encoder.state_dict().items():
        if (head := name.split(".")[0]) not in classes:
            weight.copy_(given[name])
        elif name in given:
            mine, theirs = classes[head]
            rows = {one: row for row, one in enumerate(theirs)}
            for row, one in enumerate(mine):
                if one in rows:
                    weight[row] = given[name][rows[one]]


def _follow(peers: Peers, training: _Training) -> None:
    """What another process than the first does."""
    sessions = [
        load_session(training.speech, number)
        for number in range(training.params.sessions)
    ]
    _train(training, _begun(training), Crops(sessions, training.phonemes), peers)


def _pieces(params: PretrainingParams) -> int:
    """Parts of a batch, each drawn by itself, so that any process can have any part."""
    return math.ceil(params.batch_size / _PIECE)


def _draw(params: PretrainingParams, crops: Crops, step: int, peers: Peers) -> Batch:
    """This process's share of a step's crops."""
    seconds = float(np.random.default_rng((params.seed, step)).choice(params.lengths))
    parts = []
    for piece in range(peers.rank, _pieces(params), peers.count):
        # Seeded by step, so that a resumed run sees what an unbroken one would.
        generator = np.random.default_rng((params.seed, step, 1 + piece))
        noise = torch.Generator().manual_seed(int(generator.integers(2**62)))
        size = min(_PIECE, params.batch_size - piece * _PIECE)
        part = crops.draw(size, seconds, generator)
        parts.append(replace(part, waves=augment(part.waves, noise)))
    return Batch(
        *(
            torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(Batch)
        )
    )


def _train(training: _Training, encoder: Encoder, crops: Crops, peers: Peers) -> None:
    """Train `encoder`, in step with the other processes."""
    params, saved = training.params, training.saved
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
        state = torch.load(saved, map_location=training.device, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
        log.info("going on from step %d", first)
    bar = progress(
        total=params.steps,
        description="pretraining",
        unit="step",
        shown=peers.rank == 0,
    )
    bar.update(first)
    encoder.train()
    began = time.monotonic()
    weights = list(encoder.parameters())
    factors = torch.tensor([1.0, 1.0, params.ctc_weight], device=training.device)
    for step in range(first, params.steps):
        batch = _draw(params, crops, step, peers)
        batch = Batch(*(one.to(training.device) for one in vars(batch).values()))
        sums, counts = _losses(encoder, batch)
        losses = sums / peers.sum(counts).clamp(min=1).to(sums.device)
        optimizer.zero_grad()
        (losses * factors).sum().backward()
        _add_up(weights, peers)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        shown = peers.sum(losses.detach().cpu()).tolist()
        bar.update()
        bar.set_postfix_str("phonemes {:.2f} words {:.2f} ctc {:.2f}".format(*shown))
        if peers.rank == 0 and (
            (step + 1) % params.checkpoint_steps == 0 or step + 1 == params.steps
        ):
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


def _add_up(weights: list[nn.Parameter], peers: Peers) -> None:
    """Replace each weight's gradient by its sum over the processes."""
    if peers.count == 1:
        return
    gradients = [one.grad for one in weights if one.grad is not None]
    # The sinc filters' are double.
    whole = peers.sum(torch.cat([one.flatten().float() for one in gradients]))
    for one, part in zip(
        gradients, whole.split([one.numel() for one in gradients]), strict=True
    ):
        one.copy_(part.view_as(one))


def _losses(encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of phonemes, of words, and CTC over the phonemes.

    Returns:
        their sums (3), over frames of phonemes, frames with a known word, and crops,
        of which CTC is a mean over phonemes; and these counts (3), on the CPU.
    """
    assert encoder.ctc_linear is not None
    hidden, _ = encoder.phoneme_module(batch.waves)
    features, _ = encoder.word_module(hidden, None)
    phoneme_loss = functional.cross_entropy(
        encoder.phoneme_linear(hidden).flatten(0, 1),
        batch.phonemes.flatten(),
        reduction="sum",
    )
    word_loss = functional.cross_entropy(
        encoder.word_linear(features).flatten(0, 1),
        batch.words.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    targets, lengths = _sequences(batch.phonemes)
    ctc_losses = functional.ctc_loss(
        encoder.ctc_linear(hidden).log_softmax(2).transpose(0, 1),
        targets,
        torch.full((len(hidden),), hidden.shape[1]),
        lengths,
        reduction="none",
        zero_infinity=True,
    )
    ctc_loss = (ctc_losses / lengths.clamp(min=1)).sum()
    known = int((batch.words != IGNORED).sum())
    counts = torch.tensor([batch.phonemes.numel(), known, len(batch.waves)])
    return torch.stack([phoneme_loss, word_loss, ctc_loss]), counts.float()


def _sequences(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frame classes -> phoneme sequences for CTC: no repeats, no silence, one up."""
    changes = functional.pad(frames[:, 1:] != frames[:, :-1], (1, 0), value=True)
    kept = changes & (frames != SILENCE)
    return frames[kept] + 1, kept.sum(1)


@torch.inference_mode()
def _score(encoder: Encoder, crops: Crops) -> dict[str, float]:
    """Percent of frames right on held-out voices and accents, clean and augmented.

    Silence is left out of phonemes and words alike.
    """
    assert encoder.ctc_linear is not None
    scores = {}
    for condition in ("clean", "augmented"):
        generator = np.random.default_rng(0)
        noise = torch.Generator().manual_seed(0)
        right = {"phoneme": [], "word": []}  # type: dict[str, list[Tensor]]
        wrong = total = 0
        for _ in range(10):
            batch = crops.draw(32, 2.56, generator)
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
