"""What a report is made from, as the stages write it, with errors that can be counted.

The utterances of each split are numbered, and each seed of a student gets the first
ones wrong, which it takes for the next intent.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import DIM, HEADER, fill, write_tone

from stages.cache.digest import digest_path, write_digest
from stages.core.checksums import write_sums
from stages.core.corpus_files import CorpusFiles
from stages.core.hashing import hash_bytes
from stages.core.manifest import CORPUS_SUMS, write_manifest, write_quarantine
from stages.core.results import identify, record
from stages.core.runtime import RunOptions
from stages.core.text import normalise_text
from stages.report.params import ReportParams
from stages.report.run import Inputs, Summary, run
from stages.report.systems import HISTORY_COLUMNS

INTENTS = ["activate|lights|none", "bring|shoes|none", "increase|heat|none", "stop"]
SLOTS = ("action", "object", "where")
# Each is mistaken for the next one, which has another object. The first and third then
# have another place, the second and last, which train lacks, another action.
FRAMES = ["on|lights|none", "on|heat|den", "off|lights|den", "off|heat|none"]
PER_SPLIT = {"train": 8, "valid": 12, "test": 20}
CONDITIONS = ("clean", "noise | 5 dB")
# How many of a split's utterances, in order of id, each of two seeds gets wrong. ALN
# at 0.8 is the better one on valid, at 0.5 the better one on test.
Errors = Mapping[str, Mapping[str, tuple[int, ...]]]
ERRORS: Errors = {
    "baseline2": {"valid": (4, 5), "test": (6, 8)},
    "aln_linguistic-0.5": {"valid": (3, 3), "test": (5, 5)},
    "aln_linguistic-0.8": {"valid": (5, 4), "test": (4, 4)},
    "aln-0.5": {"valid": (3, 2), "test": (1, 1)},
    "aln-0.8": {"valid": (2, 1), "test": (4, 2)},
}
WITH_RECOMMENDED: Errors = {
    **ERRORS,
    "recommended": {"valid": (0, 0), "test": (1, 3)},
}
PERFECT: Errors = {**ERRORS, "aln-0.8": {"valid": (0, 0), "test": (0, 0)}}
ONE_SEED: Errors = {
    name: {split: counts[:1] for split, counts in of.items()}
    for name, of in ERRORS.items()
}
RECOMMENDED = {"transfer": "utterance", "standardisation": True, "soft_targets": 0.0}
RECOMMENDED |= {"teacher_classifier": False, "unlabelled": False, "gru_width": 2}
TEACHER_ERRORS = {"valid": 1, "test": 2}
# Utterances that each seed gets wrong in addition to its own errors, by degradation.
DEGRADATIONS = {
    ("clean", ""): 0,
    ("babble", "10"): 2,
    ("babble", "-5"): 6,
    ("room", ""): 3,
}
CONFIDENCE = {"baseline2": 0.6, "aln_linguistic": 0.7, "aln": 0.9, "recommended": 0.9}
PREDICTION_COLUMNS = ["id", "split", "intent", "predicted", "confidence"]


def build(
    folder: Path,
    *,
    errors: Errors = ERRORS,
    unusable: tuple[str, ...] = (),
    slots: tuple[str, ...] = (),
    change: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
    recordings: bool = False,
    **corpus: Any,
) -> Path:
    """Everything a report reads.

    Args:
        folder: where to, which is made.
        errors: of the students.
        unusable: ids that were set aside; the teacher alone reads their texts.
        slots: their names.
        change: of the manifest.
        recordings: whether the recordings of test, their features, and a network for
            each seed exist.
        corpus: of `utterances_of`.
    """
    folder.mkdir(parents=True)
    table = change(utterances_of(**corpus))
    if recordings:
        table = build_recordings(folder, table)
    else:
        fill(folder / "acoustic", [("a", "0" * 64, np.zeros((1, DIM), np.float32))])
    digest = digest_path(folder / "acoustic")
    write_digest(digest, folder / "acoustic", HEADER.fingerprint, [])
    write_manifest(folder / "manifest.csv", table, slots)
    write_quarantine(
        folder / "quarantine.csv",
        table[table["id"].isin(unusable)].assign(reason="no audio: a | b"),
    )
    build_teacher(folder / "teacher", table)
    table = table[~table["id"].isin(unusable)]
    build_recognised(folder / "baseline1", table)
    for name, counts in errors.items():
        student = folder / "student" / name
        build_student(student, table, counts, network=recordings)
    build_robustness(folder, table, errors)
    build_rejection(folder, errors)
    shares = {"train": 0.9012, "unseen": 0.5}
    (folder / "targets.json").write_text(json.dumps({"between_intents": shares}))
    (folder / "encoder.json").write_text(
        json.dumps(
            {
                "conditions": {
                    "unseen voices": {"trained": 95.5, "random": 87.0, "log_mel": 60},
                    "8 kHz": {"trained": 71.0, "random": 31.0, "log_mel": 27.25},
                },
                "recipe": {"hours": 10},
                "pretraining_scores": {"phoneme": {"seen": 74.5}, "word": 40.0},
            }
        )
    )
    return folder


def report(
    given: Path,
    output: Path,
    params: ReportParams | None = None,
    *,
    force: bool = False,
    **changes: Any,
) -> Summary:
    """Run the stage on what `build` wrote to `given`."""
    return run(
        params or ReportParams(audio="none"),
        replace(inputs_of(given), **changes),
        output=output,
        options=RunOptions(force=force),
    )


def inputs_of(given: Path) -> Inputs:
    """Everything in `given`."""
    students = [*ERRORS, "recommended"]
    return Inputs(
        name="demo",
        corpus=CorpusFiles(given),
        teacher=given / "teacher",
        targets=given / "targets.json",
        baseline1=given / "baseline1",
        students={
            name: given / "student" / name
            for name in students
            if (given / "student" / name).exists()
        },
        acoustic=given / "acoustic",
        audio=given,
        durations={"corpus": 1.5, "student aln-0.8": 4321.0},
        encoder_scores=given / "encoder.json",
        robustness=given / "robustness" / "predictions.csv",
        rejection=given / "rejection" / "rejection.json",
    )


def utterances_of(
    intents: list[str] = INTENTS,
    held_out: tuple[str, ...] = (),
    conditions: tuple[str, ...] = CONDITIONS,
) -> pd.DataFrame:
    """A manifest with conditions: two wordings of each intent in train, two more later.

    Train has each intent at least once but those `held_out`; test has the conditions.
    """
    rows = []
    trained = [intent for intent in intents if intent not in held_out]
    for split, count in PER_SPLIT.items():
        own = trained if split == "train" else intents
        for number in range(max(count, len(own)) if split == "train" else count):
            intent = own[number % len(own)]
            wording = number // len(intents) % (2 if split == "train" else 4)
            condition = None
            if conditions and split == "test":
                condition = conditions[number % len(conditions)]
            rows.append(
                {
                    "id": f"demo/{split}/{number:02d}",
                    "path": f"{split}/{number:02d}.wav",
                    "split": split,
                    "speaker": f"{split} {number % 3}",
                    "text": f"Please, {intent.split('|')[0]} NUMBER {wording}!",
                    "intent": intent,
                    "seconds": 1.5 + number / 10,
                    "audio_sha256": "0" * 64,
                    "condition": condition,
                }
            )
    return pd.DataFrame(rows)


def build_recordings(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Write the recordings of test and their features; the manifest with their hashes.

    A recording is 0.16 s per frame, and the first has 12 frames.
    """
    table, features = table.copy(), []
    generator = np.random.default_rng(1)
    test = table["split"] == "test"
    for number, (place, row) in enumerate(table[test].iterrows()):
        path = folder / row["path"]
        frames = 12 + number % 4
        write_tone(path, 300.0 + number, 0.16 * frames, number)
        key = table.loc[place, "audio_sha256"] = hash_bytes(path.read_bytes())
        values = generator.standard_normal((frames, DIM)).astype(np.float32)
        features.append((row["id"], key, values))
    fill(folder / "acoustic", features)
    return table


