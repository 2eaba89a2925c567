"""Loading a BERT-like model safely, and feeding it texts by length.

No code from a model's folder is run. Weights are read from safetensors if there are
any, otherwise only tensors are read from a pickle (`torch.load` with `weights_only`,
which transformers always sets).
"""

import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants, try_to_load_from_cache
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stages.core.errors import ConfigurationError, InputError
from stages.core.labels import Labels, segments
from stages.core.text import name_some
from stages.teacher.mean_head import HEAD_FILE, MeanClassifier

# A model needs one file of each row.
_FILES = (
    ("config.json",),
    (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model"),
)
_PREDICTED_AT_ONCE = 64


def load(kind: Any, name: str, *, revision: str = "", **options: Any) -> Any:
    """`kind.from_pretrained(name)`, never running code that comes with the model.

    Args:
        kind: one of the Auto classes of transformers.
        name: hub name or local folder.
        revision: of a hub name: commit, tag or branch; empty for its main branch.
        options: as `from_pretrained` takes them.

    Raises:
        InputError: not usable or not reachable; names the missing files and where to
            put them.
    """
    if _is_path(name) and not Path(name).is_dir():
        raise InputError(
            "no such folder",
            path=name,
            found="a file" if Path(name).exists() else None,
            expected="a folder with config.json, model.safetensors and tokenizer.json "
            "of one model, as `hf download NAME --local-dir FOLDER` makes it",
            fix="put it there, or set teacher.model to its path or a name on the hub",
        )
    try:
        return kind.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False, **options
        )
    # A pickle that is not a checkpoint can raise almost anything.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot load the model ({reason})",
            path=name,
            found=_missing(name, revision),
            fix=_fix(name),
        ) from error


def load_config(name: str, *, revision: str = "") -> PreTrainedConfig:
    """The configuration of the encoder called `name`.

    Raises:
        ConfigurationError: not an encoder that transformers can train as a classifier.
        InputError: as `load`.
    """
    config: PreTrainedConfig = load(AutoConfig, name, revision=revision)
    able = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if not able or config.is_encoder_decoder:
        raise ConfigurationError(
            f"{name} is not a text encoder that can be a classifier",
            found=f"{config.model_type}, with a decoder" if able else config.model_type,
            fix="choose an encoder such as bert-base-uncased",
        )
    return config


