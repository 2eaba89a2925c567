"""`aln-pipeline`: a command for each stage. Turns errors into exit codes.

    0    done
    1    `cache verify` found a problem, `cache diff` a difference
    2    bad input, named in one line on stderr, or wrong usage
    130  interrupted by Ctrl-C, 143 by SIGTERM: finished work is kept

An error of the operating system (a full disk, a name that is too long) counts as bad
input; with -v, its traceback is logged. Any other exception is a bug and keeps its
traceback. A command imports its stage when it runs, so that `--help` does not wait for
torch.
"""

import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from pipeline.cache.commands import cache
from pipeline.durations import read_durations
from pipeline.inference.listen import listen
from pipeline.inference.predict import predict
from pipeline.inference.serve import serve
from pipeline.layout import Layout, student_name
from pipeline.options import (
    Number,
    Settings,
    configured,
    overrides_option,
    run_options,
    workers_option,
)
from pipeline.params import PARAMS_FILE, load_params
from stages.baseline1.params import RECOGNISERS
from stages.core.errors import ConfigurationError, PipelineError
from stages.corpus.params import ON_ERROR, WRITES_AUDIO
from stages.student.params import RECOMMENDED, SYSTEMS, Variant

if TYPE_CHECKING:
    from stages.core.runtime import RunOptions
    from stages.report.comparison import Summary as ComparisonSummary
    from stages.student.inputs import Sources

log = logging.getLogger(__name__)

_FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "correct the permissions"
    ),
    errno.EIO: "check the disk",
    errno.ENOMEM: "free memory, or use fewer --workers",
}

# In messages of libraries written in Rust (safetensors, tokenizers), and of torch.
_OS_ERROR = re.compile(r"\(os error (\d+)\)|\bError code (\d+) \(")


