"""Loading a BERT-like model safely, and feeding it texts by length."""

from collections.abc import Iterator, Sequence
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase

from stages.errors import InputError

_FIX = (
    "set teacher.model to a local folder with config.json, model.safetensors and the "
    "tokenizer's files, or to a hub name while online (HF_HUB_OFFLINE unset)"
)


def load(kind: Any, name: str, *, revision: str = "", **options: Any) -> Any:
    """`kind.from_pretrained(name)`, never running code that comes with the model.

    Args:
        kind: one of the Auto classes of transformers.
        name: hub name or local folder.
        revision: of a hub name; empty for its main branch.
        options: as `from_pretrained` takes them.

    Raises:
        InputError: nothing usable there, or not reachable.
    """
    try:
        return kind.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"cannot load the model ({reason})", path=name, fix=_FIX
        ) from error


def load_tokenizer(name: str, *, revision: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer of the model called `name`.

    Raises:
        InputError: as `load`, or the tokenizer's files are not there: transformers
            then makes one that knows the special tokens alone.
    """
    tokenizer = load(AutoTokenizer, name, revision=revision)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            "the tokenizer knows no words",
            path=name,
            expected="tokenizer.json or vocab.txt beside config.json",
            fix=_FIX,
        )
    return tokenizer


def length_batches(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], size: int
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Batches of at most `size` texts, short ones first, padded to their longest.

    Yields:
        The texts' places in `texts` and their tokens, tensors of (batch, tokens).
    """
    if not texts:
        return
    lengths = [len(ids) for ids in tokenizer(list(texts), truncation=True).input_ids]
    order = sorted(range(len(texts)), key=lambda place: (lengths[place], texts[place]))
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield (
            places,
            tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ),
        )
