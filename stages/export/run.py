"""Export a trained student: a folder that classifies recordings without torch.

    model.onnx         waveform and lengths in, probabilities out; see `graph.py`
    model.json         labels, threshold, accuracies, fingerprints
    README.md          a model card in Hugging Face's format
    requirements.txt   the packages that run it

The exported model classifies recordings of test before it is kept, and must give what
PyTorch gives. The same inputs give the same bytes.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from stages.acoustic.checkpoint import Checkpoint
from stages.core import metrics
from stages.core.checksums import write_sealed
from stages.core.errors import CacheError, ConfigurationError, InputError, PipelineError
from stages.core.files import whole_folder, write_text
from stages.core.hashing import hash_file
from stages.core.labels import Labels
from stages.core.results import require
from stages.core.runtime import progress
from stages.export.card import model_card
from stages.export.graph import whole_graph
from stages.export.inputs import TOLERANCE, TRACED_TOLERANCE, Inputs
from stages.export.quantisation import quantise
from stages.export.student import (
    REJECTION_FIX,
    Trained,
    describe,
    load_trained,
    probabilities,
)
from stages.inference.classifier import (
    ABOUT,
    FORMAT,
    MODEL,
    VERSION,
    IntentClassifier,
)
from stages.speech.loading import SAMPLE_RATE, load_audio
from stages.student.selection import choose_student

_CARD, _REQUIREMENTS = "README.md", "requirements.txt"
_FILES = {MODEL, ABOUT, _CARD, _REQUIREMENTS}
_PACKAGES = ("click", "numpy", "onnxruntime", "soundfile")

_CHECKED = 300
"""Recordings of test that PyTorch classifies too."""

_AT_ONCE = 64


@dataclass(frozen=True)
class Summary:
    """What was exported.

    Attributes:
        output: the folder.
        student: its name and seeds.
        size: of model.onnx in bytes.
        accuracy: on test, in percent, without rejection.
        checked: recordings that gave what PyTorch gives.
        before: size and accuracy before quantisation; None without.
    """

    output: Path
    student: str
    size: int
    accuracy: float
    checked: int
    before: tuple[int, float] | None

    def __str__(self) -> str:
        """One line for the terminal."""
        now = f"{self.size / 1e6:.2f} MB, {self.accuracy:.2f}% on test"
        weights = ""
        if self.before is not None:
            size, accuracy = self.before
            now = f"int8 {now} (float32 {size / 1e6:.2f} MB, {accuracy:.2f}%)"
            weights = "with float32 weights, "
        return (
            f"{self.output}: {self.student}, {now}; {weights}{self.checked} recordings "
            "of test give what PyTorch gives"
        )


def run(
    student: str | None,
    inputs: Inputs,
    *,
    output: Path,
    ensemble: bool = False,
    int8: bool = False,
) -> Summary:
    """Export a student to `output`, which it replaces.

    Args:
        student: name of the student; None for the best of all on valid.
        inputs: what it is exported from.
        output: a new or empty folder, or that of an earlier export.
        ensemble: export all seeds, which answer with the mean of their probabilities,
            instead of the best on valid.
        int8: store weights as 8-bit integers.

    Raises:
        ConfigurationError: there is no such student, or its encoder cannot be exported.
        CacheError: a result that is missing, damaged or made from something else.
        InputError: `output` is another folder, or a recording cannot be read.
        PipelineError: the exported model does not give what PyTorch gives.
    """
    target = _checked(output)
    student = student or choose_student(inputs.students)[0]
    if student not in inputs.students:
        raise ConfigurationError(
            "no such student",
            found=student,
            expected=f"one of {', '.join(inputs.students)}",
            fix="train it, or name one of these",
        )
    folder = inputs.students[student]
    _check_inputs(inputs)
    trained = load_trained(folder, inputs.acoustic, inputs.rejection, ensemble=ensemble)
    table = inputs.corpus.read_usable()
    about = _about(trained, inputs, table)
    with whole_folder(target) as temporary:
        graph = _graph(trained)
        classifier = _write(temporary, graph, about)
        checked = _check(classifier, trained, inputs.audio, table)
        before = None
        if int8:
            before = (
                (temporary / MODEL).stat().st_size,
                about["accuracy"]["test"],
            )
            about["weights"] = "int8"
            classifier = _write(temporary, quantise(graph), about)
            about["accuracy"] |= _accuracies(
                classifier, trained.labels, inputs.audio, table
            )
            write_sealed(temporary / ABOUT, about)
        card = model_card(about, trained.measured, inputs.report)
        write_text(temporary / _CARD, card)
        packages = [f"{name}=={version(name)}\n" for name in _PACKAGES]
        write_text(temporary / _REQUIREMENTS, "".join(packages))
        size = (temporary / MODEL).stat().st_size
    seeds = ", ".join(map(str, trained.seeds))
    return Summary(
        output=output,
        student=f"{student}, seed{'s' if ensemble else ''} {seeds}",
        size=size,
        accuracy=about["accuracy"]["test"],
        checked=checked,
        before=before,
    )


def _checked(output: Path) -> Path:
    """Where `output` is, if it can be replaced.

    Raises:
        InputError: it has something else than an earlier export.
    """
    output = Path(os.path.realpath(output))
    if output.is_dir():
        names = {path.name for path in output.iterdir()}
        others = names if ABOUT not in names else names - _FILES
        found = ", ".join(sorted(others))
    else:
        found = "a file" if output.exists() else ""
    if found:
        raise InputError(
            "not an empty folder or an earlier export",
            path=output,
            found=found,
            fix="name a new folder",
        )
    return output


def _check_inputs(inputs: Inputs) -> None:
    """Check that rejection and report are of this manifest and these students.

    And that rejection has the share in params.yaml, which decides the threshold.

    Raises:
        CacheError: they are not.
    """
    made_from = {"manifest": inputs.corpus.manifest}
    made_from |= {f"student {name}": path for name, path in inputs.students.items()}
    found = require(inputs.rejection, made_from, fix=REJECTION_FIX)
    share = found["parameters"]["share"]
    if share != inputs.share:
        raise CacheError(
            "made with another rejection.share",
            path=inputs.rejection,
            found=share,
            expected=inputs.share,
            fix=REJECTION_FIX,
        )
    require(inputs.report, made_from, fix="run `dvc repro report`")


def _graph(trained: Trained) -> onnx.ModelProto:
    if isinstance(trained.encoder, Checkpoint):
        encoder = trained.encoder.encoder
        return whole_graph(encoder, trained.networks, trained.confidence)
    # Imported late: transformers takes seconds.
    from stages.export.traced import traced_graph

    return traced_graph(trained.encoder, trained.networks, trained.confidence)


def _about(trained: Trained, inputs: Inputs, table: pd.DataFrame) -> dict[str, Any]:
    """The content of model.json, without the hash of the model."""
    folder, measured = inputs.students[trained.name], trained.measured
    files = [folder / f"model-{seed}.safetensors" for seed in trained.seeds]
    splits = table.groupby("split")
    return {
        "format": FORMAT,
        "version": VERSION,
        **describe(trained, inputs.longest_seconds),
        "sample_rate": SAMPLE_RATE,
        "weights": "float32",
        "student": trained.name,
        "seeds": trained.seeds,
        "accuracy": {
            "valid": measured["valid_accuracy"],
            "test": measured["test_accuracy"],
            "test_with_rejection": measured["test_accuracy_with_rejection"],
            **_by_slot(trained.labels, measured),
        },
        "trained_on": {
            "corpus": inputs.name,
            "encoder": trained.header.encoder,
            "utterances": splits.size().to_dict(),
            "speakers": splits["speaker"].nunique().to_dict(),
        },
        "fingerprints": {
            "manifest": hash_file(inputs.corpus.manifest),
            "features": trained.header.fingerprint,
            "students": {path.name: hash_file(path) for path in files},
        },
    }


def _by_slot(labels: Labels, scores: Mapping[str, float]) -> dict[str, Any]:
    """The accuracies on test by slot, as `model.json` has them; nothing without."""
    if not labels.has_slots:
        return {}
    return {"slots": {slot: scores[f"test_{slot}_accuracy"] for slot in labels.slots}}


def _write(
    folder: Path, graph: onnx.ModelProto, about: dict[str, Any]
) -> IntentClassifier:
    """Write the model and its description, and open them."""
    (folder / MODEL).write_bytes(graph.SerializeToString(deterministic=True))
    about["model_sha256"] = hash_file(folder / MODEL)
    write_sealed(folder / ABOUT, about)
    return IntentClassifier(folder)


def _check(
    classifier: IntentClassifier, trained: Trained, audio: Path, table: pd.DataFrame
) -> int:
    """Check that the exported model gives what PyTorch gives; returns for how many.

    Raises:
        PipelineError: it does not.
    """
    ours = isinstance(trained.encoder, Checkpoint)
    tolerance = TOLERANCE if ours else TRACED_TOLERANCE
    test = table[table["split"] == "test"]
    places = np.unique(np.linspace(0, len(test) - 1, _CHECKED).astype(int))
    paths = test["path"].iloc[places]
    labels = trained.labels
    for path in progress(paths, description="checking", unit="recording"):
        wave = load_audio(audio / path)
        given = classifier.model([wave]).probabilities
        expected = probabilities(trained, wave)[None]
        (found,), (best,) = map(labels.frames, map(labels.choose, (given, expected)))
        apart = np.abs(given - expected).max()
        if found != best or not apart <= tolerance:  # also for NaN
            raise PipelineError(
                "the exported model does not give what PyTorch gives, and is not kept",
                path=audio / path,
                found=f"{found}, a probability {apart:.1g} away",
                expected=f"{best}, within {tolerance:g}",
                fix="give the student's folder to --model instead",
            )
    return len(paths)


def _accuracies(
    classifier: IntentClassifier, labels: Labels, audio: Path, table: pd.DataFrame
) -> dict[str, Any]:
    """Accuracy on valid and test, in percent, as `model.json` has it."""
    found: dict[str, float] = {}
    scores: dict[str, float] = {}
    for split in ("valid", "test"):
        rows = table[table["split"] == split]
        predictions = list(_classify(classifier, audio, rows["path"]))
        intents = rows["intent"].tolist()
        best = [one.ranked[0][0] for one in predictions]
        measured = metrics.measure_frames(
            labels, {"intent": intents, "predicted": best}
        )
        scores |= {f"{split}_{name}": round(v, 6) for name, v in measured.items()}
        found[split] = scores[f"{split}_accuracy"]
        if split == "test":
            # Not `none`, which can be an intent.
            given = ["" if one.rejected else one.intent for one in predictions]
            right = metrics.accuracy(intents, given)
            found["test_with_rejection"] = round(right, 6)
    return {**found, **_by_slot(labels, scores)}


def _classify(
    classifier: IntentClassifier, audio: Path, paths: pd.Series
) -> Iterator[Any]:
    starts = range(0, len(paths), _AT_ONCE)
    for start in progress(starts, description="classifying", unit="batch"):
        some = paths.iloc[start : start + _AT_ONCE]
        yield from classifier([audio / path for path in some])
