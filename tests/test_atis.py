"""Spoken ATIS: recordings as on the discs, matched with labels by their words."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from stages.core.errors import InputError
from stages.core.manifest import read_manifest
from stages.corpus.atis import Joined, read_atis
from stages.corpus.atis_words import match_key, transcript_keys
from stages.corpus.params import CorpusParams
from stages.corpus.run import read_corpus, run
from stages.corpus.sphere import check_uncompressed, compression_of

SPON = "atis2/12_2_1/atis2/spon/train/mit/4e0/1/"
TRAIN = "atis3/sp_trn/"
TEXT = "atis2/12_1_1/atis2/text/train/mit/4e0/1/"


@pytest.fixture(scope="module")
def sphere(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A recording in NIST SPHERE, as libsndfile writes it."""
    file = tmp_path_factory.mktemp("sphere") / "tone.wav"
    wave = 0.3 * np.sin(np.arange(1600) / 5)
    soundfile.write(file, wave, 16_000, format="NIST", subtype="PCM_16")
    return file.read_bytes()


class Tree:
    """A corpus root to fill."""

    def __init__(self, root: Path, sphere: bytes) -> None:
        self.root = root
        self.sphere = sphere

    def record(self, path: str, content: bytes | None = None) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.sphere if content is None else content)

    def say(self, path: str, text: str) -> None:
        self.record(path, f"{text}\n".encode())

    def utter(self, name: str, text: str, folder: str = TRAIN) -> None:
        """A recording and its transcript."""
        self.record(f"{folder}{name}.wav")
        self.say(f"{folder}{name}.sro", text)

    def label(self, *lines: tuple[str, str], name: str = "all.w-intent.iob") -> None:
        self.record(name, "".join(iob(*line) for line in lines).encode())

    def read(self, **parameters: Any) -> Joined:
        chosen = {"labels": ("all.w-intent.iob",), "least_utterances": 3} | parameters
        params = CorpusParams(name="atis", adapter="atis", **chosen)
        return read_atis(params, self.root)


def iob(text: str, intent: str) -> str:
    return f"BOS {text} EOS\t{'O ' * (len(text.split()) + 1)}{intent}\n"


@pytest.fixture
def tree(tmp_path: Path, sphere: bytes) -> Tree:
    return Tree(tmp_path / "atis", sphere)


def reasons(joined: Joined, kind: str = "recording") -> dict[str, str]:
    """Why each recording, or label, is not in the table."""
    rows = joined.unmatched[joined.unmatched["kind"] == kind]
    return dict(zip(rows["what"], rows["reason"], strict=True))


def split_of(joined: Joined) -> dict[str, str]:
    names = [Path(path).stem.lower() for path in joined.table["path"]]
    return dict(zip(names, joined.table["split"], strict=True))


# --------------------------------------------------------------------- keys of texts


@pytest.mark.parametrize(
    "label, spoken",
    [
        ("at 838 am and 1110", "at eight thirty eight a. m. and eleven ten"),
        ("the 755 am flight", "THE SEVEN FIFTY FIVE A M FLIGHT"),
        ("in st. louis", "in saint louis"),
        ("o'hare at 9 o'clock", "o'hare at nine o'clock"),
        ("dc10 d9s and l1011", "d c ten d nine s and l ten eleven"),
        ("flights 296 and 297", "flights two ninety six and two nine seven"),
        ("under 1200 dollars", "under twelve hundred dollars"),
        ("1288 dollars", "one thousand two hundred and eighty eight dollars"),
        ("1000 or 2100", "one thousand or twenty one hundred"),
        ("1020 dollars", "one thousand twenty dollars"),
        ("at 505 or 1205 or 705", "at five oh five or twelve oh five or seven o five"),
        ("0900", "oh nine hundred"),
        ("1017 and 3357", "one oh one seven and thirty three fifty seven"),
        ("in 1991", "in nineteen ninety one"),
        ("april twenty first", "April twenty-first"),
        ("american's 73s", "american's seventy three s"),
        ("twa to bwi", "uh t. w. a. to um b w i"),
        ("oh let's see", "oh, let\u2019s see"),
    ],
)
def test_a_label_and_a_transcript_of_the_same_words_have_one_key(
    label: str, spoken: str
) -> None:
    assert match_key(label) == match_key(spoken) != ""


