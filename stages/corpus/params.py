"""Parameters of the corpus stage."""

from dataclasses import dataclass, fields

from stages.core.errors import ConfigurationError

REVISION = 2
"""Bump it when the same inputs and parameters give another result."""

ADAPTERS = (
    "atis",
    "datasets",
    "demo",
    "fsc",
    "lhotse",
    "slurp",
    "snips",
    "table",
    "timers",
)
WRITES_AUDIO = ("datasets", "demo")
"""Adapters whose recordings the stage itself puts below `cache/<name>/audio`."""
ON_ERROR = ("stop", "quarantine")
_GIVEN = tuple(one for one in ADAPTERS if one != "demo")
READ_BY = {
    "train_utterances": ("demo",),
    "valid_utterances": ("demo",),
    "test_utterances": ("demo",),
    "table": ("table",),
    "path_column": ("table", "datasets"),
    "split_column": ("table", "datasets"),
    "speaker_column": ("table", "datasets"),
    "text_column": ("table", "datasets"),
    "intent_column": ("table", "datasets"),
    "outside_paths": ("table", "lhotse", "datasets"),
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
"""The adapters that read a parameter; all others are read by all."""
OUTSIDE_PATHS = ("refuse", "allow")
SPLITS = ("given", "random", "speakers", "wordings")


@dataclass(frozen=True)
class CorpusParams:
    """Which corpus, and how it is read.

    What is set and the adapter does not read is an error: whoever set it expects it to
    count.

    Attributes:
        name: what the corpus is called: its folder under `cache/`, the start of every
            id, and by default its folder under `data/`.
        adapter: who reads it: `demo` speaks the embedded commands, `fsc` reads the
            Fluent Speech Commands release, `atis` the LDC's recordings with a text
            release's labels, `slurp` SLURP, `timers` Timers and Such, `snips` Snips
            SmartLights, `table` a person's own CSV, TSV, JSON lines or Parquet,
            `lhotse` lhotse's manifests, and `datasets` a directory that the library
            datasets saved.
        train_utterances, valid_utterances, test_utterances: demo only: how many
            commands each speaker of that split says.
        seed: of who says what, where and how loud in the demo; of splits that are made.
        table: `table` only: the file, relative to the corpus root.
        path_column, split_column, speaker_column, text_column, intent_column:
            `table` and `datasets` only: what the columns are called. An empty
            speaker_column means that speakers are unknown; split_column is read if
            splits are given, by `datasets` only where the directory has no parts.
        outside_paths: `table`, `lhotse` and `datasets` only: whether recordings may lie
            outside the corpus root. The manifest names them relative to it, so that
            where it and they lie may change, but not how they lie to each other; and
            DVC, which watches the root, does not notice when they change.
        prefix: `lhotse` only: what the manifests' names begin with, relative to the
            corpus root: `slurp`, `manifests/slurp`; may be empty.
        intent_key: `lhotse` only: the key in a supervision's `custom`.
        parts: `lhotse` and `datasets` only: what train, valid and test are called
            there, in this order; where splits are made, the parts to make them from.
        labels: `atis` only: label files, relative to the corpus root.
        joined_intents: `atis` only: what becomes of two intents in one label: first,
            drop or keep.
        least_utterances: `atis` only: intents with fewer are left out.
        repeats: `atis` only: of a text recorded more often than labelled, as many as
            labelled, or all.
        microphones: `atis` only: which recordings, the preferred first: s at the head,
            c on the desk.
        recordings: `slurp` only: all, or those of the headset or the other microphones.
        synthetic: `slurp` only: whether train has the synthetic speech too.
        train_speech: `timers` only: real, synth or both.
        test_speech: `timers` only: real or synth.
        field: `snips` only: recordings from close, far, or both.
        fold: `snips` only: which of five is the test split, 0 to 4.
        splits: not of the demo: as `given` by the corpus, or made from it by `seed`,
            stratified by intent: `random`, or such that none of the `speakers`, or of
            the `wordings`, is in two splits.
        valid_share, test_share: of the utterances, where splits are made.
        on_error: what to do about a recording that is no audio, empty or too long:
            `stop` there, or `quarantine` it: set it aside, name it in the report, and
            go on without it.
        longest_seconds: of a recording; a command takes seconds, and the memory that
            extraction needs grows with the longest.
    """

    name: str = "demo"
    adapter: str = "demo"
    train_utterances: int = 60
    valid_utterances: int = 45
    test_utterances: int = 45
    seed: int = 1
    table: str = "table.csv"
    path_column: str = "path"
    split_column: str = "split"
    speaker_column: str = "speaker"
    text_column: str = "text"
    intent_column: str = "intent"
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

    def __post_init__(self) -> None:
        for name, value, known in (
            ("adapter", self.adapter, ADAPTERS),
            ("on_error", self.on_error, ON_ERROR),
            ("outside_paths", self.outside_paths, OUTSIDE_PATHS),
            ("splits", self.splits, SPLITS),
        ):
            if value not in known:
                raise ConfigurationError(
                    f"unknown corpus.{name}",
                    found=repr(value),
                    expected=f"one of {', '.join(known)}",
                )
        for one in fields(self):
            readers = READ_BY.get(one.name, ADAPTERS)
            if self.adapter not in readers and getattr(self, one.name) != one.default:
                raise ConfigurationError(
                    f"corpus.{one.name} is not read by the adapter {self.adapter}",
                    found=getattr(self, one.name),
                    expected=f"the adapter {' or '.join(readers)}",
                    fix="leave it out, or set corpus.adapter",
                )
        for name, least in (
            ("train_utterances", 1),
            ("valid_utterances", 1),
            ("test_utterances", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigurationError(
                    f"corpus.{name} cannot be used",
                    found=value,
                    expected=f"{least} or more",
                )
        if min(self.valid_share, self.test_share) <= 0 or (
            self.valid_share + self.test_share >= 1
        ):
            raise ConfigurationError(
                "corpus.valid_share and corpus.test_share cannot be used",
                found=f"{self.valid_share} and {self.test_share}",
                expected="more than 0 each, less than 1 together",
            )
        if not self.longest_seconds > 0:
            raise ConfigurationError(
                "corpus.longest_seconds cannot be used",
                found=self.longest_seconds,
                expected="more than 0 seconds",
            )
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ConfigurationError(
                "corpus.name cannot name a folder", found=repr(self.name)
            )
