"""Robustness: degrade the test split in known ways, and let every student classify it.

Reads the tables of the corpus, the recordings of test (and of train, where noise is
made of them), the encoder, the corpus's acoustic features, and the trained students.
Writes below `output`:

    <degradation>/         features of the degraded test split, a feature cache
    <degradation>.digest   its digest; removed when the degradation is not asked for
    predictions.csv        degradation,snr,system,seed,id,intent,predicted: of every
                           student under every degradation; snr in decibels, empty
                           without noise
    identity.json          what the predictions were made from

`clean`, the recordings as they are, is classified from the corpus's own features. A
degraded recording is never written: it goes from memory into the encoder. Its features
are keyed by the hash of the recording and a fingerprint of the encoder, the degradation
and `REVISION`. Cached features are not computed again, and an interrupted run resumes
from its finished parts.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from stages.acoustic.encoding import (
    FrozenEncoder,
    Runtime,
    as_stored,
    encode_recordings,
    open_encoder,
)
from stages.acoustic.params import AcousticParams
from stages.cache.digest import digest_path, write_digest
from stages.cache.format import Header
from stages.cache.store import CacheReader, CacheWriter
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import RecordingError
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint
from stages.core.results import identify, is_finished, record
from stages.core.runtime import RunOptions, choose_device, one_thread, progress
from stages.robustness.degradations import Degradation, make_degradations
from stages.robustness.params import REVISION, RobustnessParams
from stages.student.batches import Utterances
from stages.student.inputs import Inputs, Sources
from stages.student.trained import Network, load_networks, trained_seeds
from stages.student.training import classify

_PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class Summary:
    """What the stage wrote, or found."""

    output: Path
    degradations: int
    predictions: pd.DataFrame
    extracted: int | None = None  # None: up to date
    kept: int = 0

    def __str__(self) -> str:
        """One line for the terminal."""
        state, done = "up to date; ", ""
        if self.extracted is not None:
            state, done = "", f", {self.extracted} extracted now, {self.kept} kept"
        students = len(self.predictions[["system", "seed"]].drop_duplicates())
        return (
            f"{self.output}: {state}{students} students on "
            f"{self.predictions['id'].nunique()} recordings, clean and under "
            f"{self.degradations} degradations{done}"
        )


def run(
    params: RobustnessParams,
    acoustic: AcousticParams,
    corpus: CorpusFiles,
    *,
    audio: Path,
    features: Path,
    students: Mapping[str, Path],
    output: Path,
    options: RunOptions,
) -> Summary:
    """Bring every degradation's features up to date, and classify them all.

    Args:
        params: the degradations.
        acoustic: encoder and storage, as of the corpus's features.
        corpus: its tables.
        audio: the folder that the manifest's paths are relative to.
        features: the corpus's acoustic cache.
        students: folder by name, `baseline2` or `aln-0.8`.
        output: folder of the caches and the predictions.
        options: as of extraction, and force.

    Raises:
        ConfigurationError: parameters that cannot be used.
        InputError: a recording is missing or has changed; noise or impulse responses
            that cannot be used. Finished extraction is kept.
        CacheError: features or a student that are missing, damaged or of another
            encoder or corpus; or another run is writing.
    """
    trained_seeds(students)  # before anything that takes longer
    degradations = make_degradations(params, corpus.read_usable(), audio)
    identity = _identify(degradations, acoustic, corpus, features, students)
    digests = {digest_path(output / one.name) for one in degradations if one.change}
    complete = is_finished(output, identity) and all(map(Path.is_file, digests))
    if complete and not options.force:
        predictions = pd.read_csv(output / _PREDICTIONS)
        return Summary(output, len(degradations) - 1, predictions)
    inputs = Inputs(Sources(corpus, features))
    encoder, header, runtime = open_encoder(
        acoustic, inputs.acoustic.header, features, options
    )
    # Before extraction, which takes longer.
    classifiers = load_networks(students, inputs.labels, header)
    device = choose_device(options.device)
    test = inputs.tables["test"]
    recordings = (len(degradations) - 1) * test["audio_sha256"].nunique()
    steps = recordings + len(degradations) * len(classifiers)
    blocks: list[pd.DataFrame] = []
    extracted = 0
    with progress(total=steps, description="robustness", unit="step") as bar:
        for degradation in degradations:
            reader = inputs.acoustic
            if degradation.change is not None:
                reader, fresh = _extract(
                    degradation,
                    test,
                    header,
                    encoder,
                    runtime,
                    audio=audio,
                    output=output,
                    bar=bar,
                )
                extracted += fresh
            for block in _classify(degradation, classifiers, reader, inputs, device):
                blocks.append(block)
                bar.update()
    for path in set(output.glob("*.digest")) - digests:
        path.unlink()
    predictions = pd.concat(blocks)
    _write(output, predictions, identity)
    kept = recordings - extracted
    return Summary(output, len(degradations) - 1, predictions, extracted, kept)


def _write(output: Path, predictions: pd.DataFrame, identity: dict[str, Any]) -> None:
    with atomic_path(output / _PREDICTIONS) as temporary:
        predictions.to_csv(temporary, index=False, lineterminator="\n")
    record(output, identity, [_PREDICTIONS])


def _extract(
    degradation: Degradation,
    test: pd.DataFrame,
    header: Header,
    encoder: FrozenEncoder,
    runtime: Runtime,
    *,
    audio: Path,
    output: Path,
    bar: Any,
) -> tuple[CacheReader, int]:
    """Bring the cache and the digest of a degradation up to date.

    Returns:
        Its reader, and how many recordings were extracted now.
    """
    own = degraded_header(degradation, header)
    folder = output / degradation.name
    with CacheWriter(folder, own) as writer:
        distinct = test.drop_duplicates("audio_sha256")
        absent = set(writer.missing(distinct["audio_sha256"]))
        todo = distinct[distinct["audio_sha256"].isin(absent)]
        bar.update(len(distinct) - len(todo))
        encoded = encode_recordings(
            todo.sort_values(["seconds", "id"]),
            audio,
            encoder,
            runtime,
            graphs=output,
            change=degradation.change,
        )
        with closing(encoded):
            for row, one in encoded:
                if isinstance(one, RecordingError):
                    raise one
                writer.add(row.id, row.audio_sha256, as_stored(one, own.dtype))
                bar.update()
        writer.flush()
        pairs = zip(test["id"], test["audio_sha256"], strict=True)
        write_digest(digest_path(folder), folder, own.fingerprint, pairs)
    return CacheReader(folder, fingerprint=own.fingerprint), len(todo)


def degraded_header(degradation: Degradation, header: Header) -> Header:
    """The header of a degradation's cache, from that of the corpus's features."""
    made_from = degradation.identity
    named = {f"degradation {key}": value for key, value in made_from.items()}
    return replace(
        header,
        kind="robustness",
        fingerprint=fingerprint(
            {"features": header.fingerprint, "degradation": made_from}
        ),
        parameters={**header.parameters, **named},
    )


def _identify(
    degradations: list[Degradation],
    acoustic: AcousticParams,
    corpus: CorpusFiles,
    features: Path,
    students: Mapping[str, Path],
) -> dict[str, Any]:
    """What the predictions are made from."""
    parameters = {
        "acoustic": asdict(acoustic),
        # These have the contents of folders of noise, not only their names.
        "degradations": [{"name": one.name, **one.identity} for one in degradations],
        "students": list(students),
    }
    inputs: dict[str, Path | None] = {
        "manifest": corpus.manifest,
        "quarantine": corpus.quarantine,
        "acoustic": digest_path(features),
        **{f"student {name}": folder for name, folder in students.items()},
    }
    return identify("robustness", REVISION, parameters, inputs)


def _classify(
    degradation: Degradation,
    students: list[Network],
    reader: CacheReader,
    inputs: Inputs,
    device: torch.device,
) -> Iterator[pd.DataFrame]:
    """Each student's predictions of the test split under a degradation."""
    test = inputs.tables["test"]
    frames, offsets = reader.load(test["audio_sha256"].tolist())
    numbers = inputs.numbers("test")
    utterances = Utterances.from_arrays(frames, offsets, numbers, device=device)
    for system, seed, model in students:
        # As in training, so `clean` gives the same predictions.
        with one_thread():
            logits = classify(model.to(utterances.frames.device), utterances).numpy()
        yield pd.DataFrame(
            {
                "degradation": degradation.kind,
                "snr": "" if degradation.snr is None else f"{degradation.snr:g}",
                "system": system,
                "seed": seed,
                "id": test["id"].to_numpy(),
                "intent": test["intent"].to_numpy(),
                "predicted": inputs.labels.frames(inputs.labels.choose(logits)),
            }
        )
