"""The files that describe a corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CorpusFiles:
    """The tables of a corpus in its folder, `cache/<corpus>/`."""

    folder: Path

    @property
    def manifest(self) -> Path:
        """The utterance table."""
        return self.folder / "manifest.csv"

    @property
    def intents(self) -> Path:
        """The list of intents."""
        return self.folder / "intents.json"

    @property
    def conditions(self) -> Path:
        """The condition of each recording, if known."""
        return self.folder / "conditions.csv"

    @property
    def quarantine(self) -> Path:
        """The recordings that extract-acoustic set aside."""
        return self.folder / "quarantine.csv"

    @property
    def texts(self) -> Path:
        """Labelled texts without recordings, for training."""
        return self.folder / "texts.csv"

    @property
    def unlabelled(self) -> Path:
        """The table of the utterances without a label."""
        return self.folder / "unlabelled" / "manifest.csv"

    @property
    def kept(self) -> Path:
        """Replaced results; see `stages/core/results.py`."""
        return self.folder / "kept"

    def read_usable(self) -> "pd.DataFrame":
        """The manifest without quarantined recordings; see `manifest.read_usable`."""
        # Imported here, so that the command line starts without pandas.
        from stages.core.manifest import read_usable

        return read_usable(self.manifest, self.quarantine)

    def read_all_texts(self) -> list[str]:
        """All distinct texts, also without recordings or labels; see `manifest`."""
        from stages.core.manifest import read_all_texts

        return read_all_texts(self.manifest, self.texts, self.unlabelled)
