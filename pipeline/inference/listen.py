"""`aln-pipeline listen`."""

import contextlib
import json
import re
import sys
from pathlib import Path

import click

from pipeline.inference.model import load_model, model_option, no_reject_option


@click.command()
@model_option
@click.option(
    "--device",
    metavar="NAME|NUMBER",
    help="Microphone; the system's default if not given.",
)
@click.option(
    "--stdin",
    is_flag=True,
    help="Read raw PCM from standard input instead: signed 16-bit little-endian mono.",
)
@click.option(
    "--rate",
    type=int,
    default=16_000,
    show_default=True,
    metavar="HERTZ",
    help="Sample rate of standard input.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    show_default=True,
    help="Of the lines.",
)
@no_reject_option
def listen(
    model: Path,
    device: str | None,
    stdin: bool,
    rate: int,
    format_: str,
    no_reject: bool,
) -> None:
    """Print the intent of each utterance as soon as it ends.

    An utterance ends after 0.4 s of silence, or where it gets longer than the model
    accepts; sounds shorter than 0.2 s are ignored. A line has start and end of the
    speech, the intent, its probability and the delay: the seconds from the arrival of
    the end of the speech to the answer, those 0.4 s included. (In noise, the end is
    found some tenths of a second late.) Ctrl-C ends the command.
    """
    from stages.inference import listening
    from stages.inference.speech_detector import SpeechDetector

    classifier, detector = load_model(model), SpeechDetector()
    if stdin:
        chunks = listening.read_pcm(sys.stdin.buffer, rate)
    else:
        # More digits are a name, which does not exist: PortAudio's numbers are ints.
        number = re.fullmatch("[0-9]{1,9}", device or "")
        named = int(number[0]) if number else device
        chunks, rate = listening.open_microphone(named)
    # Ctrl-C is how a microphone is closed.
    with contextlib.suppress(KeyboardInterrupt):
        for heard in listening.listen(
            classifier, detector, chunks, rate, reject=not no_reject
        ):
            line = str(heard)
            if format_ == "jsonl":
                line = json.dumps(heard.as_dict(), ensure_ascii=False)
            click.echo(line)  # which flushes
