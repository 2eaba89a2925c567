"""Recordings of ATIS: find them and their transcripts, match labels, choose one each.

From the releases' documentation (catalog.ldc.upenn.edu/docs: LDC93S5/DIR_SPEC.TXT and
WAV_SPEC.TXT; LDC94S19/fil_spec.html, sro_spec.html and wav_spec.html):

- a file is called `<3 speaker><2 utterance><1 session><1 mode><1 microphone>`, as in
  `atis2/12_2_1/atis2/spon/train/mit/4e0/1/4e00b1ss.wav`, in lower or upper case;
- the microphone is `s` (Sennheiser, on the head), `c` (Crown, on the desk) or, of a
  transcript, `x` for both; the mode is `s` for spontaneous speech;
- `.wav` is NIST SPHERE, on the discs of ATIS2 and ATIS3 compressed by shorten;
- `.sro` is the transcript with marks, `.lsn` without. Transcripts can be on another
  disc than the recordings, so the two are matched by name, not by folder.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.errors import InputError
from stages.corpus.atis_labels import Labels, Unmatched
from stages.corpus.atis_words import transcript_keys
from stages.corpus.sphere import compression_of

_AUDIO = (".wav", ".sph", ".flac")
_TRANSCRIPTS = (".lsn", ".sro", ".snr", ".nli")
"""The nearest to a label's plain words first."""

_NAME = re.compile(r"(?P<utterance>[a-z0-9]{6}(?P<mode>[srcv]))(?P<microphone>[scx])")
_RELEASE = re.compile(r"atis[-_]?(\d)")


@dataclass(frozen=True)
class File:
    """A recording or transcript; `release` is the number of its ATIS, if known."""

    path: str
    name: str
    release: str
    mode: str
    microphone: str

    @property
    def speaker(self) -> str:
        """From the name; in ATIS0 two characters, elsewhere three."""
        return self.name[: 2 if self.release == "0" else 3] if self.mode else ""

    @property
    def preference(self) -> tuple[bool, int, str]:
        """Sort key: first the recordings that the text release was made from."""
        return self.mode != "s", -int(self.release or 0), self.name


def unmatched_recording(one: File, reason: str, text: str) -> Unmatched:
    """A recording that is left out."""
    return Unmatched("recording", one.path, reason, text)


def find_files(root: Path) -> tuple[list[File], list[File]]:
    """Recordings and transcripts below `root`, in an order independent of the disk."""
    recordings: list[File] = []
    transcripts: list[File] = []
    entered: set[tuple[int, int]] = set()
    # Discs can be linked one by one, and a link can lead back up.
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
            file = File(
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


def match_recordings(
    root: Path, recordings: list[File], transcripts: list[File], labels: Labels
) -> tuple[dict[tuple[str, str], list[File]], list[Unmatched]]:
    """Recordings with a wanted key, by key and utterance's name; and all others.

    Two releases can use one name for two utterances, or for the same one. So only
    transcripts of the recording's own release count, and the key decides.
    """
    of_name: dict[str, list[File]] = defaultdict(list)
    for file in transcripts:
        of_name[file.name].append(file)
    of_utterance: dict[tuple[str, str], list[File]] = defaultdict(list)
    for one in recordings:
        of_utterance[one.name, one.release].append(one)
    known = {*labels.wanted, *labels.refused}
    spoken: dict[tuple[str, str], list[File]] = defaultdict(list)
    unmatched: list[Unmatched] = []
    for (name, release), files in of_utterance.items():
        own = [
            file
            for file in of_name[name]
            if not release or file.release in ("", release)
        ]
        texts = (_read_transcript(root / file.path) for file in own)
        key, text = _first_known(texts, known)
        if key in labels.wanted:
            spoken[key, name] += files
        else:
            reason = labels.refused.get(key, "no label" if own else "no transcript")
            unmatched += [unmatched_recording(one, reason, text) for one in files]
    return spoken, unmatched


def _first_known(transcripts: Iterable[str], known: set[str]) -> tuple[str, str]:
    """The first known key and its transcript; or no key and the first transcript."""
    words = ""
    for text in transcripts:
        for key in transcript_keys(text):
            if key in known:
                return key, " ".join(text.split())
        words = words or " ".join(text.split())
    return "", words


def _read_transcript(file: Path) -> str:
    try:
        return file.read_text("latin-1")
    except OSError as error:
        raise InputError(
            "the transcript cannot be read", path=file, found=error.strerror
        ) from None


def choose_recordings(
    root: Path,
    spoken: dict[tuple[str, str], list[File]],
    labels: Labels,
    microphones: str,
) -> tuple[dict[str, list[File]], list[Unmatched]]:
    """One recording of each utterance, by key; and those of other microphones."""
    found: dict[str, list[File]] = defaultdict(list)
    unmatched: list[Unmatched] = []
    order = [*microphones, ""]
    for (key, _), files in spoken.items():
        ranks = [
            order.index(one.microphone) for one in files if one.microphone in order
        ]
        if not ranks:
            text = labels.wanted[key][0].text
            unmatched += [
                unmatched_recording(one, "other microphone", text) for one in files
            ]
            continue
        best = [one for one in files if one.microphone == order[min(ranks)]]
        if len(best) > 1:
            # An unpacked copy comes before its original.
            best.sort(key=lambda one: compression_of(root / one.path) != "")
        # The copy's folder can lack the release.
        release = max(one.release for one in files)
        found[key].append(replace(best[0], release=release))
    return found, unmatched
