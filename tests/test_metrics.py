import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from stages.core.metrics import accuracy, macro_f1


@pytest.mark.parametrize("seed", range(5))
def test_they_are_scikit_learns(seed):
    generator = np.random.default_rng(seed)
    actual = generator.choice(list("aaaaabc"), 40)
    predicted = generator.choice(list("aaaabcd"), 40)  # d is never there
    assert accuracy(actual, predicted) == pytest.approx(
        100 * accuracy_score(actual, predicted)
    )
    expected = f1_score(
        actual, predicted, average="macro", labels=np.unique(actual), zero_division=0
    )
    assert macro_f1(actual, predicted) == pytest.approx(100 * expected)


def test_one_frequent_intent_does_not_hide_the_others():
    actual, predicted = list("aaaaaaab"), list("aaaaaaaa")
    assert accuracy(actual, predicted) == 87.5
    assert macro_f1(actual, predicted) == pytest.approx(100 * (14 / 15) / 2)
