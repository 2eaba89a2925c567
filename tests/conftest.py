"""A corpus of sine waves, a tiny encoder and a tiny BERT: the whole line in seconds."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner, Result

from stages.cache.digest import digest_path, summary_path, write_digest
from stages.cache.format import Header
from stages.cache.store import CacheWriter
from stages.core.checksums import read_sealed, write_sealed
from stages.core.corpus_files import CorpusFiles
from stages.core.hashing import hash_bytes
from stages.core.manifest import (
    COLUMNS,
    QUARANTINE_COLUMNS,
    write_manifest,
    write_quarantine,
)
from stages.core.results import IDENTITY
from stages.core.text import normalise_text

if TYPE_CHECKING:
    from stages.student.inputs import Sources

# Before anything imports torch or transformers.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("ALN_CORPUS_ROOT", "ALN_CACHE_DIR", "ALN_DEVICE", "ALN_WORKERS"):
    os.environ.pop(name, None)
# A shell starts what runs in its background deaf to Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

RATE = 16_000
# What is said and the pitch it is said at, by intent; the second wording is for test.
TONES = {
    "lamp on": ("light the lamp", "let there be light", 300.0),
    "lamp off": ("put out the lamp", "make it dark", 900.0),
    "play": ("play a song", "some music please", 2700.0),
}
# Of espeak-ng's phonemes those of some short words.
PHONEMES = ("_", "@", "I", "V", "a", "aI", "b", "d", "D", "f", "h", "i:", "k", "l")
PHONEMES += ("m", "n", "N", "oU", "r", "s", "S", "t", "u:", "U", "v", "w", "z")
COUNTS = {"train": 4, "valid": 2, "test": 2}

PARAMS = """\
corpus:
  name: tiny
  adapter: table
acoustic:
  encoder: encoder.safetensors
teacher:
  model: scratch
  scratch_hidden_size: 16
  scratch_layers: 1
  scratch_heads: 2
  scratch_intermediate_size: 16
  scratch_vocabulary_size: 60
  max_tokens: 16
  mlm_epochs: 1
  intent_epochs: 1
  batch_size: 4
baseline1:
  model: encoder.safetensors
  vocabulary: 40
  accents: [en-us]
student:
  epochs: 2
  seeds: [1]
  alpha: [0.5, 1]
  gru_width: 4
unlabelled:
  sentences: more.txt
  voices: 2
rejection:
  noises: 10
report:
  tsne_intents: 2
"""


def write_tone(path: Path, hertz: float, seconds: float, seed: int) -> None:
    """A sine with a little noise, so that no two recordings have the same bytes."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(scale=0.01, size=len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time) + noise, RATE)


def write_corpus(root: Path) -> None:
    """Recordings of every intent in every split, `table.csv` about them, sentences."""
    lines = ["path,split,speaker,text,intent"]
    for split, count in COUNTS.items():
        for number in range(count):
            for intent, (seen, unseen, hertz) in TONES.items():
                path = f"{split}/{intent.replace(' ', '-')}-{number}.wav"
                text = unseen if split == "test" and number else seen
                seconds = 0.35 + 0.1 * number
                write_tone(root / path, hertz * (1 + number / 50), seconds, len(lines))
                lines.append(f"{path},{split},{split}-{number},{text},{intent}")
    (root / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "more.txt").write_text("put out the song\nlight music\n", "utf-8")


def write_encoder(path: Path, *, hidden: int = 6, seed: int = 1) -> None:
    """A checkpoint of a randomly initialised encoder, 2 * hidden values a frame."""
    from stages.acoustic.checkpoint import frozen_encoder, save_checkpoint
    from stages.acoustic.encoder import EncoderConfiguration

    configuration = EncoderConfiguration(
        front_end="log-cmn",
        channels=8,
        hidden=hidden,
        phonemes=len(PHONEMES),
        words=2,
        ctc=True,
    )
    encoder = frozen_encoder(configuration, seed).encoder
    save_checkpoint(path, encoder, PHONEMES, ("c", "d"))


def pipeline(*arguments: str | Path) -> Result:
    """`aln-pipeline` with `arguments`, in this process and the working directory."""
    from pipeline.cli import main

    return CliRunner().invoke(main, [str(one) for one in arguments])


LINE = (
    ("prepare-corpus",),
    ("extract-acoustic",),
    ("unlabelled",),
    ("train-teacher",),
    ("cache-targets",),
    ("baseline1",),
    ("train-student", "baseline2"),
    ("train-student", "aln_linguistic"),
    ("train-student", "aln"),
    ("train-student", "recommended"),
    ("robustness",),
    ("rejection",),
    ("report",),
)


