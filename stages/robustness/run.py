"""Robustness: the test split spoilt in known ways, and what the students make of it.

Reads the manifest with `intents.json` beside it, the recordings of test (and of train,
where noise is made of them), the encoder, the corpus's acoustic features, and the
trained students. Writes below `output`:

    <condition>/          features of the test split under a condition, a feature cache
    <condition>.digest    its digest; none of a condition that is no longer asked for
    predictions.csv       condition,snr,system,seed,id,intent,predicted: every student
                          on every condition; snr in decibels, empty without noise

`clean`, the recordings as they are, is classified from the corpus's own features. A
degraded recording is never written: it goes from memory into the encoder, and its
features are known by the hash of the recording and a fingerprint of the encoder, the
condition and `conditions.REVISION`. What is cached for that pair is never computed
again, and an interrupted run goes on from its finished parts.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.acoustic.encoding import (
    FrozenEncoder,
    Runtime,
    as_stored,
    check_features,
    choose_runtime,
    encode_recordings,
    feature_header,
    load_encoder,
)
from stages.acoustic.params import AcousticParams
from stages.cache.digest import write_digest
from stages.cache.format import Header
from stages.cache.store import CacheReader, CacheWriter
from stages.core.errors import CacheError, RecordingError
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint
from stages.core.runtime import choose_device, one_thread, progress
from stages.robustness.degradations import Condition, make_conditions
from stages.robustness.params import RobustnessParams
from stages.student.batches import Utterances
from stages.student.inputs import Inputs, Job
from stages.student.model import AcousticLinguisticNetwork, load_student
from stages.student.params import StudentParams
from stages.student.training import classify

COLUMNS = ("condition", "snr", "system", "seed", "id", "intent", "predicted")
_STUDENT_FIX = "run `dvc repro -s student baseline2`, or `aln-pipeline train-student`"


@dataclass(frozen=True)
class Summary:
    """What the stage wrote."""

    output: Path
    conditions: int
    recordings: int
    students: int
    extracted: int
    kept: int

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.students} students on {self.recordings} recordings "
            f"under {self.conditions} conditions, {self.extracted} extracted now, "
            f"{self.kept} kept"
        )


@dataclass(frozen=True)
class Classifier:
    """A trained student, ready to classify."""

    system: str
    seed: int
    model: AcousticLinguisticNetwork


def run(
    params: RobustnessParams,
    acoustic: AcousticParams,
    *,
    manifest: Path,
    audio: Path,
    features: Path,
    digest: Path,
    quarantine: Path,
    students: Mapping[str, Path],
    output: Path,
    device: str = "auto",
    workers: int = 2,
    backend: str = "auto",
) -> Summary:
    """Bring every condition's features up to date, and classify them all.

    Args:
        params: the conditions.
        acoustic: encoder and storage, as of the corpus's features.
        manifest: the utterance table, with `intents.json` beside it.
        audio: the folder that its paths are relative to.
        features: the corpus's acoustic cache.
        digest: its digest.
        quarantine: names the recordings that are left out.
        students: folder by name, `baseline2` or `aln-0.8`.
        output: folder of the caches and of the predictions.
        device: auto, cpu or cuda.
        workers: as of extraction.
        backend: as of extraction.

    Raises:
        ConfigurationError: parameters that cannot be used.
        InputError: a recording is missing or has changed; noise or impulse responses
            that cannot be used. What was extracted before is kept.
        CacheError: features or a student that are missing, damaged or of another
            encoder or corpus; or another run is writing.
    """
    inputs = Inputs(
        Job(
            params=StudentParams(),
            system="baseline2",
            alpha=None,
            manifest=manifest,
            acoustic=features,
            acoustic_digest=digest,
            quarantine=quarantine,
            targets=None,
            targets_digest=None,
            device=device,
        )
    )
    encoder = load_encoder(acoustic)
    header = feature_header(encoder, acoustic)
    check_features(
        digest,
        inputs.acoustic.header,
        header,
        encoder=acoustic.encoder,
        fix="run `aln-pipeline extract-acoustic`, then train the students",
    )
    runtime = choose_runtime(encoder, acoustic, device, backend, workers)
    # Before anything is extracted, which takes longer.
    classifiers = [
        one
        for name, folder in students.items()
        for one in _load_classifiers(name, folder, inputs.intents, header)
    ]
    table = pd.concat(inputs.tables.values())
    conditions = make_conditions(params, table, audio)
    test = inputs.tables["test"]
    blocks: list[pd.DataFrame] = []
    extracted = kept = 0
    with progress(
        total=(len(conditions) - 1) * test["audio_sha256"].nunique()
        + len(conditions) * len(classifiers),
        description="robustness",
        unit="step",
    ) as bar:
        for condition in conditions:
            reader = inputs.acoustic
            if condition.change is not None:
                found, fresh, old = _extract(
                    condition, test, audio, encoder, header, runtime, output, bar
                )
                reader, extracted, kept = found, extracted + fresh, kept + old
            utterances = _load(reader, test, inputs, device)
            for one in classifiers:
                blocks.append(_classify(one, utterances, condition, test, inputs))
                bar.update()
    names = {condition.name for condition in conditions}
    for path in output.glob("*.digest"):
        if path.name.removesuffix(".digest") not in names:
            path.unlink()
    with atomic_path(output / "predictions.csv") as beside:
        pd.concat(blocks).to_csv(beside, index=False, lineterminator="\n")
    return Summary(
        output, len(conditions), len(test), len(classifiers), extracted, kept
    )


def condition_header(condition: Condition, header: Header) -> Header:
    """What a condition's cache says of its features.

    Args:
        condition: another than `clean`.
        header: of the corpus's own features.
    """
    identity = {"features": header.fingerprint, "condition": condition.identity}
    return replace(
        header,
        kind="robustness",
        fingerprint=fingerprint(identity),
        parameters={
            **header.parameters,
            **{f"condition {key}": value for key, value in condition.identity.items()},
        },
    )


def _extract(
    condition: Condition,
    test: pd.DataFrame,
    audio: Path,
    encoder: FrozenEncoder,
    header: Header,
    runtime: Runtime,
    output: Path,
    bar: Any,
) -> tuple[CacheReader, int, int]:
    """Bring a condition's cache and digest up to date.

    Returns:
        Its reader, and how many recordings were extracted now and before.
    """
    own = condition_header(condition, header)
    folder = output / condition.name
    with CacheWriter(folder, own) as writer:
        distinct = test.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
        absent = set(writer.missing(distinct["audio_sha256"]))
        todo = distinct[distinct["audio_sha256"].isin(absent)]
        bar.update(len(distinct) - len(todo))
        encoded = encode_recordings(
            todo, audio, encoder, runtime, graphs=output, change=condition.change
        )
        with closing(encoded):
            for row, one in encoded:
                if isinstance(one, RecordingError):
                    raise one
                writer.add(row.id, row.audio_sha256, as_stored(one, own.dtype))
                bar.update()
        writer.flush()
        pairs = zip(test["id"], test["audio_sha256"], strict=True)
        digest = output / f"{condition.name}.digest"
        write_digest(digest, folder, own.fingerprint, pairs)
    reader = CacheReader(folder, fingerprint=own.fingerprint)
    return reader, len(todo), len(distinct) - len(todo)


def _load(
    reader: CacheReader, test: pd.DataFrame, inputs: Inputs, device: str
) -> Utterances:
    frames, offsets = reader.load(test["audio_sha256"].tolist())
    labels = inputs.labels(test["intent"])
    return Utterances.from_arrays(frames, offsets, labels, device=choose_device(device))


def _classify(
    one: Classifier,
    utterances: Utterances,
    condition: Condition,
    test: pd.DataFrame,
    inputs: Inputs,
) -> pd.DataFrame:
    """What a student predicts under a condition, columns as `COLUMNS`."""
    # As in training, so that `clean` gives what training gave.
    with one_thread():
        model = one.model.to(utterances.frames.device)
        logits = classify(model, utterances)
    predicted = np.array(inputs.intents)[logits.argmax(1).numpy()]
    return pd.DataFrame(
        {
            "condition": condition.kind,
            "snr": "" if condition.snr is None else f"{condition.snr:g}",
            "system": one.system,
            "seed": one.seed,
            "id": test["id"].to_numpy(),
            "intent": test["intent"].to_numpy(),
            "predicted": predicted,
        }
    )[list(COLUMNS)]


def _load_classifiers(
    name: str, folder: Path, intents: list[str], header: Header
) -> list[Classifier]:
    """A student's networks, one a seed, held against corpus and encoder.

    Raises:
        CacheError: a file is missing or damaged, or of other intents or features.
    """
    path = folder / "metrics.json"
    try:
        seeds = [run["seed"] for run in json.loads(path.read_text("utf-8"))["seeds"]]
    except FileNotFoundError:
        raise CacheError(
            f"the student {name} is not trained", path=path, fix=_STUDENT_FIX
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"not the metrics of a student ({error!r})", path=path, fix=_STUDENT_FIX
        ) from error
    found = []
    for seed in seeds:
        path = folder / f"model-{seed}.safetensors"
        model, about = load_student(path)
        if about["acoustic_fingerprint"] != header.fingerprint:
            raise CacheError(
                "a student of another encoder's features",
                path=path,
                # Files of former versions do not name it.
                found=f"{about.get('acoustic_encoder', 'one without a name')} "
                + about["acoustic_fingerprint"][:12],
                expected=f"{header.encoder} {header.fingerprint[:12]}",
                fix=_STUDENT_FIX,
            )
        if about["intents"] != intents:
            raise CacheError(
                "a student of another corpus's intents",
                path=path,
                found=f"{len(about['intents'])} intents",
                expected=f"the {len(intents)} of intents.json",
                fix=_STUDENT_FIX,
            )
        found.append(Classifier(name, seed, model))
    return found
