"""Where the tables of a corpus are."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CorpusFiles:
    """The tables of a corpus, all in one folder, `cache/<corpus>/`."""

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
        """How each recording was made, where that is known."""
        return self.folder / "conditions.csv"

    @property
    def quarantine(self) -> Path:
        """The recordings that extraction set aside."""
        return self.folder / "quarantine.csv"

    @property
    def kept(self) -> Path:
        """Results that others replaced; see `stages/core/results.py`."""
        return self.folder / "kept"

    def read_usable(self) -> "pd.DataFrame":
        """The manifest's rows without those set aside, checked.

        Raises:
            InputError: a file is missing or unusable, or what is left is no corpus; as
                `check_manifest`.
        """
        # Not above: the command line knows these paths and must start without pandas.
        from stages.core.manifest import read_manifest, read_quarantine, usable_rows

        table = read_manifest(self.manifest)
        return usable_rows(self.manifest, table, read_quarantine(self.quarantine))
