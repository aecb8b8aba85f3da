import math

import pytest

from easybn.stats import over_seeds, paired_t, t_quantile


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
    found = over_seeds([0.5, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.half_width == pytest.approx(0.1 * math.tan(math.pi / 2 * 0.95))  # s / sqrt(2) is half the distance
    assert over_seeds([0.25] * 4) == (0.25, 0.0, 4)
    assert over_seeds([0.3]) == (0.3, None, 1)
    for values, confidence in (([], 0.95), ([1.0, 2.0], 1.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="at least one value"):
            over_seeds(values, confidence)


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
    found = over_seeds([0.25, 0.25, 0.25], resolution=1 / 200)
    assert found.half_width == pytest.approx(t_quantile(2, 0.95) / 200 / math.sqrt(12) / math.sqrt(3))
    found = paired_t([-0.24] * 3, resolution=1 / 200)  # of two counts: the variances add
    assert found.half_width == pytest.approx(t_quantile(2, 0.95) / 200 / math.sqrt(6) / math.sqrt(3))
    assert found.p < 0.001
    wide = [0.1, 0.2, 0.3]
    assert over_seeds(wide, resolution=1 / 200) == over_seeds(wide)
