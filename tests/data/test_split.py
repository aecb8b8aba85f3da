"""The draw of held-out samples, for classes of unequal size."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easybn.data.split import draw

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def labels_of(sizes: list[int]) -> torch.Tensor:
    """Classes of these sizes, mixed up."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(len(labels)))]


@settings(deadline=None)
@given(SIZES, st.floats(0, 1), st.booleans())
def test_every_sample_is_on_one_side(sizes: list[int], share: float, proportional: bool) -> None:
    labels = labels_of(sizes)
    n = round(share * len(labels))
    kept, held = draw(labels, n, 0, "test", proportional)
    assert len(held) == n
    assert torch.equal(torch.cat((kept, held)).sort().values, torch.arange(len(labels)))


@settings(deadline=None)
@given(SIZES, st.floats(0, 1))
def test_the_even_draw_is_even_until_a_class_is_half_used(sizes: list[int], share: float) -> None:
    labels = labels_of(sizes)
    halves = torch.tensor(sizes) // 2
    n = round(share * int(halves.sum()))  # no class need give more than half
    taken = labels[draw(labels, n, 0, "test")[1]].bincount(minlength=len(sizes))
    assert (taken <= halves).all()
    not_exhausted = taken[taken < halves]
    if len(not_exhausted):
        assert taken.max() <= not_exhausted.min() + 1


@settings(deadline=None)
@given(SIZES, st.floats(0, 1))
def test_the_proportional_draw_takes_the_same_share_of_every_class(sizes: list[int], share: float) -> None:
    labels = labels_of(sizes)
    n = round(share * len(labels))
    taken = labels[draw(labels, n, 0, "test", proportional=True)[1]].bincount(minlength=len(sizes))
    wanted = torch.tensor(sizes, dtype=torch.float64) * n / len(labels)
    assert ((taken - wanted).abs() < 1).all()


def test_every_sample_of_a_class_is_as_likely() -> None:
    labels = labels_of([20, 20])
    count = torch.zeros(40)
    for seed in range(500):
        count[draw(labels, 10, seed, "test")[1]] += 1
    # binomial(500, 1/4): 125 on average, standard deviation 9.7
    assert count.min() > 125 - 5 * 9.7
    assert count.max() < 125 + 5 * 9.7
