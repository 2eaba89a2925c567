"""The teacher's intents for transcripts."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stages.core.errors import CacheError
from stages.core.runtime import quiet_transformers
from stages.teacher.bert import load_classifier, predict

_FIX = "run `aln-pipeline train-teacher`"


def check_teacher(teacher: Path, intents: Sequence[str]) -> None:
    """Check that `teacher` is a finished teacher of these intents.

    Raises:
        CacheError: it is not.
    """
    try:
        config = json.loads((teacher / "config.json").read_text("utf-8"))
        labels = {int(number): name for number, name in config["id2label"].items()}
    except FileNotFoundError:
        raise CacheError("no teacher there", path=teacher, fix=_FIX) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"not a fine-tuned teacher ({error!r})", path=teacher, fix=_FIX
        ) from error
    found = [labels[number] for number in sorted(labels)]
    if found != list(intents):
        raise CacheError(
            "the teacher has other intents",
            path=teacher,
            found=f"{len(found)}",
            expected=f"the {len(intents)} of the corpus",
            fix=_FIX,
        )


def classify(
    teacher: Path, texts: pd.Series, intents: Sequence[str], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The intent of each of `texts`, and its probability."""
    distinct, rows = np.unique(texts.to_numpy(str), return_inverse=True)
    with quiet_transformers():
        classifier, tokenizer = load_classifier(teacher, device)
        numbers, confidences = predict(classifier, tokenizer, distinct.tolist())
    return np.array(intents)[numbers][rows], confidences[rows]
