"""Coffee orders that people spoke, classified by what was trained on sentences alone.

Reads the recordings, labels and grammar of Picovoice's speech-to-intent benchmark
(https://github.com/Picovoice/speech-to-intent-benchmark): 619 orders by more than 50
people, each with six slots. Nothing of it is part of this repository. Two settings:

    sentences only    trained on sentences of the grammar, spoken by synthetic voices;
                      tested on all recordings
    with recordings   trained on these and on four fifths of the recordings, tested on
                      the others, in five folds (which can share speakers, since the
                      benchmark does not name them)

Every recording is tested clean and with babble, six other people of the benchmark, at
the benchmark's ratio: the largest energy of 2,048 samples of the speech against that of
the noise. Systems: Baseline-1 with the encoder's own recogniser, whose transcripts are
classified by the teacher, or searched for the grammar's values; Baseline-2; ALN
linguistic; ALN. The mean of all seeds, and 95% intervals over recordings.

    git clone https://github.com/Picovoice/speech-to-intent-benchmark
    python -m benchmarks.coffee --root speech-to-intent-benchmark
    python -m benchmarks.coffee --root speech-to-intent-benchmark --encoder WHISPER

Needs flite, whose voices are some of those that speak. Takes hours with Whisper. Run it
again to resume; --voices, --ratios and --settings make it shorter.
"""

import argparse
import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from ruamel.yaml import YAML

from stages.acoustic import run as acoustic
from stages.acoustic.params import AcousticParams
from stages.baseline1 import run as baseline1
from stages.baseline1.params import Baseline1Params
from stages.core.corpus_files import CorpusFiles
from stages.core.files import atomic_path, write_json
from stages.core.hashing import hash_file
from stages.core.labels import NONE, SEPARATOR, Labels
from stages.core.manifest import read_labels, read_manifest, write_manifest
from stages.core.runtime import RunOptions
from stages.core.text import normalise_text
from stages.corpus import run as corpus
from stages.corpus.params import CorpusParams
from stages.report.intervals import mean_intervals
from stages.report.markdown import format_table
from stages.speech.loading import SAMPLE_RATE
from stages.speech.noise import choose_noise
from stages.student import run as student
from stages.student.inputs import Sources
from stages.student.params import StudentParams, Variant
from stages.targets import run as targets
from stages.targets.params import TargetsParams
from stages.teacher import run as teacher
from stages.teacher.params import TeacherParams

SLOTS = (
    "coffeeDrink",
    "size",
    "roast",
    "numberOfShots",
    "milkAmount",
    "sugarAmount",
)
RATIOS = (24, 18, 12, 6)
SETTINGS = ("sentences", "recordings", "baseline1")
CLEAN = "clean"
FOLDS = 5
ALPHA = 0.5

PUBLISHED = {
    "Google Dialogflow": (83, 82, 77, 67),
    "Amazon Lex": (88, 87, 85, 76),
    "IBM Watson": (96, 95, 89, 61),
    "Microsoft LUIS": (93, 92, 90, 85),
    "Picovoice Rhino": (99, 99, 98, 94),
}
"""Percent at `RATIOS`, from the benchmark's page: mean over café and kitchen noise."""

