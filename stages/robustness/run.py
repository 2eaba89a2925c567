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

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
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
from stages.robustness.students import Classifier, load_classifiers
from stages.student.batches import Utterances
from stages.student.inputs import Inputs, Sources
from stages.student.training import classify

_PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class Summary:
    """What the stage wrote, or found."""

    output: Path
    degradations: int
    recordings: int
    students: int
    extracted: int | None  # None: up to date
    kept: int

    def __str__(self) -> str:
        """One line for the terminal."""
        state, done = "up to date; ", ""
        if self.extracted is not None:
            state, done = "", f", {self.extracted} extracted now, {self.kept} kept"
        return (
            f"{self.output}: {state}{self.students} students on {self.recordings} "
            f"recordings, clean and under {self.degradations} degradations{done}"
        )


@dataclass(frozen=True)
class _Extraction:
    """How degraded recordings become cached features."""

    audio: Path
    output: Path
    encoder: FrozenEncoder
    header: Header  # of the corpus's own features
    runtime: Runtime
    bar: Any

    def extract(
        self, degradation: Degradation, test: pd.DataFrame
    ) -> tuple[CacheReader, int]:
        """Bring a degradation's cache and digest up to date.

        Returns:
            Its reader, and how many recordings were extracted now.
        """
        own = degraded_header(degradation, self.header)
        folder = self.output / degradation.name
        with CacheWriter(folder, own) as writer:
            distinct = test.drop_duplicates("audio_sha256")
            absent = set(writer.missing(distinct["audio_sha256"]))
            todo = distinct[distinct["audio_sha256"].isin(absent)]
            self.bar.update(len(distinct) - len(todo))
            encoded = encode_recordings(
                todo.sort_values(["seconds", "id"]),
                self.audio,
                self.encoder,
                self.runtime,
                graphs=self.output,
                change=degradation.change,
            )
            with closing(encoded):
                for row, one in encoded:
                    if isinstance(one, RecordingError):
                        raise one
                    writer.add(row.id, row.audio_sha256, as_stored(one, own.dtype))
                    self.bar.update()
            writer.flush()
            pairs = zip(test["id"], test["audio_sha256"], strict=True)
            write_digest(digest_path(folder), folder, own.fingerprint, pairs)
        return CacheReader(folder, fingerprint=own.fingerprint), len(todo)


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
    degradations = make_degradations(params, corpus.read_usable(), audio)
    identity = _identify(degradations, acoustic, corpus, features, students)
    digests = {digest_path(output / one.name) for one in degradations if one.change}
    complete = is_finished(output, identity) and all(map(Path.is_file, digests))
    if complete and not options.force:
        return _summarise(
            output, len(degradations) - 1, pd.read_csv(output / _PREDICTIONS)
        )
    sources = Sources(corpus, features)
    inputs = Inputs(sources, with_targets=False)
    encoder, header, runtime = _load_encoder(acoustic, inputs, features, options)
    # Before extraction, which takes longer.
    classifiers = [
        one
        for name, folder in students.items()
        for one in load_classifiers(name, folder, inputs.intents, header)
    ]
    test = inputs.tables["test"]
    recordings = (len(degradations) - 1) * test["audio_sha256"].nunique()
    steps = recordings + len(degradations) * len(classifiers)
    blocks: list[pd.DataFrame] = []
    extracted = 0
    with progress(total=steps, description="robustness", unit="step") as bar:
        extraction = _Extraction(audio, output, encoder, header, runtime, bar)
        for degradation in degradations:
            reader = inputs.acoustic
            if degradation.change is not None:
                reader, fresh = extraction.extract(degradation, test)
                extracted += fresh
            utterances = _load(reader, test, inputs, options.device)
            for one in classifiers:
                blocks.append(_classify(one, utterances, degradation, test, inputs))
                bar.update()
    for path in set(output.glob("*.digest")) - digests:
        path.unlink()
    predictions = pd.concat(blocks)
    with atomic_path(output / _PREDICTIONS) as temporary:
        predictions.to_csv(temporary, index=False, lineterminator="\n")
    record(output, identity, [_PREDICTIONS])
    done = _summarise(output, len(degradations) - 1, predictions)
    return replace(done, extracted=extracted, kept=recordings - extracted)


def degraded_header(degradation: Degradation, header: Header) -> Header:
    """The header of the cache of degraded features.

    Args:
        degradation: not `clean`.
        header: of the corpus's own features.
    """
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


def _load_encoder(
    acoustic: AcousticParams, inputs: Inputs, features: Path, options: RunOptions
) -> tuple[FrozenEncoder, Header, Runtime]:
    """The encoder, the header of the corpus's features, and how the encoder runs.

    Raises:
        CacheError: the features are of another encoder.
    """
    encoder = load_encoder(acoustic)
    header = feature_header(encoder, acoustic)
    check_features(
        digest_path(features),
        inputs.acoustic.header,
        header,
        encoder=acoustic.encoder,
        fix="run `aln-pipeline extract-acoustic`, then train the students",
    )
    runtime = choose_runtime(encoder, acoustic, options)
    return encoder, header, runtime


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


def _summarise(output: Path, degradations: int, predictions: pd.DataFrame) -> Summary:
    return Summary(
        output,
        degradations,
        recordings=predictions["id"].nunique(),
        students=len(predictions[["system", "seed"]].drop_duplicates()),
        extracted=None,
        kept=0,
    )


def _load(
    reader: CacheReader, test: pd.DataFrame, inputs: Inputs, device: str
) -> Utterances:
    frames, offsets = reader.load(test["audio_sha256"].tolist())
    labels = inputs.labels(test["intent"])
    return Utterances.from_arrays(frames, offsets, labels, device=choose_device(device))


def _classify(
    one: Classifier,
    utterances: Utterances,
    degradation: Degradation,
    test: pd.DataFrame,
    inputs: Inputs,
) -> pd.DataFrame:
    """A student's predictions under a degradation."""
    # As in training, so `clean` gives the same predictions.
    with one_thread():
        model = one.model.to(utterances.frames.device)
        logits = classify(model, utterances)
    predicted = np.array(inputs.intents)[logits.argmax(1).numpy()]
    return pd.DataFrame(
        {
            "degradation": degradation.kind,
            "snr": "" if degradation.snr is None else f"{degradation.snr:g}",
            "system": one.system,
            "seed": one.seed,
            "id": test["id"].to_numpy(),
            "intent": test["intent"].to_numpy(),
            "predicted": predicted,
        }
    )