def mislabel(intents: pd.Series, errors: int, every: list[str]) -> list[str]:
    """The intents, the first `errors` of them replaced by the next intent."""
    return [
        every[(every.index(intent) + (place < errors)) % len(every)]
        for place, intent in enumerate(intents)
    ]


def predict(table: pd.DataFrame, confidence: float, **errors: int) -> pd.DataFrame:
    """The rows of valid and test with predictions, so many of each split wrong."""
    every = list(dict.fromkeys(table["intent"]))
    rows = {split: table[table["split"] == split] for split in errors}
    return pd.concat(
        rows[split].assign(predicted=mislabel(rows[split]["intent"], count, every))
        for split, count in errors.items()
    ).assign(confidence=confidence)


def build_student(
    folder: Path,
    table: pd.DataFrame,
    counts: Mapping[str, tuple[int, ...]],
    *,
    network: bool = False,
) -> None:
    """What a training writes, with so many errors by split and seed."""
    folder.mkdir(parents=True)
    kind, _, alpha = folder.name.partition("-")
    seeds = range(1, len(counts["test"]) + 1)
    pd.concat(
        predict(
            table,
            CONFIDENCE[kind],
            **{split: errors[seed - 1] for split, errors in counts.items()},
        ).assign(seed=seed)
        for seed in seeds
    )[["seed", *PREDICTION_COLUMNS]].to_csv(folder / "predictions.csv", index=False)
    history = [
        (seed, epoch, 1 / epoch, 0.5 / epoch if alpha else "", 1.0, 50.0)
        + 2 * (20.0 * epoch + seed,)
        for seed in seeds
        for epoch in (1, 2, 3)
    ]
    pd.DataFrame(history, columns=list(HISTORY_COLUMNS)).to_csv(
        folder / "history.csv", index=False
    )
    if alpha:
        build_embeddings(folder, table)
    # Accuracies on valid, for the choice of what is exported.
    right = [100 * (1 - errors / PER_SPLIT["valid"]) for errors in counts["valid"]]
    scores = [
        {"seed": seed, "valid_accuracy": value}
        for seed, value in zip(seeds, right, strict=True)
    ]
    metrics = {"seeds": scores, "valid_accuracy": statistics.fmean(right)}
    metrics |= {"system": "aln", "alpha": 0.25, "parameters": RECOMMENDED}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for seed in seeds if network else ():
        build_network(folder / f"model-{seed}.safetensors")
    finish(folder, seeds=list(seeds), selection="best_valid")


