"""`aln-pipeline`: a command a stage; the only place that turns errors into exit codes.

    0    done
    1    `cache verify` found a problem, `cache diff` a difference
    2    bad input, named in one line on stderr, or wrong usage
    130  interrupted by Ctrl-C, 143 by SIGTERM: what is finished is kept

Any other exception is a bug and keeps its traceback. Each command imports its stage
when it runs, so that `--help` does not wait for torch.
"""

import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

from pipeline.layout import ALL_KINDS, KINDS, Layout, student_name
from pipeline.params import PARAMS_FILE, Params, load_params
from stages.baseline1.params import RECOGNISERS
from stages.core.errors import PipelineError
from stages.corpus.params import ON_ERROR, WRITES_AUDIO
from stages.student.params import SYSTEMS

_STUDENTS = [name for name in SYSTEMS if name != "baseline2"]


# What is no bug, wherever it strikes.
_DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, made to unwind the stack as Ctrl-C does."""


class _Pipeline(click.Group):
    """A group whose commands end as the module's docstring says."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _terminable():
                return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.errno not in _DISK_REFUSES:
                raise
            click.echo(
                f"error: {error}; fix: make room or mend the permissions; what is "
                "finished is kept",
                err=True,
            )
            ctx.exit(2)
        except KeyboardInterrupt as interrupt:
            click.echo(
                "interrupted: what is finished is kept, the same command goes on there",
                err=True,
            )
            ctx.exit(143 if isinstance(interrupt, _Terminated) else 130)


@contextmanager
def _terminable() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Settings:
    """What a command works with."""

    params: Params
    layout: Layout


def _cpus() -> int:
    """CPUs that this process may use, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Use this value, written as in YAML, instead; may be repeated.",
)


def _configured(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` its `Settings`, and the options that change them."""

    @click.option(
        "--params",
        "file",
        type=click.Path(path_type=Path),
        default=PARAMS_FILE,
        show_default=True,
        metavar="FILE",
        help="Read the parameters from FILE.",
    )
    @_overrides
    @functools.wraps(command)
    def configured(file: Path, overrides: tuple[str, ...], **options: Any) -> None:
        params = load_params(file, overrides)
        layout = Layout(params.corpus.name)
        layout.link_shared()
        command(Settings(params, layout), **options)

    return configured


_root = click.option(
    "--root",
    type=click.Path(path_type=Path),
    envvar="ALN_CORPUS_ROOT",
    show_envvar=True,
    metavar="DIR",
    help="Where the recordings lie; data/<corpus> if not given. Not for the demo.",
)
_device = click.option(
    "--device",
    default="auto",
    envvar="ALN_DEVICE",
    show_default=True,
    show_envvar=True,
    help="auto, cpu or cuda.",
)


def _workers_option(told: str) -> Callable[..., Any]:
    """How many workers there are, and what that means to a command's result."""
    return click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=_cpus,
        envvar="ALN_WORKERS",
        show_default="the CPUs",
        show_envvar=True,
        metavar="N",
        help=told,
    )


_workers = _workers_option("Threads or processes at once; never changes a result.")
_together = click.option(
    "--together/--one-by-one",
    default=None,
    show_default="together on CUDA",
    help="Train students of one shape in one computation; changes no result beyond "
    "rounding.",
)
_backend = click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="onnx (fastest on CPUs), torch, or auto; changes no feature beyond rounding.",
)
_on_error = click.option(
    "--on-error",
    type=click.Choice(ON_ERROR),
    help="Stop at a recording that is no audio, empty or too long, or set it aside; "
    "instead of corpus.on_error.",
)


