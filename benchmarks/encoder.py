"""The shipped encoder against controls, by the accuracy of Baseline-2.

Trains Baseline-2, the student that uses acoustic features alone, on the demo's train
split with three kinds of features: of the shipped encoder, of the same encoder randomly
initialised, and log-mel. Tests it under difficult conditions: accents and background
talk that pretraining never used; rooms and telephone lines that are simulated in
another way than in pretraining (see `stages/speech/effects.py`); and voices of another
synthesiser, flite, which are built from recordings of people. Without flite (`apt
install flite`, a build with the voices awb, kal16, rms and slt) these are skipped.

    python benchmarks/encoder.py            print the table
    python benchmarks/encoder.py --write    also write it to the checkpoint's .json

Needs the demo's recordings: run `aln-pipeline prepare-corpus` first.
"""

import argparse
import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchaudio

from stages.acoustic.checkpoint import frozen_encoder, load_checkpoint
from stages.acoustic.encoder import Encoder
from stages.acoustic.encoding import encode
from stages.acoustic.frames import FRAME_STEP, frame_count
from stages.core.files import write_json
from stages.core.labels import INTENT, Labels
from stages.core.manifest import read_labels, read_manifest
from stages.core.runtime import one_thread, progress
from stages.speech.loading import SAMPLE_RATE, load_audio
from stages.student.batches import Utterances
from stages.student.params import StudentParams, Variant
from stages.student.training import classify, train_student

log = logging.getLogger(__name__)

FLITE_VOICES = ("awb", "kal16", "rms", "slt")
_MELS = 80
_MEL_FRAMES = 4
"""Log-mel frames of 40 ms concatenated to the encoder's 160 ms."""

Features = Callable[[list[np.ndarray]], list[np.ndarray]]


def main() -> None:
    """Measure and print; with --write, also write the checkpoint's .json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--encoder", type=Path, default=Path("data/demo/encoder.safetensors")
    )
    parser.add_argument("--corpus", type=Path, default=Path("cache/demo"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = StudentParams(
        epochs=arguments.epochs, seeds=tuple(range(1, arguments.seeds + 1))
    )
    checkpoint = load_checkpoint(arguments.encoder)
    control = frozen_encoder(checkpoint.encoder.configuration, seed=1)
    systems: dict[str, Features] = {
        "trained": _encoded(checkpoint.encoder),
        "random": _encoded(control.encoder),
        "log_mel": _log_mel,
    }
    description = arguments.encoder.with_suffix(".json")
    notes = json.loads(description.read_text("utf-8"))
    recipes = [notes["recipe"]]
    if "began_with" in notes:
        recipes.append(notes["began_with"]["recipe"])
    held_out = [set(recipe["held_out_accents"]) for recipe in recipes]
    unseen = sorted(set.intersection(*held_out))
    train, valid, tests = _waves(arguments.corpus, unseen)
    means, deviations = {}, {}
    for name, features in systems.items():
        accuracies = _accuracies(params, features, train, valid, tests)
        means[name] = accuracies.mean()
        deviations[name] = accuracies.std().fillna(0)  # of a single seed: none
        shown = {name: means[name], "±": deviations[name]}
        print(pd.DataFrame(shown).round(2).to_string(), flush=True)
    conditions = pd.DataFrame(means).round(2)
    print(conditions.to_string())
    if arguments.write:
        notes["conditions"] = conditions.to_dict("index")
        notes["conditions_deviation"] = (
            pd.DataFrame(deviations).round(2).to_dict("index")
        )
        notes["conditions_measured"] = (
            f"Baseline-2 accuracy in percent, mean of {len(params.seeds)} seeds, "
            f"{params.epochs} epochs, trained on the demo's train split"
        )
        write_json(description, notes)


def _waves(corpus: Path, unseen: list[str]) -> tuple[tuple, tuple, dict[str, tuple]]:
    """Waves and class numbers of train, valid, and of every test condition."""
    table = read_manifest(corpus / "manifest.csv")
    intents = {
        name: number
        for number, name in enumerate(
            read_labels(corpus / "intents.json").slots[INTENT]
        )
    }
    table["label"] = table["intent"].map(intents)
    voices = pd.read_csv("data/demo/voices.csv").set_index("speaker")
    table["accent"] = np.where(
        table["speaker"].map(voices["accent"]).isin(unseen), "unseen", "seen"
    )
    conditions = pd.read_csv(corpus / "conditions.csv").set_index("id")["condition"]
    table["condition"] = table["id"].map(conditions)

    def load(rows: pd.DataFrame) -> tuple[list[np.ndarray], np.ndarray]:
        waves = [load_audio(corpus / "audio" / path) for path in rows["path"]]
        return waves, rows["label"].to_numpy()

    test = table[table["split"] == "test"]
    tests = {
        f"{accent} accents, {condition}": load(rows)
        for (accent, condition), rows in test.groupby(["accent", "condition"])
    }
    if shutil.which("flite"):
        tests |= _flite(intents)
    else:
        log.warning("flite is not installed: skipping its voices")
    return (
        load(table[table["split"] == "train"]),
        load(table[table["split"] == "valid"]),
        tests,
    )


def _flite(intents: dict[str, int]) -> dict[str, tuple]:
    """Every phrase of the demo in each of flite's voices, by wording."""
    phrases = pd.read_csv("data/demo/sentences.csv", keep_default_na=False)
    names = phrases["action"] + "|" + phrases["object"] + "|" + phrases["location"]
    phrases["label"] = names.map(intents)
    with tempfile.TemporaryDirectory() as folder:

        def speak(job: tuple[str, int]) -> np.ndarray:
            voice, number = job
            file = Path(folder) / f"{voice}-{number}.wav"
            text = phrases["text"][number]
            subprocess.run(
                ["flite", "-voice", voice, "-t", text, "-o", file],
                check=True,
                timeout=60,
            )
            return load_audio(file)

        tests = {}
        with ThreadPoolExecutor(2) as pool:
            for split, rows in phrases.groupby("split"):
                jobs = [
                    (voice, place) for voice in FLITE_VOICES for place in rows.index
                ]
                labels = np.tile(rows["label"].to_numpy(), len(FLITE_VOICES))
                known = "unseen" if split else "seen"
                name = f"voices of another synthesiser, {known} wordings"
                tests[name] = (list(pool.map(speak, jobs)), labels)
    return tests