def build_embeddings(folder: Path, table: pd.DataFrame) -> None:
    """The teacher's vectors of valid, and the student's: 2 away, then 0.5."""
    ids = table.loc[table["split"] == "valid", "id"].to_numpy(dtype=str)
    generator = np.random.default_rng(0)
    teacher = generator.normal(size=(len(ids), 6)).astype(np.float32)
    np.savez(
        folder / "embeddings.npz",
        ids=ids,
        teacher=teacher,
        student_first=teacher + np.float32(2.0),
        student_last=teacher + np.float32(0.5),
    )


def build_network(path: Path) -> None:
    """A student that attends to features of `HEADER`."""
    import torch

    from stages.student.model import build, save_student
    from stages.student.params import Architecture

    arguments = {
        "system": "aln",
        "acoustic_dim": DIM,
        "linguistic_dim": 5,
        "values": [2],
        "architecture": asdict(Architecture(gru_width=3)),
    }
    torch.manual_seed(5)
    weights = {name: w.numpy() for name, w in build(arguments).state_dict().items()}
    metadata = {"network": arguments, "acoustic_fingerprint": HEADER.fingerprint}
    metadata["intents"] = ["x", "y"]
    save_student(path, weights, metadata)


def build_robustness(folder: Path, table: pd.DataFrame, errors: Errors) -> None:
    """What the robustness stage writes, with `DEGRADATIONS` more mistakes."""
    blocks = [
        predict(table, 0.5, test=count + more).assign(
            degradation=kind, snr=snr, system=name, seed=seed
        )
        for (kind, snr), more in DEGRADATIONS.items()
        for name, counts in errors.items()
        for seed, count in enumerate(counts["test"], 1)
    ]
    columns = ["degradation", "snr", "system", "seed", "id", "intent", "predicted"]
    output = folder / "robustness"
    output.mkdir()
    pd.concat(blocks)[columns].to_csv(output / "predictions.csv", index=False)
    finish(output, *students_in(folder))