@click.group(
    cls=_Pipeline,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88},
)
@click.version_option(
    package_name="acoustic-linguistic-network", message="%(prog)s %(version)s"
)
@click.option("-v", "--verbose", is_flag=True, help="Say what is going on.")
def main(verbose: bool) -> None:
    """Intents from speech, taught by text.

    A command runs one stage as `dvc repro` would, with the parameters in params.yaml.
    What is spoken, extracted, cached or transcribed already is not computed again;
    trainings that were interrupted go on.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


@main.command()
@click.argument("preset", metavar="PRESET")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Where the corpus lies; linked to data/<corpus>.",
)
@_overrides
@click.option("--force", is_flag=True, help="Replace a params.yaml of your own.")
def configure(
    preset: str, root: Path | None, overrides: tuple[str, ...], force: bool
) -> None:
    """Write params.yaml for a corpus, and say what is there and what to do next.

    PRESET is demo, fsc, atis, slurp, timers-and-such, snips, or for a corpus of your
    own table, lhotse or datasets.
    """
    from pipeline.configure import configure

    for line in configure(
        preset, PARAMS_FILE, root=root, overrides=overrides, force=force
    ):
        click.echo(line)


@main.command("prepare-corpus")
@_configured
@_root
@_on_error
@_workers
def prepare_corpus(
    settings: Settings, root: Path | None, on_error: str | None, workers: int
) -> None:
    """Write the manifest: every recording with its text, intent and hash.

    Shows its figures as in the paper's Table 1, beside the published ones.
    """
    from pipeline.table1 import describe_manifest
    from stages.corpus.run import run

    params = settings.params.corpus
    summary = run(
        replace(params, on_error=on_error) if on_error else params,
        root=_corpus_root(settings, root),
        data=settings.layout.data,
        output=settings.layout.folder,
        workers=workers,
    )
    for note in summary.notes:
        click.echo(note)
    click.echo(describe_manifest(params.name, summary.manifest))
    click.echo(summary)


@main.command()
@_configured
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("cache/pretraining/encoder.safetensors"),
    show_default=True,
    metavar="FILE",
    help="The checkpoint; recipe and scores are written beside it.",
)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Begin with this checkpoint's weights, not with random ones.",
)
@_device
@_workers_option(
    "Processes that speak, and share each step on a CPU. They add in another "
    "order, and training magnifies rounding."
)
def pretraining(
    settings: Settings, output: Path, start: Path | None, device: str, workers: int
) -> None:
    """Train an encoder on synthetic speech, as the one in data/demo was.

    Takes most of an hour on two cores. Set acoustic.encoder to the checkpoint to
    use it.
    """
    from stages.pretraining.run import run

    scores = run(
        settings.params.pretraining,
        avoided_voices=settings.layout.data / "demo" / "voices.csv",
        output=output,
        work=settings.layout.cache / "pretraining",
        start=start,
        device=device,
        workers=workers,
    )
    told = ", ".join(f"{name} {value:.2f}%" for name, value in scores.items())
    click.echo(f"{output}: {told}")


@main.command("extract-acoustic")
@_configured
@_root
@click.option(
    "--encoder",
    metavar="NAME",
    help="This checkpoint, folder or hub's name instead of acoustic.encoder.",
)
@_backend
@_on_error
@_device
@_workers
def extract_acoustic(
    settings: Settings,
    root: Path | None,
    encoder: str | None,
    backend: str,
    on_error: str | None,
    device: str,
    workers: int,
) -> None:
    """Run the frozen encoder over the recordings that are not cached yet."""
    from stages.acoustic.run import run

    params, layout = settings.params.acoustic, settings.layout
    corpus = settings.params.corpus
    summary = run(
        replace(params, encoder=encoder) if encoder else params,
        manifest=layout.manifest,
        audio=_audio(settings, root),
        cache=layout.acoustic,
        digest=layout.acoustic_digest,
        quarantine=layout.quarantine,
        on_error=on_error or corpus.on_error,
        longest_seconds=corpus.longest_seconds,
        device=device,
        workers=workers,
        backend=backend,
    )
    click.echo(summary)


@main.command("train-teacher")
@_configured
@click.option(
    "--model",
    metavar="NAME",
    help="Start from this model instead of teacher.model: a hub's name or a folder.",
)
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    metavar="MINUTES",
    help="What an interruption costs at most; never changes a result.",
)
@_device
def train_teacher(
    settings: Settings, model: str | None, checkpoint_minutes: float, device: str
) -> None:
    """Fine-tune BERT on the train texts: masked words first, then intents.

    The same command goes on where it was interrupted.
    """
    from stages.teacher.run import run

    params, layout = settings.params.teacher, settings.layout
    summary = run(
        replace(params, model=model) if model else params,
        manifest=layout.manifest,
        intents=layout.intents,
        output=layout.teacher,
        work=layout.teacher_work,
        device=device,
        checkpoint_minutes=checkpoint_minutes,
    )
    click.echo(summary)


@main.command("cache-targets")
@_configured
@_device
def cache_targets(settings: Settings, device: str) -> None:
    """Run the teacher over the distinct texts that are not cached yet."""
    from stages.targets.run import run

    params, layout = settings.params.targets, settings.layout
    summary = run(
        params,
        manifest=layout.manifest,
        teacher=layout.teacher,
        cache=layout.targets,
        digest=layout.targets_digest,
        device=device,
    )
    click.echo(summary)


@main.command()
@_configured
@_root
@click.option(
    "--recogniser",
    type=click.Choice(RECOGNISERS),
    help="Use this one instead of baseline1.recogniser.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Its model instead of baseline1.model: a file, a folder or a hub's name.",
)
@_device
@_workers
def baseline1(
    settings: Settings,
    root: Path | None,
    recogniser: str | None,
    model: str | None,
    device: str,
    workers: int,
) -> None:
    """Have a recogniser write down valid and test; classify that by the teacher.

    Says the word error rate. What a recogniser has transcribed is kept.
    """
    from stages.baseline1.run import run

    params, layout = settings.params.baseline1, settings.layout
    summary = run(
        replace(
            params,
            recogniser=recogniser or params.recogniser,
            model=model or params.model,
        ),
        manifest=layout.manifest,
        intents=layout.intents,
        quarantine=layout.quarantine,
        audio=_audio(settings, root),
        teacher=layout.teacher,
        transcripts=layout.transcripts,
        output=layout.baseline1,
        device=device,
        workers=workers,
    )
    click.echo(summary)


class _Alpha(click.ParamType):
    """A number that keeps the form it is written in; see `params._typed`."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return int(value) if str(value).isdecimal() else float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)