# They keep nothing to resume from.
_WITHOUT_RESUME = ("export", "listen", "predict", "serve")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, made to unwind the stack as Ctrl-C does."""


class _Pipeline(click.Group):
    """A group whose commands exit as the module's docstring says."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _terminable():
                return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            ctx.exit(2)
        except Exception as error:
            number = _os_error(error)
            # Click ends quietly when what reads its output has gone.
            if number is None or number == errno.EPIPE:
                raise
            log.info("the error's traceback", exc_info=True)
            what = " ".join(str(error).split()) or os.strerror(number)
            if number in _FIXES:
                what += f"; fix: {_FIXES[number]}, then run the command again"
            if ctx.invoked_subcommand not in _WITHOUT_RESUME:
                what += "; finished work is kept"
            click.echo(f"error: {what}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt as interrupt:
            line = "interrupted"
            if ctx.invoked_subcommand not in _WITHOUT_RESUME:
                line += ": finished work is kept; run the command again to resume"
            click.echo(line, err=True)
            ctx.exit(143 if isinstance(interrupt, _Terminated) else 130)


def _os_error(error: Exception) -> int | None:
    """The number of an error of the operating system; None for any other error."""
    if isinstance(error, OSError):
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    found = _OS_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else None


@contextmanager
def _terminable() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_root = click.option(
    "--root",
    type=click.Path(path_type=Path),
    envvar="ALN_CORPUS_ROOT",
    show_envvar=True,
    metavar="DIR",
    help="Folder of the recordings; data/<corpus> by default.",
)
_on_error = click.option(
    "--on-error",
    type=click.Choice(ON_ERROR),
    help="Stop at a recording that is not audio, empty or too long, or quarantine it; "
    "overrides corpus.on_error.",
)


@click.group(
    cls=_Pipeline,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88},
)
@click.version_option(
    package_name="acoustic-linguistic-network", message="%(prog)s %(version)s"
)
@click.option("-v", "--verbose", is_flag=True, help="Log what is being done.")
def main(verbose: bool) -> None:
    """Classify intents from speech, with a student that learned from a text teacher.

    Each command runs one stage, as `dvc repro` would, with the parameters in
    params.yaml. Recordings, features, transcripts and trained models that are already
    there are not computed again; an interrupted command resumes when you run it again.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


for command in (cache, predict, listen, serve):
    main.add_command(command)


@main.command()
@click.argument("preset", metavar="PRESET")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Folder of the corpus; linked to data/<corpus>.",
)
@overrides_option
@click.option("--force", is_flag=True, help="Replace a params.yaml that you edited.")
def configure(
    preset: str, root: Path | None, overrides: tuple[str, ...], force: bool
) -> None:
    """Write params.yaml for a corpus; show what was found and what to do next.

    PRESET is demo, recommended (the demo with a pretrained teacher), fsc, atis, slurp,
    timers-and-such, snips, or, for your own corpus, table, lhotse or datasets, or
    phrases if you have sentences and no recordings.
    """
    from pipeline.configure import configure

    for line in configure(
        preset, PARAMS_FILE, root=root, overrides=overrides, force=force
    ):
        click.echo(line)


@main.command("prepare-corpus")
@configured
@_root
@_on_error
@workers_option
def prepare_corpus(
    settings: Settings, root: Path | None, on_error: str | None, workers: int
) -> None:
    """Write the manifest: each recording with its text, intent and hash.

    Prints the corpus statistics next to those of the paper's Table 1.
    """
    from pipeline.table1 import describe_manifest
    from stages.core.manifest import CORPUS_SUMS
    from stages.core.results import hash_input
    from stages.corpus.run import run

    params, layout = settings.params.corpus, settings.layout
    sums = layout.folder / CORPUS_SUMS
    before = hash_input(sums)
    summary = run(
        replace(params, on_error=on_error) if on_error else params,
        root=_corpus_root(settings, root),
        output=layout.folder,
        workers=workers,
    )
    for note in summary.notes:
        click.echo(note)
    click.echo(describe_manifest(params.name, layout.corpus_files.manifest))
    click.echo(summary)
    settings.stopwatch.stop("corpus", computed=hash_input(sums) != before)


@main.command()
@configured
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("cache/pretraining/encoder.safetensors"),
    show_default=True,
    metavar="FILE",
    help="The checkpoint; its recipe and scores are written next to it.",
)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Start from the weights of this checkpoint instead of random ones.",
)
@run_options("device", "workers")
def pretraining(
    settings: Settings, output: Path, start: Path | None, options: "RunOptions"
) -> None:
    """Train a speech encoder on synthetic speech, like the one in data/demo.

    Takes about an hour on two cores. To use the result, set acoustic.encoder to the
    checkpoint.
    """
    from stages.pretraining.run import run

    scores = run(
        settings.params.pretraining,
        avoided_voices=settings.layout.data / "demo" / "voices.csv",
        output=output,
        work=settings.layout.cache / "pretraining",
        start=start,
        options=options,
    )
    listed = ", ".join(f"{name} {value:.2f}%" for name, value in scores.items())
    click.echo(f"{output}: {listed}")


@main.command("extract-acoustic")
@configured
@_root
@click.option(
    "--encoder",
    metavar="NAME",
    help="Checkpoint, folder or name on the Hugging Face hub; overrides "
    "acoustic.encoder.",
)
@_on_error
@run_options("backend", "device", "workers")
def extract_acoustic(
    settings: Settings,
    root: Path | None,
    encoder: str | None,
    on_error: str | None,
    options: "RunOptions",
) -> None:
    """Run the frozen encoder on the recordings that are not cached yet."""
    from stages.acoustic.run import run

    params, corpus = settings.params.acoustic, settings.params.corpus
    summary = run(
        replace(params, encoder=encoder) if encoder else params,
        settings.layout.corpus_files,
        audio=_audio(settings, root),
        cache=settings.layout.acoustic,
        on_error=on_error or corpus.on_error,
        longest_seconds=corpus.longest_seconds,
        options=options,
    )
    click.echo(summary)
    settings.stopwatch.stop("acoustic", computed=summary.extracted > 0)


@main.command()
@configured
@_root
@run_options("backend", "device", "workers", "force")
def unlabelled(settings: Settings, root: Path | None, options: "RunOptions") -> None:
    """Speak sentences that have no label, and run the frozen encoder on them.

    Students can learn the teacher's vectors and probabilities of such sentences.
    """
    from stages.unlabelled.run import run

    params, layout = settings.params, settings.layout
    summary = run(
        params.unlabelled,
        params.acoustic,
        params.corpus,
        layout.corpus_files.manifest,
        root=_corpus_root(settings, root),
        output=layout.unlabelled,
        options=options,
    )
    click.echo(summary)
    settings.stopwatch.stop("unlabelled", computed=summary.extracted is not None)


@main.command("train-teacher")
@configured
@click.option(
    "--model",
    metavar="NAME",
    help="Folder or name on the Hugging Face hub; overrides teacher.model.",
)
@click.option(
    "--checkpoint-minutes",
    type=Number(0, 1_000_000),
    default=10,
    show_default=True,
    metavar="MINUTES",
    help="Time between checkpoints; does not change the result.",
)
@run_options("device", "force")
def train_teacher(
    settings: Settings,
    model: str | None,
    checkpoint_minutes: float,
    options: "RunOptions",
) -> None:
    """Fine-tune BERT on the train texts: masked words first, then intents.

    If it was interrupted, the same command resumes.
    """
    from stages.teacher.run import run

    params, layout = settings.params.teacher, settings.layout
    summary = run(
        replace(params, model=model) if model else params,
        layout.corpus_files,
        output=layout.teacher,
        work=layout.teacher_work,
        checkpoint_minutes=checkpoint_minutes,
        options=options,
    )
    click.echo(summary)
    settings.stopwatch.stop("teacher", computed=not summary.up_to_date)


@main.command("cache-targets")
@configured
@run_options("device")
def cache_targets(settings: Settings, options: "RunOptions") -> None:
    """Run the teacher on the distinct texts that are not cached yet."""
    from stages.targets.run import run

    layout = settings.layout
    summary = run(
        settings.params.targets,
        layout.corpus_files,
        teacher=layout.teacher,
        cache=layout.targets,
        posteriors=layout.posteriors,
        options=options,
    )
    click.echo(summary)
    settings.stopwatch.stop("targets", computed=summary.computed > 0)


@main.command()
@configured
@_root
@click.option(
    "--recogniser",
    type=click.Choice(RECOGNISERS),
    help="Overrides baseline1.recogniser.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Model of the recogniser: a file, a folder or a name on the Hugging Face hub; "
    "overrides baseline1.model.",
)
@run_options("device", "workers", "force")
def baseline1(
    settings: Settings,
    root: Path | None,
    recogniser: str | None,
    model: str | None,
    options: "RunOptions",
) -> None:
    """Transcribe valid and test, then classify the transcripts with the teacher.

    Prints the word error rate. Transcripts are kept.
    """
    from stages.baseline1.run import run

    params, layout = settings.params.baseline1, settings.layout
    summary = run(
        replace(
            params,
            recogniser=recogniser or params.recogniser,
            model=model or params.model,
        ),
        layout.corpus_files,
        audio=_audio(settings, root),
        teacher=layout.teacher,
        transcripts=layout.transcripts,
        output=layout.baseline1,
        options=options,
    )
    click.echo(summary)
    settings.stopwatch.stop("baseline1", computed=summary.computed is not None)


class _Alpha(click.ParamType):
    """A number that stays an integer if it is written as one; see `params._typed`."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return int(value) if str(value).isdecimal() else float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)


