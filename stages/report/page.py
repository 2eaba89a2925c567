"""The page, `index.html`: everything in one file that opens without a network.

`templates/page.html` has its sections, `page.css` its looks, and `page.js` sorting,
filters and players, without which it can be read all the same.
"""

import base64
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from stages.report.params import MOST_CONFUSED
from stages.report.rendering import render

if TYPE_CHECKING:
    from stages.report.listening import Clip

PAGE = "index.html"
AUDIO_FOLDER = "audio"
LIMIT = 14_500_000
"""Bytes of the page, beyond which recordings are left out."""
_LARGEST_CONFUSIONS = 10
_WAVE_HEIGHT = 40  # of a waveform, in units of its picture
_PACKAGES = ("torch", "transformers", "numpy", "pandas", "scikit-learn", "dvc")


def page_files(
    found: Mapping[str, Any],
    charts: Mapping[str, str],
    errors: Sequence[Mapping[str, Any]],
    clips: "Iterable[Clip]",
    durations: Mapping[str, float],
    *,
    linked: bool,
) -> dict[str, bytes]:
    """The page, and the recordings if they are linked, by name.

    Args:
        found: `results`.
        charts: `inline`, SVG by name.
        errors: of `find_errors`.
        clips: of each error; none for a page without recordings.
        durations: seconds by stage.
        linked: whether recordings are files of their own.
    """
    shown, recordings = [dict(error) for error in errors], []
    for error, clip in zip(shown, clips, strict=False):
        error |= {"seconds": clip.seconds, "wave": _wave(clip), "weights": None}
        if clip.attention and clip.frame_seconds:
            error["weights"] = _weights(clip)
        recordings.append(clip.audio)
    filters = _filters(shown)
    values = {
        "found": found,
        "charts": charts,
        "errors": shown,
        "filters": filters,
        "places": {
            name: {value: place for place, (value, _) in enumerate(counts, 1)}
            for name, counts in filters.items()
        },
        "largest": _largest(found["confusions"]),
        "matrices": _matrices(found),
        "speakers": sorted(
            found["speakers"],
            key=lambda row: row["accuracy"][found["detailed"]["system"]],
        ),
        "durations": durations,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
    }
    if linked:
        files = {
            f"{AUDIO_FOLDER}/{number:04d}.mp3": recording
            for number, recording in enumerate(recordings, 1)
        }
        return {**files, PAGE: _page(values, list(files))}
    # With every player, but without what it plays.
    room = LIMIT - len(_page(values, ["#"] * len(recordings)))
    return {PAGE: _page(values, _embed(recordings, room))}


def _page(values: Mapping[str, Any], sources: Sequence[str | None]) -> bytes:
    """The page with the address of each recording, None for one that is left out."""
    return render("page.html", **values, sources=sources).encode()


def _embed(recordings: Iterable[bytes], room: int) -> list[str | None]:
    """Recordings as addresses that contain them, as many of the first as fit."""
    sources: list[str | None] = []
    for recording in recordings:
        source = f"data:audio/mpeg;base64,{base64.b64encode(recording).decode()}"
        room -= len(source)
        sources.append(source if room >= 0 else None)
    return sources


def _wave(clip: "Clip") -> str:
    """The path of a waveform in a picture 100 wide: a stroke per column."""
    half = _WAVE_HEIGHT / 2
    heights = [max(1, round(peak * half / 100)) for peak in clip.peaks]
    step = 100 / len(heights)
    return "".join(
        f"M{(place + 0.5) * step:g} {half - height:g}v{2 * height}"
        for place, height in enumerate(heights)
    )


def _weights(clip: "Clip") -> str:
    """The path of the weights of frames, bars in a picture 100 wide and 100 high."""
    assert clip.attention and clip.frame_seconds
    highest, width = max(clip.attention), 100 * clip.frame_seconds / clip.seconds
    path = []
    for place, weight in enumerate(clip.attention):
        left, right = place * width, min((place + 1) * width, 100)
        height = round(100 * weight / highest)
        if left < right:
            path.append(f"M{left:.3g} 100v-{height}H{right:.3g}v{height}")
    return "".join(path)


def _filters(errors: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[Any, int]]]:
    """The values that errors can be filtered by, and how many errors each has.

    Pairs of actual and predicted, the most frequent first; speakers and conditions.
    """
    pairs = Counter((error["actual"], error["predicted"]) for error in errors)
    found: dict[str, list[tuple[Any, int]]] = {
        "pair": sorted(pairs.items(), key=lambda one: (-one[1], one[0]))
    }
    for name in ("speaker", "condition"):
        counts = Counter(error[name] for error in errors if error[name] is not None)
        found[name] = sorted(counts.items())
    return found


def _largest(confusions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The confusions with the most utterances."""
    wrong = [one for one in confusions if one["actual"] != one["predicted"]]
    return sorted(wrong, key=lambda one: -one["utterances"])[:_LARGEST_CONFUSIONS]


def _matrices(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A confusion matrix for each slot: its values, and percent by row and column.

    Of a slot with more than `MOST_CONFUSED` values, those in the most errors.
    """
    matrices = []
    for slot in dict.fromkeys(one["slot"] for one in found["values"]):
        values = [one["value"] for one in found["values"] if one["slot"] == slot]
        own = [one for one in found["confusions"] if one["slot"] == slot]
        errors: Counter[str] = Counter()
        for one in own:
            if one["actual"] != one["predicted"]:
                errors[one["actual"]] += one["utterances"]
                errors[one["predicted"]] += one["utterances"]
        worst = sorted(values, key=lambda value: -errors[value])[:MOST_CONFUSED]
        shown = [value for value in values if value in set(worst)]
        matrices.append(
            {
                "slot": slot,
                "shown": shown,
                "values": len(values),
                "percent": {
                    (one["actual"], one["predicted"]): one["percent"] for one in own
                },
            }
        )
    return matrices
