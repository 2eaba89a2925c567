"""Spoken ATIS: the LDC's recordings joined with a text release that has intents.

Under one root lie the releases (ATIS0 LDC93S4A/B, ATIS2 LDC93S5, ATIS3 LDC94S19 and
LDC95S26) as copied from their discs, and the label files. What is relied on, from the
releases' own documentation (catalog.ldc.upenn.edu/docs: LDC93S5/DIR_SPEC.TXT and
WAV_SPEC.TXT; LDC94S19/fil_spec.html, sro_spec.html and wav_spec.html):

- a file is called `<3 speaker><2 utterance><1 session><1 mode><1 microphone>`, as in
  `atis2/12_2_1/atis2/spon/train/mit/4e0/1/4e00b1ss.wav`; upper case does as well;
- the microphone is `s` (Sennheiser, at the head), `c` (Crown, on the desk) or, of a
  transcript, `x` for both; the mode is `s` where speech is spontaneous;
- `.wav` is NIST SPHERE, on the discs of ATIS2 and ATIS3 compressed by shorten;
- `.sro` says what is heard, with marks; `.lsn` is the same without. Transcripts may lie
  on another disc than the recordings, so the two meet by name, not by folder.

The text release (`*.w-intent.iob`) is made of utterances of ATIS2 and ATIS3, a line
each: the list that Shivakumar et al. 2019 (arXiv:1904.03576) published finds 5,869
recordings for its 5,871 lines. The paper has 5,833 utterances, fewer than lines; so by
default a line takes one recording.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.manifest import SPLITS
from stages.core.text import normalise_text
from stages.corpus.entry import not_utf8
from stages.corpus.table import check_columns, read_text_table

JOINED_INTENTS = ("first", "drop", "keep")
REPEATS = ("labelled", "all")
MICROPHONES = ("sc", "cs", "s", "c")
PAPER_INTENTS = 15

_AUDIO = (".wav", ".sph", ".flac")
_TRANSCRIPTS = (".lsn", ".sro", ".snr", ".nli")
"""Those nearest to a label's plain words first."""

_NAME = re.compile(r"(?P<utterance>[a-z0-9]{6}(?P<mode>[srcv]))(?P<microphone>[scx])")
_RELEASE = re.compile(r"atis[-_]?(\d)")
_SHORTEN = b"ajkg"
"""How shortened samples begin."""

_HESITATIONS = {"uh", "um", "er", "ah", "eh", "mm", "hm"}
_SMALL = """zero one two three four five six seven eight nine ten eleven twelve
thirteen fourteen fifteen sixteen seventeen eighteen nineteen"""
_TENS = """zero ten twenty thirty forty fifty sixty seventy eighty ninety"""
_NUMBERS = {word: 10 * tens for tens, word in enumerate(_TENS.split())} | {
    word: number for number, word in enumerate(_SMALL.split())
}


@dataclass(frozen=True)
class Joined:
    """Spoken ATIS.

    Attributes:
        table: rows for the manifest: path, split, speaker, text, intent; sorted by
            path. The text is the text release's.
        unmatched: what is not in the table, sorted: `kind` (recording or label),
            `what` (path, or file and line), `reason`, `text`. Not the second recording
            of an utterance that is.
        report: lines for a person about the join.
        split_report: likewise about the splits.
    """

    table: pd.DataFrame
    unmatched: pd.DataFrame
    report: tuple[str, ...]
    split_report: tuple[str, ...]