_FRAME = 2048
# Whisper writes numbers as digits, the grammar does not.
_NUMBERS = {"8": "eight", "12": "twelve", "16": "sixteen", "20": "twenty"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """Where everything is computed.

    Attributes:
        folder: of all.
        encoder: its own folder, by the name of the encoder.
        options: how stages run.
    """

    folder: Path
    encoder: Path
    options: RunOptions

    @property
    def given(self) -> Path:
        """The corpus root: the grammar and the recordings."""
        return self.folder / "given"

    @property
    def corpus(self) -> CorpusFiles:
        """The tables of *sentences only*."""
        return CorpusFiles(self.folder / "coffee")

    @property
    def audio(self) -> Path:
        """What the manifest's paths are relative to."""
        return self.corpus.folder / "audio"

    @property
    def teacher(self) -> Path:
        """The fine-tuned BERT."""
        return self.corpus.folder / "teacher"

    def sources(self, files: CorpusFiles) -> Sources:
        """What students are trained from."""
        features, vectors = self.encoder / "acoustic", self.corpus.folder / "targets"
        return Sources(files, features, vectors)


def main() -> None:
    """Compute what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="the clone")
    parser.add_argument(
        "--encoder", type=Path, default=Path("data/demo/encoder.safetensors")
    )
    parser.add_argument("--work", type=Path, default=Path("cache/coffee"))
    parser.add_argument("--voices", type=int, default=150, help="of train")
    parser.add_argument("--ratios", type=int, nargs="*", default=RATIOS, help="dB")
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work = Work(
        arguments.work,
        arguments.work / arguments.encoder.stem,
        RunOptions(workers=arguments.workers),
    )
    prepare(arguments.root, work, arguments.voices, arguments.ratios)
    pretrained = arguments.encoder.is_dir()
    # Of a frame of Whisper, 20 ms, and of the shipped encoder, 160 ms.
    features = AcousticParams(
        encoder=str(arguments.encoder), pooling=8 if pretrained else 1
    )
    said = acoustic.run(
        features,
        work.corpus,
        audio=work.audio,
        cache=work.encoder / "acoustic",
        options=work.options,
    )
    log.info("%s", said)
    recogniser = Baseline1Params(
        recogniser="transformers" if pretrained else "encoder",
        model=str(arguments.encoder),
        language_model="train",
    )
    if "sentences" in arguments.settings:
        report("Sentences only", work, students(work, work.corpus, "sentences"))
    if "recordings" in arguments.settings:
        report("With recordings", work, with_recordings(work))
    if "baseline1" in arguments.settings:
        report("Baseline-1", work, transcribed(work, recogniser))


def prepare(root: Path, work: Work, voices: int, ratios: Sequence[int]) -> None:
    """Write the corpus: speak sentences, degrade recordings; train the teacher."""
    write_grammar(root, work.given)
    write_recordings(root, work.given, ratios)
    params = CorpusParams(
        name="coffee",
        adapter="phrases",
        slots=SLOTS,
        sentences=6000,
        train_voices=voices,
        valid_voices=20,
        test_voices=0,
        train_utterances=20,
        valid_utterances=10,
        espeak=1,
        flite=1,
        silence=4,  # people start and stop a recording at leisure
        recordings_table="recordings.csv",
        recordings_split="test",
        speaker_column="",
    )
    log.info(
        "%s",
        corpus.run(
            params,
            root=work.given,
            output=work.corpus.folder,
            workers=work.options.workers,
        ),
    )
    # As the demo's: a small BERT, trained on the sentences alone.
    small = TeacherParams(
        model="scratch",
        scratch_layers=2,
        mlm_learning_rate=5e-4,
        intent_learning_rate=5e-4,
        intent_epochs=60,
    )
    trained = teacher.run(
        small,
        work.corpus,
        output=work.teacher,
        work=work.corpus.folder / "teacher.work",
        options=work.options,
    )
    log.info("%s", trained)
    vectors = targets.run(
        TargetsParams(),
        work.corpus,
        teacher=work.teacher,
        cache=work.corpus.folder / "targets",
        posteriors=work.corpus.folder / "posteriors",
        options=work.options,
    )
    log.info("%s", vectors)


def write_grammar(root: Path, folder: Path) -> None:
    """Write the benchmark's grammar as sentence templates.

    `[brew, get me] [a, an] $size:size` becomes `(brew|get me) (a|an) {size:size}`.
    """
    text = (root / "data/rhino/coffee_maker.yaml").read_text("utf-8")
    context = YAML(typ="safe").load(text)["context"]

    def choice(found: re.Match[str]) -> str:
        return f"({'|'.join(one.strip() for one in found[1].split(','))})"

    intents = {}
    for intent, expressions in context["expressions"].items():
        sentences = [
            re.sub(r"\$(\w+):(\w+)", r"{\1:\2}", re.sub(r"\[([^]]*)\]", choice, one))
            for one in expressions
        ]
        intents[intent] = {"data": [{"sentences": sentences}]}
    lists = {name: {"values": values} for name, values in context["slots"].items()}
    grammar = {"language": "en", "intents": intents, "lists": lists}
    write_json(folder / "sentences.yaml", grammar)  # JSON is YAML


def write_recordings(root: Path, folder: Path, ratios: Sequence[int]) -> None:
    """Write each recording clean and with babble, and their table.

    A file is named after the recording and its condition, `<name>--12dB.wav`. The text
    is one with the same slots, not what was said word for word.
    """
    speech = root / "data/speech/clean"
    labels = json.loads((root / "data/label/label.json").read_text("utf-8"))
    files = {file.stem: file for file in sorted(speech.glob("*.wav"))}
    babble: Babble | None = None
    rows = []
    for name, file in files.items():
        said = labels[file.name]["slots"]
        values = {slot: said.get(slot, "").strip() for slot in SLOTS}
        for condition in (CLEAN, *(f"{ratio}dB" for ratio in ratios)):
            path = Path("recordings") / f"{name}--{condition}.wav"
            rows.append({"path": path.as_posix(), "text": text_of(values), **values})
            if (folder / path).is_file():
                continue
            with atomic_path(folder / path, flush=False) as temporary:
                if condition == CLEAN:
                    shutil.copyfile(file, temporary)
                    continue
                babble = babble or Babble(list(files.values()))
                mixed = babble.add(file, int(condition.removesuffix("dB")))
                soundfile.write(temporary, mixed, SAMPLE_RATE, "PCM_16", format="WAV")
    table = pd.DataFrame(rows)
    with atomic_path(folder / "recordings.csv") as temporary:
        table.to_csv(temporary, index=False)


def text_of(values: dict[str, str]) -> str:
    """A sentence with these slots."""
    drink, *about, milk, sugar = values.values()
    things = " and ".join(filter(None, [milk, sugar]))
    words = ["a", *about, drink, f"with {things}" if things else ""]
    return " ".join(filter(None, words))


class Babble:
    """Six people who talk at once.

    Args:
        files: recordings, the background of each other.
    """

    def __init__(self, files: list[Path]) -> None:
        hashes = [hash_file(file) for file in files]
        table = pd.DataFrame({"path": files, "split": "train", "audio_sha256": hashes})
        self.draw, _ = choose_noise("babble", table, Path())

    def add(self, file: Path, ratio: float) -> np.ndarray:
        """A recording, (samples,), in babble at a ratio in decibels, as published."""
        wave, _ = soundfile.read(file)
        generator = np.random.default_rng(int(hash_file(file), 16))
        noise = self.draw(len(wave), generator)
        scale = np.sqrt(loudest(wave) / (loudest(noise) * 10 ** (ratio / 10)))
        mixed = wave + scale * noise
        return mixed / (2 * np.abs(mixed).max())


def loudest(wave: np.ndarray) -> float:
    """The largest energy of 2,048 samples, from a multiple of 2,048 on."""
    frames = wave[: len(wave) // _FRAME * _FRAME].reshape(-1, _FRAME)
    return float((frames**2).sum(1).max())


def students(work: Work, files: CorpusFiles, name: str) -> dict[str, pd.DataFrame]:
    """The predictions of every student on test, by system."""
    # A synthetic valid set says little about people: take the last epoch.
    params = StudentParams(
        epochs=40,
        selection="last",
        frame_pooling="attention",
        frame_dropout=0.1,
        feature_masking=0.2,
    )
    variants = {
        "Baseline-2": Variant("baseline2", None, params),
        "ALN linguistic": Variant("aln_linguistic", ALPHA, params),
        "ALN": Variant("aln", ALPHA, params),
    }
    found = {}
    for title, variant in variants.items():
        output = work.encoder / name / variant.system
        summary = student.run(
            variant,
            work.sources(files),
            output=output,
            unfinished=output.with_suffix(".unfinished"),
            ledger=work.encoder / "results",
            options=work.options,
        )
        log.info("%s", summary)
        found[title] = tested(output / "predictions.csv")
    return found


def with_recordings(work: Work) -> dict[str, pd.DataFrame]:
    """The predictions of students, each recording by those that lack it in train."""
    table = read_manifest(work.corpus.manifest)
    recorded = table["id"].str.contains("/recordings/")
    clean = table[recorded & table["id"].str.contains(f"--{CLEAN}-")]
    # Dealt in turn within each drink, in a random order.
    shuffled = clean.sample(frac=1, random_state=1)
    drinks = shuffled["intent"].str.partition(SEPARATOR)[0]
    shuffled = shuffled.assign(drink=drinks).sort_values("drink", kind="stable")
    turns = np.arange(len(shuffled)) % FOLDS
    folds = dict(zip(shuffled["id"].map(_recording), turns, strict=True))
    fold = table["id"].map(_recording).map(folds)
    blocks: dict[str, list[pd.DataFrame]] = {}
    for number in range(FOLDS):
        learned = table["id"].isin(clean["id"]) & (fold != number)
        own = table.assign(split=table["split"].mask(learned, "train"))
        own = own[~recorded | learned | (fold == number)]
        files = CorpusFiles(work.folder / f"fold-{number}")
        write_manifest(files.manifest, own, SLOTS)
        for path in work.corpus.folder.glob("quarantine.*"):
            shutil.copy(path, files.folder)
        for title, rows in students(work, files, f"fold-{number}").items():
            blocks.setdefault(title, []).append(rows)
    return {title: pd.concat(rows) for title, rows in blocks.items()}


def _recording(id: str) -> str:
    """The name of the recording in an id of the manifest."""
    return id.rpartition("/")[2].partition("--")[0]


def tested(file: Path) -> pd.DataFrame:
    """The predictions for recordings: recording, condition, seed, intent, predicted."""
    table = pd.read_csv(file, keep_default_na=False)
    table = table[table["split"] == "test"]
    condition = table["id"].str.extract(r"--(\w+)-", expand=False)
    return table.assign(recording=table["id"].map(_recording), condition=condition)


def transcribed(work: Work, params: Baseline1Params) -> dict[str, pd.DataFrame]:
    """What the teacher, and a search for the grammar's values, make of transcripts."""
    output = work.encoder / "baseline1"
    summary = baseline1.run(
        params,
        work.corpus,
        audio=work.audio,
        teacher=work.teacher,
        transcripts=work.encoder / "transcripts",
        output=output,
        options=work.options,
    )
    log.info("%s", summary)
    rows = tested(output / "predictions.csv").assign(seed=0)
    texts = pd.read_csv(output / "transcripts.csv", keep_default_na=False)
    said = rows["id"].map(texts.set_index("id")["transcript"])
    labels = read_labels(work.corpus.intents)
    return {
        "Baseline-1, teacher": rows,
        "Baseline-1, grammar": rows.assign(
            predicted=[matched(text, labels) for text in said]
        ),
    }


def matched(transcript: str, labels: Labels) -> str:
    """The frame of the grammar's values in a transcript, the longest values first."""
    words = [_NUMBERS.get(word, word) for word in normalise_text(transcript).split()]
    rest = f" {' '.join(words)} "
    values = {(value, slot) for slot in SLOTS for value in labels.slots[slot]}
    found = dict.fromkeys(SLOTS, NONE)
    for value, slot in sorted(values, key=lambda pair: (-len(pair[0]), pair)):
        if found[slot] == NONE and f" {value} " in rest:
            found[slot] = value
            rest = rest.replace(f" {value} ", f" {SEPARATOR} ", 1)
    return SEPARATOR.join(found.values())


def report(title: str, work: Work, systems: dict[str, pd.DataFrame]) -> None:
    """Print the tables of a setting."""
    labels = read_labels(work.corpus.intents)
    hits = {name: scored(rows, labels) for name, rows in systems.items()}
    columns = [*SLOTS, "every slot", "as published"]
    rows = []
    for name, table in hits.items():
        own = table[table["condition"] == CLEAN]
        rows.append([name, *(_share(own[column]) for column in columns)])
    print(f"\n## {title}\n\n{format_table(['clean', *columns], rows)}\n")
    conditions = [CLEAN, *(f"{ratio}dB" for ratio in RATIOS)]
    rows = []
    for name, table in hits.items():
        by = dict(list(table.groupby("condition")["as published"]))
        cells = (_share(by[one]) if one in by else "–" for one in conditions)
        rows.append([name, *cells])
    rows += [
        [f"{name}, published", "–", *map(str, shares)]
        for name, shares in PUBLISHED.items()
    ]
    print(format_table(["as published", *conditions], rows))
    print(
        "\nThe published figures are for café and kitchen noise, whose recordings the "
        "benchmark no longer has, ours for babble of its own speakers."
    )


def scored(rows: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """How often each recording's slots are right, as a share of the seeds.

    The benchmark counts a command as right if the slots that it has are: values of
    others are no error. `every slot` counts them.
    """
    actual, predicted = (labels.values(rows[name]) for name in ("intent", "predicted"))
    right = pd.DataFrame(
        {slot: np.equal(actual[slot], predicted[slot]) for slot in SLOTS},
        index=rows.index,
    )
    named = pd.DataFrame(actual, index=rows.index)[list(SLOTS)] != NONE
    right["every slot"] = right[list(SLOTS)].all(axis=1)
    right["as published"] = (right[list(SLOTS)] | ~named).all(axis=1)
    keys = [rows["condition"], rows["recording"]]
    return right.groupby(keys).mean().reset_index()


def _share(hits: pd.Series) -> str:
    """Percent, with its interval."""
    recordings = pd.DataFrame({"speaker": None, "text": range(len(hits))})
    ((low, high),) = mean_intervals(100 * hits.to_numpy(float)[:, None], recordings)
    ends = f"{max(low, 0):.1f} to {min(high, 100):.1f}"
    return f"{100 * hits.mean():.1f} ({ends})"


if __name__ == "__main__":
    main()
