"""What the teacher's training depends on, and where each default comes from.

Paper: section 3.2.2 of the acoustic-linguistic network (ICASSP 2021). BERT: Devlin et
al. 2019, which the paper follows; used where the paper is silent.
"""

from dataclasses import dataclass

from stages.core.rules import (
    SEED,
    TEXT_OR_NOTHING,
    Rule,
    among,
    between,
    check_rules,
    check_value,
)

REVISION = 1
"""Bump it when the same inputs and parameters give another result."""

SCRATCH = "scratch"

_SHARE = between(0, 1)
_BELOW_1 = between(0, 1, below=True)
_ABOVE_0_BELOW_1 = between(0, 1, above=True, below=True)
_RULES = {
    "revision": TEXT_OR_NOTHING,
    "scratch_hidden_size": between(1, 2048),
    "scratch_layers": between(1, 48),
    "scratch_heads": between(1, 2048),
    "scratch_intermediate_size": between(1, 8192),
    "scratch_vocabulary_size": between(1, 100_000),
    "max_tokens": between(3, 100_000),  # [CLS], one piece, [SEP]
    "mlm_learning_rate": _ABOVE_0_BELOW_1,
    "mlm_epochs": between(0, 100_000),
    "mlm_probability": _ABOVE_0_BELOW_1,
    "mlm_mask_share": _SHARE,
    "mlm_random_share": _SHARE,
    "intent_learning_rate": _ABOVE_0_BELOW_1,
    "intent_epochs": between(1, 100_000),
    "head": among(("cls", "mean")),
    "head_learning_rate": _BELOW_1,
    "class_weights": among(("none", "balanced")),
    "adam_beta1": _BELOW_1,
    "adam_beta2": _BELOW_1,
    "adam_epsilon": _ABOVE_0_BELOW_1,
    "weight_decay": between(0, 1000),
    "clip_norm": between(0, 1_000_000),
    "batch_size": between(1, 1_000_000),
    "gradient_accumulation": between(1, 1_000_000),
    "schedule": among(("linear", "cosine", "constant_with_warmup")),
    "warmup": _BELOW_1,
    "selection": among(("best", "last")),
    "precision": among(("float32", "bf16")),
    "repeats_per_row": between(1, 1_000_000),
    "seed": SEED,
}


@dataclass(frozen=True)
class TeacherParams:
    """Parameters of `train-teacher`; the defaults are the paper's.

    `model` is a hub name or a local folder of any encoder with a masked-LM head, or
    `scratch`: a BERT of the `scratch_*` sizes, initialised at random, with a WordPiece
    vocabulary built from the train texts. `revision` pins a hub model; empty means its
    main branch. A model without such a head needs `mlm_epochs: 0`.

    `head` classifies intents: `cls` is transformers' own classifier of the model, for
    BERT on the pooled state of [CLS]; `mean` is one linear layer on the mean of the
    last hidden states over the real tokens, which is E_lang with `targets.pooling:
    mean`. `frozen_embeddings` leaves the word embeddings as they are while intents are
    trained.

    `batch_size` is that of one step of the optimiser; `gradient_accumulation` runs it
    in that many pieces, to save memory.

    Two shortcuts for CPUs, off by default. `masked_only` computes the vocabulary layer
    only for the masked tokens: the same loss. `repeats_per_row` merges up to that many
    utterances of one wording (and intent) into one row of a batch. A row is weighted by
    its utterances, whatever the other rows of its batch, so the expected gradient is
    the same; a batch has the number of rows that gives about `batch_size` utterances,
    so an epoch has about as many steps. But the utterances of a row share their masks
    and dropout, so a batch has fewer wordings and its gradient is noisier. Use it for
    thousands of steps; the demo has 1,200.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    model: str = "bert-base-uncased"  # paper, section 2.2
    revision: str = ""
    scratch_hidden_size: int = 256  # as BERT-mini, Turc et al. 2019, half its FFN
    scratch_layers: int = 4
    scratch_heads: int = 4
    scratch_intermediate_size: int = 512
    scratch_vocabulary_size: int = 1000
    max_tokens: int = 64  # longer texts are cut; the longest of ATIS has 46 words
    mlm_learning_rate: float = 5e-5  # paper
    mlm_epochs: int = 3  # paper; 0 skips the stage
    mlm_probability: float = 0.15  # BERT, section 3.1: share of tokens predicted
    mlm_mask_share: float = 0.8  # BERT: of these become [MASK]
    mlm_random_share: float = 0.1  # BERT: become any token; the rest stay
    intent_learning_rate: float = 2e-5  # paper
    intent_epochs: int = 4  # paper
    head: str = "cls"  # paper silent; BERT, section 4.1: the final state of [CLS]
    head_learning_rate: float = 0.0  # 0: intent_learning_rate
    frozen_embeddings: bool = False
    class_weights: str = "none"  # paper silent; balanced: N / (intents * N_intent)
    adam_beta1: float = 0.9  # paper
    adam_beta2: float = 0.999  # paper
    adam_epsilon: float = 1e-8  # paper silent; Kingma and Ba 2015, algorithm 1
    weight_decay: float = 0.0  # paper: Adam, which has none; BERT's has 0.01
    clip_norm: float = 1.0  # paper silent; BERT's optimiser clips there; 0 never does
    batch_size: int = 32  # paper silent; BERT, appendix A.3: 16 or 32
    gradient_accumulation: int = 1
    group_by_length: bool = False  # batches of like length, less padding; BERT: random
    schedule: str = "linear"  # paper silent; BERT: linear decay to zero
    warmup: float = 0.1  # paper silent; BERT's fine-tuning: a tenth of the steps
    selection: str = "best"  # paper silent; on valid accuracy, the later of equals
    precision: str = "float32"  # bf16: products in bfloat16 on GPUs that have it
    masked_only: bool = False
    repeats_per_row: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        """Check every value."""
        check_rules("teacher", self, _RULES)
        pieces, heads = self.gradient_accumulation, self.scratch_heads
        at_once = self.batch_size // pieces
        related = {
            "mlm_random_share": Rule(
                lambda share: self.mlm_mask_share + share <= 1,
                f"0 to 1 - mlm_mask_share, {1 - self.mlm_mask_share:g}",
            ),
            "scratch_hidden_size": Rule(
                lambda size: size % heads == 0, f"a multiple of scratch_heads, {heads}"
            ),
            "batch_size": Rule(
                lambda size: size % pieces == 0,
                f"a multiple of gradient_accumulation, {pieces}",
            ),
            "repeats_per_row": Rule(
                lambda most: most <= at_once,
                f"at most batch_size / gradient_accumulation, {at_once}",
            ),
        }
        for name, rule in related.items():
            check_value(f"teacher.{name}", getattr(self, name), rule)
