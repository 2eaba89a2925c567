"""Options that several commands share, and what they give to a command."""

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline.durations import Stopwatch
from pipeline.layout import Layout
from pipeline.params import PARAMS_FILE, Params, load_params

Command = Callable[..., None]


@dataclass(frozen=True)
class Settings:
    """What a command works with."""

    params: Params
    layout: Layout
    stopwatch: Stopwatch


overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Override a parameter, the value as in YAML; can be repeated.",
)


def configured(command: Command) -> Command:
    """Pass `Settings` as the first argument; add --params and --set."""

    @click.option(
        "--params",
        "file",
        type=click.Path(path_type=Path),
        default=PARAMS_FILE,
        show_default=True,
        metavar="FILE",
        help="Read the parameters from FILE.",
    )
    @overrides_option
    @functools.wraps(command)
    def wrapped(file: Path, overrides: tuple[str, ...], **values: Any) -> None:
        params = load_params(file, overrides)
        layout = Layout(params.corpus.name)
        layout.link_shared()
        command(Settings(params, layout, Stopwatch(layout.durations)), **values)

    return wrapped


class Number(click.FloatRange):
    """A number within bounds; click's own range lets NaN pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, from the text of an option."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


_MOST_WORKERS = 1024


def _cpus() -> int:
    """The CPUs that this process can use."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    return min(os.cpu_count() or 1, _MOST_WORKERS)


workers_option = click.option(
    "--workers",
    type=click.IntRange(1, _MOST_WORKERS),
    default=_cpus,
    envvar="ALN_WORKERS",
    show_default="number of CPUs",
    show_envvar=True,
    metavar="N",
    help="Threads or processes to use; does not change results.",
)
_RUN_OPTIONS: dict[str, Callable[[Command], Command]] = {
    "workers": workers_option,
    "device": click.option(
        "--device",
        default="auto",
        envvar="ALN_DEVICE",
        show_default=True,
        show_envvar=True,
        help="auto, cpu or cuda.",
    ),
    "backend": click.option(
        "--backend",
        default="auto",
        show_default=True,
        help="onnx (fastest on CPUs), torch or auto; changes features only by "
        "rounding.",
    ),
    "force": click.option(
        "--force",
        is_flag=True,
        help="Compute the result again even if it is there.",
    ),
}


def run_options(*names: str) -> Callable[[Command], Command]:
    """Pass `RunOptions` as `options`, made from the command-line options `names`.

    Args:
        names: of `_RUN_OPTIONS`, in the order of the help.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(*arguments: Any, **values: Any) -> None:
            from stages.core.runtime import RunOptions

            options = RunOptions(**{name: values.pop(name) for name in names})
            command(*arguments, options=options, **values)

        result: Command = wrapped
        for name in reversed(names):
            result = _RUN_OPTIONS[name](result)
        return result

    return decorate