@pytest.mark.parametrize(
    "one, other",
    [
        ("at 838 am", "at eight thirty a m"),
        ("flight 38", "flight thirty ten eight"),
        ("20 to 30", "twenty thirty"),
        ("american's", "american"),
        ("from boston to denver", "from denver to boston"),
        ("one hundred dollars", "one thousand dollars"),
    ],
)
def test_other_words_have_another_key(one: str, other: str) -> None:
    assert match_key(one) != match_key(other)


@pytest.mark.parametrize(
    "transcript, words",
    [
        ("show [noise] me [uh] fares [/noise]", ["show me fares"]),
        ("show fli- -- flights", ["show flights"]),
        ("show *me* ~ the fa:res !now~", ["show me the fares now"]),
        ("<the fli-> <<i>> <<mean>> fares", ["the i mean fares", "fares"]),
        ("LIST FARES (8KY014SS)", ["list fares"]),
        (";; by someone\nlist\nround-trip fares\n", ["list round trip fares"]),
        ("[noise] fl-", []),
    ],
)
def test_marks_are_not_words(transcript: str, words: list[str]) -> None:
    assert transcript_keys(transcript) == tuple(match_key(text) for text in words)


# ---------------------------------------------------------------------------- the join

LABELS = [
    ("flights from boston at 838 am", "atis_flight"),
    ("show flights to st. louis", "atis_flight"),
    ("does the dc10 fly", "atis_flight"),
    ("fares to denver", "atis_airfare"),
    ("fares to washington dc", "atis_airfare"),
    ("a fare under 1200 dollars", "atis_airfare"),
    ("nobody said this", "atis_flight"),
]


@pytest.fixture
def small(tree: Tree) -> Tree:
    """Six labelled utterances, as the discs have them, and two more."""
    tree.label(*LABELS)
    # Text and speech on two discs, and two microphones.
    tree.record(SPON + "4e00b1ss.wav")
    tree.record(SPON + "4e00b1sc.wav")
    tree.say(
        TEXT + "4e00b1sx.sro", "flights [uh] from boston at eight thirty eight a m"
    )
    # In upper case, with the desk's microphone alone.
    disc = "ATIS3/17_2.1/ATIS3/SP_TRN/SRI/TS0/2/"
    tree.record(disc + "TS0042SC.WAV")
    tree.say(disc + "TS0042SC.LSN", "SHOW FLIGHTS TO SAINT LOUIS (TS0042SC)")
    tree.utter("g01013ss", "does the *d* c ten fl- fly")
    tree.record("atis0/read/b00121ss.wav")
    tree.say("atis0/read/b00121ss.nli", "Fares to Denver?")
    tree.utter("g01023ss", "fares <for> to washington d. c.")
    tree.utter("g02013ss", "a fare [noise] under twelve hundred dollars")
    tree.utter("g02023ss", "that will be all [click]")
    tree.say("atis3/sp_trn/g02023ss.lsn", "THAT WILL  BE ALL")
    tree.record("atis3/sp_trn/g02033ss.wav")
    return tree


def test_recordings_and_labels_are_joined_by_their_words(small: Tree) -> None:
    joined = small.read()
    assert list(joined.table.columns) == ["path", "split", "speaker", "text", "intent"]
    rows = joined.table.drop(columns="split").itertuples(index=False, name=None)
    assert list(rows) == [
        ("ATIS3/17_2.1/ATIS3/SP_TRN/SRI/TS0/2/TS0042SC.WAV", "ts0", *LABELS[1]),
        ("atis0/read/b00121ss.wav", "b0", *LABELS[3]),
        (SPON + "4e00b1ss.wav", "4e0", *LABELS[0]),
        ("atis3/sp_trn/g01013ss.wav", "g01", *LABELS[2]),
        ("atis3/sp_trn/g01023ss.wav", "g01", *LABELS[4]),
        ("atis3/sp_trn/g02013ss.wav", "g02", *LABELS[5]),
    ]
    for intent in ("atis_flight", "atis_airfare"):
        splits = joined.table.loc[joined.table["intent"] == intent, "split"]
        assert sorted(splits) == ["test", "train", "valid"]
    assert joined.unmatched.values.tolist() == [
        ["label", "all.w-intent.iob:7", "no recording", "nobody said this"],
        ["recording", f"{TRAIN}g02023ss.wav", "no label", "THAT WILL BE ALL"],
        ["recording", f"{TRAIN}g02033ss.wav", "no transcript", ""],
    ]
    assert joined.notes == (
        "9 recordings, 8 transcripts, 7 labels",
        "6 recordings used, each with a label; 1 more of the same utterances",
        "labels left out, no recording: 1",
        "recordings left out, no label: 1",
        "recordings left out, no transcript: 1",
        "2 intents (the paper: 15): atis_airfare 3, atis_flight 3",
        "2 train, 2 valid, 2 test",
        "1 of 2 speakers of test are also in train",
        "0 of 2 texts of test are also in train",
    )


