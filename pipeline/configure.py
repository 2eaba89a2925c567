"""Writing params.yaml for a corpus, and saying what is there and what to do next.

A preset holds the corpus's own section; the others, with the paper's numbers, stand in
`presets/paper.yaml`. The demo's preset is whole: its models are small.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from pipeline.layout import Layout
from pipeline.params import Params, parse_override, parse_params
from stages.core.errors import ConfigurationError, InputError
from stages.core.files import write_text
from stages.core.manifest import SPLITS

_FOLDER = Path(__file__).with_name("presets")
_SHARED = "paper"
PRESETS = sorted(path.stem for path in _FOLDER.glob("*.yaml") if path.stem != _SHARED)


def preset_text(name: str, overrides: Sequence[str] = ()) -> str:
    """The params.yaml of a preset, with its comments.

    Args:
        name: one of `PRESETS`.
        overrides: `section.key=value`, put into it.
    """
    text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if "\nacoustic:" not in text:
        shared = (_FOLDER / f"{_SHARED}.yaml").read_text(encoding="utf-8")
        text = f"{text}\n{shared}"
    if not overrides:
        return text
    from ruamel.yaml import YAML

    # Round trip: what a person reads in the file stays.
    yaml = YAML()
    yaml.width = 88
    sections = yaml.load(text)
    for override in overrides:
        section, key, value = parse_override(override)
        keys = sections.setdefault(section, {})
        # One value stands for a list of one; in the file DVC wants the list.
        alone = isinstance(keys.get(key), list) and not isinstance(value, list)
        keys[key] = [value] if alone else value
    stream = io.StringIO()
    yaml.dump(sections, stream)
    return stream.getvalue()


def configure(
    name: str,
    file: Path,
    *,
    root: Path | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> list[str]:
    """Write `file`, link the recordings, and look at the corpus.

    Args:
        name: one of `PRESETS`.
        file: params.yaml.
        root: where the corpus lies; linked to `data/<name>`, where DVC watches it.
        overrides: `section.key=value`, put into the file.
        force: replace a file that holds a person's own settings.

    Returns:
        What was done, found, and is to be done next, line by line.

    Raises:
        ConfigurationError: parameters that cannot be used, settings that would be
            lost, or something else at `data/<name>`.
        InputError: `root` is given and is not that corpus; nothing is written.
    """
    if name not in PRESETS:
        raise ConfigurationError(
            "unknown preset",
            found=repr(name),
            expected=f"one of {', '.join(PRESETS)}",
        )
    text = preset_text(name, overrides)
    if file.exists() and not force and not _is_preset(file, text):
        raise ConfigurationError(
            "holds settings of your own",
            path=file,
            fix="copy it to another name, then repeat with --force",
        )
    params = parse_params(file, text)
    layout = Layout(params.corpus.name)
    here = layout.data / params.corpus.name
    if params.corpus.adapter == "demo":
        if root is not None:
            raise ConfigurationError(
                "the demo is spoken by the pipeline", fix="leave --root out"
            )
        found = ["the demo's recordings are spoken by `aln-pipeline prepare-corpus`"]
    elif root is not None:
        found = _look(params, root)
        _link(root, here)
    else:
        try:
            found = _look(params, here)
        except InputError as error:
            state = "not usable yet" if here.exists() else "not there yet"
            found = [f"{state}: {error}"]
    write_text(file, text)
    encoder = Path(params.acoustic.encoder)
    if not encoder.exists():
        found.append(
            f"no encoder at {encoder} yet: put it there, or set acoustic.encoder, for "
            "instance to data/demo/encoder.safetensors"
        )
    return [f"{file}: preset {name}", *found, "next: dvc repro"]


def _is_preset(file: Path, text: str) -> bool:
    """Whether nothing would be lost that `configure` cannot write again."""
    found = file.read_text(encoding="utf-8")
    return found == text or found in {preset_text(name) for name in PRESETS}


def _look(params: Params, root: Path) -> list[str]:
    """What is found of the corpus: counts, and recordings that are missing.

    Raises:
        PipelineError: it is not that corpus, or bad.
    """
    from stages.corpus.run import read_corpus

    corpus = read_corpus(params.corpus, root)
    table = corpus.table
    counts = table["split"].value_counts()
    splits = ", ".join(f"{counts.get(split, 0):,} {split}" for split in SPLITS)
    speakers = table.loc[table["speaker"] != "", "speaker"].nunique()
    told = f"; {speakers:,} speakers" if speakers else ""
    lines = [
        *corpus.notes,
        f"{root}: {splits} utterances, {table['intent'].nunique():,} intents{told}",
    ]
    paths = [] if corpus.contents else list(table["path"])
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        lines.append(f"{len(missing):,} recordings are missing, first {missing[0]}")
    return lines


def _link(root: Path, here: Path) -> None:
    if here.exists() and here.resolve() == root.resolve():
        return
    if here.exists() and not here.is_symlink():
        raise ConfigurationError(
            "something else is there",
            path=here,
            expected=f"nothing, or a link to {root}",
            fix="move it away, or leave --root out to use it",
        )
    here.unlink(missing_ok=True)
    here.parent.mkdir(parents=True, exist_ok=True)
    here.symlink_to(root.resolve())