def read_atis(
    root: Path,
    *,
    labels: Sequence[str],
    joined_intents: str = "first",
    least_utterances: int = 10,
    repeats: str = "labelled",
    microphones: str = "sc",
    train_utterances: int = 5253,
    test_utterances: int = 580,
    valid_share: float = 0.1,
    seed: int = 1,
) -> Joined:
    """Join recordings and labels by what is said, and split them.

    An utterance takes the label whose text has the same `match_key` as its transcript.
    What the labels give two intents is left out, since nothing tells which is right: 7
    lines of the text release, such as «what is restriction ap 57» and «… ap57».

    Test is drawn first, then valid out of the rest, each stratified by intent with one
    utterance at least. Who goes where depends on the seed, the utterance's name and
    its text alone, so neither the order of files nor where the folder lies matters.
    Speakers and texts may stand in several splits, as the paper does not say
    otherwise; the report counts them.

    Args:
        root: the folder with the releases and the label files.
        labels: label files relative to `root`: `.csv` and `.tsv` with the columns text
            and intent; anything else in the format of `.w-intent.iob`.
        joined_intents: what `atis_flight#atis_airfare` becomes: its `first` part; or
            `drop` the utterance; or `keep` it as an intent of its own.
        least_utterances: of an intent, or it is left out; at least 3, one for each
            split. The text release has the paper's 15 intents in 5,862 lines with
            `first` and 7 to 12 here; in 5,821 with `drop` and the same, too few for the
            paper's utterances; in 5,842 with `keep` and 13 to 20, when one of the 15 is
            a joined one.
        repeats: of a text that is recorded more often than labelled, take as many as
            `labelled`, spontaneous ones and later releases first; or `all`.
        microphones: which recordings to use, the preferred first: `s` at the head, `c`
            on the desk. Of one utterance one recording is used.
        train_utterances: the paper's (Table 1).
        test_utterances: likewise. Where another number matched, the ratio is theirs.
        valid_share: of train, to choose the model on: a tenth, as in the usual
            development part of the text release (500 of 4,978), is nearly test's size.
        seed: of the split.

    Raises:
        ConfigurationError: a parameter is none of the known ones.
        InputError: a label file is missing or bad (names the line), there is nothing
            to join, or a recording is compressed.
    """
    for name, value, choices in (
        ("joined_intents", joined_intents, JOINED_INTENTS),
        ("repeats", repeats, REPEATS),
        ("microphones", microphones, MICROPHONES),
    ):
        _check(name, value in choices, repr(value), f"one of {', '.join(choices)}")
    _check("labels", len(labels) > 0, "none", "label files below the corpus root")
    _check("least_utterances", least_utterances >= 3, least_utterances, "3 or more")
    smallest = min(train_utterances, test_utterances)
    _check("train_utterances and test_utterances", smallest > 0, smallest, "1 or more")
    _check("valid_share", 0 < valid_share < 1, valid_share, "between 0 and 1")
    lines = [line for name in labels for line in _read_labels(root / name, name)]
    wanted, refused, missed = _sort_labels(lines, joined_intents)
    recordings, transcripts = _find_files(root)
    spoken, silent = _hear(root, recordings, transcripts, wanted, refused)
    found, unused = _choose(root, spoken, wanted, microphones)
    rows, left = _pair(wanted, found, repeats)
    if not rows:
        raise InputError(
            "no recording says what a label says",
            path=root,
            found=f"{len(recordings)} recordings, {len(transcripts)} transcripts, "
            f"{len(lines)} labels",
            fix="link the recordings, their .sro or .lsn files and the labels there",
        )
    sizes = Counter(line.intent for _, line in rows)
    rare = {intent for intent, size in sizes.items() if size < least_utterances}
    left += [
        _recording(one, "rare intent", line.text)
        for one, line in rows
        if line.intent in rare
    ]
    rows = [row for row in rows if row[1].intent not in rare]
    if not rows:
        raise InputError(
            f"no intent has {least_utterances} utterances",
            path=root,
            found=", ".join(f"{name} {size}" for name, size in sizes.most_common()),
            fix="complete the recordings, or lower least_utterances",
        )
    test_share = test_utterances / (train_utterances + test_utterances)
    splits = _split(rows, test_share, valid_share, seed)
    table = pd.DataFrame(
        [
            (one.path, split, one.speaker, line.text, line.intent)
            for (one, line), split in zip(rows, splits, strict=True)
        ],
        columns=["path", "split", "speaker", "text", "intent"],
    ).sort_values("path", ignore_index=True)
    check_uncompressed(root / path for path in table["path"])
    missed = sorted(missed + silent + unused + left)
    unmatched = pd.DataFrame(missed, columns=_Missed._fields, dtype=str)
    others = Counter(one.kind for one in missed)["recording"]
    second = len(recordings) - len(table) - others
    report = (
        f"{len(recordings)} recordings, {len(transcripts)} transcripts, {len(lines)} "
        "labels",
        f"{len(table)} recordings taken, each with a label; {second} more of the same "
        "utterances",
        *_describe_rest(missed),
        *_describe_intents(sizes, rare),
    )
    return Joined(table, unmatched, report, tuple(_describe_splits(table)))