@pytest.mark.parametrize(
    "microphones, used, others",
    [
        ("sc", "a0101ss b0101ss b0201ss c0101sc c0201sc", ""),
        ("cs", "a0101sc b0101ss b0201ss c0101sc c0201sc", ""),
        ("s", "a0101ss b0101ss b0201ss", "c0101sc c0201sc"),
        ("c", "a0101sc c0101sc c0201sc", "b0101ss b0201ss"),
    ],
)
def test_of_two_microphones_the_preferred_is_used(
    tree: Tree, microphones: str, used: str, others: str
) -> None:
    names = ["a0101ss", "a0101sc", "b0101ss", "b0201ss", "c0101sc", "c0201sc"]
    for name in names:
        tree.utter(f"x{name}", f"say {name[:3]}")
    tree.label(*sorted({(f"say {name[:3]}", "spell") for name in names}))
    joined = tree.read(microphones=microphones)
    assert [f"x{name}" for name in used.split()] == sorted(split_of(joined))
    assert reasons(joined) == {
        f"atis3/sp_trn/x{name}.wav": "other microphone" for name in others.split()
    }


@pytest.fixture
def greetings(tree: Tree) -> Tree:
    """Three utterances of one intent, and room for more."""
    tree.label(("hi", "greet"), ("hello", "greet"), ("hi there", "greet"))
    tree.utter("aaa011ss", "hi")
    tree.utter("aaa021ss", "hello")
    tree.utter("aaa031ss", "hi there")
    return tree


def test_one_name_in_two_releases_is_one_utterance_if_the_words_are_the_same(
    greetings: Tree,
) -> None:
    greetings.utter("aaa011ss", "hi", folder="atis2/spon/")
    joined = greetings.read()
    assert len(joined.table) == 3 and reasons(joined) == {}
    assert "; 1 more of the same utterances" in joined.notes[1]
    greetings.utter("aaa021ss", "good morning", folder="atis2/spon/")
    greetings.label(
        *[(text, "greet") for text in ("hi", "hello", "hi there", "good morning")]
    )
    joined = greetings.read()
    assert dict(zip(joined.table["path"], joined.table["text"], strict=True)) == {
        "atis2/spon/aaa011ss.wav": "hi",
        "atis2/spon/aaa021ss.wav": "good morning",
        "atis3/sp_trn/aaa021ss.wav": "hello",
        "atis3/sp_trn/aaa031ss.wav": "hi there",
    }


def test_a_transcript_of_another_release_is_not_used(greetings: Tree) -> None:
    greetings.record("atis2/spon/aaa021ss.wav")
    assert reasons(greetings.read()) == {"atis2/spon/aaa021ss.wav": "no transcript"}


def test_a_text_gives_as_many_recordings_as_labels(greetings: Tree) -> None:
    greetings.utter("zzz011ss", "hi")  # a later name
    greetings.utter("aaa001rs", "hi")  # an earlier one, but read
    greetings.utter("aaa001ss", "hi", folder="atis2/spon/")  # an older release
    joined = greetings.read()
    assert set(split_of(joined)) == {"aaa011ss", "aaa021ss", "aaa031ss"}
    assert reasons(joined) == {
        "atis2/spon/aaa001ss.wav": "labelled less often",
        "atis3/sp_trn/aaa001rs.wav": "labelled less often",
        "atis3/sp_trn/zzz011ss.wav": "labelled less often",
    }
    texts = ("hi", "Hi,", "hello", "hi there", "hi")
    greetings.label(*[(text, "greet") for text in texts])
    joined = greetings.read()
    assert dict(zip(joined.table["path"], joined.table["text"], strict=True)) == {
        "atis2/spon/aaa001ss.wav": "hi",
        "atis3/sp_trn/aaa011ss.wav": "hi",
        "atis3/sp_trn/aaa021ss.wav": "hello",
        "atis3/sp_trn/aaa031ss.wav": "hi there",
        "atis3/sp_trn/zzz011ss.wav": "Hi,",
    }


