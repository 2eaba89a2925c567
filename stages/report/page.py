"""The page, `results.md`: its sections in order.

The first table of results, accuracy by system, is in `accuracy_table.py`.
"""

from collections.abc import Mapping

from stages.core.markdown import code, escape
from stages.report.accuracy_table import accuracy_section
from stages.report.breakdowns import (
    intent_sections,
    length_sections,
    robustness_sections,
    slot_sections,
    speaker_sections,
    wording_sections,
)
from stages.report.confidence import calibration_sections, rejection_sections
from stages.report.corpus_table import corpus_table
from stages.report.findings import Findings
from stages.report.markdown import format_short_table
from stages.report.sections import (
    encoder_sections,
    recognition_sections,
    significance_section,
    transfer_sections,
)

INTRODUCTIONS = {
    "demo": """\
This is the embedded demonstration corpus. It shows that every stage works and compares
the systems on equal terms; **it says nothing about human speech**, and the paper's
figures are shown for orientation only.

- Audio: smart-home commands spoken by espeak-ng, a speech synthesiser. No human voice
  is in train, valid or test; the voices of the three splits are disjoint.
- Acoustic encoder: the paper's architecture, pretrained by this project on synthetic
  speech. It is not the encoder of Lugosch et al., which was trained on human speech.
- Teacher: a small BERT, initialised at random and trained on this corpus's train texts
  alone. It is not `bert-base-uncased`.""",
    "fsc": """\
Fluent Speech Commands (Lugosch et al. 2019), with the split of its authors. The paper's
FSC column is on the same corpus.""",
    "atis": """\
ATIS, recordings of air-travel queries. The paper rearranged train and test to have a
recording of every utterance; the split here can differ, so its ATIS column is only
roughly comparable.""",
}
OTHER_CORPUS = """\
The paper has no figures for this corpus; its ATIS and FSC columns are shown for
orientation."""


def page(found: Findings) -> str:
    """The whole page."""
    sections = [
        f"# Intent classification from speech: {code(found.corpus)}",
        INTRODUCTIONS.get(found.corpus, OTHER_CORPUS),
        "## Corpus",
        corpus_table(found.corpus, found.table1),
        *_set_aside_sections(found.set_aside),
        "## Accuracy",
        accuracy_section(found),
        *slot_sections(found),
        "## Significance",
        significance_section(found),
        *calibration_sections(found),
        *rejection_sections(found),
        *wording_sections(found),
        *recognition_sections(found),
        *robustness_sections(found),
        *length_sections(found),
        *speaker_sections(found),
        *intent_sections(found),
        *transfer_sections(found),
        "## Training",
        "Valid accuracy after each epoch, mean over seeds.",
        "![Valid accuracy by epoch](history.png)",
        *encoder_sections(found.encoder),
    ]
    return "\n\n".join(sections) + "\n"


def _set_aside_sections(set_aside: Mapping[str, str]) -> list[str]:
    """The recordings that could not be used; nothing if there are none."""
    if not set_aside:
        return []
    count = len(set_aside)
    what = "1 recording" if count == 1 else f"{count:,} recordings"
    rows = [[code(id), escape(reason)] for id, reason in set_aside.items()]
    return [
        f"**{what} could not be used** and no result on this page counts them:",
        format_short_table(["recording", "reason"], rows),
    ]