def _encoded(encoder: Encoder) -> Features:
    def features(waves: list[np.ndarray]) -> list[np.ndarray]:
        return encode(encoder, waves)

    return features


def _log_mel(waves: list[np.ndarray]) -> list[np.ndarray]:
    """(frames, 320): four 40 ms means of 80 log-mel values, centred by utterance."""
    mel = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, n_fft=512, win_length=400, hop_length=160, n_mels=_MELS
    )
    per_frame = FRAME_STEP // 160
    results = []
    for wave in waves:
        frames = frame_count(len(wave))
        padded = np.pad(wave, (0, frames * FRAME_STEP - len(wave)))
        values = torch.log(mel(torch.from_numpy(padded)) + 1e-6)
        values = values[:, : frames * per_frame]
        values = values - values.mean(1, keepdim=True)
        # (mels, frames, 4, 4) -> the mean over 40 ms -> (frames, 4 * mels)
        parts = values.unflatten(1, (frames, _MEL_FRAMES, -1)).mean(3)
        results.append(parts.permute(1, 2, 0).flatten(1).numpy())
    return results


def _utterances(features: Features, waves: list[np.ndarray], labels: np.ndarray):  # type: ignore[no-untyped-def]
    order = np.argsort([len(wave) for wave in waves], kind="stable")
    rows: dict[int, np.ndarray] = {}
    for start in progress(range(0, len(order), 32), description="encoding"):
        group = order[start : start + 32]
        for place, one in zip(group, features([waves[i] for i in group]), strict=True):
            rows[int(place)] = one
    parts = [rows[place] for place in range(len(waves))]
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    return Utterances.from_arrays(
        np.concatenate(parts), offsets, labels[:, None].astype(np.int64)
    )


def _accuracies(
    params: StudentParams,
    features: Features,
    train: tuple,
    valid: tuple,
    tests: dict[str, tuple],
) -> pd.DataFrame:
    """Percent right, (seeds, conditions)."""
    trained = _utterances(features, *train)
    chosen = _utterances(features, *valid)
    held_out = {name: _utterances(features, *test) for name, test in tests.items()}
    # Controls have other scales; all features get zero mean and unit variance.
    mean, deviation = trained.frames.mean(0), trained.frames.std(0).clamp_min(1e-6)
    for one in (trained, chosen, *held_out.values()):
        one.frames.sub_(mean).div_(deviation)
        one.means.sub_(mean).div_(deviation)
    variant = Variant("baseline2", None, params)
    labels = Labels.of(f"{number:03d}" for number in trained.labels.flatten().tolist())
    network = {
        "system": variant.system,
        "acoustic_dim": trained.frames.shape[1],
        "linguistic_dim": None,
        "values": labels.sizes,
        "architecture": asdict(variant.architecture),
    }
    scores: dict[str, list[float]] = {name: [] for name in held_out}
    with one_thread():
        for seed in params.seeds:
            with progress(total=params.epochs, description="training") as bar:
                student = train_student(
                    variant,
                    seed,
                    network=network,
                    labels=labels,
                    train=trained,
                    valid=chosen,
                    count_epoch=bar.update,
                )
            model = student.model(torch.device("cpu"))
            for name, split in held_out.items():
                hits = classify(model, split).argmax(1) == split.labels[:, 0]
                scores[name].append(100 * float(hits.double().mean()))
    return pd.DataFrame(scores, index=list(params.seeds))


if __name__ == "__main__":
    main()
