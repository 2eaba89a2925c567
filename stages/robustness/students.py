"""The trained students, checked against the corpus and the encoder."""

import json
from dataclasses import dataclass
from pathlib import Path

from stages.cache.format import Header
from stages.core.errors import CacheError
from stages.student.model import AcousticLinguisticNetwork, load_student

_FIX = "run `dvc repro -s student baseline2`, or `aln-pipeline train-student`"


@dataclass(frozen=True)
class Classifier:
    """A trained student, ready to classify."""

    system: str
    seed: int
    model: AcousticLinguisticNetwork


def load_classifiers(
    name: str, folder: Path, intents: list[str], header: Header
) -> list[Classifier]:
    """The networks of a student, one for each seed.

    Args:
        name: of the student, `baseline2` or `aln-0.8`.
        folder: where it was trained.
        intents: of the corpus.
        header: of the corpus's acoustic features.

    Raises:
        CacheError: a file is missing or damaged, or has other intents or features.
    """
    path = folder / "metrics.json"
    try:
        seeds = [run["seed"] for run in json.loads(path.read_text("utf-8"))["seeds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"the student {name} is not trained, or damaged", path=path, fix=_FIX
        ) from error
    found = []
    for seed in seeds:
        path = folder / f"model-{seed}.safetensors"
        model, about = load_student(path)
        if about["acoustic_fingerprint"] != header.fingerprint:
            raise CacheError(
                "a student of another encoder's features",
                path=path,
                found=f"{about['acoustic_encoder']} "
                f"{about['acoustic_fingerprint'][:12]}",
                expected=f"{header.encoder} {header.fingerprint[:12]}",
                fix=_FIX,
            )
        if about["intents"] != intents:
            raise CacheError(
                "a student of another corpus's intents",
                path=path,
                found=f"{len(about['intents'])} intents",
                expected=f"the {len(intents)} of intents.json",
                fix=_FIX,
            )
        found.append(Classifier(name, seed, model))
    return found