@main.command("train-student")
@click.argument("system", metavar=f"[{'|'.join((*SYSTEMS, RECOMMENDED))}]")
@configured
@click.option(
    "--alpha",
    type=_Alpha(),
    metavar="NUMBER",
    help="Weight of the transfer loss, 0 to 1, of aln and aln_linguistic; each of "
    "student.alpha by default.",
)
@run_options("device", "workers", "force")
def train_student(
    settings: Settings, system: str, alpha: float | None, options: "RunOptions"
) -> None:
    """Train a student from the cached features and targets."""
    from stages.student.run import run

    params, layout = settings.params.student, settings.layout
    if system == RECOMMENDED and alpha is not None:
        raise ConfigurationError(
            "recommended has an α of its own",
            found=f"alpha {alpha}",
            fix="leave --alpha out, or set recommended.alpha",
        )
    _check_encoder(settings)
    given = alpha is not None or system not in _TRANSFER_SYSTEMS
    for value in (alpha,) if given else params.alpha:
        if system == RECOMMENDED:
            variant = settings.params.recommended.variant(params)
        else:
            variant = Variant(system, value, params)
        name = student_name(system, value)
        summary = run(
            variant,
            _sources(layout),
            output=layout.student(system, value),
            unfinished=layout.unfinished(name),
            ledger=layout.results,
            options=options,
        )
        click.echo(summary)
        settings.stopwatch.stop(name, computed=not summary.found)


