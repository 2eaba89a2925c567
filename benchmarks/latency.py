"""Latency from a waveform to its intent: Baseline-1 and the student.

Both classify the same test utterances of the demo, one at a time, from memory, on one
thread:

    ALN          the encoder in ONNX Runtime, then the student's first seed
    Baseline-1   the recogniser in params.yaml, then the fine-tuned BERT on its text

They alternate on each utterance, after a warm-up. Prints the median and the 95th
percentile of the milliseconds, the ratios of both on one utterance, and the accuracies.

    python -m benchmarks.latency [--utterances N]

Needs the demo's students, teacher and transcripts: run `dvc repro` first.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.layout import Layout
from pipeline.params import PARAMS_FILE, Params, load_params
from stages.acoustic.checkpoint import load_checkpoint
from stages.acoustic.graph import build_graph
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.baseline1.transcribing import choose_recogniser
from stages.core.manifest import read_intents
from stages.core.runtime import one_thread, quiet_transformers
from stages.core.text import normalise_text
from stages.speech.loading import load_audio
from stages.student.batches import Utterances
from stages.student.model import load_student
from stages.student.training import classify
from stages.teacher.bert import load_classifier, predict

_WARM_UP = 20
CPU = torch.device("cpu")

System = Callable[[np.ndarray], int]
"""From a wave at 16 kHz to the number of its intent."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=300)
    arguments = parser.parse_args()
    params = load_params(PARAMS_FILE)
    layout = Layout(params.corpus.name)
    table = layout.corpus_files.read_usable()
    intents = read_intents(layout.corpus_files.intents)
    test = table[table["split"] == "test"].sample(frac=1, random_state=0)
    rows = test.head(arguments.utterances + _WARM_UP)
    waves = [load_audio(layout.audio / path) for path in rows["path"]]
    with tempfile.TemporaryDirectory() as folder, quiet_transformers(), one_thread():
        systems = {
            "ALN": _student(params, layout, Path(folder)),
            "Baseline-1": _pipeline(params, layout, table),
        }
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
                    right[name] += intents[guess] == intent
    seconds = rows["seconds"].iloc[_WARM_UP:]
    print(f"{len(seconds)} utterances of {seconds.mean():.2f} s on average")
    found = pd.DataFrame(times)
    shown = found.quantile([0.5, 0.95]).T
    shown.columns = ["median, ms", "95%, ms"]
    shown["right, %"] = [100 * right[name] / len(found) for name in shown.index]
    print(shown.round(1).to_string())
    ratio = (found["Baseline-1"] / found["ALN"]).quantile([0.05, 0.5, 0.95])
    print(
        f"Baseline-1 : ALN, median of the utterances' ratios {ratio[0.5]:.1f} "
        f"(5 to 95%: {ratio[0.05]:.1f} to {ratio[0.95]:.1f})"
    )


def _student(params: Params, layout: Layout, folder: Path) -> System:
    """ALN at the first α, its first seed."""
    encoder = load_checkpoint(Path(params.acoustic.encoder)).encoder
    (folder / "encoder.onnx").write_bytes(build_graph(encoder))
    encode = OnnxEncoder(folder / "encoder.onnx").encode
    seed = params.student.seeds[0]
    path = layout.student("aln", params.student.alpha[0]) / f"model-{seed}.safetensors"
    model, _ = load_student(path)

    def classify_wave(wave: np.ndarray) -> int:
        (frames,) = encode([wave])
        one = Utterances.from_arrays(
            frames, np.array([0, len(frames)]), labels=np.zeros(1, np.int64)
        )
        with torch.inference_mode():
            return int(classify(model, one).argmax())

    return classify_wave


def _pipeline(params: Params, layout: Layout, table: pd.DataFrame) -> System:
    texts = table.loc[table["split"] == "train", "text"].map(normalise_text)
    recogniser = choose_recogniser(
        params.baseline1,
        texts=texts.tolist(),
        work=layout.transcripts / "models",
        workers=1,
    )
    transcribe = recogniser.load(CPU)
    classifier, tokenizer = load_classifier(layout.teacher, CPU)

    def classify_wave(wave: np.ndarray) -> int:
        numbers, _ = predict(classifier, tokenizer, [normalise_text(transcribe(wave))])
        return int(numbers[0])

    return classify_wave


if __name__ == "__main__":
    main()
