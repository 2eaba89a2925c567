"""Pretraining an encoder on synthetic speech, as Lugosch et al. 2019 did on real.

Reads a list of frequent words, the demo corpus's voices (to avoid them) and optionally
a checkpoint to start from, with the `.json` next to it. Writes the checkpoint
(safetensors) and a `.json` next to it with the recipe and scores. Its work folder has
`speech-*/session-*.np[yz]` (speech and its alignment) and `training-*.pt`, from which
an interrupted run resumes.
"""

import json
import logging
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from stages.acoustic.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from stages.acoustic.encoder import Encoder, EncoderConfiguration
from stages.core.checkpoint import read_checkpoint, write_checkpoint
from stages.core.errors import InputError
from stages.core.files import locked, write_json
from stages.core.hashing import fingerprint, hash_file
from stages.core.runtime import RunOptions, choose_device, progress, seed_everything
from stages.pretraining.augmentation import augment
from stages.pretraining.crops import SILENCE, Batch, Crops
from stages.pretraining.params import REVISION, PretrainingParams
from stages.pretraining.sessions import (
    IGNORED,
    phoneme_inventory,
    plan_sessions,
    speak_sessions,
    speech_name,
)
from stages.speech import synthesis
from stages.speech.loading import SAMPLE_RATE
from stages.speech.sentences import grammar_words
from stages.speech.words import frequent_words

log = logging.getLogger(__name__)

_PIECE = 8  # crops drawn and augmented together


def run(
    params: PretrainingParams,
    *,
    avoided_voices: Path,
    output: Path,
    work: Path,
    start: Path | None,
    options: RunOptions,
) -> dict[str, float]:
    """Synthesise speech, train on it, score, and write the checkpoint.

    Args:
        params: of speech and training.
        avoided_voices: CSV with a column `variant`: voices that are not used.
        output: the checkpoint, safetensors.
        work: folder of the speech and of what an interrupted run resumes from.
        start: a checkpoint whose weights training starts from; None for random ones.
            Classes that it does not have start at random.
        options: how to run; workers are processes that speak.

    Returns:
        the scores on held-out voices and accents, percent.

    Raises:
        ConfigurationError: an unknown accent or variant.
        InputError: no usable checkpoint at `start`.
        CacheError: another process is working in `work`.
    """
    device = choose_device(options.device)
    before = None if start is None else load_checkpoint(start)
    notes: dict[str, Any] = {"recipe": asdict(params)}
    if start is not None:
        notes["began_with"] = _read_notes(start)
    words, shares = frequent_words(params.vocabulary)
    vocabulary = sorted({*words, *grammar_words()})
    plans = plan_sessions(params, avoided_voices, words, shares)
    # Named after its content, so that other training parameters reuse the speech.
    name = speech_name(plans, vocabulary)
    with locked(work):
        folder = work / f"speech-{name}"
        sessions = speak_sessions(plans, vocabulary, folder, options.workers)
        trained, held_out = sessions[: params.sessions], sessions[params.sessions :]
        phonemes, classes = phoneme_inventory(sessions), ["<silence>", *vocabulary]
        seed_everything(params.seed)
        encoder = _initial_encoder(phonemes, classes, before).to(device)
        identity = _identify(params, name, start)
        saved = work / f"training-{identity[:12]}.pt"
        _train(params, encoder, Crops(trained, phonemes), saved, identity)
    scores = _score(encoder.cpu().eval(), Crops(held_out, phonemes))
    save_checkpoint(output, encoder, tuple(phonemes), tuple(classes))
    seconds = sum(len(one.audio) for one in trained) / SAMPLE_RATE
    notes["corpus"] = {
        "synthesiser": f"espeak-ng {synthesis.version()}",
        "hours": round(seconds / 3600, 2),
        "phonemes": len(phonemes),
        "words": len(vocabulary),
    }
    notes["pretraining_scores"] = scores
    write_json(output.with_suffix(".json"), notes)
    return scores


def _read_notes(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's hash, and its `.json` except what was measured later."""
    path = checkpoint.with_suffix(".json")
    notes: Any = {}
    if path.is_file():
        try:
            notes = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"not readable as JSON ({error})", path=path) from error
    if not isinstance(notes, dict):
        raise InputError(
            "not the description of a checkpoint that pretraining writes",
            path=path,
            found=type(notes).__name__,
            expected="a JSON object",
            fix="remove the file, or replace it with the right one",
        )
    notes = {name: notes[name] for name in notes if not name.startswith("conditions")}
    return {"sha256": hash_file(checkpoint), **notes}


