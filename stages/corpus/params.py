"""Parameters of the corpus stage."""

from dataclasses import dataclass

from stages.errors import ConfigurationError

ADAPTERS = ("demo", "fsc", "table")


@dataclass(frozen=True)
class CorpusParams:
    """Which corpus, and how it is read.

    Attributes:
        name: what the corpus is called: its folder under `cache/`, the start of every
            id, and by default its folder under `data/`.
        adapter: who reads it: `demo` speaks the embedded commands, `fsc` reads the
            Fluent Speech Commands release, `table` a person's own CSV or TSV.
        train_utterances, valid_utterances, test_utterances: demo only: how many
            commands each speaker of that split says.
        seed: demo only: of who says what, where and how loud.
        table: `table` only: the file, relative to the corpus root.
        path_column, split_column, speaker_column, text_column, intent_column:
            `table` only: what its columns are called. An empty speaker_column means
            that speakers are unknown.
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

    def __post_init__(self) -> None:
        if self.adapter not in ADAPTERS:
            raise ConfigurationError(
                "unknown corpus.adapter",
                found=repr(self.adapter),
                expected=f"one of {', '.join(ADAPTERS)}",
            )
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ConfigurationError(
                "corpus.name cannot name a folder", found=repr(self.name)
            )
