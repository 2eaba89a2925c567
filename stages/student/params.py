"""What a student is: its system, its α and its parameters."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from stages.core.errors import ConfigurationError
from stages.core.rules import Rule, among, between, check_rules, each, one_of

REVISION = 1
"""Bump it when the same inputs and parameters give another result."""

SYSTEMS = ("baseline2", "aln_linguistic", "aln")
RECOMMENDED = "recommended"
"""The name of the student that `RecommendedParams` describes."""
SELECTIONS = ("best_valid", "last")
FRAME_POOLINGS = ("max", "mean", "attention")
ATTENTIONS = ("cross", "self", "none")
INITIALISATIONS = ("aligned", "pytorch")
TRANSFERS = ("frames", "utterance")

# What a single value of these may be, in `student` and in the grid `sweep`.
VALUE_RULES = {
    "learning_rate": between(0, 1e36, above=True),  # float32 ends at 3e38
    "batch_size": between(1, 1_000_000),
    "gru_width": between(1, 4096),
    "dropout": between(0, 1, below=True),
    "alpha": between(0, 1),
}
# And of these in `student` and in `recommended`.
_TRANSFER_RULES = {"transfer": among(TRANSFERS), "soft_targets": between(0, 1)}


def _taught(transfer: str) -> Rule:
    return Rule(
        lambda one: not one or transfer == "utterance",
        "false; or true, with transfer: utterance",
    )


@dataclass(frozen=True)
class Architecture:
    """What the paper leaves open about the networks, and what an ablation removes.

    Attributes:
        gru_width: units per direction. 128 as in the encoder, so that the intent layer
            takes 256 values per frame and pools 256.
        gru_bidirectional: whether the GRU also runs backwards, as the encoder's do; an
            utterance is complete when it is classified.
        dropout: on the pooled GRU outputs, before the last linear layer; off because
            the paper names none.
        frame_pooling: of the GRU outputs over the frames; section 2.5 has max.
            `attention` is a mean with learnt weights, for each slot its own, so that a
            slot can be read where it is said.
        attention: what ALN's keys and values are made from: ê_lang (`cross`, eq. 2),
            e_acoust (`self`), or no attention (`none`): z is the mapped ê_lang.
        mapping: `before`: ê_lang passes the mapping layer before f_k and f_v, as in
            section 2.4; `none`: f_k and f_v take ê_lang directly.
        scaling: whether scores are divided by √d_k, as in eq. 2.
        initialisation: `aligned` or PyTorch's own; see `model._align`.
        transfer: what Ê_lang is made from: `frames`, the mean of ê_lang (eq. 1), or
            `utterance`, a linear map of the pooled GRU outputs, so that the layers
            that classify learn from the teacher.
        teacher_classifier: a second linear classifier, of Ê_lang, which is also trained
            on the teacher's own vectors of the texts; its logits are added to the
            others. With `transfer: utterance` only.
    """

    gru_width: int = 128
    gru_bidirectional: bool = True
    dropout: float = 0.0
    frame_pooling: str = "max"
    attention: str = "cross"
    mapping: str = "before"
    scaling: bool = True
    initialisation: str = "aligned"
    transfer: str = "frames"
    teacher_classifier: bool = False


@dataclass(frozen=True)
class StudentParams(Architecture):
    """How the students are trained.

    Learning rate, batch size, epochs and α are the paper's (section 3.2.2, Table 3).
    """

    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.999)  # of Adam
    # Of learning_rate, the share at which ALN's own maps learn: mapping, query, key and
    # value. With 1, the scores grow until all frames attend to the same one; see
    # docs/results.md.
    attention_rate: float = 0.1
    batch_size: int = 64
    epochs: int = 100
    seeds: tuple[int, ...] = (1, 2, 3)  # one model each; the report gives their mean
    alpha: tuple[float, ...] = (0.5, 0.8)  # weights of the transfer loss to try
    # Shares of an utterance's frames left out at random, and at most so many of its
    # features made constant, each time it is trained on. Off because the paper names
    # neither; docs/results.md has what they bring.
    frame_dropout: float = 0.0
    feature_masking: float = 0.0
    # What else is learnt from the teacher; docs/transfer.md has what it brings. Each
    # value of E_lang scaled to mean 0 and deviation 1 over the train texts:
    standardisation: bool = False
    soft_targets: float = 0.0  # weight of the teacher's probabilities among the labels
    unlabelled: bool = False  # train on the utterances of the stage unlabelled, too
    # The epoch whose weights are kept: the one with the highest accuracy on valid
    # (ties: lower intent loss on valid, then the earlier epoch), or the last one.
    selection: str = "best_valid"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the parameter, what was found and what is allowed.
        """
        beta = between(0, 1, below=True)
        rules = {
            **VALUE_RULES,
            "alpha": each(VALUE_RULES["alpha"]),
            "frame_pooling": among(FRAME_POOLINGS),
            "attention": among(ATTENTIONS),
            "mapping": Rule(
                lambda one: (
                    one == "before" or (one == "none" and self.attention != "none")
                ),
                "before; or none, with attention",
            ),
            "initialisation": among(INITIALISATIONS),
            **_TRANSFER_RULES,
            "teacher_classifier": _taught(self.transfer),
            "betas": Rule(
                lambda pair: len(pair) == 2 and all(map(beta.allows, pair)),
                f"two numbers, each {beta.expected}",
            ),
            "attention_rate": between(0, 1, above=True),
            "frame_dropout": between(0, 1, below=True),
            "feature_masking": between(0, 1),
            "epochs": between(1, 100_000),
            "seeds": each(between(0, 2**63 - 1)),  # torch's limit
            "selection": among(SELECTIONS),
        }
        check_rules("student", self, rules)


