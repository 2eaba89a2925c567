"""Generated splits: stratified, seeded, by whole groups, every intent in train."""

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.text import normalise_text
from stages.corpus.splits import make_splits

SHARES = {"valid_share": 0.1, "test_share": 0.2}
COLUMNS = {"random": "path", "speakers": "speaker", "wordings": "wording"}


def corpus(utterances: int = 2000, speakers: int = 40) -> pd.DataFrame:
    """Ten intents of unequal frequency with eight wordings each, said by anyone."""
    draw = np.random.default_rng(0)
    shares = np.arange(1, 11) / 55
    intents = draw.choice(10, utterances, p=shares)
    return pd.DataFrame(
        {
            "path": [f"{number:05d}.wav" for number in range(utterances)],
            "speaker": [f"s{n}" for n in draw.integers(speakers, size=utterances)],
            # Two spellings of one wording.
            "text": [
                f"{'Say' if draw.random() < 0.5 else 'say'} {i} way {draw.integers(8)}"
                for i in intents
            ],
            "intent": [f"intent {i}" for i in intents],
        }
    )


def split(
    rows: pd.DataFrame, kind: str, seed: int = 1, **shares: float
) -> pd.DataFrame:
    made = make_splits(rows, kind, seed=seed, **(SHARES | shares))
    return made.assign(wording=made["text"].map(normalise_text))


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.2), (0.3, 0.5)])
@pytest.mark.parametrize("kind", COLUMNS)
def test_no_group_is_in_two_splits_and_shares_are_right(
    kind: str, valid: float, test: float
) -> None:
    rows = corpus()
    made = split(rows, kind, valid_share=valid, test_share=test)
    assert sorted(made["path"]) == sorted(rows["path"])
    assert (made.groupby(COLUMNS[kind])["split"].nunique() == 1).all()
    shares = made["split"].value_counts(normalize=True)
    # Whole wordings are a hundredth of the corpus and more.
    near = 0.001 if kind == "random" else 0.03
    assert shares["test"] == pytest.approx(test, abs=near)
    assert shares["valid"] == pytest.approx(valid, abs=near)
    train = made[made["split"] == "train"]
    assert set(train["intent"]) == set(rows["intent"])


def test_intents_have_their_share_in_every_split() -> None:
    made = split(corpus(), "random")
    whole = made["intent"].value_counts(normalize=True)
    for _, part in made.groupby("split"):
        share = part["intent"].value_counts(normalize=True)
        assert (share - whole).abs().max() < 0.01


@pytest.mark.parametrize("kind", COLUMNS)
def test_splits_depend_on_the_seed_but_not_on_order(kind: str) -> None:
    rows = corpus()
    made = split(rows, kind)
    mixed = rows.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(split(mixed, kind), made)
    other = split(rows, kind, seed=2)
    assert not made["split"].equals(other["split"])


def test_the_only_group_of_an_intent_is_in_train() -> None:
    rows = corpus(300)
    rows.loc[7, ["intent", "text", "speaker"]] = ["rare", "only this", "s7"]
    rows.loc[[11, 13], "intent"] = "of one speaker"
    rows.loc[[11, 13], "speaker"] = "s5"
    for seed in range(6):
        for kind in COLUMNS:
            made = split(rows, kind, seed).set_index("path")
            train = made[made["split"] == "train"]
            assert set(train["intent"]) == set(rows["intent"]), (seed, kind)
        speakers = split(rows, "speakers", seed).set_index("speaker")["split"]
        assert set(speakers[["s5", "s7"]]) == {"train"}


def test_speakers_must_be_known_and_utterances_enough() -> None:
    rows = corpus(200)
    with pytest.raises(InputError, match=r"too few speakers for a test split"):
        split(rows.assign(speaker="one"), "speakers")
    rows.loc[5, "speaker"] = " "
    with pytest.raises(InputError, match=r"no speaker for '00005\.wav' and 0 more"):
        split(rows, "speakers")
    with pytest.raises(InputError, match=r"too few utterances"):
        split(corpus(3), "random")
    with pytest.raises(InputError, match="no utterances"):
        split(corpus(200).iloc[:0], "random")
