"""`configure`: write params.yaml for a corpus, and show what to do next.

A preset has the corpus's own section; the other sections, with the paper's values, are
in `presets/paper.yaml`. The demo's preset has all sections, because its models are
small; the preset for sentences takes them from there, and `recommended` changes it.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.layout import Layout
from pipeline.params import Params, parse_override, parse_params
from stages.core.errors import ConfigurationError, InputError
from stages.core.files import write_text
from stages.core.manifest import SPLITS
from stages.student.params import RECOMMENDED

_FOLDER = Path(__file__).with_name("presets")
_SHARED = "paper"
PRESETS = sorted(path.stem for path in _FOLDER.glob("*.yaml") if path.stem != _SHARED)


def preset_text(name: str, overrides: Sequence[str] = ()) -> str:
    """The params.yaml of a preset, with its comments.

    Args:
        name: one of `PRESETS`.
        overrides: `section.key=value`, to apply.
    """
    text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if name == RECOMMENDED:
        changes = YAML(typ="safe").load(text)
        text = preset_text("demo")
        overrides = [*_listed(changes), *overrides]
    if "\nacoustic:" not in text:
        preset = "demo" if name == "phrases" else _SHARED
        shared = (_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8")
        # The demo's without its own section corpus; `paper` has none.
        shared = shared[shared.index("acoustic:") :] if preset == "demo" else shared
        text = f"{text}\n{shared}"
    if not overrides:
        return text
    # A round trip, which keeps the comments.
    yaml = YAML()
    yaml.width = 88
    sections = yaml.load(text)
    for override in overrides:
        section, key, value = parse_override(override)
        keys = sections.setdefault(section, {})
        # An override can give one value for a list of one; DVC needs the list.
        alone = isinstance(keys.get(key), list) and not isinstance(value, list)
        keys[key] = [value] if alone else value
    stream = io.StringIO()
    yaml.dump(sections, stream)
    return stream.getvalue()


def _listed(sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The keys of sections as overrides, `section.key=value`."""
    return [
        f"{section}.{key}={json.dumps(value)}"
        for section, keys in sections.items()
        for key, value in keys.items()
    ]


def configure(
    name: str,
    file: Path,
    *,
    root: Path | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> list[str]:
    """Write `file`, link the recordings, and check the corpus.

    Args:
        name: one of `PRESETS`.
        file: params.yaml.
        root: folder of the corpus; linked to `data/<name>`, where DVC tracks it.
        overrides: `section.key=value`, to apply.
        force: replace a file that was edited.

    Returns:
        What was done and found, and what to do next, line by line.

    Raises:
        ConfigurationError: parameters that cannot be used, edits that would be lost, or
            something else at `data/<name>`.
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
            "has settings that are not from a preset",
            path=file,
            fix="copy it to another name, then run this again with --force",
        )
    params = parse_params(file, text)
    here = Layout(params.corpus.name).data / params.corpus.name
    found = _look_and_link(params, root, here)
    write_text(file, text)
    encoder = Path(params.acoustic.encoder)
    if not encoder.exists():
        found.append(
            f"no encoder at {encoder} yet: put it there, or set acoustic.encoder, for "
            "example to data/demo/encoder.safetensors"
        )
    return [f"{file}: preset {name}", *found, "next: dvc repro"]


def _is_preset(file: Path, text: str) -> bool:
    """Whether `configure` can write the content of `file` again."""
    found = file.read_text(encoding="utf-8")
    return found == text or found in {preset_text(name) for name in PRESETS}


def _look_and_link(params: Params, root: Path | None, here: Path) -> list[str]:
    """Describe the corpus in `root`, linked to `here`, or if it is None in `here`."""
    if root is not None:
        found = _look(params, root)
        _link(root, here)
        return found
    try:
        return _look(params, here)
    except InputError as error:
        state = "cannot be used yet" if here.exists() else "not found yet"
        return [f"{state}: {error}"]


def _look(params: Params, root: Path) -> list[str]:
    """Describe the corpus: counts, and recordings that are missing.

    Raises:
        PipelineError: `root` is not that corpus, or cannot be used.
    """
    from stages.core.paths import missing_fix, short_path
    from stages.corpus.run import read_corpus

    corpus = read_corpus(params.corpus, root)
    table = corpus.table
    counts = table["split"].value_counts()
    splits = ", ".join(f"{counts.get(split, 0):,} {split}" for split in SPLITS)
    speakers = table.loc[table["speaker"] != "", "speaker"].nunique()
    voices = f"; {speakers:,} speakers" if speakers else ""
    intents = f"{table['intent'].nunique():,} {params.corpus.kinds}"
    lines = [*corpus.notes, f"{root}: {splits} utterances, {intents}{voices}"]
    paths = [] if corpus.contents else list(table["path"])
    missing = [path for path in paths if not os.path.isfile(root / path)]
    if missing:
        fix = missing_fix(missing)
        lines.append(
            f"{len(missing):,} recordings are missing, first {short_path(missing[0])}"
            + (f"; fix: {fix}" if fix else "")
        )
    return lines


def _link(root: Path, here: Path) -> None:
    if here.exists() and here.resolve() == root.resolve():
        return
    if here.exists() and not here.is_symlink():
        raise ConfigurationError(
            "already exists",
            path=here,
            expected=f"nothing, or a link to {root}",
            fix="move it away, or leave --root out to use it",
        )
    here.unlink(missing_ok=True)
    here.parent.mkdir(parents=True, exist_ok=True)
    here.symlink_to(root.resolve())
