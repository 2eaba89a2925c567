"""What finding utterances in a stream costs: accuracy whole and as `listen` cuts them.

Test recordings of the demo, with a second of faint hiss between them, go through
`listen` as one stream. Prints how many became exactly one utterance, the accuracies,
and how much faster than real time the stream was read.

    python -m benchmarks.listening [--utterances N]

Needs the demo's report: run `dvc repro` first.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from pipeline.cli import main as aln_pipeline
from pipeline.layout import Layout
from pipeline.params import PARAMS_FILE, load_params
from stages.inference.classifier import IntentClassifier
from stages.inference.listening import Chunk, listen
from stages.inference.speech_detector import SpeechDetector
from stages.speech.loading import SAMPLE_RATE, load_audio

_CHUNK = 512
_HISS = 0.001


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=300)
    arguments = parser.parse_args()
    layout = Layout(load_params(PARAMS_FILE).corpus.name)
    table = layout.corpus_files.read_usable()
    test = table[table["split"] == "test"].sample(frac=1, random_state=0)
    rows = test.head(arguments.utterances)
    waves = [load_audio(layout.audio / path) for path in rows["path"]]
    with tempfile.TemporaryDirectory() as name:
        aln_pipeline(["export", f"{name}/model"], standalone_mode=False)
        classifier = IntentClassifier(f"{name}/model")
    generator = np.random.default_rng(0)
    pieces, ends = [], []
    for wave in waves:
        hiss = generator.normal(0, _HISS, SAMPLE_RATE).astype(np.float32)
        pieces += [wave, hiss]
        ends.append(sum(map(len, pieces[-2:])) + (ends[-1] if ends else 0))
    stream = np.concatenate(pieces)
    began = time.perf_counter()
    found = list(
        listen(classifier, SpeechDetector(), _chunks(stream), SAMPLE_RATE, reject=False)
    )
    took = time.perf_counter() - began
    heard: list[list[str]] = [[] for _ in waves]
    for one in found:
        middle = (one.start + one.end) / 2 * SAMPLE_RATE
        heard[int(np.searchsorted(ends, middle))].append(one.prediction.intent)
    whole = [one.intent for one in classifier(waves, SAMPLE_RATE, reject=False)]
    intents = rows["intent"].tolist()
    once = np.mean([len(one) == 1 for one in heard])
    right = [[intent] == one for intent, one in zip(intents, heard, strict=True)]
    print(f"{len(waves)} recordings, {len(stream) / SAMPLE_RATE / 60:.1f} minutes")
    print(f"exactly one utterance: {100 * once:.1f}%")
    print(f"right as a whole: {100 * np.mean(np.array(whole) == intents):.1f}%")
    print(f"right as cut: {100 * np.mean(right):.1f}%")
    print(f"{len(stream) / SAMPLE_RATE / took:.0f} times as fast as real time")


def _chunks(stream: np.ndarray) -> Iterator[Chunk]:
    for start in range(0, len(stream), _CHUNK):
        yield stream[start : start + _CHUNK], time.monotonic()


if __name__ == "__main__":
    main()