def test_every_recording_can_be_used(greetings: Tree) -> None:
    greetings.utter("zzz011ss", "hi")
    joined = greetings.read(repeats="all")
    assert len(joined.table) == 4 and joined.unmatched.empty
    assert set(joined.table["text"]) == {"hi", "hello", "hi there"}
    greetings.label(*[("hi", "greet")] * 3, ("hello", "greet"))
    assert reasons(greetings.read(), "label") == {"all.w-intent.iob:3": "no recording"}


def test_the_first_labelled_transcript_is_used(
    greetings: Tree, backwards: Callable[[], None]
) -> None:
    # Each name has two transcripts, as in a test that was transcribed several times.
    for name, final, initial in (
        ("bbb011ss", "hi there", "hello"),
        ("bbb021ss", "ho there", "hello"),
    ):
        greetings.record(f"atis3/sp_tst/{name}.wav")
        greetings.say(f"atis3/sp_tst/initial/{name}.sro", initial)
        greetings.say(f"atis3/sp_tst/final/{name}.sro", final)
    backwards()
    texts = greetings.read(repeats="all").table.set_index("path")["text"]
    assert texts["atis3/sp_tst/bbb011ss.wav"] == "hi there"
    assert texts["atis3/sp_tst/bbb021ss.wav"] == "hello"


def test_a_name_of_another_form_has_no_speaker(greetings: Tree) -> None:
    greetings.utter("some recording", "hi", folder="mine/")
    table = greetings.read(repeats="all").table.set_index("path")
    assert table["speaker"]["mine/some recording.wav"] == ""


@pytest.mark.parametrize(
    "treatment, intents, left_out",
    [
        ("first", {"flight": 4, "fare": 4}, []),
        ("drop", {"flight": 3, "fare": 3}, [4, 5, 6, 10]),
        ("keep", {"flight": 3, "fare": 3, "flight#fare": 3}, []),
    ],
)
def test_joined_intents_are_split_dropped_or_kept(
    tree: Tree, treatment: str, intents: dict[str, int], left_out: list[int]
) -> None:
    said = {
        "flight": ["a b", "a c", "a d"],
        "flight#fare": ["b a", "b c", "b d"],
        "fare": ["c a", "c b", "c d"],
        "fare#flight": ["d a"],
    }
    if treatment == "first":
        said["flight#fare"] = ["b a"]
    lines = [(text, intent) for intent, texts in said.items() for text in texts]
    tree.label(*lines)
    for number, (text, _) in enumerate(lines):
        tree.utter(f"aaa0{number}1ss", text)
    joined = tree.read(joined_intents=treatment)
    assert joined.table["intent"].value_counts().to_dict() == intents
    assert reasons(joined, "label") == {
        f"all.w-intent.iob:{line}": "joined intent" for line in left_out
    }
    if treatment == "drop":
        assert reasons(joined)["atis3/sp_trn/aaa031ss.wav"] == "joined intent"


def test_a_text_with_two_labels_is_left_out(greetings: Tree) -> None:
    texts = [(text, "greet") for text in ("hi", "hello", "hi there")]
    greetings.label(*texts, ("what is ap 57", "short"), ("what is ap57", "restriction"))
    greetings.utter("bbb011ss", "what is a p fifty seven")
    joined = greetings.read()
    assert reasons(joined) == {"atis3/sp_trn/bbb011ss.wav": "two labels"}
    assert reasons(joined, "label") == {
        "all.w-intent.iob:4": "two labels",
        "all.w-intent.iob:5": "two labels",
    }
    # The treatment of joined intents can leave one.
    greetings.label(*texts, ("HI", "greet#part"))
    assert len(greetings.read().table) == 3
    assert len(greetings.read(joined_intents="drop").table) == 3


