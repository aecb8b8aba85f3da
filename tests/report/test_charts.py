import math
from itertools import pairwise

import pytest

from easybn.report.charts import Chart, Point, Scale, Series, decades, histogram, nice, number, short, spread


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (1, 6, [1, 2, 3, 4, 5, 6]),
        (0.38, 0.95, [0.4, 0.6, 0.8]),
        (3, 3, [3]),
    ],
)
def test_round_numbers(low, high, ticks):
    assert nice(low, high) == pytest.approx(ticks)


def test_round_numbers_of_a_logarithm():
    assert decades(0.0009, 2) == pytest.approx([0.001, 0.01, 0.1, 1])
    assert decades(0.15, 0.6) == pytest.approx([0.2, 0.5])


def test_places():
    scale = Scale(0, 2, 10, 110)
    assert [scale(value) for value in (0, 1, 2, 3, -1)] == [10, 60, 110, 110, 10]
    assert Scale(0.01, 1, 100, 0, log=True)(0.1) == pytest.approx(50)
    assert Scale(5, 5, 0, 10)(5) == 5


@pytest.mark.parametrize("wanted", [[10, 10, 10], [0, 50, 51], [99, 98, 97], [5], []])
def test_labels_keep_apart_and_inside(wanted):
    places = spread(wanted, 12, 0, 100)
    ordered = sorted(places)
    assert all(b - a >= 12 - 1e-9 for a, b in pairwise(ordered))
    assert all(0 <= place <= 100 for place in places)
    assert sorted(range(len(wanted)), key=lambda i: wanted[i]) == sorted(range(len(places)), key=lambda i: places[i])


def test_numbers_are_short():
    assert [number(value) for value in (3.0, 0.25, 1.04, -2.5)] == ["3", "0.2", "1", "-2.5"]
    assert [short(value) for value in (0, 0.001, 12, 1e-7)] == ["0", "0.001", "12", "1e-7"]


def test_a_chart_says_where_its_curves_begin_and_end_and_draws_only_numbers():
    points = [Point(1, 0.5), Point(2, math.nan), Point(3, 0.25, 0.2, 0.3)]
    svg = str(Chart("loss <of> a & b", "epoch", "loss", [Series("main", points)], log=True).svg())
    assert 'aria-label="loss &lt;of&gt; a &amp; b. main: 0.5 at 1, 0.25 at 3"' in svg
    assert svg.count("<circle") == 2
    assert "nan" not in svg


def test_an_empty_chart_says_so():
    assert "No figures." in str(Chart("t", "x", "y", [Series("a", [])]).svg())


def test_bins_are_as_tall_as_their_shares():
    svg = str(histogram("t", [0.25, 0.5], [0.0, 1.0], "r0"))
    heights = [float(part.split('"')[1]) for part in svg.split(" height=")[1:]]
    assert heights == pytest.approx([24, 48, 96], abs=0.06)
