"""Corpora in lhotse's manifests."""

import sys
from collections.abc import Callable
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
    # As `data/<name>` is.
    (root.parent / "link").symlink_to(root)
    assert listed(root.parent / "link") == ROWS


def test_recordings_may_lie_elsewhere_if_that_is_allowed(
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


def test_splits_can_be_made_of_one_part_without_a_name(
    items: tuple[Path, Items, Items],
) -> None:
    root, recordings, supervisions = items
    write(root, {"train": recordings["train"]}, {"train": supervisions["train"]})
    for kind in ("recordings", "supervisions"):
        file = root / "lists" / f"mine_{kind}_train.jsonl.gz"
        file.rename(root / f"{kind}.jsonl.gz")
    params = replace(PARAMS, prefix="", parts=("",), splits="random")
    table, _ = read_lhotse(params, root)
    assert list(table["path"]) == ["audio/a.wav", "audio/b.wav"]
    assert set(table["split"]) == {""}
    with pytest.raises(ConfigurationError, match=r"corpus\.parts .*train, valid and"):
        read_lhotse(replace(params, splits="given"), root)


def test_the_whole_way(
    items: tuple[Path, Items, Items], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, *lists = items
    write(root, *lists)
    monkeypatch.chdir(root.parent)
    told = pipeline(
        "configure",
        "lhotse",
        *("--root", root),
        *("--set", "corpus.prefix=lists/mine"),
        *("--set", "corpus.intent_key=label"),
    )
    assert f"{root}: 2 train, 1 valid, 1 test utterances, 2 intents" in told.stdout
    assert "missing" not in told.stdout
    result = pipeline("prepare-corpus")
    assert result.exit_code == 0, result.output
    manifest = Path("cache/lhotse/manifest.csv").read_text()
    assert "lhotse/audio/d,audio/d.wav,test,dan,off please,off,0.3000," in manifest


def changed(name: str, value: object) -> Callable[[Recording, SupervisionSegment], Any]:
    def change(recording: Recording, supervision: SupervisionSegment) -> None:
        one = recording if hasattr(recording, name) else supervision
        setattr(one, name, value)

    return change


def second_channel(recording: Recording, supervision: SupervisionSegment) -> None:
    recording.sources[0].channels = recording.channel_ids = [0, 1]


def starts_late(recording: Recording, supervision: SupervisionSegment) -> None:
    supervision.start = 0.1


def ends_early(recording: Recording, supervision: SupervisionSegment) -> None:
    supervision.duration = 0.2


@pytest.mark.parametrize(
    "change, complaint",
    [
        (starts_late, r"row 2 is of a part of a recording; found 0\.1 to 0\.4 s"),
        (ends_early, r"row 2 is of a part .*expected 0 to 0\.3 s.*save_audios"),
        (second_channel, r"row 2 is of a part .*channels \[0\]; expected \[0, 1\]"),
        (
            changed("sources", [AudioSource("file", [0], "x")] * 2),
            r"recordings_train\.jsonl\.gz: row 2 is not one file; found sources file,",
        ),
        (
            changed("sources", [AudioSource("url", [0], "https://x")]),
            "row 2 is not one file; found sources url",
        ),
        (
            changed("sources", [AudioSource("file", [0], "../x.wav")]),
            r"row 2 leaves the corpus root; found '\.\./x\.wav'",
        ),
        (
            changed("transforms", [lhotse.augmentation.Speed(1.1)]),
            "row 2 is transformed when it is loaded; found Speed",
        ),
        (changed("recording_id", "z"), "row 2 is of a recording that is not listed"),
        (changed("text", None), "row 2 has no text"),
        (changed("text", "a\nb"), "row 2 has a control character in its text"),
        (
            changed("custom", {"take": 1}),
            r"row 2 has no 'label' in its custom.*found take.*corpus\.intent_key",
        ),
        (changed("custom", None), "row 2 has no 'label' .*found none"),
    ],
)
def test_what_is_no_utterance_is_named_by_file_and_row(
    items: tuple[Path, Items, Items], change: Callable[..., None], complaint: str
) -> None:
    root, recordings, supervisions = items
    change(recordings["train"][1], supervisions["train"][1])
    write(root, recordings, supervisions)
    with pytest.raises(InputError, match=complaint) as caught:
        listed(root)
    assert "_train.jsonl.gz: row 2" in str(caught.value)
    assert "\n" not in str(caught.value)


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
    with pytest.raises(InputError, match=r"row 1 is something else; found Recording"):
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
