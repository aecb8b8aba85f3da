"""Jaccard and Cohen's kappa, against sets and a table counted by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easybn.stats import Overlap, overlap

MASKS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(MASKS)
def test_as_counted_by_hand(pairs):
    found = overlap(*(torch.tensor(list(mask)) for mask in zip(*pairs, strict=True)))
    a = {i for i, (in_a, _) in enumerate(pairs) if in_a}
    b = {i for i, (_, in_b) in enumerate(pairs) if in_b}
    n = len(pairs)
    assert found.jaccard == (len(a & b) / len(a | b) if a | b else None)
    by_chance = sum(
        (sum(x == value for x, _ in pairs) / n) * (sum(y == value for _, y in pairs) / n) for value in (True, False)
    )
    if found.kappa is None:
        assert abs(by_chance - 1) < 1e-12
    else:
        agreed = sum(x == y for x, y in pairs) / n
        assert found.kappa == pytest.approx((agreed - by_chance) / (1 - by_chance))


def test_independent_sets_have_no_kappa_and_the_jaccard_of_chance():
    found = Overlap(n=100, a=50, b=20, both=10)
    assert found.kappa == pytest.approx(0)
    assert found.jaccard == found.jaccard_by_chance == pytest.approx(10 / 60)


def test_cohens_own_example():
    """Of Cohen's table of 1960 for two categories: 20 and 15 agreed, 5 and 10 not, kappa 0.4."""
    assert Overlap(n=50, a=25, b=30, both=20).kappa == pytest.approx(0.4)


def test_masks_of_other_samples_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        overlap(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
