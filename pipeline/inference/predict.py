"""`aln-pipeline predict`."""

import sys
from pathlib import Path

import click

from pipeline.inference.model import load_model, model_option, no_reject_option
from stages.core.errors import PipelineError


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@model_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(("text", "csv", "jsonl")),
    default="text",
    show_default=True,
    help="Of the output.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Show the N most probable intents.",
)
@no_reject_option
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Folder that the paths in tables are relative to; by default the table's.",
)
def predict(
    files: tuple[str, ...],
    model: Path,
    kind: str,
    top: int,
    no_reject: bool,
    root: Path | None,
) -> None:
    """Classify recordings with an exported model.

    Each of FILES is a recording, a folder, a table (.csv, .tsv, .jsonl) with a column
    path, or - for a recording on standard input. Prints id, intent and probability; for
    none, that of the most probable intent. With slots, an intent is the values of all.
    If the table has a column intent, or one of each slot, the accuracy is shown at the
    end. A recording that cannot be read is named on stderr, the others are classified,
    and the exit status is 2.
    """
    from stages.inference.prediction import Counts, header, line
    from stages.inference.prediction import predict as answers
    from stages.inference.recordings import find_recordings

    def failed(error: PipelineError) -> None:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)

    # The name of a file need not be text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    classifier = load_model(model)
    top = min(top, classifier.longest)
    slots = list(classifier.slots)
    counts = Counts(dict.fromkeys(slots, 0))
    if first := header(kind, top, slots):
        click.echo(first)
    found = find_recordings(files, root, sys.stdin.buffer, slots)
    for answer in answers(
        classifier, found, reject=not no_reject, failed=failed, counts=counts
    ):
        click.echo(line(answer, kind, top, slots))
    click.echo(counts, err=True)
    if counts.failed:
        sys.exit(2)