def match_key(text: str) -> str:
    """What two ways to write the same words have in common; words without spaces.

    Transcripts spell numbers and letters («eight thirty eight a m», «d c ten»), labels
    mostly do not («838 am», «dc10»); so numbers become digits on both sides, and spaces
    go. Saint is st, hesitations are nothing.
    """
    words = [
        "st" if word == "saint" else word
        for word in normalise_text(text).split()
        if word not in _HESITATIONS
    ]
    return re.sub(r"[\W_]", "", "".join(_with_digits(words)))


def transcript_keys(transcript: str) -> tuple[str, ...]:
    """The keys of what a transcript may be called in a text release, likeliest first.

    Marks of `.sro` (LDC94S19/sro_spec.html; the EAGLES handbook of 1997, section on
    SpeechDat, on where ATIS differs): `[noise]` and `[uh]`; `fli-`, a word cut off;
    `<word>`, taken back by the speaker, which a text release may or may not have;
    `*word*`, mispronounced; `~`, cut by the recording. `!` and `:` go too, should
    stress and length be marked. Of `.lsn`: the utterance's name at the end.
    """
    lines = [line for line in transcript.splitlines() if not line.startswith(";")]
    text = re.sub(r"\(\s*\w{7,8}\s*\)\s*$", "", " ".join(lines))
    text = re.sub(r"\[[^\]]*\]", " ", text)
    text = re.sub(r"(?<![^\s<])[^\s<>]*-(?=[\s>]|$)", " ", text)
    text = re.sub(r"[*~!:]", "", text)
    keys = [match_key(text), match_key(re.sub(r"<+[^<>]*>+", " ", text))]
    return tuple(dict.fromkeys(key for key in keys if key))


def sphere_compression(file: Path) -> str:
    """How the samples of a NIST SPHERE file are compressed; empty if they are not.

    Reads the header and the four bytes behind it: a file whose header does not tell
    would be taken for plain samples by libsndfile, and be noise.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            header = stream.read(1024)
            length = header[8:16].strip()
            if not header.startswith(b"NIST_1A\n") or not length.isdigit():
                return ""
            stream.seek(int(length))
            start = stream.read(4)
    except OSError as error:
        raise InputError(
            "the recording cannot be read", path=file, found=error.strerror
        ) from None
    fields = header.split(b"end_head")[0].decode("latin-1")
    coding = re.search(r"^sample_coding -s\d+ [^,\n]*,\s*(\S+)", fields, re.MULTILINE)
    if coding:
        return coding[1]
    return "shorten" if start == _SHORTEN else ""


def check_uncompressed(files: Iterable[Path]) -> None:
    """Raise InputError if one of `files` is compressed SPHERE; names the first."""
    files = list(files)
    packed = [(file, how) for file in files if (how := sphere_compression(file))]
    if packed:
        file, how = packed[0]
        kind = "shorten-compressed" if "shorten" in how else "compressed"
        raise InputError(
            f"{kind} SPHERE, which libsndfile does not read",
            path=file,
            found=f"{how} in {len(packed)} of {len(files)} files",
            fix="unpack with `w_decode -o pcm FILE COPY` of NIST's SPHERE tools or "
            "`sph2pipe -p FILE COPY` of the LDC; a copy of the same name below the "
            "corpus root is used in place of the original",
        )


@dataclass(frozen=True)
class _Label:
    text: str
    intent: str
    where: str


@dataclass(frozen=True)
class _File:
    """A recording or transcript; `release` is its ATIS's number, where told."""

    path: str
    name: str
    release: str
    mode: str
    microphone: str


@dataclass(frozen=True)
class _Utterance:
    path: str
    name: str
    release: str
    spontaneous: bool
    speaker: str

    def preference(self) -> tuple[bool, int, str]:
        """Sorts those first that the text release was made of."""
        return not self.spontaneous, -int(self.release or 0), self.name


class _Missed(NamedTuple):
    kind: str
    what: str
    reason: str
    text: str


def _recording(one: "_File | _Utterance", reason: str, text: str) -> _Missed:
    return _Missed("recording", one.path, reason, text)


def _label(line: _Label, reason: str) -> _Missed:
    return _Missed("label", line.where, reason, line.text)


def _check(name: str, good: bool, found: object, expected: str) -> None:
    if not good:
        raise ConfigurationError(
            f"corpus.{name} cannot be used", found=found, expected=expected
        )