@pytest.fixture(scope="session")
def _given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("given")
    write_corpus(root / "data" / "tiny")
    write_encoder(root / "encoder.safetensors")
    (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def _finished(
    _given: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[tuple[str, ...], Result]]:
    root = tmp_path_factory.mktemp("finished") / "root"
    shutil.copytree(_given, root)
    before = Path.cwd()
    os.chdir(root)
    try:
        return root, {command: pipeline(*command) for command in LINE}
    finally:
        os.chdir(before)


@pytest.fixture
def given(_given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with corpus, encoder and parameters; nothing has run."""
    return _enter(_given, tmp_path, monkeypatch)


@pytest.fixture
def finished(
    _finished: tuple[Path, dict[tuple[str, ...], Result]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A working directory in which every command has run."""
    return _enter(_finished[0], tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def _exported(
    _finished: tuple[Path, dict[tuple[str, ...], Result]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    before = Path.cwd()
    os.chdir(_finished[0])
    try:
        result = pipeline("export", folder)
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def exported(_exported: Path, tmp_path: Path) -> Path:
    """A folder of `aln-pipeline export`, of the best student in `finished`."""
    return Path(shutil.copytree(_exported, tmp_path / "model"))


@pytest.fixture
def results(
    _finished: tuple[Path, dict[tuple[str, ...], Result]],
) -> dict[tuple[str, ...], Result]:
    """How the commands of `LINE` ended in `finished`."""
    return _finished[1]


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """A function that reads every file below a folder but the lock."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in files
            if path.name != ".lock"
        }

    return read


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many recordings each call of the encoder got."""
    from stages.acoustic.onnx_encoder import OnnxEncoder

    encode, calls = OnnxEncoder.encode, []

    def count(session: Any, waves: list[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(waves))
        return encode(session, waves)

    monkeypatch.setattr(OnnxEncoder, "encode", count)
    return calls


def change_identity(folder: Path) -> None:
    """Make the result in `folder` one of other inputs, as `identity.json` has it."""
    path = folder / IDENTITY
    found = read_sealed(path)
    write_sealed(path, {**found, "inputs": {**found["inputs"], "another": None}})


def refused_by(*command: str | Path) -> str:
    """The message, in one line, with which `aln-pipeline` refuses a command."""
    done = pipeline(*command)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def _enter(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    shutil.copytree(source, root)
    monkeypatch.chdir(root)
    return root


# A cache of random features.

DIM = 4
HEADER = Header(
    kind="acoustic",
    encoder="tiny",
    fingerprint="ab" * 32,
    parameters={"front_end": "log-cmn", "layers": [1, 2]},
    dim=DIM,
    dtype="float32",
    frame_step=2560,
)
OTHER = dataclasses.replace(HEADER, encoder="huge", fingerprint="cd" * 32)

Row = tuple[str, str, np.ndarray]
"""Id, key and frames (T, D) of an utterance."""


def make_rows(
    lengths: Iterable[int], dtype: str = "float32", dim: int = DIM
) -> list[Row]:
    """Utterances of `lengths` frames."""
    generator = np.random.default_rng(7)
    return [
        (
            f"corpus/é {number:03d}",
            hash_bytes(f"audio {number}".encode()),
            generator.standard_normal((length, dim)).astype(dtype),
        )
        for number, length in enumerate(lengths)
    ]


ROWS = make_rows([3, 1, 5, 8, 2, 4, 6, 30, 1, 1])


def fill(
    directory: Path, rows: list[Row], header: Header = HEADER, part_frames: int = 10
) -> None:
    """Write `rows` to the cache in `directory`."""
    with CacheWriter(directory, header, part_frames=part_frames) as writer:
        for row in rows:
            writer.add(*row)


def pairs(rows: list[Row]) -> list[tuple[str, str]]:
    """Id and key of each row."""
    return [(id, key) for id, key, _ in rows]


def keys(rows: list[Row]) -> list[str]:
    """The key of each row."""
    return [key for _, key, _ in rows]


def parts(directory: Path) -> list[Path]:
    """The files of a cache's parts."""
    return sorted(directory.glob("*.h5"))


def contents(directory: Path) -> dict[str, bytes]:
    """The bytes of each part of a cache."""
    return {path.name: path.read_bytes() for path in parts(directory)}


# A corpus of separable intents, for students.

STUDENT_DIM, TARGET_DIM = 6, 5
STUDENT_INTENTS = ["dim", "off", "on"]
STUDENT_COUNTS = {"train": 90, "valid": 30, "test": 30}
ACOUSTIC = Header("acoustic", "tiny", "ab" * 32, {}, STUDENT_DIM, "float32", 2560)
TARGETS = Header("targets", "tiny-bert", "cd" * 32, {}, TARGET_DIM, "float32", 0)


def student_table() -> pd.DataFrame:
    """The manifest of the students' corpus."""
    rows = []
    for split, count in STUDENT_COUNTS.items():
        for number in range(count):
            intent = STUDENT_INTENTS[number % 3]
            id = f"tiny/{split}/{number:03d}"
            wording = "please" if split == "test" else f"now {number % 2}"
            rows.append(
                {
                    "id": id,
                    "path": f"{id}.wav",
                    "split": split,
                    "speaker": split,
                    "text": f"Turn {intent}, {wording}!",
                    "intent": intent,
                    "seconds": 1.0,
                    "audio_sha256": hash_bytes(id.encode()),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def target_of(text: str) -> np.ndarray:
    """The target of a text, (1, TARGET_DIM) float32."""
    seed = list(hash_bytes(normalise_text(text).encode()).encode())
    vector = np.random.default_rng(seed).standard_normal((1, TARGET_DIM))
    return vector.astype(np.float32)


def write_sources(
    folder: Path,
    *,
    noise: float = 0.5,
    targets_of: tuple[str, ...] = ("train", "valid"),
    table: pd.DataFrame | None = None,
) -> "Sources":
    """Write the manifest and the caches of the students' corpus.

    An utterance is noise with one frame, anywhere, that shows its intent.

    Args:
        folder: where to.
        noise: its deviation.
        targets_of: splits whose texts have targets.
        table: the manifest, if it is not the one of the features.
    """
    from stages.student.inputs import Sources

    generator = np.random.default_rng(6)
    made = student_table()
    sources = Sources(CorpusFiles(folder), folder / "acoustic", folder / "targets")
    write_manifest(sources.corpus.manifest, made if table is None else table)
    nothing = pd.DataFrame(columns=list(QUARANTINE_COLUMNS), dtype=str)
    write_quarantine(sources.corpus.quarantine, nothing)
    with CacheWriter(sources.acoustic, ACOUSTIC) as writer:
        for row in made.itertuples():
            length = generator.integers(3, 9)
            frames = noise * generator.standard_normal((length, STUDENT_DIM))
            place = generator.integers(length), STUDENT_INTENTS.index(row.intent)
            frames[place] += 4
            writer.add(row.id, row.audio_sha256, frames.astype(np.float32))
    rows = list(zip(made["id"], made["audio_sha256"], strict=True))
    digest = digest_path(sources.acoustic)
    write_digest(digest, sources.acoustic, ACOUSTIC.fingerprint, rows)
    wanted = made[made["split"].isin(targets_of)]
    if texts := sorted({normalise_text(text) for text in wanted["text"]}):
        with CacheWriter(sources.targets, TARGETS) as writer:
            for text in texts:
                writer.add(text, hash_bytes(text.encode()), target_of(text))
        rows = [(text, hash_bytes(text.encode())) for text in texts]
        digest = digest_path(sources.targets)
        write_digest(digest, sources.targets, TARGETS.fingerprint, rows)
        about = hash_bytes(digest.read_bytes())
        summary_path(sources.targets).write_text(json.dumps({"targets": about}))
    return sources


def files_in(folder: Path) -> dict[str, bytes]:
    """The bytes of each file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Tiny encoders of transformers.

_SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "conv_dim": (6,) * 7,
    "num_conv_pos_embedding_groups": 2,
    # Masking and dropping that would show at once if the model were training.
    "hidden_dropout": 0.5,
    "mask_time_prob": 0.9,
    "mask_time_length": 1,
    "layerdrop": 0.9,
}
_PLAIN = {**_SIZES, "num_conv_pos_embeddings": 6}
_STABLE = {
    **_SIZES,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "num_conv_pos_embeddings": 5,
}
PRETRAINED: dict[str, dict[str, Any]] = {
    "wav2vec2": _PLAIN,
    "wav2vec2 stable": _STABLE,
    "hubert": {**_PLAIN, "conv_pos_batch_norm": True},
    "hubert stable": {**_STABLE, "feat_proj_layer_norm": False},
    "wavlm": {**_PLAIN, "num_buckets": 8, "max_bucket_distance": 16},
    "wavlm stable": {**_STABLE, "num_buckets": 8},
    # Says what other types mean by do_stable_layer_norm, and does not do it.
    "data2vec-audio": {
        **_SIZES,
        "conv_pos_kernel_size": 3,
        "do_stable_layer_norm": True,
    },
    "unispeech": _PLAIN,
    "unispeech-sat": _STABLE,
    "whisper": {
        "d_model": 12,
        "encoder_layers": 3,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 20,
        "encoder_layerdrop": 0.9,
        "dropout": 0.5,
        "num_mel_bins": 10,
        "max_source_positions": 50,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 8,
        "vocab_size": 9,
        "pad_token_id": 0,
    },
}
"""Settings of each kind of encoder; the first word is its `model_type`."""


def save_pretrained(folder: Path, kind: str, **settings: Any) -> None:
    """Write an encoder of a kind: configuration, weights, feature extractor.

    No weight is 0 or 1, so that each one matters.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoModel,
        Wav2Vec2FeatureExtractor,
        WhisperFeatureExtractor,
    )

    torch.manual_seed(0)
    values = {**PRETRAINED[kind], **settings}
    model = AutoModel.from_config(AutoConfig.for_model(kind.split()[0], **values))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                drawn = torch.rand(value.shape, generator=generator)
                value.add_(0.4 * drawn - 0.1)
    model.save_pretrained(folder)
    if kind == "whisper":
        extractor = WhisperFeatureExtractor(feature_size=10, chunk_length=1)
    else:
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(folder)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind of encoder; read only."""
    root = tmp_path_factory.mktemp("encoders")

    def folder(kind: str) -> Path:
        path = root / kind
        if not path.exists():
            save_pretrained(path, kind)
        return path

    return folder