def _identify(params: PretrainingParams, speech: str, start: Path | None) -> str:
    """A hash of everything that determines the trained weights."""
    parameters = asdict(params)
    del parameters["checkpoint_steps"]
    return fingerprint(
        {
            "revision": REVISION,
            "speech": speech,
            "start": None if start is None else hash_file(start),
            **parameters,
        }
    )


def _initial_encoder(
    phonemes: list[str], words: list[str], start: Checkpoint | None
) -> Encoder:
    """The encoder before training: random weights, or those of `start`."""
    if start is None:
        sizes = EncoderConfiguration(front_end="log-cmn")
    else:
        sizes = start.encoder.configuration
    encoder = Encoder(
        replace(sizes, phonemes=len(phonemes), words=len(words), ctc=True)
    )
    if start is not None:
        _copy_weights(encoder, phonemes, words, start)
    return encoder


@torch.no_grad()
def _copy_weights(
    encoder: Encoder, phonemes: list[str], words: list[str], start: Checkpoint
) -> None:
    """Copy the weights of `start` to `encoder`, those of classes by name."""
    classes = {
        "phoneme_linear": (phonemes, start.phonemes),
        "word_linear": (words, start.words),
        "ctc_linear": (["<blank>", *phonemes], ("<blank>", *start.phonemes)),
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


def _train(
    params: PretrainingParams,
    encoder: Encoder,
    crops: Crops,
    saved: Path,
    identity: str,
) -> None:
    """Train `encoder`, resuming from the checkpoint `saved` if it has `identity`."""
    weights = list(encoder.parameters())
    device = weights[0].device
    optimizer = torch.optim.AdamW(weights, lr=params.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        params.learning_rate,
        total_steps=params.steps,
        pct_start=0.08,
        final_div_factor=1000,
    )
    first = 0
    if state := read_checkpoint(saved, identity):
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
        log.info("resuming from step %d", first)
    encoder.train()
    factors = torch.tensor([1.0, 1.0, params.ctc_weight], device=device)
    bar = progress(total=params.steps, description="pretraining", unit="step")
    bar.update(first)
    for step in range(first, params.steps):
        batch = _draw(params, crops, step)
        batch = Batch(*(one.to(device) for one in vars(batch).values()))
        losses = _losses(encoder, batch)
        optimizer.zero_grad()
        (losses * factors).sum().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        shown = "phonemes {:.2f} words {:.2f} ctc {:.2f}".format(*losses.tolist())
        bar.update()
        bar.set_postfix_str(shown)
        done = step + 1
        if done % params.checkpoint_steps == 0 or done == params.steps:
            log.info("step %d of %d; losses: %s", done, params.steps, shown)
            state = {
                "encoder": encoder.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": done,
            }
            write_checkpoint(saved, identity, state)
    bar.close()


def _draw(params: PretrainingParams, crops: Crops, step: int) -> Batch:
    """The crops of a step, augmented."""
    # Seeded by step, so that a resumed run draws what an uninterrupted one would.
    seconds = float(np.random.default_rng((params.seed, step)).choice(params.lengths))
    parts = []
    for piece in range(math.ceil(params.batch_size / _PIECE)):
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


def _losses(encoder: Encoder, batch: Batch) -> Tensor:
    """Cross-entropy of phonemes and of words, and CTC of the phonemes, (3,).

    Means over frames, over frames whose word is known, and over crops, of which CTC is
    a mean over phonemes. 0 where no word is known.
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
    counts = (batch.phonemes.numel(), max(known, 1), len(batch.waves))
    sums = torch.stack([phoneme_loss, word_loss, ctc_loss])
    return sums / torch.tensor(counts, device=sums.device)


def _sequences(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frame classes -> CTC targets: no repeats, no silence, plus 1 (0 is blank)."""
    changes = functional.pad(frames[:, 1:] != frames[:, :-1], (1, 0), value=True)
    kept = changes & (frames != SILENCE)
    return frames[kept] + 1, kept.sum(1)


@torch.inference_mode()
def _score(encoder: Encoder, crops: Crops) -> dict[str, float]:
    """Scores on held-out voices and accents, clean and augmented, percent.

    Silence counts neither as a phoneme nor as a word.
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