# ------------------------------------------------------------------------- the labels


def _read_labels(file: Path, name: str) -> list[_Label]:
    if not file.is_file():
        raise InputError(
            "no such label file",
            path=file,
            fix="link the text release below the corpus root and name its files",
        )
    if file.suffix in (".csv", ".tsv"):
        table = read_text_table(file)
        check_columns(file, table, ("text", "intent"))
        fields = list(enumerate(zip(table["text"], table["intent"], strict=True), 2))
    else:
        fields = _read_iob(file)
    labels = []
    for number, (text, intent) in fields:
        text, intent = text.strip(), intent.strip()
        for field, value in (("text", text), ("intent", intent)):
            if not value or not value.isprintable():
                raise InputError(
                    f"line {number} has no readable {field}",
                    path=file,
                    found=repr(value),
                )
        labels.append(_Label(text, intent, f"{name}:{number}"))
    return labels


def _read_iob(file: Path) -> list[tuple[int, tuple[str, str]]]:
    """Number, text and intent of lines `BOS words EOS <tab> tags intent`."""
    try:
        lines = file.read_text("utf-8").split("\n")
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    labels = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        said, _, tags = line.partition("\t")
        words, slots = said.split(), tags.split()
        framed = len(words) > 2 and words[0] == "BOS" and words[-1] == "EOS"
        # The intent stands where the tag of EOS would.
        if not framed or len(slots) != len(words) or re.match(r"O$|[BI]-", slots[-1]):
            raise InputError(
                f"line {number} is no labelled utterance",
                path=file,
                found=f"{len(words)} words and {len(slots)} tags in {line[:60]!r}",
                expected="`BOS words EOS`, a tab, a tag for each, the last the intent",
            )
        labels.append((number, (" ".join(words[1:-1]), slots[-1])))
    return labels


def _sort_labels(
    lines: list[_Label], joined_intents: str
) -> tuple[dict[str, list[_Label]], dict[str, str], list[_Missed]]:
    """Labels by key; why other keys have none; and the lines that were left out."""
    by_key: dict[str, list[_Label]] = defaultdict(list)
    missed: list[_Missed] = []
    refused: dict[str, str] = {}
    for line in lines:
        key = match_key(line.text)
        if joined_intents == "drop" and "#" in line.intent:
            refused[key] = "joined intent"
            missed.append(_label(line, "joined intent"))
        elif joined_intents == "first":
            by_key[key].append(replace(line, intent=line.intent.split("#")[0]))
        else:
            by_key[key].append(line)
    for key, same in by_key.items():
        refused.pop(key, None)
        if len({line.intent for line in same}) > 1:
            refused[key] = "two labels"
            missed += [_label(line, "two labels") for line in same]
    wanted = {key: same for key, same in by_key.items() if key not in refused}
    return wanted, refused, missed


# --------------------------------------------------------------------- the recordings


def _find_files(root: Path) -> tuple[list[_File], list[_File]]:
    """Recordings and transcripts below `root`, in one order whatever the disk's."""
    recordings: list[_File] = []
    transcripts: list[_File] = []
    entered: set[tuple[int, int]] = set()
    # Discs may be linked one by one, and a link may lead back up.
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in entered:
            folders.clear()
            continue
        entered.add((state.st_dev, state.st_ino))
        for name in names:
            stem, suffix = os.path.splitext(name.lower())
            if suffix not in _AUDIO + _TRANSCRIPTS:
                continue
            path = (Path(folder) / name).relative_to(root).as_posix()
            release = _RELEASE.findall(path.lower())
            parts = _NAME.fullmatch(stem)
            file = _File(
                path,
                parts["utterance"] if parts else stem,
                release[-1] if release else "",
                parts["mode"] if parts else "",
                parts["microphone"] if parts else "",
            )
            (recordings if suffix in _AUDIO else transcripts).append(file)
    # Of a test's three transcripts `final` comes before `initial` and `prelim`.
    transcripts.sort(key=lambda file: file.path)
    transcripts.sort(
        key=lambda file: _TRANSCRIPTS.index(Path(file.path).suffix.lower())
    )
    return sorted(recordings, key=lambda file: file.path), transcripts


