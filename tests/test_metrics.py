"""Accuracy and macro-F1 agree with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from stages.core.labels import Labels
from stages.core.metrics import accuracy, macro_f1, measure_frames


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_gives_the_same(seed):
    generator = np.random.default_rng(seed)
    actual = generator.choice(list("aaaaabc"), 40)
    predicted = generator.choice(list("aaaabcd"), 40)  # d is not in actual
    assert accuracy(actual, predicted) == pytest.approx(
        100 * accuracy_score(actual, predicted)
    )
    expected = f1_score(
        actual, predicted, average="macro", labels=np.unique(actual), zero_division=0
    )
    assert macro_f1(actual, predicted) == pytest.approx(100 * expected)


def test_one_frequent_intent_does_not_hide_the_others():
    rows = {"intent": list("aaaaaaab"), "predicted": list("aaaaaaaa")}
    found = measure_frames(Labels.of("ab"), rows)
    assert found == pytest.approx({"accuracy": 87.5, "macro_f1": 100 * (14 / 15) / 2})