def test_an_intent_with_few_recordings_is_left_out(small: Tree) -> None:
    (small.root / "atis0/read/b00121ss.wav").unlink()
    joined = small.read()
    assert set(joined.table["intent"]) == {"atis_flight"}
    assert reasons(joined)["atis3/sp_trn/g01023ss.wav"] == "rare intent"
    assert "intents left out, too rare: atis_airfare 2" in joined.notes
    with pytest.raises(
        InputError, match=r"no intent has 4 utterances; found atis_flight 3, atis_air"
    ):
        small.read(least_utterances=4)


def test_discs_can_be_links_and_links_can_form_a_cycle(
    small: Tree, tmp_path: Path, backwards: Callable[[], None]
) -> None:
    before = small.read()
    (small.root / "atis3").rename(tmp_path / "disc")
    (small.root / "atis3").symlink_to(tmp_path / "disc")
    (tmp_path / "disc" / "up").symlink_to(small.root)
    # Of two paths to a file, the first by name is used.
    (small.root / "atis4").symlink_to(tmp_path / "disc")
    backwards()
    after = small.read()
    pd.testing.assert_frame_equal(after.table, before.table)
    assert after.notes == before.notes


# -------------------------------------------------------------------------- the splits

WORDS = ["ada", "bea", "cleo", "dora", "eve", "fay", "gwen", "hope", "ida", "joy"]


def fill(tree: Tree, sizes: dict[str, int], order: int = 1) -> Tree:
    """Utterances with different words, written in the given order."""
    lines = [
        (" ".join(WORDS[int(digit)] for digit in f"{number:03}") + f" {intent}", intent)
        for intent, size in sizes.items()
        for number in range(size)
    ]
    names = {line: f"a{number:05}ss" for number, line in enumerate(sorted(lines))}
    for line in lines[::order]:
        tree.utter(names[line], line[0])
    tree.label(*lines[::order])
    return tree


def test_the_sizes_are_in_the_papers_ratio_and_stratified(tree: Tree) -> None:
    sizes = {"flight": 430, "fare": 100, "airline": 43, "meal": 10}
    table = fill(tree, sizes).read(least_utterances=10).table
    # 583 is a tenth of 5,833, so test is a tenth of 580.
    assert table["split"].value_counts().to_dict() == {
        "train": 473,
        "valid": 52,
        "test": 58,
    }
    counts = table.groupby(["split", "intent"]).size().to_dict()
    for intent, size in sizes.items():
        assert counts["test", intent] == pytest.approx(size * 58 / 583, abs=1)
        rest = size - counts["test", intent]
        assert counts["valid", intent] == pytest.approx(rest * 52 / 525, abs=1)
        assert all(counts[split, intent] for split in ("train", "valid", "test"))


