"""Intervals and tests against printed tables, closed forms, counts by hand and scipy.stats."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from easybn.stats import (
    Overlap,
    accuracy_interval,
    aggregate,
    count_interval,
    holm,
    mcnemar,
    median_interval,
    overlap,
    paired_difference_interval,
    paired_t,
    repeated_interval,
    sample_size,
    t_quantile,
)

MASKS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("freedom", "confidence", "printed"),
    [  # printed tables of Student's distribution
        (1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (4, 0.95, 2.776), (5, 0.95, 2.571), (9, 0.95, 2.262),
        (10, 0.95, 2.228), (29, 0.95, 2.045), (30, 0.95, 2.042), (120, 0.95, 1.980), (2, 0.99, 9.925),
        (10, 0.99, 3.169), (5, 0.5, 0.727),
    ],
)  # fmt: skip
def test_printed_tables(freedom, confidence, printed):
    assert t_quantile(freedom, confidence) == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.95, 0.999])
def test_closed_forms_of_one_and_two_degrees(confidence):
    assert t_quantile(1, confidence) == pytest.approx(math.tan(math.pi / 2 * confidence))
    assert t_quantile(2, confidence) == pytest.approx(confidence * math.sqrt(2 / (1 - confidence**2)))


def test_mean_and_interval():
    found = aggregate([0.5, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.half_width == pytest.approx(0.1 * math.tan(math.pi / 2 * 0.95))  # s / sqrt(2) is half the distance
    assert aggregate([0.25] * 4) == (0.25, 0.0, 4)
    assert aggregate([0.3]) == (0.3, None, 1)
    for values, confidence in (([], 0.95), ([1.0, 2.0], 1.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="at least one value"):
            aggregate(values, confidence)


def test_paired_t_by_hand():
    found = paired_t([0.01, 0.02, 0.03])  # mean 0.02, s 0.01: t = 2 sqrt(3), of 2 degrees
    t = 2 * math.sqrt(3)
    assert found.mean == pytest.approx(0.02)
    assert found.half_width == pytest.approx(0.01 / math.sqrt(3) * t_quantile(2, 0.95))
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert paired_t([-0.01, -0.02, -0.03]) == pytest.approx((-0.02, found.half_width, found.p, 3))


def test_an_interval_excludes_zero_just_where_p_is_below_5_percent():
    edge = t_quantile(3, 0.95)  # with s = 1 and n = 4, half a width is edge / 2
    values = [-1.0, -1.0, 1.0, 1.0]
    shift = edge / 2 * math.sqrt(4 / 3)
    for factor, significant in ((0.999, False), (1.001, True)):
        found = paired_t([value + factor * shift for value in values])
        assert (found.p < 0.05) is significant
        assert (found.mean > found.half_width) is significant


def test_one_seed_or_no_spread_tell_nothing():
    assert paired_t([0.3]) == (0.3, None, None, 1)
    assert paired_t([0.3], resolution=0.005) == (0.3, None, None, 1)
    assert paired_t([0.27 - 0.03, 0.25 - 0.01, 0.24])[1:] == (None, None, 3)  # equal but for rounding


def test_the_spread_is_at_least_that_of_rounding():
    found = aggregate([0.25, 0.25, 0.25], resolution=1 / 200)
    assert found.half_width == pytest.approx(t_quantile(2, 0.95) / 200 / math.sqrt(12) / math.sqrt(3))
    found = paired_t([-0.24] * 3, resolution=1 / 200)  # of two counts: the variances add
    assert found.half_width == pytest.approx(t_quantile(2, 0.95) / 200 / math.sqrt(6) / math.sqrt(3))
    assert found.p < 0.001  # type: ignore[attr-defined]
    wide = [0.1, 0.2, 0.3]
    assert aggregate(wide, resolution=1 / 200) == aggregate(wide)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_an_accuracy_is_wilsons(counts):
    expected = scipy_stats.binomtest(*counts).proportion_ci(method="wilson")
    assert tuple(accuracy_interval(*counts)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_scipys_binomial_test(first_only, second_only):
    n = first_only + second_only
    expected = scipy_stats.binomtest(first_only, n).pvalue if n else 1.0
    assert mcnemar(first_only, second_only) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.lists(st.integers(-10_000, 10_000).map(lambda count: count / 10_000), min_size=2, max_size=9))
def test_paired_t_is_scipys(differences):
    found = paired_t(differences)
    if found.p is not None:
        expected = scipy_stats.ttest_1samp(differences, 0.0)
        low, high = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
        assert found.half_width == pytest.approx((high - low) / 2, rel=1e-6)


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


@pytest.mark.parametrize(
    ("correct", "n", "points"), [(5000, 10_000, 1.0), (100, 10_000, 0.2), (500, 1000, 3.1), (5000, 5000, 0.0)]
)
def test_half_width_in_points(correct, n, points):
    assert round(100 * accuracy_interval(correct, n).half_width, 1) == points


def test_ends_solve_the_score_equation():
    # Wilson: the p for which the observed share is exactly z standard errors away
    interval = accuracy_interval(7, 30)
    for p in interval:
        assert abs(7 / 30 - p) / math.sqrt(p * (1 - p) / 30) == pytest.approx(1.959964, abs=1e-6)


def test_never_leaves_the_unit_interval_and_never_is_a_point():
    for n in (1, 5, 1000):
        assert accuracy_interval(0, n).low == 0.0 < accuracy_interval(0, n).high < 1
        assert accuracy_interval(n, n).high == 1.0 > accuracy_interval(n, n).low > 0


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_coverage_by_enumeration(confidence):
    n = 100
    intervals = [accuracy_interval(k, n, confidence) for k in range(n + 1)]
    coverages = []
    for p in [i / 200 for i in range(20, 181)]:
        covered = sum(
            math.comb(n, k) * p**k * (1 - p) ** (n - k) for k, (low, high) in enumerate(intervals) if low <= p <= high
        )
        coverages.append(covered)
        assert covered == pytest.approx(confidence, abs=0.06)
    assert sum(coverages) / len(coverages) == pytest.approx(confidence, abs=0.005)


@pytest.mark.parametrize(("correct", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 2, 1.0)])
def test_refuses_nonsense(correct, n, confidence):
    with pytest.raises(ValueError, match="must be"):
        accuracy_interval(correct, n, confidence)


@pytest.mark.parametrize(
    ("p", "found"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.04, 0.03], [False, False]),  # 0.03 > 0.05 / 2: none
        ([0.04, 0.02], [True, True]),  # 0.02 < 0.05 / 2, then 0.04 < 0.05
        ([0.001, 0.03, 0.02], [True, True, True]),  # 0.001 < 0.05 / 3, 0.02 < 0.05 / 2, 0.03 < 0.05
        ([0.001, 0.03, 0.04], [True, False, False]),  # 0.03 > 0.05 / 2: nor the next
    ],
)
def test_holm_by_hand(p, found):
    assert holm(p) == found


def test_holm_never_rejects_more_than_single_tests_nor_fewer_than_bonferroni():
    p = [0.012, 0.5, 0.02, 0.001]
    found = holm(p)
    assert all(not yes or value <= 0.05 for value, yes in zip(p, found, strict=True))
    assert all(yes for value, yes in zip(p, found, strict=True) if value <= 0.05 / 4)


# The interval of a paired difference.


def z_by_search(first_only: int, second_only: int, n: int, difference: float) -> float:
    """The score statistic with the nuisance parameter found by search instead of by a formula."""
    low, high = max(0.0, -difference), (1 - difference) / 2  # of the probability that only the second is right

    def log_likelihood(q: float) -> float:
        parts = [(first_only, q + difference), (second_only, q), (n - first_only - second_only, 1 - 2 * q - difference)]
        return sum(count * math.log(p) if p > 0 else -math.inf for count, p in parts if count)

    third = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        a, b = high - third * (high - low), low + third * (high - low)
        low, high = (low, b) if log_likelihood(a) > log_likelihood(b) else (a, high)
    q = (low + high) / 2
    return (first_only - second_only - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))


@pytest.mark.parametrize(("first_only", "second_only", "n"), [(12, 3, 200), (1, 7, 21), (0, 5, 40), (2, 2, 9)])
def test_a_paired_difference_is_as_far_as_the_score_test_allows(first_only, second_only, n):
    low, high = paired_difference_interval(first_only, second_only, n)
    assert -1 < low < (first_only - second_only) / n < high < 1
    assert z_by_search(first_only, second_only, n, low) == pytest.approx(1.959964, abs=2e-4)
    assert z_by_search(first_only, second_only, n, high) == pytest.approx(-1.959964, abs=2e-4)


def test_a_printed_paired_difference():
    """Airway hyper-responsiveness of 21 children before and after a transplantation (Fagerland et al., 2014)."""
    assert paired_difference_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_paired_differences_at_the_ends_and_swapped():
    z = 1.959963984540054
    for n in (1, 10, 200):  # nothing differs: z^2 / (n + z^2) on either side
        assert paired_difference_interval(0, 0, n) == pytest.approx((-z * z / (n + z * z), z * z / (n + z * z)))
    low, high = paired_difference_interval(10, 0, 10)
    assert high == 1.0
    assert 0.3 < low < 1
    swapped = paired_difference_interval(3, 12, 200)
    assert swapped == pytest.approx([-end for end in reversed(paired_difference_interval(12, 3, 200))])
    wide, narrow = (paired_difference_interval(12, 3, 200, level).half_width for level in (0.99, 0.9))
    assert wide > paired_difference_interval(12, 3, 200).half_width > narrow
    for counts in ((-1, 0, 3), (2, 2, 3), (0, 0, 0)):
        with pytest.raises(ValueError, match="counts must be from 0 to n"):
            paired_difference_interval(*counts)


def test_a_paired_interval_covers_what_it_says():
    """Over all samples of 25 points with 8% only the first and 20% only the second gets right, by their probability."""
    n, p, q = 25, 0.08, 0.2
    covered = 0.0
    for b in range(n + 1):
        for c in range(n - b + 1):
            low, high = paired_difference_interval(b, c, n)
            if low <= p - q <= high:
                covered += scipy_stats.multinomial.pmf([b, c, n - b - c], n, [p, q, 1 - p - q])
    assert 0.94 < covered < 0.97


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 20))
def test_answers_that_are_always_the_same_count_each_point_once(right, times):
    found = repeated_interval([times * each for each in right], times)
    assert tuple(found) == pytest.approx(tuple(accuracy_interval(sum(right), len(right))), abs=1e-9)


def test_independent_answers_count_as_points_and_no_answers_for_more():
    even = repeated_interval([5] * 40, 10)  # they vary less than independent ones would
    assert tuple(even) == pytest.approx(tuple(accuracy_interval(200, 400)), abs=1e-9)
    drawn = np.random.default_rng(0).binomial(10, 0.3, 4000)
    found = repeated_interval(drawn.tolist(), 10)
    assert found.half_width == pytest.approx(accuracy_interval(int(drawn.sum()), 40_000).half_width, rel=0.03)


def test_the_interval_of_repeated_answers_is_that_of_a_bootstrap_over_points():
    generator = np.random.default_rng(1)
    shares = generator.beta(1.2, 0.5, 500)  # easy points and hard ones
    counts = generator.binomial(75, shares)
    means = generator.choice(counts, (4000, 500)).mean(1) / 75
    low, high = np.quantile(means, (0.025, 0.975))
    found = repeated_interval(counts.tolist(), 75)
    assert (found.high - found.low) == pytest.approx(high - low, rel=0.06)
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.half_width > 3 * accuracy_interval(int(counts.sum()), 75 * 500).half_width


def test_the_interval_of_repeated_answers_covers():
    generator, inside = np.random.default_rng(2), 0
    for _ in range(400):
        counts = generator.binomial(15, generator.beta(2, 1, 60))
        low, high = repeated_interval(counts.tolist(), 15)
        inside += low <= 2 / 3 <= high
    assert inside / 400 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400)


@pytest.mark.parametrize(("counts", "times"), [([], 3), ([4], 3), ([-1], 3), ([0], 0)])
def test_counts_that_are_none_have_no_interval(counts, times):
    with pytest.raises(ValueError, match=r"one count in 0 \.\. "):
        repeated_interval(counts, times)


# A sample of finitely many.


def tails(found, drawn, count, population):
    """The chances of at most and of at least so many in a sample, by counting samples."""
    ways = {k: math.comb(count, k) * math.comb(population - count, drawn - k) for k in range(drawn + 1)}
    total = math.comb(population, drawn)
    below, above = (sum(ways[k] for k in ways if keep(k)) for keep in (lambda k: k <= found, lambda k: k >= found))
    return Fraction(below, total), Fraction(above, total)


@given(
    st.integers(0, 40).flatmap(
        lambda population: st.integers(0, population).flatmap(
            lambda drawn: st.tuples(st.integers(0, drawn), st.just(drawn), st.just(population))
        )
    ),
    st.sampled_from([0.8, 0.95, 0.99]),
)
@example((0, 2, 5), 0.8)  # of 3 members, none is in a sample with a chance of exactly 1/10
def test_the_interval_of_a_count_has_what_no_exact_test_rejects(counts, confidence):
    found, drawn, population = counts
    tail = (1 - Fraction(str(confidence))) / 2
    kept = [
        count
        for count in range(found, population - drawn + found + 1)
        if min(tails(found, drawn, count, population)) >= tail
    ]
    assert count_interval(found, drawn, population, confidence) == (kept[0], kept[-1])
    assert kept == [*range(kept[0], kept[-1] + 1)]


@pytest.mark.parametrize(
    ("found", "drawn", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0000, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_in_a_large_set_the_limits_are_those_of_clopper_and_pearson(found, drawn, low, high):
    """Newcombe (Statistics in Medicine, 1998), table I, method 5."""
    interval = count_interval(found, drawn, 10**7)
    assert [end / 10**7 for end in interval] == pytest.approx([low, high], abs=6e-5)
    exact = scipy_stats.binomtest(found, drawn).proportion_ci()
    assert [end / 10**7 for end in interval] == pytest.approx([exact.low, exact.high], abs=1e-5)


def test_a_sample_of_all_leaves_nothing_open():
    for found in (0, 3, 17):
        assert count_interval(found, 17, 17) == (found, found)
    assert count_interval(0, 0, 17) == (0, 17)
    assert count_interval(0, 0, 0) == (0, 0)
    for counts in ((2, 1, 5), (0, 6, 5), (-1, 2, 5)):
        with pytest.raises(ValueError, match="found <= drawn <= population"):
            count_interval(*counts)
    with pytest.raises(ValueError, match="confidence"):
        count_interval(1, 2, 5, 1.0)


def test_the_interval_of_a_count_covers_as_often_as_it_says():
    population, drawn = 120, 40
    ends = [count_interval(found, drawn, population) for found in range(drawn + 1)]
    for count in (0, 1, 3, 10, 60, 119):
        chance = scipy_stats.hypergeom(population, count, drawn).pmf(range(drawn + 1))
        assert sum(p for p, (low, high) in zip(chance, ends, strict=True) if low <= count <= high) >= 0.95


@pytest.mark.parametrize(("population", "most"), [(0, 0), (1, 0), (120, 7), (120, 0), (750, 10), (9, 30)])
def test_the_smallest_sample_that_shows_so_few(population, most):
    sizes = range(population + 1)
    slow = next(size for size in sizes if count_interval(0, size, population).high <= most)
    assert sample_size(population, most) == slow


@pytest.mark.parametrize(
    ("n", "rank"),
    [  # printed tables of the sign test's 95% interval of a median
        (5, 0), (6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (50, 18), (100, 40), (1000, 469),
    ],
)  # fmt: skip
def test_printed_ranks_of_a_median(n, rank):
    values = np.random.default_rng(n).permutation(np.arange(1.0, n + 1)).tolist()
    ends = (rank, n + 1 - rank) if rank else (-math.inf, math.inf)
    assert median_interval(values) == ((n + 1) / 2, *ends)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_interval_of_a_median_covers_as_often_as_it_says(confidence):
    for n in (1, 4, 7, 30, 201):
        low, high = median_interval([float(i) for i in range(n)], confidence)[1:]
        k = 0 if low == -math.inf else int(low) + 1
        assert (low, high) == ((k - 1.0, float(n - k)) if k else (-math.inf, math.inf))
        below = scipy_stats.binom(n, 0.5)  # how many values are below the true median
        missed = 2 * below.cdf(k - 1) if k else 0.0
        assert missed <= 1 - confidence < 2 * below.cdf(k)


def test_values_not_reached_count_as_larger():
    inf = math.inf
    assert median_interval([1.0, inf, inf, 2.0, 3.0]) == (3.0, -inf, inf)
    assert median_interval([1.0, 2.0, inf, inf]).median == inf  # the mean of 2 and something larger than all
    assert median_interval([0.0, 1.0, 2.0, 3.0, 4.0, inf, inf, inf]) == (3.5, 0.0, inf)
    for values, confidence in (([], 0.95), ([math.nan], 0.95), ([1.0], 1.0)):
        with pytest.raises(ValueError, match="none of them NaN"):
            median_interval(values, confidence)
