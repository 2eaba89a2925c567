"""Parameters of the corpus stage."""

import re
import unicodedata
from dataclasses import dataclass, fields

from stages.core.errors import ConfigurationError
from stages.core.rules import (
    SEED,
    TEXT,
    TEXT_OR_NOTHING,
    Rule,
    among,
    between,
    check_rules,
    check_value,
    each,
)

REVISION = 2
"""Bump it when the same inputs and parameters give another result."""

ADAPTERS = (
    "atis",
    "datasets",
    "fsc",
    "lhotse",
    "phrases",
    "slurp",
    "snips",
    "table",
    "timers",
)
WRITES_AUDIO = ("datasets", "phrases")
"""Adapters that write recordings to `cache/<name>/audio`."""
ON_ERROR = ("stop", "quarantine")
_GIVEN = tuple(one for one in ADAPTERS if one != "phrases")
_TABLES = ("table", "datasets", "phrases")
_PHRASES = (
    "train_utterances",
    "valid_utterances",
    "test_utterances",
    "sentences",
    "sessions",
    "train_voices",
    "valid_voices",
    "test_voices",
    "clean",
    "babble",
    "room",
    "telephone",
    "silence",
    "espeak",
    "piper",
    "flite",
    "piper_voices",
    "recordings_table",
    "recordings_split",
)
READ_BY = {
    **dict.fromkeys(_PHRASES, ("phrases",)),
    "table": ("table",),
    "path_column": _TABLES,
    "split_column": _TABLES,
    "speaker_column": _TABLES,
    "text_column": _TABLES,
    "intent_column": _TABLES,
    "slots": (*_TABLES, "fsc"),
    "prefix": ("lhotse",),
    "intent_key": ("lhotse",),
    "parts": ("lhotse", "datasets"),
    "labels": ("atis",),
    "joined_intents": ("atis",),
    "least_utterances": ("atis",),
    "repeats": ("atis",),
    "microphones": ("atis",),
    "recordings": ("slurp",),
    "synthetic": ("slurp",),
    "train_speech": ("timers",),
    "test_speech": ("timers",),
    "field": ("snips",),
    "fold": ("snips",),
    "splits": _GIVEN,
    "valid_share": _GIVEN,
    "test_share": _GIVEN,
}
"""The adapters that read a parameter; all adapters read those not listed."""
CONDITIONS = ("clean", "babble", "room", "telephone")
"""Of `stages/speech/recording.py`."""
ENGINES = ("espeak", "piper", "flite")
"""Of `stages/speech/engines.py`."""
SPLITS = ("given", "random", "speakers", "wordings")
FOLDS = 5
_LONGEST_NAME = 100
FSC_SLOTS = ("action", "object", "location")
_NOT_SLOTS = frozenset({"path", "split", "speaker", "text"})
_CHOICES = {
    "adapter": ADAPTERS,
    "outside_paths": ("refuse", "allow"),
    "sessions": ("utterance", "speaker"),
    "recordings_split": ("given", "train", "valid", "test"),
    "joined_intents": ("first", "drop", "keep"),
    "repeats": ("labelled", "all"),
    "microphones": ("sc", "cs", "s", "c"),
    "recordings": ("all", "headset", "other"),
    "train_speech": ("both", "real", "synth"),
    "test_speech": ("real", "synth"),
    "field": ("close", "far", "both"),
    "splits": SPLITS,
    "on_error": ON_ERROR,
}