def test_a_small_intent_is_in_every_split(tree: Tree) -> None:
    fill(tree, {"flight": 40, "fare": 3, "meal": 4})
    counts = tree.read().table.groupby("intent")["split"].nunique()
    assert counts.to_dict() == {"flight": 3, "fare": 3, "meal": 3}


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After a call, folders are listed in reverse order."""
    walk = os.walk

    def reversed_walk(*args: Any, **options: Any) -> Iterator[tuple]:
        for folder, folders, names in walk(*args, **options):
            folders.sort(reverse=True)
            yield folder, folders, sorted(names, reverse=True)

    return lambda: monkeypatch.setattr(os, "walk", reversed_walk)


def test_splits_depend_on_the_seed_but_not_on_order_and_folder(
    tree: Tree, tmp_path: Path, sphere: bytes, backwards: Callable[[], None]
) -> None:
    sizes = {"flight": 40, "fare": 11}
    first = fill(tree, sizes).read()
    seeded = tree.read(seed=2).table
    assert list(seeded["path"]) == list(first.table["path"])
    assert list(seeded["split"]) != list(first.table["split"])
    assert sorted(seeded["split"]) == sorted(first.table["split"])
    other = fill(Tree(tmp_path / "b" / "c", sphere), sizes, order=-1)
    backwards()
    second = other.read()
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.notes == second.notes
    (other.root / "atis3").rename(other.root / "disc")
    moved = other.read()
    assert split_of(moved) == split_of(first)
    assert {path.split("/")[0] for path in moved.table["path"]} == {"disc"}


def test_one_more_utterance_moves_few_others(tree: Tree) -> None:
    before = split_of(fill(tree, {"flight": 60, "fare": 60}).read())
    tree.record("more.csv", b"text,intent\nsomething new,flight\n")
    tree.utter("zzz011ss", "something new")
    after = split_of(tree.read(labels=("all.w-intent.iob", "more.csv")))
    moved = [name for name, split in before.items() if after[name] != split]
    assert len(after) == 121 and len(moved) <= 3


# --------------------------------------------------------------------- compressed audio


def header(*fields: str, length: int = 1024) -> bytes:
    lines = "\n".join(["NIST_1A", f"{length:7}", *fields, "end_head", ""])
    return lines.encode().ljust(length, b"\0")


SHORTENED = header(
    "channel_count -i 1",
    "sample_rate -i 16000",
    "sample_coding -s26 pcm,embedded-shorten-v1.09",
)


@pytest.mark.parametrize(
    "content, compression",
    [
        (SHORTENED + b"ajkg\x02\xfb", "embedded-shorten-v1.09"),
        (header("sample_coding -s21 ulaw,embedded-wavpack"), "embedded-wavpack"),
        (header("sample_rate -i 16000") + b"ajkg\x02", "shorten"),
        (header("sample_rate -i 16000", length=2048) + b"ajkg\x02", "shorten"),
        (header("sample_coding -s3 pcm") + b"\0\0\0\0", ""),
        (header("end_head", "sample_coding -s9 pcm,embed"), ""),
        (b"RIFF....WAVEsample_coding -s26 pcm,embedded-shorten-v1.09", ""),
        (b"NIST_1A\n   x", ""),
        (b"", ""),
    ],
)
def test_compression_is_found_in_the_header_or_the_first_samples(
    tmp_path: Path, content: bytes, compression: str
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(content)
    assert compression_of(file) == compression


def test_libsndfile_reads_shortened_samples_as_noise_if_the_header_omits_it(
    tmp_path: Path, sphere: bytes
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(sphere)
    check_uncompressed([file])
    file.write_bytes(sphere[:1024] + b"ajkg\x02" + bytes(range(200)))
    assert np.abs(soundfile.read(file)[0]).max() > 0.1
    with pytest.raises(InputError, match="shorten-compressed"):
        check_uncompressed([file])


def test_a_shortened_recording_is_named_with_the_tools_that_unpack_it(
    small: Tree,
) -> None:
    # Recordings that are not used can be compressed.
    for path in ("atis3/sp_trn/g02023ss.wav", SPON + "4e00b1sc.wav"):
        small.record(path, SHORTENED)
    assert len(small.read().table) == 6
    for name in ("g01023ss", "g02013ss"):
        small.record(f"{TRAIN}{name}.wav", SHORTENED + b"ajkg\x02")
    with pytest.raises(
        InputError,
        match=rf"^{small.root}/{TRAIN}g01023ss\.wav: shorten-compressed SPHERE.*found "
        r"embedded-shorten-v1\.09 in 2 of 6 files.*w_decode -o pcm.*sph2pipe -p.*$",
    ):
        small.read()


@pytest.mark.parametrize("folder", ["atis9unpacked/", "unpacked/", "Unpacked/"])
def test_an_unpacked_copy_is_used_in_place_of_the_original(
    small: Tree, folder: str
) -> None:
    before = split_of(small.read())
    small.record("atis3/sp_trn/g01013ss.wav", SHORTENED)
    small.record(f"{folder}g01013ss.sph")
    if "9" in folder:
        with pytest.raises(InputError, match=r"g01013ss\.wav: shorten"):
            small.read()
        small.say(f"{folder}g01013ss.sro", "does the d c ten fly")
    joined = small.read()
    assert f"{folder}g01013ss.sph" in set(joined.table["path"])
    assert split_of(joined) == before


@pytest.mark.parametrize("suffix, what", [("wav", "recording"), ("sro", "transcript")])
def test_a_dangling_link_is_named(small: Tree, suffix: str, what: str) -> None:
    file = small.root / f"{TRAIN}g01013ss.{suffix}"
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(InputError, match=rf"^{file}: the {what} cannot be read"):
        small.read()


# ------------------------------------------------------------------------- label files


def test_labels_can_be_tables_and_several_files(small: Tree) -> None:
    before = small.read().table
    for suffix, comma in (("csv", ","), ("tsv", "\t")):
        lines = [("number", "intent", "text")] + [
            (str(number), intent, text) for number, (text, intent) in enumerate(LABELS)
        ]
        table = "\n".join(comma.join(line) for line in lines) + "\n"
        small.record(f"labels.{suffix}", table.encode())
        joined = small.read(labels=(f"labels.{suffix}",))
        pd.testing.assert_frame_equal(joined.table, before)
        assert reasons(joined, "label") == {f"labels.{suffix}:8": "no recording"}
    for number, lines in enumerate((LABELS[:3], LABELS[3:])):
        text = "\n".join(iob(*line) for line in lines) + "\n \n"
        small.record(f"{number}.w-intent.iob", text.encode())
    (small.root / "0.w-intent.iob").rename(small.root / "u\u0308.w-intent.iob")
    joined = small.read(labels=("ü.w-intent.iob", "1.w-intent.iob"))
    pd.testing.assert_frame_equal(joined.table, before)
    # Empty lines count.
    assert reasons(joined, "label") == {"1.w-intent.iob:7": "no recording"}


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("a.iob", "hi\tgreet\n", "line 1 is not a labelled .* 1 words an"),
        ("a.iob", "BOS hi EOS\tO O a\nBOS hi EOS a\n", "line 2 is not a labelled"),
        ("a.iob", "\nBOS hi EOS\tO greet\n", "line 2 is not a .* 3 words and 2 t"),
        ("a.iob", "BOS hi EOS\tO O O\n", "line 1 is not a labelled"),
        ("a.iob", "BOS hi EOS\tO O B-greeting\n", "line 1 is not a labelled"),
        ("a.iob", "BOS EOS\tO greet\n", "line 1 is not a labelled"),
        ("a.iob", iob("h\x07i", "greet"), r"line 1 has no readable text; .*'h\\x07"),
        ("a.iob", "\xff", "not UTF-8"),
        ("a.csv", "text,label\nhi,greet\n", "no column intent; found text, label"),
        ("a.csv", "text,intent\nhi,greet\n ,greet\n", "line 3 has no readable text"),
        ("a.csv", "text,intent\nhi,\n", "line 2 has no readable intent"),
        ("a.csv", 'text,intent\n"h\ni",greet\n', "line 2 has an unpaired quot"),
    ],
)
def test_an_invalid_label_is_refused_by_file_and_line(
    tree: Tree, name: str, content: str, complaint: str
) -> None:
    tree.record(name, content.encode("latin-1"))
    with pytest.raises(InputError, match=rf"^{tree.root / name}: .*{complaint}.*$"):
        tree.read(labels=(name,))


def test_missing_labels_and_recordings_are_named(greetings: Tree) -> None:
    with pytest.raises(InputError, match=r"no\.csv: no such label file; fix: put"):
        greetings.read(labels=("all.w-intent.iob", "no.csv"))
    greetings.label(("good morning", "greet"))
    with pytest.raises(
        InputError,
        match=r"no recording has the words of a label; found 3 recordings, .*, 1 lab",
    ):
        greetings.read()


def test_prepare_writes_the_manifest_and_what_did_not_match(
    tree: Tree, tmp_path: Path
) -> None:
    fill(tree, {"flight": 12, "airfare": 6})
    tree.label(("nobody says this", "flight"), name="more.w-intent.iob")
    params = CorpusParams(
        name="atis",
        adapter="atis",
        labels=("all.w-intent.iob", "more.w-intent.iob"),
        least_utterances=3,
    )
    summary = run(params, root=tree.root, output=tmp_path / "out", workers=1)
    table = read_manifest(summary.manifest)
    assert len(table) == 18
    assert (table["seconds"] == 0.1).all()
    joined = read_atis(params, tree.root)
    assert summary.notes == joined.notes
    # Notes on the given splits do not apply to others.
    made = read_corpus(replace(params, splits="random"), tree.root)
    assert made.notes == tuple(note for note in joined.notes if "train" not in note)
    paths = dict(zip(joined.table["path"], joined.table["split"], strict=True))
    assert dict(zip(table["path"], table["split"], strict=True)) == paths
    unmatched = pd.read_csv(tmp_path / "out" / "unmatched.csv")
    assert list(unmatched["text"]) == ["nobody says this"]
