"""What the teacher's training depends on, and where each default comes from.

Paper: section 3.2.2 of the acoustic-linguistic network (ICASSP 2021). BERT: Devlin et
al. 2019, which the paper follows and which answers where the paper is silent.
"""

from dataclasses import dataclass

from stages.errors import ConfigurationError

SCRATCH = "scratch"
SCHEDULES = ("linear", "cosine", "constant_with_warmup")
SELECTIONS = ("best", "last")


@dataclass(frozen=True)
class TeacherParams:
    """Parameters of `train-teacher`; the defaults are the paper's.

    `model` is a hub name or a local folder of any encoder with a masked-LM head, or
    `scratch`: a BERT of the `scratch_*` sizes, initialised at random, with a WordPiece
    vocabulary built from the train texts. `revision` pins a hub model; empty means its
    main branch.

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
    mlm_probability: float = 0.15  # BERT; of these 80/10/10 masked, random, unchanged
    intent_learning_rate: float = 2e-5  # paper
    intent_epochs: int = 4  # paper
    adam_beta1: float = 0.9  # paper
    adam_beta2: float = 0.999  # paper
    batch_size: int = 32  # paper silent; BERT, appendix A.3: 16 or 32
    schedule: str = "linear"  # paper silent; BERT: linear decay to zero
    warmup: float = 0.1  # paper silent; BERT's fine-tuning: a tenth of the steps
    selection: str = "best"  # paper silent; on valid accuracy, the later of equals
    seed: int = 1

    def __post_init__(self) -> None:
        """Check every value."""
        if not self.model:
            raise ConfigurationError(
                "teacher.model is empty",
                expected=f"a hub name, a local folder or {SCRATCH!r}",
            )
        least = {
            "scratch_hidden_size": 1,
            "scratch_layers": 1,
            "scratch_heads": 1,
            "scratch_intermediate_size": 1,
            "scratch_vocabulary_size": 1,
            "max_tokens": 3,  # [CLS], one piece, [SEP]
            "mlm_epochs": 0,
            "intent_epochs": 1,
            "batch_size": 1,
            "seed": 0,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value < bound:
                raise _unusable(name, value, f"at least {bound}")
        for name in ("mlm_learning_rate", "intent_learning_rate", "mlm_probability"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise _unusable(name, value, "above 0 and below 1")
        for name in ("adam_beta1", "adam_beta2", "warmup"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise _unusable(name, value, "at least 0 and below 1")
        for name, known in (("schedule", SCHEDULES), ("selection", SELECTIONS)):
            value = getattr(self, name)
            if value not in known:
                raise _unusable(name, repr(value), f"one of {', '.join(known)}")
        if self.scratch_hidden_size % self.scratch_heads:
            raise _unusable(
                "scratch_hidden_size",
                self.scratch_hidden_size,
                f"a multiple of scratch_heads, {self.scratch_heads}",
            )


def _unusable(name: str, found: object, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"teacher.{name} cannot be used", found=found, expected=expected
    )
