"""Latency from a waveform to its intent: the exported model and what it competes with.

All get the same test utterances of the demo, one at a time, from memory, on one thread:

    model         the exported ALN, from waveform to intent
    encoder       its encoder alone in ONNX Runtime
    torch         the encoder alone in PyTorch
    Baseline-1    the recogniser in params.yaml, then the fine-tuned BERT on its text

They alternate on each utterance, after a warm-up. Prints the median and the 95th
percentile of the milliseconds, ratios on one utterance, accuracies, and the seconds
from the start of `aln-pipeline predict` to its end, on one core.

    python -m benchmarks.latency [--utterances N]

Needs the demo's students, teacher, transcripts and report: run `dvc repro` first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.cli import main as aln_pipeline
from pipeline.layout import Layout, student_name
from pipeline.params import PARAMS_FILE, Params, load_params
from stages.acoustic.checkpoint import load_checkpoint
from stages.acoustic.encoding import encode
from stages.acoustic.graph import build_graph
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.baseline1.transcribing import choose_recogniser
from stages.core.manifest import read_labels
from stages.core.runtime import one_thread, quiet_transformers
from stages.core.text import normalise_text
from stages.inference.classifier import IntentClassifier
from stages.speech.loading import load_audio
from stages.teacher.bert import load_classifier, predict

_WARM_UP = 20
_STARTS = 7
CPU = torch.device("cpu")

System = Callable[[np.ndarray], str]
"""From a wave at 16 kHz to its intent, empty for an encoder."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=300)
    arguments = parser.parse_args()
    params = load_params(PARAMS_FILE)
    layout = Layout(params.corpus.name)
    table = layout.corpus_files.read_usable()
    test = table[table["split"] == "test"].sample(frac=1, random_state=0)
    rows = test.head(arguments.utterances + _WARM_UP)
    waves = [load_audio(layout.audio / path) for path in rows["path"]]
    with tempfile.TemporaryDirectory() as name, quiet_transformers(), one_thread():
        folder = Path(name)
        systems = _systems(params, layout, table, folder)
        times: dict[str, list[float]] = {name: [] for name in systems}
        right = dict.fromkeys(systems, 0)
        for number, (wave, intent) in enumerate(
            zip(waves, rows["intent"], strict=True)
        ):
            for name, system in systems.items():
                began = time.perf_counter()
                guess = system(wave)
                took = time.perf_counter() - began
                if number >= _WARM_UP:
                    times[name].append(1000 * took)
                    right[name] += guess == intent
        _print(pd.DataFrame(times), right, rows["seconds"].iloc[_WARM_UP:])
        _print_start(folder / "model", layout.audio / rows["path"].iloc[0])


def _print(found: pd.DataFrame, right: dict[str, int], seconds: pd.Series) -> None:
    print(f"{len(seconds)} utterances of {seconds.mean():.2f} s on average")
    shown = found.quantile([0.5, 0.95]).T
    shown.columns = ["median, ms", "95%, ms"]
    shares = [f"{100 * right[name] / len(found):.1f}" for name in shown.index]
    shown["right, %"] = [
        share if right[name] else ""
        for name, share in zip(shown.index, shares, strict=True)
    ]
    print(shown.round(2).to_string())
    pairs = [("model", "encoder"), ("torch", "model"), ("Baseline-1", "model")]
    for one, other in pairs:
        ratio = (found[one] / found[other]).quantile([0.05, 0.5, 0.95])
        print(
            f"{one} : {other}, median of the utterances' ratios {ratio[0.5]:.2f} "
            f"(5 to 95%: {ratio[0.05]:.2f} to {ratio[0.95]:.2f})"
        )


def _print_start(model: Path, recording: Path) -> None:
    """Print the seconds of a whole `aln-pipeline predict` of one recording."""
    command = [str(Path(sys.executable).with_name("aln-pipeline")), "predict"]
    command += [str(recording), "--model", str(model)]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    times = []
    for _ in range(_STARTS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    os.sched_setaffinity(0, cores)
    print(
        f"from process start to the end of `aln-pipeline predict`, one core: "
        f"{statistics.median(times):.2f} s (the slowest of {_STARTS}: {max(times):.2f})"
    )


def _systems(
    params: Params, layout: Layout, table: pd.DataFrame, folder: Path
) -> dict[str, System]:
    """What is compared; the exported model is written to `folder`."""
    student = student_name("aln", params.student.alpha[0])
    aln_pipeline(["export", student, str(folder / "model")], standalone_mode=False)
    classifier = IntentClassifier(folder / "model")
    encoder = load_checkpoint(Path(params.acoustic.encoder)).encoder
    (folder / "encoder.onnx").write_bytes(build_graph(encoder))
    alone = OnnxEncoder(folder / "encoder.onnx")

    def model(wave: np.ndarray) -> str:
        return classifier.classify([wave], reject=False)[0].intent

    def in_onnx(wave: np.ndarray) -> str:
        alone.encode([wave])
        return ""

    def in_torch(wave: np.ndarray) -> str:
        encode(encoder, [wave])
        return ""

    return {
        "model": model,
        "encoder": in_onnx,
        "torch": in_torch,
        "Baseline-1": _pipeline(params, layout, table),
    }


def _pipeline(params: Params, layout: Layout, table: pd.DataFrame) -> System:
    labels = read_labels(layout.corpus_files.intents)
    texts = table.loc[table["split"] == "train", "text"].map(normalise_text)
    recogniser = choose_recogniser(
        params.baseline1,
        texts=texts.tolist(),
        work=layout.transcripts / "models",
        workers=1,
    )
    transcribe = recogniser.load(CPU)
    classifier, tokenizer = load_classifier(layout.teacher, CPU)

    def classify_wave(wave: np.ndarray) -> str:
        numbers, _ = predict(
            classifier, tokenizer, [normalise_text(transcribe(wave))], labels
        )
        return labels.frames(numbers)[0]

    return classify_wave


if __name__ == "__main__":
    main()