def _hear(
    root: Path,
    recordings: list[_File],
    transcripts: list[_File],
    wanted: dict[str, list[_Label]],
    refused: dict[str, str],
) -> tuple[dict[tuple[str, str], list[_File]], list[_Missed]]:
    """Recordings of a wanted key, by key and utterance's name; and all others.

    A name can stand for two utterances in two releases, or for one in both, so a
    transcript is looked for in the recording's own release, and then the key tells.
    """
    of_name: dict[str, list[_File]] = defaultdict(list)
    for file in transcripts:
        of_name[file.name].append(file)
    of_utterance: dict[tuple[str, str], list[_File]] = defaultdict(list)
    for one in recordings:
        of_utterance[one.name, one.release].append(one)
    known = {*wanted, *refused}
    spoken: dict[tuple[str, str], list[_File]] = defaultdict(list)
    missed: list[_Missed] = []
    for (name, release), files in of_utterance.items():
        own = [
            file
            for file in of_name[name]
            if not release or file.release in ("", release)
        ]
        texts = (_read_transcript(root / file.path) for file in own)
        key, text = _first_known(texts, known)
        if key in wanted:
            spoken[key, name] += files
        else:
            reason = refused.get(key, "no label" if own else "no transcript")
            missed += [_recording(one, reason, text) for one in files]
    return spoken, missed


def _first_known(transcripts: Iterable[str], known: set[str]) -> tuple[str, str]:
    """The first known key and its transcript; or no key and the first transcript."""
    words = ""
    for said in transcripts:
        for key in transcript_keys(said):
            if key in known:
                return key, " ".join(said.split())
        words = words or " ".join(said.split())
    return "", words


def _read_transcript(file: Path) -> str:
    try:
        return file.read_text("latin-1")
    except OSError as error:
        raise InputError(
            "the transcript cannot be read", path=file, found=error.strerror
        ) from None


def _choose(
    root: Path,
    spoken: dict[tuple[str, str], list[_File]],
    wanted: dict[str, list[_Label]],
    microphones: str,
) -> tuple[dict[str, list[_Utterance]], list[_Missed]]:
    """Utterances by key, each with one of its recordings; and those of neither kind."""
    found: dict[str, list[_Utterance]] = defaultdict(list)
    missed: list[_Missed] = []
    order = [*microphones, ""]
    for (key, name), files in spoken.items():
        ranks = [
            order.index(one.microphone) for one in files if one.microphone in order
        ]
        if not ranks:
            text = wanted[key][0].text
            missed += [_recording(one, "other microphone", text) for one in files]
            continue
        best = [one for one in files if one.microphone == order[min(ranks)]]
        if len(best) > 1:
            # A copy that somebody unpacked goes before its original.
            best.sort(key=lambda one: sphere_compression(root / one.path) != "")
        release = max(one.release for one in files)
        # Speakers of ATIS0 have two characters, and its utterances three.
        speaker = name[: 2 if release == "0" else 3] if best[0].mode else ""
        found[key].append(
            _Utterance(best[0].path, name, release, best[0].mode == "s", speaker)
        )
    return found, missed


def _pair(
    wanted: dict[str, list[_Label]], found: dict[str, list[_Utterance]], repeats: str
) -> tuple[list[tuple[_Utterance, _Label]], list[_Missed]]:
    """Each label's utterance; and the labels and utterances that were left over."""
    rows: list[tuple[_Utterance, _Label]] = []
    missed: list[_Missed] = []
    for key, same in sorted(wanted.items()):
        heard = sorted(found.get(key, []), key=_Utterance.preference)
        missed += [_label(line, "no recording") for line in same[len(heard) :]]
        rows += zip(heard, same, strict=False)
        if repeats == "all":
            rows += [(one, same[-1]) for one in heard[len(same) :]]
        else:
            missed += [
                _recording(one, "labelled less often", same[-1].text)
                for one in heard[len(same) :]
            ]
    return rows, missed


# ------------------------------------------------------------------ words and numbers


