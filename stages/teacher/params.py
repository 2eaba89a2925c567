"""What the teacher's training depends on, and where each default comes from.

Paper: section 3.2.2 of the acoustic-linguistic network (ICASSP 2021). BERT: Devlin et
al. 2019, which the paper follows; used where the paper is silent.
"""

import math
from dataclasses import dataclass

from stages.core.rules import check_rules, one_of

REVISION = 1
"""Bump it when the same inputs and parameters give another result."""

SCRATCH = "scratch"

_KNOWN = {
    "schedule": ("linear", "cosine", "constant_with_warmup"),
    "selection": ("best", "last"),
    "precision": ("float32", "bf16"),
    "class_weights": ("none", "balanced"),
}
_LEAST = {
    "scratch_hidden_size": 1,
    "scratch_layers": 1,
    "scratch_heads": 1,
    "scratch_intermediate_size": 1,
    "scratch_vocabulary_size": 1,
    "max_tokens": 3,  # [CLS], one piece, [SEP]
    "mlm_epochs": 0,
    "intent_epochs": 1,
    "batch_size": 1,
    "gradient_accumulation": 1,
    "repeats_per_row": 1,
}
_BETWEEN_0_AND_1 = (
    "mlm_learning_rate",
    "intent_learning_rate",
    "mlm_probability",
    "adam_epsilon",
)


@dataclass(frozen=True)
class TeacherParams:
    """Parameters of `train-teacher`; the defaults are the paper's.

    `model` is a hub name or a local folder of any encoder with a masked-LM head, or
    `scratch`: a BERT of the `scratch_*` sizes, initialised at random, with a WordPiece
    vocabulary built from the train texts. `revision` pins a hub model; empty means its
    main branch. A model without such a head needs `mlm_epochs: 0`.

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
        at_once = self.batch_size // max(self.gradient_accumulation, 1)
        rules = {
            "model": (
                bool(self.model),
                f"a hub name, a local folder or {SCRATCH!r}",
            ),
            **{
                name: (getattr(self, name) >= least, f"at least {least}")
                for name, least in _LEAST.items()
            },
            "seed": (0 <= self.seed < 2**32, "0 to below 2**32"),  # numpy's limit
            **{
                name: (0 < getattr(self, name) < 1, "above 0 and below 1")
                for name in _BETWEEN_0_AND_1
            },
            **{
                name: (0 <= getattr(self, name) < 1, "at least 0 and below 1")
                for name in ("adam_beta1", "adam_beta2", "warmup")
            },
            "mlm_mask_share": (0 <= self.mlm_mask_share <= 1, "0 to 1"),
            "mlm_random_share": (
                self.mlm_random_share >= 0
                and self.mlm_mask_share + self.mlm_random_share <= 1,
                f"0 to 1 - mlm_mask_share, {1 - self.mlm_mask_share:g}",
            ),
            **{
                name: (0 <= getattr(self, name) < math.inf, "0 or more")
                for name in ("weight_decay", "clip_norm")
            },
            **{
                name: (getattr(self, name) in known, one_of(known))
                for name, known in _KNOWN.items()
            },
        }
        check_rules("teacher", self, rules)
        related = {
            "scratch_hidden_size": (
                self.scratch_hidden_size % self.scratch_heads == 0,
                f"a multiple of scratch_heads, {self.scratch_heads}",
            ),
            "batch_size": (
                self.batch_size % self.gradient_accumulation == 0,
                f"a multiple of gradient_accumulation, {self.gradient_accumulation}",
            ),
            "repeats_per_row": (
                self.repeats_per_row <= at_once,
                f"at most batch_size / gradient_accumulation, {at_once}",
            ),
        }
        check_rules("teacher", self, related)
