import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easybn.keyed_random import Noise, number, permutation


def test_bits_are_those_of_splitmix64():
    # the reference implementation's first outputs for the seed 1234567
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    bits = Noise(torch.tensor([1234567])).bits(5)[0]
    assert [int(v) % 2**64 for v in bits] == published


def splitmix64(state: int, n: int) -> list[int]:
    """The algorithm on Python's whole numbers, as published."""
    out = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        out.append(z ^ (z >> 31))
    return out


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_bits_equal_a_plain_transcription_for_any_key(keys):
    bits = Noise(torch.tensor(keys)).bits(7)
    for key, row in zip(keys, bits.tolist(), strict=True):
        assert [v % 2**64 for v in row] == splitmix64(key % 2**64, 7)


def test_uniform_is_the_low_24_bits_of_each_half():
    noise = Noise(torch.tensor([42]))
    expected = [h % 2**24 / 2**24 for v in splitmix64(42, 3) for h in (v % 2**32, v >> 32)]
    assert noise.uniform(5)[0].tolist() == expected[:5]


@pytest.fixture(scope="module")
def streams() -> Noise:
    return Noise.of(7, "statistics", torch.arange(1000), 3)


def ks_distance(sample: np.ndarray, cdf: np.ndarray) -> float:
    n = len(sample)
    return float(np.maximum(cdf - np.arange(n) / n, np.arange(1, n + 1) / n - cdf).max())


def test_uniform_numbers_against_their_distribution(streams):
    values = np.sort(streams.uniform(300).double().flatten().numpy())
    # Kolmogorov-Smirnov: the distance exceeds 2.2 / sqrt(n) with probability 1.3e-4
    assert ks_distance(values, values) < 2.2 / math.sqrt(values.size)
    assert values[0] >= 0
    assert values[-1] < 1


def test_normal_numbers_against_their_distribution(streams):
    values = torch.sort(streams.normal(300).double().flatten()).values
    cdf = torch.special.ndtr(values).numpy()
    assert ks_distance(values.numpy(), cdf) < 2.2 / math.sqrt(values.numel())
    assert abs(float((values**4).mean()) - 3.0) < 0.06  # kurtosis; standard error 0.018


@pytest.mark.parametrize("axis", ["elements", "samples", "steps", "purposes", "seeds"])
def test_neighbours_are_uncorrelated_along_every_axis(axis):
    ids = torch.arange(4000)
    pair = {
        "elements": lambda: Noise.of(0, "a", ids).uniform(2).unbind(1),
        "samples": lambda: (Noise.of(0, "a", ids).uniform(), Noise.of(0, "a", ids + 1).uniform()),
        "steps": lambda: (Noise.of(0, "a", ids, 1).uniform(), Noise.of(0, "a", ids, 2).uniform()),
        "purposes": lambda: (Noise.of(0, "a", ids).uniform(), Noise.of(0, "b", ids).uniform()),
        "seeds": lambda: (Noise.of(0, "a", ids).uniform(), Noise.of(1, "a", ids).uniform()),
    }[axis]()
    correlation = float(torch.corrcoef(torch.stack([part.flatten() for part in pair]))[0, 1])
    assert abs(correlation) < 4.5 / math.sqrt(4000)


def test_integers_are_equally_frequent(streams):
    counts = torch.bincount(streams.integers(7, 100).flatten(), minlength=7).double()
    expected = 100_000 / 7
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 27.9  # 6 degrees of freedom, probability 1e-4
    assert len(counts) == 7


def test_permutations_of_three_are_equally_frequent():
    counts: dict[tuple[int, ...], int] = {}
    for step in range(3000):
        order = tuple(permutation(3, 0, "order", step).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert sum((c - 500) ** 2 / 500 for c in counts.values()) < 25.7  # 5 degrees of freedom, 1e-4


@given(st.integers(1, 500), st.integers(0, 2**62))
def test_permutation_has_every_number_once(n, seed):
    assert sorted(permutation(n, seed, "order").tolist()) == list(range(n))


def test_a_samples_numbers_do_not_depend_on_the_batch():
    ids = torch.tensor([5, 17, 3])
    together, alone = Noise.of(1, "x", ids, 9), [Noise.of(1, "x", ids[i : i + 1], 9) for i in range(3)]
    assert torch.equal(together.bits(6), torch.cat([each.bits(6) for each in alone]))
    assert torch.equal(together.uniform(2, 3), torch.cat([each.uniform(2, 3) for each in alone]))
    # logarithm and cosine may be vectorised where there are many, with another last bit
    torch.testing.assert_close(together.normal(2, 3), torch.cat([each.normal(2, 3) for each in alone]))


def test_children_differ_from_their_parent_and_from_each_other():
    noise = Noise.of(0, "x", torch.arange(50))
    draws = [noise.uniform(4), noise.child("a").uniform(4), noise.child("b").uniform(4)]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 3
    assert torch.equal(noise.child("a").uniform(4), draws[1])


def test_fresh_streams_follow_torchs_seed():
    torch.manual_seed(3)
    first = Noise.fresh(4).uniform(3)
    second = Noise.fresh(4).uniform(3)
    torch.manual_seed(3)
    assert torch.equal(Noise.fresh(4).uniform(3), first)
    assert not torch.equal(first, second)


def test_integers_refuses_an_empty_range():
    with pytest.raises(ValueError, match="high must be in"):
        Noise.fresh(1).integers(0, 3)


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63), 7046029254386353131])
def test_a_number_names_the_same_streams_as_a_tensor_of_it(number):
    noise = Noise.of(-3, "numbers", torch.arange(4), 5)
    assert torch.equal(noise.numbered(number).keys, noise.numbered(torch.full((4,), number)).keys)


def test_a_seed_beyond_those_of_torch_is_refused():
    for seed in (2**64, -(2**63) - 1, 10**30):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            permutation(4, seed, "order")
    for seed in (2**64 - 1, -(2**63), -1):
        torch.manual_seed(seed)  # takes it
        assert permutation(4, seed, "order").sort().values.tolist() == [0, 1, 2, 3]


@given(st.integers(-(2**63), 2**64 - 1), st.text(max_size=5), st.integers(0, 2**62))
def test_one_number_is_the_first_of_sample_0(seed, purpose, step):
    noise = Noise.of(seed, purpose, torch.zeros(1, dtype=torch.int64), step)
    assert number(seed, purpose, step) == int(noise.bits(1))


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**62))
def test_a_step_that_is_a_tensor_names_the_same_streams(seed, step):
    ids = torch.tensor([0, 5, 2**40])
    expected = Noise.of(seed, "adv", ids, step).keys
    assert torch.equal(Noise.of(seed, "adv", ids, torch.tensor(step)).keys, expected)
