"""Trained students, as the stages that classify other recordings need them."""

from collections.abc import Mapping
from pathlib import Path

from stages.cache.format import Header
from stages.core.errors import CacheError
from stages.core.labels import Labels
from stages.core.results import require
from stages.core.rules import shown
from stages.student.model import AcousticLinguisticNetwork, load_student

_FIX = (
    "run `dvc repro -s student baseline2 recommended`, or `aln-pipeline train-student`"
)

Network = tuple[str, int, AcousticLinguisticNetwork]
"""The name of a student, a seed, and the network."""


def trained_seeds(students: Mapping[str, Path]) -> dict[str, list[int]]:
    """The seeds of each student, by name.

    Args:
        students: folder by name, `baseline2` or `aln-0.8`.

    Raises:
        CacheError: a student is missing or damaged.
    """
    return {
        name: require(folder, {}, fix=_FIX)["parameters"]["seeds"]
        for name, folder in students.items()
    }


def load_networks(
    students: Mapping[str, Path], labels: Labels, header: Header
) -> list[Network]:
    """Every network of every student.

    Args:
        students: folder by name.
        labels: of the corpus.
        header: of the corpus's features.

    Raises:
        CacheError: one is missing, or was trained on features of another encoder, or
            other intents.
    """
    return [
        (name, seed, _load(students[name], seed, labels, header))
        for name, seeds in trained_seeds(students).items()
        for seed in seeds
    ]


def _load(
    folder: Path, seed: int, labels: Labels, header: Header
) -> AcousticLinguisticNetwork:
    """One network of a student.

    Raises:
        CacheError: it was trained on features of another encoder, or other intents.
    """
    path = folder / f"model-{seed}.safetensors"
    model, about = load_student(path)
    if about["acoustic_fingerprint"] != header.fingerprint:
        raise CacheError(
            "a student of another encoder's features",
            path=path,
            found=f"{about['acoustic_encoder']} {about['acoustic_fingerprint'][:12]}",
            expected=f"{header.encoder} {header.fingerprint[:12]}",
            fix=_FIX,
        )
    if about["intents"] != labels.to_json():
        raise CacheError(
            "a student of another corpus's intents",
            path=path,
            found=shown(about["intents"]),
            expected=f"those of intents.json, {shown(labels.to_json())}",
            fix=_FIX,
        )
    return model