def _with_digits(words: list[str]) -> list[str]:
    """Numbers in words as digits: «eight thirty eight» is 8, 38; «two hundred» 200."""
    words = [_zero_of(words, place) for place in range(len(words))]
    done: list[str] = []
    number: int | None = None
    room = 0  # Below this a number may be added: «thirty» takes «eight», not «ten».

    def finish() -> None:
        nonlocal number, room
        if number is not None:
            done.append(str(number))
        number, room = None, 0

    for place, word in enumerate(words):
        follows = words[place + 1] if place + 1 < len(words) else ""
        if word in _NUMBERS:
            value = _NUMBERS[word]
            if number is not None and 0 < value < room:
                number += value
            else:
                finish()
                number = value
            room = 10 if value >= 20 else 0
        elif word == "hundred":
            if number is None or not 0 < number % 1000 < 100:
                finish()
                number = 1
            number += number % 1000 * 99
            room = 100
        elif word == "thousand":
            if number is None or not 0 < number < 1000:
                finish()
                number = 1
            number *= 1000
            room = 1000
        elif word != "and" or room < 100 or follows not in _NUMBERS:
            finish()
            done.append(word)
    finish()
    return done


def _zero_of(words: list[str], place: int) -> str:
    """«zero» for an «oh» or «o» among numbers, as in «seven oh five»."""
    word = words[place]
    if word not in ("o", "oh"):
        return word
    near = words[place + 1 : place + 2]
    if word == "oh":
        near += words[place - 1 : place]
    return "zero" if any(one in _NUMBERS or one == "oh" for one in near) else word


# ------------------------------------------------------------------------- the splits


def _split(
    rows: list[tuple[_Utterance, _Label]],
    test_share: float,
    valid_share: float,
    seed: int,
) -> list[str]:
    """The split of each of `rows`."""
    by_intent: dict[str, list[int]] = defaultdict(list)
    for place, (_, line) in enumerate(rows):
        by_intent[line.intent].append(place)

    # One more utterance moves few others, as it would not with a shuffle.
    def drawn(place: int) -> tuple[str, str]:
        one, line = rows[place]
        draw = f"{seed}\n{one.name}\n{match_key(line.text)}"
        return hashlib.sha256(draw.encode()).hexdigest(), one.path

    sizes = {intent: len(places) for intent, places in sorted(by_intent.items())}
    test = _quotas(sizes, round(len(rows) * test_share), spare=2)
    rest = {intent: size - test[intent] for intent, size in sizes.items()}
    valid = _quotas(rest, round(sum(rest.values()) * valid_share), spare=1)
    splits = ["train"] * len(rows)
    for intent, places in by_intent.items():
        order = sorted(places, key=drawn)
        for place in order[: test[intent]]:
            splits[place] = "test"
        for place in order[test[intent] : test[intent] + valid[intent]]:
            splits[place] = "valid"
    return splits


def _quotas(sizes: dict[str, int], total: int, *, spare: int) -> dict[str, int]:
    """`total` dealt out in proportion to `sizes`: one at least, `spare` left over."""
    quotas = dict.fromkeys(sizes, 1)
    share = total / sum(sizes.values())
    for _ in range(total - len(sizes)):
        growing = [name for name in sizes if quotas[name] < sizes[name] - spare]
        if growing:
            behind = max(growing, key=lambda name: sizes[name] * share - quotas[name])
            quotas[behind] += 1
    return quotas


# ------------------------------------------------------------------------- the report


def _describe_rest(missed: list[_Missed]) -> list[str]:
    reasons = Counter((one.kind, one.reason) for one in missed)
    return [
        f"{kind}s left out, {reason}: {count}"
        for (kind, reason), count in sorted(reasons.items())
    ]


def _describe_intents(sizes: Counter[str], rare: set[str]) -> list[str]:
    def listed(names: list[str]) -> str:
        return ", ".join(f"{name} {sizes[name]}" for name in names)

    names = [name for name, _ in sorted(sizes.items(), key=lambda one: (-one[1], one))]
    kept = [name for name in names if name not in rare]
    lines = [f"{len(kept)} intents (the paper: {PAPER_INTENTS}): {listed(kept)}"]
    if rare:
        lines.append(f"intents left out, too rare: {listed(names[len(kept) :])}")
    return lines


def _describe_splits(table: pd.DataFrame) -> list[str]:
    parts = {name: table[table["split"] == name] for name in SPLITS}
    lines = [", ".join(f"{len(part)} {name}" for name, part in parts.items())]
    for column in ("speaker", "text"):
        tested, trained = (set(parts[name][column]) for name in ("test", "train"))
        lines.append(
            f"{len(tested & trained)} of {len(tested)} {column}s of test stand in train"
        )
    return lines
