"""What a model is exported from, and how near it must be to PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.acoustic.params import AcousticParams
from stages.core.corpus_files import CorpusFiles

TOLERANCE = 1e-4
"""How far an exported model's probabilities can be from PyTorch's."""

TRACED_TOLERANCE = 1e-3
"""The same for encoders of transformers, which PyTorch's exporter writes."""


@dataclass(frozen=True)
class Inputs:
    """What a model is exported from.

    Attributes:
        name: of the corpus.
        corpus: its tables.
        audio: the folder that the manifest's paths are relative to.
        longest_seconds: the longest recording that the model accepts.
        acoustic: the encoder.
        students: folder by name, `baseline2` or `aln-0.8`.
        rejection: folder of the rejection stage.
        share: of the commands that it rejects, `rejection.share`.
        report: folder of the report.
    """

    name: str
    corpus: CorpusFiles
    audio: Path
    longest_seconds: float
    acoustic: AcousticParams
    students: Mapping[str, Path]
    rejection: Path
    share: float
    report: Path
