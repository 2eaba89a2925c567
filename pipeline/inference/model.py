"""The model of a command: its options, and loading it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.core.errors import ConfigurationError

if TYPE_CHECKING:
    from stages.inference.classifier import IntentClassifier

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("model"),
    show_default=True,
    metavar="DIR",
    help="Folder of `aln-pipeline export`; or of a student, which runs in PyTorch.",
)
no_reject_option = click.option(
    "--no-reject",
    is_flag=True,
    help="Always answer with an intent, never with none.",
)


def load_model(folder: Path) -> "IntentClassifier":
    """The classifier in `folder`.

    A student's folder runs with the encoder that params.yaml names.

    Raises:
        PipelineError: the folder is neither, or damaged.
    """
    from stages.inference.classifier import ABOUT, IntentClassifier

    if (folder / ABOUT).is_file() or not (folder / "metrics.json").is_file():
        return IntentClassifier(folder)
    from pipeline.layout import Layout
    from pipeline.params import PARAMS_FILE, load_params

    try:
        from stages.export.student import student_classifier
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a student's folder needs {error.name}, which is not installed",
            path=folder,
            fix="give the folder of `aln-pipeline export`, or install everything",
        ) from None
    params = load_params(PARAMS_FILE)
    layout = Layout(params.corpus.name)
    return student_classifier(
        folder, params.acoustic, layout.rejection, params.corpus.longest_seconds
    )
