"""Rejection: calibrate every student, and reject what is none of the intents.

Reads the tables of the corpus, its acoustic features, the encoder and the trained
students; for the recordings that are none of the intents, the demo's phrases and voices
or a folder of speech, and recordings of the corpus, for noise like them. Writes below
`output`:

    others/          features of those recordings, a feature cache
    others.digest    its digest
    rejection.json   {share, students: {name: {seeds: {seed: entry}, ensemble: entry}}}
    identity.json    what rejection.json was made from

An entry has, in percent unless stated:

    temperature      T, by which logits are divided; minimises the loss on valid
    score            max_probability or energy, the one with the higher valid_auroc
    threshold        what scores below it is rejected: at most `share` of valid
    quietest         a recording of a lower level (root mean square) is rejected too
    <split>_accuracy, _ece, _ece_calibrated      of valid and test, nothing rejected
    <split>_<slot>_accuracy                      in a corpus with slots
    test_rejected, test_accuracy_with_rejection  a rejected command counts as wrong
    valid_auroc      of each score, 0 to 1: mean over the kinds of others
    others           on test, for speech, noise and silence: utterances, seconds (whole
                     frames), false_accepts, false_accepts_per_hour, auroc (0 to 1)
    curve            on test, for the same, instead of at the threshold: [[accepted
                     commands, false accepts], …], see `calibration.curve`

The ensemble is all seeds together, see `calibration.combine`. No recording is written:
it goes from memory into the encoder. Its features are keyed by all that decides it, so
nothing is spoken or encoded twice, and an interrupted run resumes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.acoustic.encoding import (
    Encode,
    cache_waves,
    choose_encode,
    open_encoder,
)
from stages.acoustic.params import AcousticParams
from stages.cache.digest import digest_path
from stages.cache.format import Header
from stages.cache.store import CacheReader
from stages.core.files import write_json
from stages.core.hashing import fingerprint
from stages.core.results import identify, is_finished, record
from stages.core.runtime import RunOptions, choose_device, one_thread
from stages.rejection.measurement import Outputs, measure
from stages.rejection.others import SIDES, Clip, make_clips
from stages.rejection.params import REVISION, RejectionParams
from stages.speech.loading import SAMPLE_RATE, level, load_audio
from stages.student.batches import Utterances
from stages.student.inputs import Inputs, Sources
from stages.student.trained import Network, load_networks, trained_seeds
from stages.student.training import classify

_RESULT = "rejection.json"


@dataclass(frozen=True)
class Summary:
    """What the stage wrote, or found."""

    output: Path
    students: Mapping[str, Any]  # as in rejection.json
    others: int
    extracted: int | None = None  # None: up to date

    def __str__(self) -> str:
        """One line for the terminal."""
        state, done = "up to date; ", ""
        if self.extracted is not None:
            kept = self.others - self.extracted
            state, done = "", f", {self.extracted} extracted now, {kept} kept"
        entries = [e for one in self.students.values() for e in one["seeds"].values()]
        shares = [
            f"{np.mean([e['others'][kind]['false_accepts'] for e in entries]):.1f}% "
            f"of {kind}"
            for kind in entries[0]["others"]
        ]
        rejected = np.mean([entry["test_rejected"] for entry in entries])
        return (
            f"{self.output}: {state}{len(entries)} students reject {rejected:.1f}% of "
            f"test and accept {', '.join(shares)}; {self.others} recordings of no "
            f"intent{done}"
        )


def run(
    params: RejectionParams,
    acoustic: AcousticParams,
    sources: Sources,
    *,
    audio: Path,
    demo: Path,
    students: Mapping[str, Path],
    output: Path,
    options: RunOptions,
) -> Summary:
    """Bring the features of the others up to date, and measure every student.

    Args:
        params: what is rejected, and by what it is measured.
        acoustic: encoder and storage, as of the corpus's features.
        sources: the corpus's tables and features.
        audio: the folder that the manifest's paths are relative to.
        demo: the folder with the demo's phrases and voices.
        students: folder by name, `baseline2` or `aln-0.8`.
        output: folder of the cache and the result.
        options: as of extraction, and force.

    Raises:
        ConfigurationError: parameters that cannot be used.
        InputError: a recording that is missing, has changed or cannot be used. Finished
            extraction is kept.
        CacheError: features or a student that are missing, damaged or of another
            encoder or corpus; or another run is writing.
    """
    seeds = trained_seeds(students)
    clips = make_clips(params, sources.corpus.read_usable(), audio, demo)
    identity = _identify(params, acoustic, sources, clips, students)
    cache, extracted = output / "others", None
    complete = is_finished(output, identity) and digest_path(cache).is_file()
    if not complete or options.force:
        inputs = Inputs(sources)
        encoder, header, runtime = open_encoder(
            acoustic, inputs.acoustic.header, sources.acoustic, options
        )
        # Before extraction, which takes longer.
        networks = load_networks(students, inputs.labels, header)
        own = replace(header, kind="rejection")
        encode = choose_encode(encoder, runtime, graphs=output)
        extracted = _extract(clips, cache, own, encode)
        reader = CacheReader(cache, fingerprint=own.fingerprint)
        outputs = _classify(
            networks, inputs, clips, reader, choose_device(options.device)
        )
        levels = _levels(inputs, audio, clips)
        found = _measure_all(params, seeds, outputs, inputs, clips, reader, levels)
        write_json(output / _RESULT, found)
        record(output, identity, [_RESULT])
    found = json.loads((output / _RESULT).read_text("utf-8"))
    return Summary(output, found["students"], len(clips), extracted)


def _identify(
    params: RejectionParams,
    acoustic: AcousticParams,
    sources: Sources,
    clips: Sequence[Clip],
    students: Mapping[str, Path],
) -> dict[str, Any]:
    """What the result is made from."""
    parameters = {
        "acoustic": asdict(acoustic),
        "share": params.share,
        "others": fingerprint({"keys": [clip.key for clip in clips]}),
        "students": list(students),
    }
    inputs: dict[str, Path | None] = {
        "manifest": sources.corpus.manifest,
        "quarantine": sources.corpus.quarantine,
        "acoustic": digest_path(sources.acoustic),
        **{f"student {name}": folder for name, folder in students.items()},
    }
    return identify("rejection", REVISION, parameters, inputs)


def _extract(clips: Sequence[Clip], cache: Path, header: Header, encode: Encode) -> int:
    """Bring the cache and the digest up to date; returns how many clips were new."""
    by_key = {clip.key: clip for clip in clips}
    return cache_waves(
        cache,
        header,
        encode,
        [(clip.id, clip.key) for clip in clips],
        lambda keys: ((key, by_key[key].wave()) for key in keys),
    )


def _parts(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """The keys of the others by kind and side, `speech/valid`."""
    parts: dict[str, list[str]] = {}
    for clip in clips:
        parts.setdefault(f"{clip.kind}/{clip.side}", []).append(clip.key)
    return parts


def _classify(
    networks: Sequence[Network],
    inputs: Inputs,
    clips: Sequence[Clip],
    reader: CacheReader,
    device: torch.device,
) -> dict[str, dict[int, Outputs]]:
    """The outputs of every network, by student and seed."""
    utterances = {split: inputs.load(split, device) for split in SIDES}
    for part, keys in _parts(clips).items():
        unknown = np.zeros((len(keys), 1), np.int64)
        arrays = reader.load(keys)
        utterances[part] = Utterances.from_arrays(*arrays, unknown, device=device)
    found: dict[str, dict[int, Outputs]] = {}
    # As in training, so that commands have the same logits.
    with one_thread():
        for name, seed, model in networks:
            model.to(device)
            found.setdefault(name, {})[seed] = {
                part: classify(model, rows).numpy() for part, rows in utterances.items()
            }
    return found


def _levels(
    inputs: Inputs, audio: Path, clips: Sequence[Clip]
) -> dict[str, np.ndarray]:
    """The levels of the commands and of silence, by part."""
    found: dict[str, list[float]] = {}
    for split in SIDES:
        table = inputs.tables[split]
        pairs = zip(table["path"], table["audio_sha256"], strict=True)
        found[split] = [level(load_audio(audio / path, key)) for path, key in pairs]
    for clip in clips:
        if clip.kind == "silence":
            part = f"{clip.kind}/{clip.side}"
            found.setdefault(part, []).append(level(clip.wave()))
    return {part: np.array(values) for part, values in found.items()}


def _measure_all(
    params: RejectionParams,
    seeds: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Mapping[int, Outputs]],
    inputs: Inputs,
    clips: Sequence[Clip],
    reader: CacheReader,
    levels: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """The contents of rejection.json."""
    numbers = {split: inputs.numbers(split) for split in SIDES}
    step = reader.header.frame_step / SAMPLE_RATE
    seconds = {
        part: int(reader.lengths(keys).sum()) * step
        for part, keys in _parts(clips).items()
    }

    def entry(networks: Sequence[Outputs]) -> dict[str, Any]:
        return measure(
            networks, inputs.labels, numbers, seconds, levels, share=params.share
        )

    students = {}
    for name, own in outputs.items():
        students[name] = {
            "seeds": {str(seed): entry([own[seed]]) for seed in seeds[name]},
            "ensemble": entry([own[seed] for seed in seeds[name]]),
        }
    return {"share": params.share, "students": students}