@main.command()
@configured
@run_options("device", "workers", "force")
def sweep(settings: Settings, options: "RunOptions") -> None:
    """Train the grid of `sweep` in params.yaml and show the results.

    A student that was trained before, by any command, is not trained again.
    """
    from stages.student.ledger import results_table
    from stages.sweep.run import expand, run

    params, layout = settings.params, settings.layout
    _check_encoder(settings)
    summary = run(
        expand(params.student, params.sweep, params.recommended),
        _sources(layout),
        ledger=layout.results,
        unfinished=layout.unfinished("sweep"),
        options=options,
    )
    table = results_table(summary.entries, params.student, params.recommended)
    click.echo(table.to_string(index=False))
    click.echo(summary)


@main.command()
@configured
@click.option(
    "--csv",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the table to FILE.",
)
def results(settings: Settings, csv: Path | None) -> None:
    """Show all students trained on the current features and targets.

    They come from train-student, sweep and DVC experiments. ★ marks the best of each
    system, chosen on valid.
    """
    from stages.core.files import write_text
    from stages.student.ledger import of_inputs, read_ledger, results_table

    params, layout = settings.params, settings.layout
    entries = read_ledger(layout.results)
    shown = of_inputs(entries, _sources(layout).hashes())
    table = results_table(shown, params.student, params.recommended)
    if shown:
        click.echo(table.to_string(index=False))
    if csv is not None:
        write_text(csv, table.to_csv(index=False, lineterminator="\n"))
    line = f"{layout.results}: {len(shown)} students"
    if others := len(entries) - len(shown):
        line += f", and {others} of other features, targets or code"
    click.echo(line)


@main.command()
@configured
@_root
@run_options("backend", "device", "workers", "force")
def robustness(settings: Settings, root: Path | None, options: "RunOptions") -> None:
    """Measure every student on test recordings with noise and reverberation.

    The features of each degradation are cached and not extracted again.
    """
    from stages.robustness.run import run

    params, layout = settings.params, settings.layout
    _check_encoder(settings)
    summary = run(
        params.robustness,
        params.acoustic,
        layout.corpus_files,
        audio=_audio(settings, root),
        features=layout.acoustic,
        students=_students(settings),
        output=layout.robustness,
        options=options,
    )
    click.echo(summary)
    settings.stopwatch.stop("robustness", computed=summary.extracted is not None)


@main.command()
@configured
@_root
@run_options("backend", "device", "workers", "force")
def rejection(settings: Settings, root: Path | None, options: "RunOptions") -> None:
    """Calibrate every student, and measure what it rejects as none of the intents.

    Other speech, noise and silence are encoded once; their features are cached.
    """
    from stages.rejection.run import run

    params, layout = settings.params, settings.layout
    _check_encoder(settings)
    summary = run(
        params.rejection,
        params.acoustic,
        _sources(layout),
        audio=_audio(settings, root),
        demo=layout.data / "demo",
        students=_students(settings),
        output=layout.rejection,
        options=options,
    )
    click.echo(summary)
    settings.stopwatch.stop("rejection", computed=summary.extracted is not None)


@main.command()
@configured
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write to DIR instead of report/.",
)
@_root
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Compare two runs, each the folder of a report or a revision (of git, or an "
    "experiment of DVC), and write comparison.html only.",
)
@run_options("force")
def report(
    settings: Settings,
    output: Path | None,
    root: Path | None,
    compare: tuple[str, str] | None,
    options: "RunOptions",
) -> None:
    """Compare all systems; write the page index.html, results and figures."""
    if compare:
        click.echo(_compare(compare, settings.layout.report, output))
        return
    from stages.report.run import Inputs, run

    params, layout = settings.params, settings.layout
    scores = Path(params.acoustic.encoder).with_suffix(".json")
    predictions = layout.robustness / "predictions.csv"
    rejected = layout.rejection / "rejection.json"
    inputs = Inputs(
        name=params.corpus.name,
        corpus=layout.corpus_files,
        teacher=layout.teacher,
        targets=layout.target_shares,
        baseline1=layout.baseline1,
        students=_students(settings),
        acoustic=layout.acoustic,
        audio=_audio(settings, root),
        durations=read_durations(layout.durations),
        encoder_scores=scores if scores.is_file() else None,
        robustness=predictions if predictions.is_file() else None,
        rejection=rejected if rejected.is_file() else None,
    )
    summary = run(
        params.report, inputs, output=output or layout.report, options=options
    )
    click.echo(summary)


