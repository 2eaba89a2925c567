"""`aln-pipeline serve`."""

import contextlib
from pathlib import Path

import click

from pipeline.inference.model import load_model, model_option
from pipeline.options import Number


@click.command()
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="To listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="To listen on; 0 is any free one.",
)
@click.option(
    "--max-megabytes",
    type=Number(0, 100_000, min_open=True),
    default=10,
    show_default=True,
    metavar="MB",
    help="Largest file of a recording.",
)
@click.option(
    "--max-seconds",
    type=Number(0, 100_000, min_open=True),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Longest recording, if the model does not accept less.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=2,
    show_default=True,
    metavar="N",
    help="Recordings classified at once; beyond eight times as many requests, answer "
    "503.",
)
def serve(
    model: Path,
    host: str,
    port: int,
    max_megabytes: float,
    max_seconds: float,
    concurrency: int,
) -> None:
    """Serve a page that records or takes a file and shows its intent.

    For programs, `curl --data-binary @command.wav http://127.0.0.1:8000/predict`;
    /openapi.json describes this.

    There is no authentication: with another --host, everybody on the network can use
    it. Ctrl-C ends the command.
    """
    from stages.inference.server import Limits, bind, build_app
    from stages.inference.server import serve as run

    limits = Limits(max_megabytes, max_seconds, concurrency)
    app = build_app(load_model(model), limits)
    with bind(host, port) as bound, contextlib.suppress(KeyboardInterrupt):
        named, number = bound.getsockname()[:2]
        shown = f"[{named}]" if ":" in named else named
        click.echo(f"listening on http://{shown}:{number}")
        run(app, bound)