@dataclass(frozen=True)
class RecommendedParams:
    """The student `recommended`, next to the paper's: what it changes in `student`.

    The defaults were the best on the demo's valid; see docs/transfer.md.
    """

    system: str = "aln_linguistic"
    alpha: float = 0.8
    transfer: str = "utterance"
    standardisation: bool = True
    teacher_classifier: bool = True
    soft_targets: float = 0.0
    unlabelled: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the parameter, what was found and what is allowed.
        """
        rules = {
            "system": among(SYSTEMS[1:]),
            "alpha": VALUE_RULES["alpha"],
            **_TRANSFER_RULES,
            "teacher_classifier": _taught(self.transfer),
        }
        check_rules("recommended", self, rules)

    def variant(self, params: StudentParams) -> "Variant":
        """The student; all else as in `params`."""
        changes = asdict(self)
        system, alpha = changes.pop("system"), changes.pop("alpha")
        return Variant(system, alpha, replace(params, **changes))


@dataclass(frozen=True)
class Variant:
    """One student to train: a system, its α, and how it is trained.

    `params.alpha`, a grid, is not used here.

    Raises:
        ConfigurationError: an unknown system; α out of 0 to 1, or missing, or given to
            baseline2.
    """

    system: str
    alpha: float | None
    params: StudentParams

    def __post_init__(self) -> None:
        """Check system and α."""
        if self.system not in SYSTEMS:
            raise ConfigurationError(
                "unknown system",
                found=repr(self.system),
                expected=one_of((*SYSTEMS, RECOMMENDED)),
            )
        if self.system == "baseline2":
            if self.alpha is not None:
                raise ConfigurationError(
                    "baseline2 has no transfer loss to weight",
                    found=f"alpha {self.alpha}",
                    fix="leave --alpha out",
                )
        elif self.alpha is None or not 0 <= self.alpha <= 1:
            raise ConfigurationError(
                f"{self.system} needs the weight of its transfer loss",
                found=f"alpha {self.alpha}",
                expected="a number from 0 to 1",
                fix="give --alpha",
            )

    def __str__(self) -> str:
        """For messages, with the parameter that most often causes a failure."""
        alpha = "" if self.alpha is None else f", alpha {self.alpha:g}"
        return f"{self.system}{alpha}, learning_rate {self.params.learning_rate:g}"

    @property
    def transfers(self) -> bool:
        """Whether it learns from the teacher's targets."""
        return self.system != "baseline2"

    @property
    def reads_texts(self) -> bool:
        """Whether it learns from labelled texts without recordings."""
        return self.transfers and self.params.teacher_classifier

    @property
    def reads_posteriors(self) -> bool:
        """Whether it learns from the teacher's probabilities."""
        return self.transfers and (
            self.params.soft_targets > 0 or self.params.unlabelled
        )

    @property
    def reads_unlabelled(self) -> bool:
        """Whether it learns from unlabelled utterances."""
        return self.transfers and self.params.unlabelled

    @property
    def architecture(self) -> Architecture:
        """The part of its parameters that shapes the network."""
        names = (field.name for field in fields(Architecture))
        return Architecture(**{name: getattr(self.params, name) for name in names})

    def parameters(self) -> dict[str, Any]:
        """All that decides the student apart from its inputs.

        1 and 1.0 in params.yaml are the same student, so numbers become floats where
        the parameter is one.
        """
        values = _as_floats(asdict(self.params))
        alpha = None if self.alpha is None else float(self.alpha)
        return {**values, "system": self.system, "alpha": alpha}


def _as_floats(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` by parameter name, integers made floats where a number is wanted."""
    kinds = get_type_hints(StudentParams)
    found = dict(values)
    for name, value in values.items():
        if kinds[name] is float:
            found[name] = float(value)
        elif kinds[name] == tuple[float, ...]:
            found[name] = tuple(map(float, value))
    return found
