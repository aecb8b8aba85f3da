import math

import pytest

from easybn.experiments.stacked.over_seeds import over_seeds, t_quantile


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