@main.command("train-student")
@click.argument("system", metavar=f"[{'|'.join(SYSTEMS)}]")
@_configured
@click.option(
    "--alpha",
    type=_Alpha(),
    metavar="NUMBER",
    help="Weight of the transfer loss, 0 to 1; each of student.alpha if not given.",
)
@_together
@_device
@_workers
def train_student(
    settings: Settings,
    system: str,
    alpha: float | None,
    together: bool | None,
    device: str,
    workers: int,
) -> None:
    """Train a student from cached features and targets alone."""
    from pipeline.students import check_encoder
    from stages.student.run import run

    params, layout = settings.params.student, settings.layout
    check_encoder(settings.params, layout)
    given = alpha is not None or system not in _STUDENTS
    for one in (alpha,) if given else params.alpha:
        summary = run(
            params,
            system=system,
            alpha=one,
            manifest=layout.manifest,
            acoustic=layout.acoustic,
            acoustic_digest=layout.acoustic_digest,
            quarantine=layout.quarantine,
            targets=layout.targets,
            targets_digest=layout.targets_digest,
            output=layout.student(system, one),
            unfinished=layout.unfinished(student_name(system, one)),
            ledger=layout.results,
            device=device,
            workers=workers,
            together=together,
        )
        click.echo(str(summary))


@main.command()
@_configured
@_together
@_device
@_workers
def sweep(settings: Settings, together: bool | None, device: str, workers: int) -> None:
    """Train the grid of `sweep` in params.yaml, and show what each student came to.

    One that was trained before, by this command or another, is not trained again.
    """
    from pipeline.students import check_encoder, shared_job
    from stages.student.ledger import results_table
    from stages.sweep.run import expand, run

    params = settings.params
    check_encoder(params, settings.layout)
    summary = run(
        expand(params.student, params.sweep),
        shared_job(params.student, settings.layout, device),
        ledger=settings.layout.results,
        unfinished=settings.layout.unfinished("sweep"),
        workers=workers,
        together=together,
    )
    click.echo(results_table(summary.entries, params.student).to_string(index=False))
    click.echo(str(summary))


@main.command()
@_configured
@click.option(
    "--csv",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the table here too.",
)
def results(settings: Settings, csv: Path | None) -> None:
    """Show every student trained by this code from the features and targets of now.

    Whoever trained it: a stage, a sweep, or an experiment of DVC. ★ is the best of its
    system, chosen on valid.
    """
    from pipeline.students import shared_job
    from stages.core.files import write_text
    from stages.student.ledger import describe, of_inputs, read_ledger, results_table

    layout = settings.layout
    entries = read_ledger(layout.results)
    inputs = describe(shared_job(settings.params.student, layout, "cpu"))["inputs"]
    shown = of_inputs(entries, inputs)
    table = results_table(shown, settings.params.student)
    if shown:
        click.echo(table.to_string(index=False))
    if csv is not None:
        write_text(csv, table.to_csv(index=False, lineterminator="\n"))
    others = len(entries) - len(shown)
    click.echo(
        f"{layout.results}: {len(shown)} students"
        + (f", and {others} of other features, targets or code" if others else "")
    )


@main.command()
@_configured
@_root
@_backend
@_device
@_workers
def robustness(
    settings: Settings, root: Path | None, backend: str, device: str, workers: int
) -> None:
    """Classify test under noise and reverberation with every student.

    Features are cached for each condition; what is there is not extracted again.
    """
    from stages.robustness.run import run

    params, layout = settings.params, settings.layout
    summary = run(
        params.robustness,
        params.acoustic,
        manifest=layout.manifest,
        audio=_audio(settings, root),
        features=layout.acoustic,
        digest=layout.acoustic_digest,
        quarantine=layout.quarantine,
        students={
            student_name(system, alpha): layout.student(system, alpha)
            for system, alpha in _grid(params)
        },
        output=layout.robustness,
        device=device,
        workers=workers,
        backend=backend,
    )
    click.echo(summary)