@main.command()
@configured
@_root
@click.argument("names", nargs=-1, metavar="[STUDENT] DIR")
@click.option(
    "--ensemble",
    is_flag=True,
    help="Export all seeds, which answer with the mean of their probabilities.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Store weights as 8-bit integers, a quarter of the size.",
)
def export(
    settings: Settings,
    root: Path | None,
    names: tuple[str, ...],
    ensemble: bool,
    int8: bool,
) -> None:
    """Write a trained student to DIR, to use it without PyTorch.

    STUDENT is one in the report, such as baseline2 or aln-0.8, and by default the best
    on valid; of its seeds, the best on valid is exported. DIR gets model.onnx, from
    waveform to probabilities, model.json, a model card and requirements.txt. The model
    is kept only if it gives what PyTorch gives on recordings of test.
    """
    from stages.export.inputs import Inputs
    from stages.export.run import run

    students = _students(settings)
    if len(names) not in (1, 2) or names[-1] in students:
        raise click.UsageError("expected [STUDENT] DIR")
    _check_encoder(settings)
    params, layout = settings.params, settings.layout
    inputs = Inputs(
        name=params.corpus.name,
        corpus=layout.corpus_files,
        audio=_audio(settings, root),
        longest_seconds=params.corpus.longest_seconds,
        acoustic=params.acoustic,
        students=students,
        rejection=layout.rejection,
        share=params.rejection.share,
        report=layout.report,
    )
    summary = run(
        names[0] if len(names) == 2 else None,
        inputs,
        output=Path(names[-1]),
        ensemble=ensemble,
        int8=int8,
    )
    click.echo(summary)


@main.command()
def status() -> None:
    """Show whether each stage is fresh, stale (and why) or missing."""
    from pipeline.status import describe

    # Without --params and --set: DVC, which decides, reads params.yaml.
    click.echo(describe(Layout(load_params(PARAMS_FILE).corpus.name)))


def _compare(
    names: tuple[str, str], report: Path, output: Path | None
) -> "ComparisonSummary":
    """Compare two runs, each the folder of a report or a revision."""
    from pipeline.revisions import report_of
    from stages.report.comparison import run

    with report_of(names[0], report) as first, report_of(names[1], report) as second:
        return run(names, (first, second), output=output or report)


_TRANSFER_SYSTEMS = [name for name in SYSTEMS if name != "baseline2"]


def _students(settings: Settings) -> dict[str, Path]:
    """The students that params.yaml asks for, in the report's order."""
    alphas = settings.params.student.alpha
    pairs: list[tuple[str, float | None]] = [("baseline2", None)]
    pairs += [(name, alpha) for name in _TRANSFER_SYSTEMS for alpha in alphas]
    pairs.append((RECOMMENDED, None))
    return {student_name(*pair): settings.layout.student(*pair) for pair in pairs}


def _sources(layout: Layout) -> "Sources":
    """What students are trained from."""
    from stages.student.inputs import Sources

    return Sources(
        layout.corpus_files,
        layout.acoustic,
        layout.targets,
        layout.posteriors,
        layout.unlabelled,
    )


def _check_encoder(settings: Settings) -> None:
    """Check that the features are from `acoustic.encoder`, if that is a file.

    An encoder of transformers is not loaded for this: that takes seconds.

    Raises:
        CacheError: the features are from another encoder or stored as another type, or
            there is no digest.
        InputError: a damaged checkpoint.
    """
    params, layout = settings.params.acoustic, settings.layout
    if not Path(params.encoder).is_file():
        return
    from stages.acoustic.encoding import check_features, feature_header, load_encoder
    from stages.cache.digest import digest_path, read_digest

    digest = digest_path(layout.acoustic)
    check_features(
        digest,
        read_digest(digest).header,
        feature_header(load_encoder(params), params),
        encoder=params.encoder,
        fix="run `aln-pipeline extract-acoustic`, or set acoustic.encoder back",
    )


def _corpus_root(settings: Settings, root: Path | None) -> Path:
    """The folder of a corpus that was given."""
    return root or settings.layout.data / settings.params.corpus.name


def _audio(settings: Settings, root: Path | None) -> Path:
    """The folder that the manifest's paths are relative to."""
    if settings.params.corpus.adapter in WRITES_AUDIO:
        return settings.layout.audio
    return _corpus_root(settings, root)
