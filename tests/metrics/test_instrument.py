"""Intervals, options, the sentence under a figure, and features of layers, each against its definition."""

import math

import pytest
import torch
from torch import nn

from easybn.metrics.features import features
from easybn.metrics.instrument import Measured, Plot, compared, figure, with_half_width
from easybn.metrics.intervals import groups, jackknife, mean_interval
from easybn.metrics.registry import instruments

from ..small import small_images, small_net


def test_the_jackknife_of_a_mean_over_single_images_is_the_t_interval():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = jackknife(lambda rows: float(values[rows].mean()), 30, 0, count=15)
    pairs = torch.stack([values[part].mean() for part in groups(30, 0, 15)])
    assert found == pytest.approx(mean_interval(pairs), rel=1e-9)  # groups of equal size: exactly the t-interval
    mean, low, high = mean_interval(values)
    half = 2.045229642 * float(values.std()) / math.sqrt(30)
    assert (mean, low, high) == pytest.approx((float(values.mean()), mean - half, mean + half), rel=1e-8)


def test_the_jackknife_covers_what_it_says():
    """The variance of 100 normal numbers is 1: the interval covers it about 95 times of 100."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for seed in range(200):
        x = torch.randn(100, generator=generator, dtype=torch.float64)
        _, low, high = jackknife(lambda rows, x=x: float(x[rows].var()), 100, seed)
        covered += low <= 1 <= high
    assert 180 <= covered <= 199


def test_too_few_images_have_no_interval():
    assert jackknife(len, 19, 0) == (19, None, None)
    assert mean_interval(torch.tensor([2.0])) == (2.0, None, None)


def test_groups_are_all_images_once():
    parts = groups(23, 5)
    assert sorted(i for part in parts for i in part.tolist()) == list(range(23))
    assert {len(part) for part in parts} == {2, 3}


@pytest.mark.parametrize("most_bytes", [2**30, 1])
def test_features_are_the_outputs_of_the_layers(most_bytes):
    net, x = small_net().train(), small_images(9)
    net[2].inplace = True
    statistics = net[1].running_mean.clone()
    layers = {"conv": net[0], "norm": net[1], "linear": net[4], "unused": nn.ReLU()}
    found = list(features(net, [x[:4], x[4:]], layers, most_bytes))
    assert [(each.layer, each.depth) for each in found] == [("image", 0), ("conv", 1), ("norm", 2), ("logits", 3)]
    assert net.training
    assert torch.equal(net[1].running_mean, statistics)
    net.eval()
    with torch.no_grad():
        conv = net[0](x)
        for each, expected in zip(found, (x, conv, net[1](conv), net(x)), strict=True):
            assert torch.allclose(each.x, expected, atol=1e-6)
            assert each.flat.shape == (9, expected[0].numel())
    assert torch.allclose(found[1].pooled, conv.mean((2, 3)), atol=1e-6)
    assert torch.equal(found[3].pooled, found[3].x)


def test_features_without_a_row_an_image_are_refused():
    class Windows(nn.Module):
        def forward(self, x):
            return x.reshape(-1, 3)

    windows = Windows()
    with pytest.raises(ValueError, match=r"layer w: its output \(shape \(64, 3\)\) has no row per image"):
        list(features(nn.Sequential(windows), [small_images(3)], {"w": windows}))
    with pytest.raises(ValueError, match="no images"):
        list(features(windows, [], {}))


def test_mistakes_in_names_and_options():
    for names, options, told in (
        (["nose"], {}, r"no instrument 'nose'; there are"),
        ([], {}, "name an instrument"),
        (["rank"], {"rank": {"size": 3}}, "rank has no option 'size'; there are none"),
        (["rank"], {"rank": 3}, "options of rank must be fields"),
        (["rank"], {"nose": {}}, "no instrument 'nose'"),
    ):
        with pytest.raises(ValueError, match=told):
            instruments(names, options)
    assert [each.name for each in instruments(["rank", "rank"])] == ["rank"]


def point(value, low=None, high=None, place="logits", series=""):
    return Measured("m", series, place, 3, 10, value, low, high)


def test_the_sentence_names_the_highest_and_the_lowest_and_whether_intervals_overlap():
    plot = Plot("m", "rank")
    apart = {"a": [point(9, 8, 10, "x"), point(3, 2, 4)], "b": [point(1, 0, 2, "x"), point(6, 5, 7)]}
    assert compared(plot, apart) == (
        "Rank at logits: highest b 6.00 (5.00 .. 7.00), lowest a 3.00 (2.00 .. 4.00); their intervals do not overlap."
    )
    close = {"a": [point(3, 2, 5.5)], "b": [point(6, 5, 7)]}
    assert compared(plot, close).endswith("; their intervals overlap.")
    assert compared(plot, {"a": [point(3)], "b": [point(6)]}) == "Rank at logits: highest b 6.00, lowest a 3.00."
    assert compared(plot, {"a": [point(0.5, 0.4, 0.6)]}) == "Rank at logits: 0.500 (0.400 .. 0.600)."
    assert compared(Plot("m", "share", percent=True), {"a": [point(0.5, 0.4, 0.6)]}) == (
        "Share at logits: 50.0% (40.0 .. 60.0)."
    )
    assert compared(plot, {}) == compared(Plot("other", "x"), apart) == ""
    assert compared(plot, {"a": [point(1, place="x")], "b": [point(1, place="y")]}) == ""
    series = {"a": [point(1, series="main"), point(2, series="easy")]}
    assert compared(plot, series) == "Rank at logits: 1.00."
    assert compared(plot, {"a": series["a"][1:]}) == "Rank at logits (easy): 2.00."
    assert compared(Plot("m", "rank", series="easy"), series) == "Rank at logits: 2.00."


def test_figures_have_three_digits():
    assert [figure(value) for value in (0, 0.01234, 0.5, 12.345, 123.4, 12345.6, 1.5e6, 2e-5)] == [
        "0.00", "0.0123", "0.500", "12.3", "123", "12346", "1.50e+06", "2.00e-05",
    ]  # fmt: skip


def test_a_half_width_has_two_digits():
    pairs = [(12.3456, 0.5678), (7.39, 0.0852), (341.2, 12.7), (0.5, 0.0), (3.0, 2e-5)]
    assert [with_half_width(*pair) for pair in pairs] == [
        "12.35 ±0.57", "7.390 ±0.085", "341 ±13", "0.500 ±0.00", "3.00 ±2.00e-05",
    ]  # fmt: skip