@dataclass(frozen=True)
class CorpusParams:
    """Which corpus to read, and how.

    Setting a parameter that the adapter does not read is an error.

    Attributes:
        name: name of the corpus: its folder in `cache/`, the start of every id, and by
            default its folder in `data/`.
        adapter: format of the corpus. `phrases` speaks sentences or sentence
            templates; `fsc` reads Fluent Speech Commands, `atis` the LDC's ATIS
            recordings with the labels of a text release, `slurp` SLURP, `timers` Timers
            and Such, `snips` Snips SmartLights, `table` your own CSV, TSV, JSON lines
            or Parquet file, `lhotse` lhotse manifests, and `datasets` a folder saved by
            the library datasets.
        train_utterances, valid_utterances, test_utterances: `phrases`: number of
            sentences that each voice of that split says.
        seed: of all that `phrases` draws; of new splits.
        sentences: `phrases`: number of sentences to sample from templates.
        sessions: `phrases`: `utterance` makes every recording by itself, so that a new
            sentence changes no other; `speaker` all of a voice in one go and one room,
            so that they are all made again if one changes.
        train_voices, valid_voices, test_voices: `phrases` without a voices.csv: number
            of voices to draw.
        clean, babble, room, telephone: `phrases`: how often recordings have that
            condition, relative to the others.
        silence: `phrases`: the longest silence before and after the words, in seconds;
            people start and stop a recording at leisure.
        espeak, piper, flite: `phrases` without a voices.csv: how often voices are of
            that synthesiser, relative to the others.
        piper_voices: folder with piper's voices, NAME.onnx and NAME.onnx.json.
        recordings_table: `phrases`: a table of recordings to add, as for `table`,
            relative to the corpus root; empty for none.
        recordings_split: `phrases`: where they go: `given` by their split_column, or
            all to one.
        table: `table`: the file, relative to the corpus root.
        path_column, split_column, speaker_column, text_column, intent_column: `table`,
            `datasets` and `phrases`: names of the columns of the recordings. An empty
            speaker_column means that speakers are unknown. split_column is read if
            `splits` is given, by `datasets` only if the folder has no parts, by
            `phrases` if `recordings_split` is given.
        slots: `fsc`, `table`, `datasets` and `phrases`: columns to predict each by
            itself, in place of the intent; an empty field is the value `none`.
        texts: a table of sentences without recordings for train, relative to the corpus
            root; empty for none. Its columns are the text and the intent, or the slots,
            called as those of the recordings.
        outside_paths: `allow` recordings outside the corpus root, by
            their paths or in linked folders, or `refuse` them. The manifest has their
            paths relative to the root, so you can move both together only. DVC does
            not notice when they change, because it watches the root.
        prefix: `lhotse`: start of the manifests' names, relative to the corpus root:
            `slurp`, `manifests/slurp`; can be empty.
        intent_key: `lhotse`: key of the intent in a supervision's `custom`.
        parts: `lhotse` and `datasets`: names of train, valid and test, in this order;
            for new splits, the parts to make them from.
        labels: `atis`: label files, relative to the corpus root.
        joined_intents: `atis`: for labels with two intents: use the first, drop the
            utterance, or keep the label.
        least_utterances: `atis`: leave out intents with fewer utterances.
        repeats: `atis`: if a text has more recordings than labels, use as many as
            labelled, or all.
        microphones: `atis`: recordings to use, the preferred first: s (headset), c
            (desk).
        recordings: `slurp`: all, headset, or other (distant microphones).
        synthetic: `slurp`: add the synthetic speech to train.
        train_speech: `timers`: real, synth or both.
        test_speech: `timers`: real or synth.
        field: `snips`: recordings from close, far, or both.
        fold: `snips`: which of the five folds is test, 0 to 4.
        splits: all but `phrases`: the splits `given` by the corpus, or new ones, made
            from `seed` and stratified by intent: `random`, or with each of the
            `speakers` or `wordings` in one split only.
        valid_share, test_share: shares of the utterances in new splits.
        on_error: `stop` at a recording that is not audio, empty or too long, or
            `quarantine` it: leave it out, list it in the report, and continue.
        longest_seconds: maximum duration of a recording. The memory of extraction grows
            with the longest one.
    """

    name: str = "demo"
    adapter: str = "phrases"
    train_utterances: int = 60
    valid_utterances: int = 45
    test_utterances: int = 45
    seed: int = 1
    sentences: int = 2000
    sessions: str = "utterance"
    train_voices: int = 40
    valid_voices: int = 10
    test_voices: int = 10
    clean: int = 3
    babble: int = 1
    room: int = 1
    telephone: int = 1
    silence: float = 0.4
    espeak: int = 1
    piper: int = 0
    flite: int = 0
    piper_voices: str = ""
    recordings_table: str = ""
    recordings_split: str = "given"
    table: str = "table.csv"
    path_column: str = "path"
    split_column: str = "split"
    speaker_column: str = "speaker"
    text_column: str = "text"
    intent_column: str = "intent"
    slots: tuple[str, ...] = ()
    texts: str = ""
    outside_paths: str = "refuse"
    prefix: str = ""
    intent_key: str = "intent"
    parts: tuple[str, ...] = ("train", "dev", "test")
    labels: tuple[str, ...] = ("atis.train.w-intent.iob", "atis.test.w-intent.iob")
    joined_intents: str = "first"
    least_utterances: int = 10
    repeats: str = "labelled"
    microphones: str = "sc"
    recordings: str = "all"
    synthetic: bool = False
    train_speech: str = "both"
    test_speech: str = "real"
    field: str = "close"
    fold: int = 0
    splits: str = "given"
    valid_share: float = 0.1
    test_share: float = 0.2
    on_error: str = "stop"
    longest_seconds: float = 120.0

    @property
    def kinds(self) -> str:
        """What the distinct values of `intent` in the manifest are."""
        several = len(self.slots) > 1
        return f"combinations of {len(self.slots)} slots" if several else "intents"

    def __post_init__(self) -> None:
        """Check the values, and that the adapter reads each one that was set."""
        rules = {
            **{name: among(known) for name, known in _CHOICES.items()},
            "name": Rule(
                lambda name: (
                    re.fullmatch(r"\w([\w. -]*[\w-])?", _without_marks(name))
                    is not None
                    and len(name.encode()) <= _LONGEST_NAME
                ),
                f"at most {_LONGEST_NAME} bytes of letters, digits, '_', and within "
                "also '-', '.' and spaces",
            ),
            **{
                f"{split}_utterances": between(1, 100_000)
                for split in ("train", "valid", "test")
            },
            **{
                f"{split}_voices": between(0, 10_000)
                for split in ("train", "valid", "test")
            },
            "sentences": between(1, 1_000_000),
            **dict.fromkeys((*CONDITIONS, *ENGINES), between(0, 1000)),
            "silence": between(0.1, 60),
            "piper_voices": TEXT_OR_NOTHING,
            **dict.fromkeys(("recordings_table", "texts"), TEXT_OR_NOTHING),
            "seed": SEED,
            "slots": Rule(
                lambda slots: (
                    slots == ()
                    or (each(TEXT).allows(slots) and _NOT_SLOTS.isdisjoint(slots))
                ),
                f"different names, none of them {', '.join(sorted(_NOT_SLOTS))}",
            ),
            "speaker_column": TEXT_OR_NOTHING,
            "prefix": TEXT_OR_NOTHING,
            "parts": Rule(
                lambda parts: (
                    each(TEXT_OR_NOTHING).allows(parts)
                    and (self.splits != "given" or len(parts) == 3)
                ),
                "train, valid and test in this order, or with made splits any parts",
            ),
            "least_utterances": between(3, 1_000_000),
            "fold": between(0, FOLDS - 1),
            "valid_share": between(0, 1, above=True, below=True),
            "test_share": between(0, 1, above=True, below=True),
            "longest_seconds": between(0, 86_400, above=True),
        }
        check_rules("corpus", self, rules)
        together = Rule(
            lambda one: one + self.test_share < 1, "with test_share less than 1"
        )
        check_value("corpus.valid_share", self.valid_share, together)
        if self.adapter == "fsc":
            known = Rule(set(FSC_SLOTS).issuperset, f"some of {', '.join(FSC_SLOTS)}")
            check_value("corpus.slots", self.slots, known)
        for names in (CONDITIONS, ENGINES):
            if not any(getattr(self, name) for name in names):
                raise ConfigurationError(
                    f"corpus.{', '.join(names)} are all 0", expected="one above 0"
                )
        for field in fields(self):
            readers = READ_BY.get(field.name, ADAPTERS)
            value = getattr(self, field.name)
            if self.adapter not in readers and value != field.default:
                raise ConfigurationError(
                    f"corpus.{field.name} is not read by the adapter {self.adapter}",
                    found=value,
                    expected=f"the adapter {' or '.join(readers)}",
                    fix="leave it out, or set corpus.adapter",
                )


def _without_marks(name: str) -> str:
    """`name` with letters alone, also if a letter is written as a base and a mark."""
    return "".join(one for one in name if unicodedata.category(one)[0] != "M")
