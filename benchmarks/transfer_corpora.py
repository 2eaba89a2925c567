"""The corpora on which the transfer from the teacher is measured: folders of `data/`.

    fresh     the demo with other voices in test: its people with accents of each other,
              and other rates and pitches
    few       the demo with 8 of its 40 train voices
    coffee    coffee-0 to coffee-4: orders of coffee that people spoke, the drink as
              intent, in five folds (see benchmarks/coffee.py for where to get them)
    atis      the texts of ATIS's text release, each spoken once by drawn voices

    python -m benchmarks.transfer_corpora fresh few
    python -m benchmarks.transfer_corpora coffee --root speech-to-intent-benchmark
    python -m benchmarks.transfer_corpora atis --root atis

For fresh and few take the demo's parameters; the others have `corpus.adapter: table`,
and coffee `corpus.outside_paths: allow`, since it links to the recordings. Commands up
to `cache-targets` then make `cache/<name>/`.
"""

import argparse
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from benchmarks.coffee import FOLDS, SLOTS, text_of
from stages.corpus.atis_labels import read_labels
from stages.corpus.params import CorpusParams
from stages.corpus.voices import Speaker, read_speakers
from stages.speech import engines
from stages.speech.loading import SAMPLE_RATE
from stages.speech.recording import record

DATA = Path("data")
_ATIS = ("atis.train.w-intent.iob", "atis.test.w-intent.iob")
_VOICES = {"train_voices": 60, "valid_voices": 12, "test_voices": 16}
_VALID = 500
_FEWEST = 10  # lines of an intent


def fresh() -> None:
    """Draw test's voices again."""
    voices = _demo("fresh")
    generator = np.random.default_rng(1)
    test = voices["split"] == "test"
    table = voices[test].copy()
    accents = table["accent"].tolist()
    # Half of test's voices have accents of train, half have others.
    half = len(table) // 2
    turned = [*np.roll(accents[:half], 1), *np.roll(accents[half:], 1)]
    table["accent"] = turned
    for name in ("rate", "pitch", "pitch_range"):
        low, high = voices[name].min(), voices[name].max()
        table[name] = generator.integers(low, high + 1, len(table))
    voices[test] = table.assign(speaker=table["speaker"].str.replace("test", "fresh"))
    voices.to_csv(DATA / "fresh" / "voices.csv", index=False)


def few() -> None:
    """Keep every fifth voice of train."""
    voices = _demo("few")
    train = voices["split"] == "train"
    kept = voices[~train | ((voices.index % 5) == 0)]
    kept.to_csv(DATA / "few" / "voices.csv", index=False)


def _demo(name: str) -> pd.DataFrame:
    """The demo's voices; its sentences are copied to `name`."""
    (DATA / name).mkdir(exist_ok=True)
    shutil.copyfile(DATA / "demo" / "sentences.csv", DATA / name / "sentences.csv")
    return pd.read_csv(DATA / "demo" / "voices.csv")


def coffee(root: Path) -> None:
    """Five folds: one is test, half of the next is valid."""
    labels = json.loads((root / "data/label/label.json").read_text("utf-8"))
    files = sorted((root / "data/speech/clean").glob("*.wav"))
    order = np.random.default_rng(1).permutation(len(files))
    rows = []
    for file, place in zip(files, order, strict=True):
        said = labels[file.name]["slots"]
        values = {slot: said.get(slot, "").strip() for slot in SLOTS}
        row = {"path": f"clean/{file.name}", "place": place, "text": text_of(values)}
        rows.append({**row, "intent": values["coffeeDrink"], "speaker": ""})
    table = pd.DataFrame(rows)
    for fold in range(FOLDS):
        folder = DATA / f"coffee-{fold}"
        folder.mkdir(exist_ok=True)
        (folder / "clean").unlink(missing_ok=True)
        (folder / "clean").symlink_to((root / "data/speech/clean").resolve())
        turn, half = (table["place"] - fold) % FOLDS, table["place"] // FOLDS % 2
        split = np.where((turn == 1) & (half == 0), "valid", "train")
        split = np.where(turn == 0, "test", split)
        own = table.assign(split=split).drop(columns="place")
        own.to_csv(folder / "table.csv", index=False)


def atis(root: Path) -> None:
    """Speak every line once; some lines of train are valid, in voices of their own."""
    read = read_labels(root, _ATIS, "first")
    rows = [
        {"text": line.text, "intent": line.intent, "where": line.where}
        for same in read.wanted.values()
        for line in same
    ]
    table = pd.DataFrame(rows).sort_values("where", ignore_index=True)
    counts = table["intent"].map(table["intent"].value_counts())
    table = table[counts >= _FEWEST].reset_index(drop=True)
    test = table["where"].str.contains("test").to_numpy()
    generator = np.random.default_rng(1)
    table["split"] = np.where(test, "test", "train")
    drawn = generator.choice(np.flatnonzero(~test), _VALID, replace=False)
    table.loc[drawn, "split"] = "valid"
    known = table.loc[table["split"] == "train", "intent"].unique()
    table = table[table["intent"].isin(known)].reset_index(drop=True)
    folder = DATA / "atis"
    params = CorpusParams(name="atis", adapter="phrases", seed=1, **_VOICES)
    speakers, _ = read_speakers(params, folder)
    parts = []
    for split, own in table.groupby("split"):
        voices = [one for one in speakers if one.split == split]
        turns = generator.permutation(len(own)) % len(voices)
        parts += [(one, own[turns == place]) for place, one in enumerate(voices)]
    with ThreadPoolExecutor() as pool:
        spoken = list(pool.map(lambda part: _speak(folder, *part), parts))
    pd.concat(spoken).to_csv(folder / "table.csv", index=False)


def _speak(folder: Path, speaker: Speaker, rows: pd.DataFrame) -> pd.DataFrame:
    home = folder / speaker.split / speaker.name
    home.mkdir(parents=True, exist_ok=True)
    texts = rows["text"].tolist()
    waves = engines.speak(speaker.voice, texts, seed=1, apart=True)
    draws = np.random.default_rng((1, speaker.number, len(speaker.split)))
    silent = np.zeros((0, 0))
    paths = []
    for samples in record(waves, ["clean"] * len(waves), silent, draws):
        file = home / f"{len(paths):03d}.wav"
        soundfile.write(file, samples, SAMPLE_RATE, "PCM_16")
        paths.append(file.relative_to(folder).as_posix())
    named = rows.assign(path=paths, speaker=speaker.name)
    return named[["path", "split", "speaker", "text", "intent"]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=["fresh", "few", "coffee", "atis"])
    parser.add_argument("--root", type=Path, help="of coffee or atis")
    arguments = parser.parse_args()
    for name in arguments.names:
        match name:
            case "fresh":
                fresh()
            case "few":
                few()
            case "coffee":
                coffee(arguments.root)
            case _:
                atis(arguments.root)


if __name__ == "__main__":
    main()