def load_tokenizer(name: str, *, revision: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer of the model called `name`.

    Raises:
        InputError: as `load`, or the tokenizer's files are missing: transformers then
            makes one that has only the special tokens.
    """
    tokenizer = load(AutoTokenizer, name, revision=revision)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            "the tokenizer has no vocabulary",
            path=name,
            expected="tokenizer.json or vocab.txt next to config.json",
            fix=_fix(name),
        )
    if tokenizer.pad_token is None:
        raise InputError("the tokenizer has no padding token", path=name)
    return tokenizer


def load_model(
    kind: Any, name: str, config: PreTrainedConfig, *, revision: str = ""
) -> PreTrainedModel:
    """The encoder called `name` under the head of `kind`, in float32.

    A classification head is initialised at random if the checkpoint has none that fits;
    the encoder, and a masked-LM head, must come from the checkpoint.

    Raises:
        ConfigurationError: the checkpoint has no masked-LM head, and one is needed.
        InputError: as `load`, or weights of the encoder are missing or have another
            size.
    """
    masked = kind is AutoModelForMaskedLM
    if masked and type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise _headless(name, f"a {config.model_type}")
    model, report = load(
        kind,
        name,
        revision=revision,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # a classifier of other intents gets a new head
    )
    made = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    # A masked-LM checkpoint has no pooler, which only a classifier uses.
    prefix = "" if kind is AutoModel else f"{model.base_model_prefix}."
    encoder = {f"{prefix}{key}" for key in model.base_model.state_dict()}
    lost = sorted(key for key in made & encoder if "pooler." not in key)
    if lost:
        raise InputError(
            "weights of the encoder are missing or have another size",
            path=name,
            found=f"none for {name_some(lost)}",
            fix=_fix(name),
        )
    head = sorted(made - encoder)
    if masked and head:
        raise _headless(name, f"no weights for {name_some(head)}")
    return model


def load_classifier(
    folder: Path, device: torch.device
) -> tuple[PreTrainedModel | MeanClassifier, PreTrainedTokenizerBase]:
    """The fine-tuned classifier in `folder`, frozen, and its tokenizer.

    Raises:
        InputError: the folder cannot be loaded.
    """
    mean = (folder / HEAD_FILE).exists()
    classifier = load(
        AutoModel if mean else AutoModelForSequenceClassification,
        str(folder),
        dtype=torch.float32,
        use_safetensors=True,
    )
    if mean:
        classifier = MeanClassifier.load(classifier, folder)
    tokenizer = load_tokenizer(str(folder))
    fit_tokenizer(tokenizer, classifier.config)
    return classifier.eval().requires_grad_(False).to(device), tokenizer


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Limit what `tokenizer` gives to what an encoder of this kind takes.

    DistilBERT and ModernBERT, for instance, have no token types.
    """
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    taken = inspect.signature(kind.forward).parameters
    names = [name for name in tokenizer.model_input_names if name in taken]
    tokenizer.model_input_names = names


def longest_text(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> int | None:
    """The most tokens the model takes, special ones included; None if unlimited."""
    positions = getattr(config, "max_position_embeddings", None)
    with torch.device("meta"):  # takes neither memory nor time
        model = AutoModelForSequenceClassification.from_config(
            config, trust_remote_code=False
        )
    for name, module in model.named_modules():
        # RoBERTa and similar models count positions from behind the padding index.
        padding = getattr(module, "padding_idx", None)
        if name.split(".")[-1] == "position_embeddings" and padding is not None:
            positions = module.weight.shape[0] - padding - 1
    given = tokenizer.model_max_length
    # XLNet has no limit and says -1; a tokenizer without one says 1e30.
    known = [n for n in (positions, given) if n is not None and 0 < n < 10**9]
    return min(known, default=None)


def length_batches(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], size: int
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Batches of at most `size` texts, short ones first, padded to their longest.

    Yields:
        The texts' places in `texts` and their tokens, tensors of (batch, tokens).
    """
    for places in _runs(tokenizer, texts, size, equal=False):
        yield places, _encode(tokenizer, [texts[place] for place in places])


def equal_batches(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], size: int
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Batches of exactly `size` texts of one length, short ones first, no padding.

    If there are not enough, the last text is repeated. Matrix products then have the
    same shape whatever else is computed, which on a CPU gives a text the same bits.

    Yields:
        The texts' places in `texts`, at most `size`, and the tokens, tensors of
        (size, tokens) with a special_tokens_mask.
    """
    for places in _runs(tokenizer, texts, size, equal=True):
        filled = places + places[-1:] * (size - len(places))
        yield (
            places,
            _encode(
                tokenizer,
                [texts[place] for place in filled],
                return_special_tokens_mask=True,
            ),
        )


def predict(
    model: PreTrainedModel | MeanClassifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    labels: Labels,
) -> tuple[np.ndarray, np.ndarray]:
    """The class numbers of each of `texts`, (texts, slots), and their probability."""
    model.eval()
    numbers = np.empty((len(texts), len(labels.slots)), dtype=np.int64)
    confidences = np.empty(len(texts))
    with torch.inference_mode():
        for places, batch in length_batches(tokenizer, texts, _PREDICTED_AT_ONCE):
            # (batch, values of all slots)
            logits = model(**batch.to(model.device)).logits.cpu()
            parts = [part.softmax(1) for part in segments(logits, labels.sizes)]
            numbers[places] = labels.choose(logits.numpy())
            confidences[places] = labels.confidence(torch.cat(parts, 1).numpy())
    return numbers, confidences


def count_cut(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> int:
    """How many of `texts`, at least one, `tokenizer` cuts."""
    # A copy: a tokenizer remembers, and saves, its last truncation setting.
    whole = copy.deepcopy(tokenizer)(list(texts), truncation=False).input_ids
    return sum(len(ids) > tokenizer.model_max_length for ids in whole)


def _runs(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], size: int, *, equal: bool
) -> Iterable[list[int]]:
    """Places in runs of at most `size`; with `equal`, each of one length."""
    tokens = tokenizer(list(texts), truncation=True).input_ids if texts else []
    lengths = list(map(len, tokens))
    order = sorted(range(len(texts)), key=lambda place: (lengths[place], texts[place]))
    runs: list[list[int]] = []
    for place in order:
        full = not runs or len(runs[-1]) == size
        if full or (equal and lengths[runs[-1][0]] != lengths[place]):
            runs.append([])
        runs[-1].append(place)
    return runs


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], **options: bool
) -> BatchEncoding:
    return tokenizer(
        texts, padding=True, truncation=True, return_tensors="pt", **options
    )


def _missing(name: str, revision: str) -> str | None:
    """The missing files of a model; None if all are there."""
    folder = Path(name)

    def there(file: str) -> bool:
        if folder.is_dir():
            return (folder / file).is_file()
        try:
            found = try_to_load_from_cache(name, file, revision=revision or None)
        except ValueError:  # not a valid hub name
            return False
        return isinstance(found, str)

    missing = [" or ".join(row[::2]) for row in _FILES if not any(map(there, row))]
    return f"no {'; no '.join(missing)}" if missing else None


def _is_path(name: str) -> bool:
    """Whether `name` is a path, not a hub name: `name` or `owner/name`."""
    path = Path(name)
    led = name.startswith((".", "~")) or path.is_absolute()
    return led or name.count("/") > 1 or path.exists()


def _fix(name: str) -> str:
    """How to supply a missing model."""
    if Path(name).is_dir():
        return (
            "put config.json, model.safetensors and tokenizer.json of one model there"
        )
    local = f"data/models/{name.rsplit('/', 1)[-1]}"
    offline = " (HF_HUB_OFFLINE is set: unset it)" if constants.HF_HUB_OFFLINE else ""
    return (
        f"with a network, run this again{offline}; without one, run "
        f"`hf download {name} --local-dir {local}` elsewhere, copy config.json, "
        f"model.safetensors and tokenizer.json from there to {local}, and set "
        f"teacher.model to {local}"
    )


def _headless(name: str, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} has no masked-LM head, so the first stage would start from random "
        "weights",
        found=found,
        fix="set teacher.mlm_epochs to 0, which skips that stage, or choose a "
        "teacher.model that has one",
    )
