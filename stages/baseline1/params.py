"""Parameters of Baseline-1 on recognised text, and where each default comes from.

The paper (section 3.1) used its authors' own recogniser, trained on other speech,
without adapting it.
"""

from dataclasses import dataclass
from pathlib import Path

from stages.core.rules import TEXT_OR_NOTHING, Rule, among, between, check_rules

RECOGNISERS = ("encoder", "transformers", "torchaudio", "pocketsphinx", "given")
LANGUAGE_MODELS = ("general", "train")

REVISION = 2
"""Bump it when the same inputs and parameters give another result.

It is also part of a recogniser's fingerprint, so cached transcripts are made again.
"""


@dataclass(frozen=True)
class Baseline1Params:
    """Parameters of the stage baseline1.

    `recogniser` and the `model` that it loads:

        encoder       the phoneme/word encoder with a CTC head, and a beam search over a
                      lexicon with an n-gram: a checkpoint of `pretraining`
        transformers  any CTC or sequence-to-sequence model: a folder or a hub's name
        torchaudio    a CTC pipeline of torchaudio: its weights, under their own name
        pocketsphinx  with the English model in its wheel; `model` is not read
        given         made elsewhere: a table with the columns `id` and `column`

    `revision` pins a model on the hub; DVC can track a model only in a local folder.
    The parameters after `column` apply to `encoder` only.

    `language_model` is `general`, a bigram of English on the web, which knows nothing
    of the corpus; `train`, an n-gram of the train texts, `order` words long, whose
    words are added to the lexicon; or an ARPA file, which DVC does not track.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    recogniser: str = "encoder"
    model: str = "data/demo/encoder.safetensors"
    revision: str = ""
    column: str = "transcript"
    vocabulary: int = 20_000  # frequent English words; about as many as a person knows
    accents: tuple[str, ...] = ("en-gb", "en-us")  # whose pronunciations are listed
    language_model: str = "general"  # paper: not adapted to the corpus
    order: int = 3
    language_model_weight: float = 1.0  # as in Bayes' rule
    word_score: float = 0.0
    beam_size: int = 200  # on the demo's valid, 1000 gains 0.1 points, ten times slower
    beam_tokens: int = 25
    beam_threshold: float = 30.0

    def __post_init__(self) -> None:
        """Check the values."""
        rules = {
            "recogniser": among(RECOGNISERS),
            "revision": TEXT_OR_NOTHING,
            "vocabulary": between(1, 1_000_000),
            "language_model": Rule(
                lambda one: one in LANGUAGE_MODELS or Path(one).suffix != "",
                f"{', '.join(LANGUAGE_MODELS)} or an ARPA file",
            ),
            "order": between(2, 6),
            "language_model_weight": between(-1000, 1000),
            "word_score": between(-1000, 1000),
            "beam_size": between(1, 100_000),
            "beam_tokens": between(1, 100_000),
            "beam_threshold": between(0, 100_000, above=True),
        }
        check_rules("baseline1", self, rules)
