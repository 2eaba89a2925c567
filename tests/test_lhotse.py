"""Corpora in lhotse's manifests."""

import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import lhotse
import pytest
from conftest import pipeline, write_tone
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioSource

from stages.core.errors import ConfigurationError, InputError
from stages.corpus.lhotse import read_lhotse
from stages.corpus.params import CorpusParams
from stages.corpus.run import read_corpus

PARAMS = CorpusParams(
    name="mine", adapter="lhotse", prefix="lists/mine", intent_key="label"
)
# Id, part, speaker, text, intent; the file is `audio/<id>.wav`.
UTTERANCES = [
    ("a", "train", "ann", "lights on", "on"),
    ("b", "train", None, "lights off", "off"),
    ("c", "dev", "cat", "on please", "on"),
    ("d", "test", "dan", "off please", "off"),
]
ROWS = [
    ("audio/a.wav", "train", "ann", "lights on", "on"),
    ("audio/b.wav", "train", "", "lights off", "off"),
    ("audio/c.wav", "valid", "cat", "on please", "on"),
    ("audio/d.wav", "test", "dan", "off please", "off"),
]

Items = dict[str, list[Any]]


class Corpus:
    """Recordings and supervisions by part, to be changed and written."""

    def __init__(self, root: Path) -> None:
        (root / "lists").mkdir(parents=True)
        self.root = root
        self.recordings: Items = {"train": [], "dev": [], "test": []}
        self.supervisions: Items = {"train": [], "dev": [], "test": []}
        for number, (name, part, speaker, text, intent) in enumerate(UTTERANCES):
            file = root / "audio" / f"{name}.wav"
            write_tone(file, 300 * (number + 1), 0.3, number)
            one = Recording.from_file(file)
            if part != "test":
                # Relative to the root; else absolute, as most recipes write it.
                one.sources[0].source = f"audio/{name}.wav"
            self.recordings[part].append(one)
            spoken = SupervisionSegment(f"{name}-1", name, 0, one.duration)
            spoken.text, spoken.speaker = text, speaker
            spoken.custom = {"label": intent, "take": 1}
            self.supervisions[part].append(spoken)

    def write(self) -> None:
        for part in self.recordings:
            start = self.root / "lists"
            RecordingSet.from_recordings(self.recordings[part]).to_file(
                start / f"mine_recordings_{part}.jsonl.gz"
            )
            # lhotse writes both suffixes.
            suffix = "jsonl" if part == "dev" else "jsonl.gz"
            SupervisionSet.from_segments(self.supervisions[part]).to_file(
                start / f"mine_supervisions_{part}.{suffix}"
            )


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "mine")


def listed(root: Path, params: CorpusParams = PARAMS) -> list[tuple[str, ...]]:
    table = read_corpus(params, root).table.sort_values("path")
    columns = ["path", "split", "speaker", "text", "intent"]
    return list(table[columns].itertuples(index=False, name=None))


def test_supervisions_become_rows(corpus: Corpus) -> None:
    corpus.recordings["dev"].append(
        replace(corpus.recordings["dev"][0], id="unlabelled")
    )
    corpus.write()
    assert listed(corpus.root) == ROWS
    (note,) = read_corpus(PARAMS, corpus.root).notes
    assert note.endswith(
        "mine_recordings_dev.jsonl.gz: 1 recordings without a supervision"
    )
    # A Mac has two characters for `ü`.
    (corpus.root / "lists").rename(corpus.root / "u\u0308")
    assert listed(corpus.root, replace(PARAMS, prefix="ü/mine")) == ROWS
    (corpus.root / "u\u0308").rename(corpus.root / "lists")
    # `data/<name>` is a link.
    (corpus.root.parent / "link").symlink_to(corpus.root)
    assert listed(corpus.root.parent / "link") == ROWS


def test_recordings_outside_the_root_can_be_allowed(corpus: Corpus) -> None:
    other = corpus.root.parent / "other"
    other.mkdir()
    (corpus.root / "audio").rename(other / "audio")
    for one in chain.from_iterable(corpus.recordings.values()):
        one.sources[0].source = f"../other/audio/{one.id}.wav"
    corpus.recordings["test"][0].sources[0].source = str(other / "audio" / "d.wav")
    corpus.write()
    with pytest.raises(InputError, match=r"row 1 leaves .*corpus\.outside_paths"):
        listed(corpus.root)
    outside = replace(PARAMS, outside_paths="allow")
    assert listed(corpus.root, outside) == [
        (f"../other/{row[0]}", *row[1:]) for row in ROWS
    ]