def rejection_entry(temperature: float) -> dict[str, Any]:
    """An entry of the rejection stage, its figures made from `temperature`."""
    others = {
        kind: {
            "utterances": 10 * place,
            "seconds": 90.0 * place,
            "false_accepts": place + temperature,
            "false_accepts_per_hour": 100 * place + temperature,
            "auroc": 1 - place / 10,
        }
        for place, kind in enumerate(("speech", "noise", "silence"), 1)
    }
    return {
        "temperature": temperature,
        "score": "energy" if temperature > 1 else "max_probability",
        "threshold": 0.5,
        "valid_accuracy": 90.0,
        "test_accuracy": 80 + temperature,
        "valid_ece": 7.0,
        "valid_ece_calibrated": 1.0 + temperature,
        "test_ece": 8.0,
        "test_ece_calibrated": 2.0,
        "test_rejected": 6.0,
        "test_accuracy_with_rejection": 75.0,
        "valid_auroc": {"max_probability": 0.8, "energy": 0.9},
        "others": others,
        "curve": {kind: [[0, 0], [90, 10], [100, 100]] for kind in others},
    }


def build_rejection(folder: Path, errors: Errors) -> None:
    """What the rejection stage writes; seed s has the temperature s / 2 + 0.25."""
    students = {
        name: {
            "seeds": {
                str(seed): rejection_entry(seed / 2 + 0.25)
                for seed, _ in enumerate(counts["test"], 1)
            },
            "ensemble": rejection_entry(0.5),
        }
        for name, counts in errors.items()
    }
    output = folder / "rejection"
    output.mkdir()
    text = json.dumps({"share": 0.05, "students": students})
    (output / "rejection.json").write_text(text)
    finish(output, *students_in(folder))


def build_teacher(folder: Path, table: pd.DataFrame) -> None:
    """What the teacher writes, with `TEACHER_ERRORS` mistakes."""
    folder.mkdir()
    found = predict(table, 0.5, **TEACHER_ERRORS)[PREDICTION_COLUMNS]
    found.to_csv(folder / "predictions.csv", index=False)
    finish(folder)


def transcribe(place: int, split: str, text: str) -> str:
    """Substitute a word of each test utterance and delete one in the first three.

    Nothing is recognised in the first utterance of valid.
    """
    words = text.split()
    if split == "valid":
        return "" if place == 0 else " ".join(words)
    words[0] = "peas"
    return " ".join(words[: -1 if place < 3 else None])


def build_recognised(folder: Path, table: pd.DataFrame) -> None:
    """What the stage baseline1 writes, with the teacher's mistakes and one more."""
    folder.mkdir()
    errors = {split: count + 1 for split, count in TEACHER_ERRORS.items()}
    found = predict(table, 0.5, **errors)
    found["text"] = found["text"].map(normalise_text)
    found["transcript"] = [
        transcribe(int(id[-2:]), split, text)
        for id, split, text in zip(
            found["id"], found["split"], found["text"], strict=True
        )
    ]
    found[PREDICTION_COLUMNS].to_csv(folder / "predictions.csv", index=False)
    found[["id", "split", "text", "transcript"]].to_csv(
        folder / "transcripts.csv", index=False
    )
    (folder / "scores.json").write_text('{"recogniser": "a recogniser"}')
    finish(folder)


def students_in(given: Path) -> Iterator[Path]:
    """The folders of the students."""
    return (path.parent for path in given.glob("student/*/metrics.json"))


def finish(folder: Path, *students: Path, **parameters: Any) -> None:
    """Record `folder` as a result of the corpus, and of `students`."""
    (root,) = (one for one in folder.parents if (one / "manifest.csv").exists())
    files = {"manifest": root / "manifest.csv", "quarantine": root / "quarantine.csv"}
    files |= {f"student {path.name}": path for path in students}
    record(folder, identify("test", 1, parameters, files))


def finish_all(root: Path) -> None:
    """Record every result below `root` again, after a change."""
    for path in sorted(root.rglob("identity.json"), key=lambda path: len(path.parts)):
        parameters = json.loads(path.read_text())["parameters"]
        finish(path.parent, **parameters)
    for stage in ("robustness", "rejection"):
        finish(root / stage, *students_in(root))


def seal_corpus(folder: Path) -> None:
    """The sums of the corpus' tables, after a change."""
    write_sums(folder / CORPUS_SUMS, ["manifest.csv", "intents.json", "conditions.csv"])


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_csv(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change a table; every field is a string."""
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(
        path, index=False
    )
