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


def write(root: Path, recordings: Items, supervisions: Items) -> None:
    for part in recordings:
        start = root / "lists"
        RecordingSet.from_recordings(recordings[part]).to_file(
            start / f"mine_recordings_{part}.jsonl.gz"
        )
        # Both that lhotse writes.
        suffix = "jsonl" if part == "dev" else "jsonl.gz"
        SupervisionSet.from_segments(supervisions[part]).to_file(
            start / f"mine_supervisions_{part}.{suffix}"
        )


@pytest.fixture
def items(tmp_path: Path) -> tuple[Path, Items, Items]:
    """The corpus root, and recordings and supervisions by part, not yet written."""
    root = tmp_path / "mine"
    (root / "lists").mkdir(parents=True)
    recordings: Items = {"train": [], "dev": [], "test": []}
    supervisions: Items = {"train": [], "dev": [], "test": []}
    for number, (name, part, speaker, text, intent) in enumerate(UTTERANCES):
        file = root / "audio" / f"{name}.wav"
        write_tone(file, 300 * (number + 1), 0.3, number)
        one = Recording.from_file(file)
        if part != "test":
            # Relative to the root; else absolute, as most recipes write it.
            one.sources[0].source = f"audio/{name}.wav"
        recordings[part].append(one)
        supervisions[part].append(
            SupervisionSegment(
                f"{name}-1",
                name,
                0,
                one.duration,
                text=text,
                speaker=speaker,
                custom={"label": intent, "take": 1},
            )
        )
    return root, recordings, supervisions


def listed(root: Path, params: CorpusParams = PARAMS) -> list[tuple[str, ...]]:
    table = read_corpus(params, root).table.sort_values("path")
    columns = ["path", "split", "speaker", "text", "intent"]
    return list(table[columns].itertuples(index=False, name=None))


def test_supervisions_become_rows(items: tuple[Path, Items, Items]) -> None:
    root, recordings, supervisions = items
    recordings["dev"].append(replace(recordings["dev"][0], id="unlabelled"))
    write(root, recordings, supervisions)
    assert listed(root) == ROWS
    (note,) = read_corpus(PARAMS, root).notes
    assert note.endswith(
        "mine_recordings_dev.jsonl.gz: 1 recordings without a supervision"
    )
    # `data/<name>` is a link.
    (root.parent / "link").symlink_to(root)
    assert listed(root.parent / "link") == ROWS


def test_recordings_outside_the_root_can_be_allowed(
    items: tuple[Path, Items, Items],
) -> None:
    root, recordings, supervisions = items
    other = root.parent / "other"
    other.mkdir()
    (root / "audio").rename(other / "audio")
    for one in chain.from_iterable(recordings.values()):
        one.sources[0].source = f"../other/audio/{one.id}.wav"
    recordings["test"][0].sources[0].source = str(other / "audio" / "d.wav")
    write(root, recordings, supervisions)
    with pytest.raises(InputError, match=r"row 1 leaves .*corpus\.outside_paths"):
        listed(root)
    outside = replace(PARAMS, outside_paths="allow")
    assert listed(root, outside) == [(f"../other/{row[0]}", *row[1:]) for row in ROWS]


def test_splits_can_be_made_from_one_part_without_a_name(
    items: tuple[Path, Items, Items],
) -> None:
    root, recordings, supervisions = items
    rows = [*recordings["train"], *(recordings["dev"] + recordings["test"])]
    spoken = [*supervisions["train"], *(supervisions["dev"] + supervisions["test"])]
    for one in spoken:
        one.custom["label"] = "on"
    write(root, {"train": rows}, {"train": spoken})
    for kind in ("recordings", "supervisions"):
        file = root / "lists" / f"mine_{kind}_train.jsonl.gz"
        file.rename(root / f"{kind}.jsonl.gz")
    params = replace(
        PARAMS,
        prefix="",
        parts=("",),
        splits="random",
        valid_share=0.25,
        test_share=0.25,
    )
    table = read_corpus(params, root).table
    assert list(table["path"]) == [row[0] for row in ROWS]
    assert sorted(table["split"]) == ["test", "train", "train", "valid"]
    with pytest.raises(ConfigurationError, match=r"corpus\.parts .*train, valid and"):
        listed(root, replace(params, splits="given", valid_share=0.1, test_share=0.2))


def test_the_whole_way(
    items: tuple[Path, Items, Items], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, *lists = items
    write(root, *lists)
    monkeypatch.chdir(root.parent)
    configured = pipeline(
        "configure",
        "lhotse",
        *("--root", root),
        *("--set", "corpus.prefix=lists/mine"),
        *("--set", "corpus.intent_key=label"),
    )
    assert (
        f"{root}: 2 train, 1 valid, 1 test utterances, 2 intents" in configured.stdout
    )
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
    items: tuple[Path, Items, Items], name: str, value: object, complaint: str
) -> None:
    root, recordings, supervisions = items
    recording, supervision = recordings["train"][1], supervisions["train"][1]
    setattr(recording if hasattr(recording, name) else supervision, name, value)
    if name == "duration":
        recording.duration, supervision.duration = 0.3, 0.2
    write(root, recordings, supervisions)
    with pytest.raises(InputError, match=rf"^.*{complaint}.*$") as caught:
        listed(root)
    assert "_train.jsonl.gz: row 2" in str(caught.value)


def test_an_intent_that_train_lacks_is_named(items: tuple[Path, Items, Items]) -> None:
    root, recordings, supervisions = items
    supervisions["dev"][0].custom["label"] = "dim"
    write(root, recordings, supervisions)
    with pytest.raises(InputError, match=r"_dev\.jsonl: row 1 has intent 'dim', which"):
        listed(root)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b'{"id": "a"', "row 1 is not readable by lhotse"),
        (b'{"id": "a"}\n', "row 1 is not readable by lhotse .*TypeError"),
        (b'{"id": "\xff"}\n', "row 1 is not readable by lhotse"),
    ],
)
def test_a_damaged_manifest_is_named(
    items: tuple[Path, Items, Items], content: bytes, complaint: str
) -> None:
    root, *lists = items
    write(root, *lists)
    (root / "lists" / "mine_supervisions_dev.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=rf"mine_supervisions_dev\.jsonl: {complaint}"):
        listed(root)


def test_manifests_that_are_missing_or_swapped_are_named(
    items: tuple[Path, Items, Items],
) -> None:
    root, *lists = items
    write(root, *lists)
    file = root / "lists" / "mine_supervisions_test.jsonl.gz"
    other = root / "lists" / "mine_recordings_test.jsonl.gz"
    file.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"row 1 has another type; found Recording"):
        listed(root)
    file.unlink()
    with pytest.raises(
        InputError, match=r"no such manifest of supervisions; fix: .*corpus\.prefix"
    ):
        listed(root)


def test_without_lhotse_the_extra_is_named(
    items: tuple[Path, Items, Items], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, *lists = items
    write(root, *lists)
    monkeypatch.setitem(sys.modules, "lhotse.lazy", None)
    with pytest.raises(ConfigurationError, match=r"pip install -e '\.\[lhotse\]'"):
        listed(root)