def test_splits_can_be_made_from_one_part_without_a_name(corpus: Corpus) -> None:
    for lists in (corpus.recordings, corpus.supervisions):
        lists["train"] += lists.pop("dev") + lists.pop("test")
    corpus.write()
    for kind in ("recordings", "supervisions"):
        file = corpus.root / "lists" / f"mine_{kind}_train.jsonl.gz"
        file.rename(corpus.root / f"{kind}.jsonl.gz")
    params = replace(PARAMS, prefix="", parts=("",), splits="random", test_share=0.3)
    table, _ = read_lhotse(params, corpus.root)
    assert list(table["path"]) == [row[0] for row in ROWS]
    assert set(table["split"]) == {""}
    with pytest.raises(ConfigurationError, match=r"corpus\.parts .*train, valid and"):
        replace(params, splits="given", test_share=0.2)


def test_the_whole_way(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.write()
    monkeypatch.chdir(corpus.root.parent)
    configured = pipeline(
        "configure",
        "lhotse",
        *("--root", corpus.root),
        *("--set", "corpus.prefix=lists/mine"),
        *("--set", "corpus.intent_key=label"),
    )
    assert f"{corpus.root}: 2 train, 1 valid, 1 test" in configured.stdout
    assert "missing" not in configured.stdout
    result = pipeline("prepare-corpus")
    assert result.exit_code == 0, result.output
    manifest = Path("cache/lhotse/manifest.csv").read_text()
    assert "lhotse/audio/d,audio/d.wav,test,dan,off please,off,0.3000," in manifest


SPEED = lhotse.augmentation.Speed(1.1)


@pytest.mark.parametrize(
    "name, value, complaint",
    [
        ("start", 0.1, r"row 2 is a part of a recording; found 0\.1 to 0\.4 s"),
        ("duration", 0.2, r"row 2 is a part .*expected 0 to 0\.3 s.*save_audios"),
        (
            "channel",
            [0, 1],
            r"row 2 is a part .*channels \[0, 1\]; expected \[0\], all",
        ),
        (
            "sources",
            [AudioSource("file", [0], "x")] * 2,
            r"recordings_train\.jsonl\.gz: row 2 is not one file; found sources file,",
        ),
        (
            "sources",
            [AudioSource("url", [0], "https://x")],
            "row 2 is not one file; found sources url",
        ),
        (
            "sources",
            [AudioSource("file", [0], "../x.wav")],
            r"row 2 leaves the corpus root; found '\.\./x\.wav'",
        ),
        ("transforms", [SPEED], "row 2 is transformed when it is loaded; found Speed"),
        ("id", "a", r"recordings_train\.jsonl\.gz: row 2 has the id of row 1"),
        ("recording_id", "z", "row 2 has a recording that is not listed; found z"),
        ("text", None, "row 2 has no text"),
        (
            "custom",
            {"take": 1},
            r"row 2 has no 'label' in its custom.*found take.*corpus\.intent_key",
        ),
        ("custom", None, "row 2 has no 'label' .*found none"),
    ],
)
def test_an_invalid_utterance_is_named_by_file_and_row(
    corpus: Corpus, name: str, value: object, complaint: str
) -> None:
    recording = corpus.recordings["train"][1]
    supervision = corpus.supervisions["train"][1]
    setattr(recording if hasattr(recording, name) else supervision, name, value)
    if name == "duration":
        recording.duration, supervision.duration = 0.3, 0.2
    corpus.write()
    with pytest.raises(InputError, match=rf"^.*{complaint}.*$") as caught:
        listed(corpus.root)
    assert "_train.jsonl.gz: row 2" in str(caught.value)


def test_an_intent_that_train_lacks_is_named(corpus: Corpus) -> None:
    corpus.supervisions["dev"][0].custom["label"] = "dim"
    corpus.write()
    with pytest.raises(InputError, match=r"_dev\.jsonl: row 1 has intent 'dim', which"):
        listed(corpus.root)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b'{"id": "a"', "row 1 is not readable by lhotse"),
        (b'{"id": "a"}\n', "row 1 is not readable by lhotse .*TypeError"),
        (b'{"id": "\xff"}\n', "row 1 is not readable by lhotse"),
    ],
)
def test_a_damaged_manifest_is_named(
    corpus: Corpus, content: bytes, complaint: str
) -> None:
    corpus.write()
    (corpus.root / "lists" / "mine_supervisions_dev.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=rf"mine_supervisions_dev\.jsonl: {complaint}"):
        listed(corpus.root)


def test_manifests_that_are_missing_or_swapped_are_named(corpus: Corpus) -> None:
    corpus.write()
    file = corpus.root / "lists" / "mine_supervisions_test.jsonl.gz"
    other = corpus.root / "lists" / "mine_recordings_test.jsonl.gz"
    file.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"row 1 has another type; found Recording"):
        listed(corpus.root)
    file.unlink()
    with pytest.raises(
        InputError, match=r"no such manifest of supervisions; fix: .*corpus\.prefix"
    ):
        listed(corpus.root)


def test_without_lhotse_the_extra_is_named(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.write()
    monkeypatch.setitem(sys.modules, "lhotse.lazy", None)
    with pytest.raises(ConfigurationError, match=r"pip install -e '\.\[lhotse\]'"):
        listed(corpus.root)