@main.command()
@_configured
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write here instead of report/.",
)
def report(settings: Settings, output: Path | None) -> None:
    """Measure all systems; write tables, figures and the page."""
    from stages.report.run import run

    params, layout = settings.params, settings.layout
    scores = Path(params.acoustic.encoder).with_suffix(".json")
    spoilt = layout.robustness / "predictions.csv"
    summary = run(
        params.report,
        corpus=params.corpus.name,
        manifest=layout.manifest,
        intents=layout.intents,
        quarantine=layout.quarantine,
        teacher=layout.teacher,
        baseline1=layout.baseline1,
        students={
            student_name(system, alpha): layout.student(system, alpha)
            for system, alpha in _grid(params)
        },
        encoder_scores=scores if scores.is_file() else None,
        robustness=spoilt if spoilt.is_file() else None,
        output=output or layout.report,
    )
    click.echo(summary)


@main.command()
def status() -> None:
    """Say of every stage whether it is fresh, stale (and why) or missing."""
    from pipeline.status import describe

    # No options: it is told what `dvc repro` would do, which reads params.yaml.
    click.echo(describe(Layout(load_params(PARAMS_FILE).corpus.name)))


@main.group()
def cache() -> None:
    """Look after the caches of features and targets."""


_kinds = click.option(
    "--kind",
    "kinds",
    type=click.Choice(ALL_KINDS),
    multiple=True,
    default=ALL_KINDS,
    show_default="all",
    help="This cache alone.",
)

_kind = click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="acoustic",
    show_default=True,
    help="Features of the recordings, or the teacher's of the texts.",
)


@cache.command()
@_configured
def info(settings: Settings) -> None:
    """Say what is cached, from which encoder, and how much of it is needed."""
    from pipeline.cache.commands import list_caches

    click.echo(list_caches(settings.layout))


@cache.command()
@_configured
@_kinds
@click.pass_context
def verify(ctx: click.Context, settings: Settings, kinds: tuple[str, ...]) -> None:
    """Recompute every checksum and look for every utterance of the manifest."""
    from pipeline.cache.commands import verify_caches

    problems, summary = verify_caches(settings.layout, sorted(set(kinds)))
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(summary)
    ctx.exit(1 if problems else 0)


@cache.command()
@_configured
@_kinds
@click.option("--dry-run", is_flag=True, help="Only say what would be reclaimed.")
def gc(settings: Settings, kinds: tuple[str, ...], dry_run: bool) -> None:
    """Reclaim what the manifest does not need, and join small parts.

    Removes features of other encoders than the digest's, and of recordings and texts
    that the manifest does not have. Interrupted at any moment, it loses nothing that is
    needed.
    """
    from pipeline.cache.commands import collect_garbage

    summary = collect_garbage(
        settings.layout, sorted(set(kinds)), dry_run=dry_run, say=click.echo
    )
    click.echo(summary)


@cache.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@_configured
@_kind
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["train", "valid", "test"]),
    help="Only what is said in this split; may be repeated.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def export(
    settings: Settings, path: Path, kind: str, splits: tuple[str, ...], force: bool
) -> None:
    """Write the features to FILE, one HDF5 file for other tools."""
    from pipeline.cache.commands import export_cache

    click.echo(export_cache(settings.layout, kind, path, splits=splits, force=force))


@cache.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.pass_context
def diff(ctx: click.Context, a: Path, b: Path) -> None:
    """Say where two caches differ: A and B are folders of parts, or digests."""
    from pipeline.cache.comparison import compare

    difference = compare(a, b)
    click.echo(difference)
    ctx.exit(1 if difference else 0)


@cache.command()
@click.argument("other", type=click.Path(path_type=Path))
@_configured
@_kind
def merge(settings: Settings, other: Path, kind: str) -> None:
    """Take over what is cached in OTHER, a folder of parts, and not yet here."""
    from pipeline.cache.commands import merge_cache

    click.echo(merge_cache(settings.layout, kind, other))


def _corpus_root(settings: Settings, root: Path | None) -> Any:
    """Where the corpus lies; None for the demo, which the pipeline speaks."""
    if settings.params.corpus.adapter == "demo":
        return None
    return root or settings.layout.data / settings.params.corpus.name


def _audio(settings: Settings, root: Path | None) -> Any:
    """What the manifest's paths are relative to."""
    if settings.params.corpus.adapter in WRITES_AUDIO:
        return settings.layout.audio
    return _corpus_root(settings, root)


def _grid(params: Params) -> list[tuple[str, float | None]]:
    """The students that params.yaml asks for, in the report's order."""
    pairs = [(name, alpha) for name in _STUDENTS for alpha in params.student.alpha]
    return [("baseline2", None), *pairs]
