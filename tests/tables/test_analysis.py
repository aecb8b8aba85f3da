"""Rows of instruments as values over seeds and as tables."""

import pytest

from easybn.metrics.instrument import Measured, Plot
from easybn.tables.analysis import (
    Shown,
    instrument_tables,
    over_seeds,
    over_training,
    settings_of,
    settings_text,
    values,
)


def row(value, low=None, high=None, place="a", depth=1, series="main", **settings):
    asked = {"instrument": "x", "settings": settings, "images": 1000, "seed": 0, "branch": "main"}
    what = {"measure": "m", "series": series, "place": place, "depth": depth, "n": 5, "detail": {"k": 1}}
    return {**asked, **what, "value": value, "low": low, "high": high}


def test_values_are_those_of_the_rows():
    assert values([row(2.0, 1.0, 3.0)]) == [Measured("m", "main", "a", 1, 5, 2.0, 1.0, 3.0, {"k": 1})]


def test_over_seeds_the_interval_is_students_and_of_one_seed_its_own():
    (one,) = over_seeds([[row(2.0, 1.0, 3.0)]])
    assert (one.value, one.low, one.high) == (2.0, 1.0, 3.0)
    first, second = over_seeds([[row(1.0), row(5.0, place="b")], [row(3.0)]])
    half = 12.7062 * 2**0.5 / 2**0.5  # t(1) s / sqrt(2), s = sqrt(2)
    assert (first.value, first.low, first.high) == pytest.approx((2, 2 - half, 2 + half), rel=1e-5)
    assert (second.place, second.value, second.low) == ("b", 5.0, None)


def test_a_table_has_a_row_for_each_place_and_the_logits_last():
    shown = Shown("x", "X", "", [Plot("m", "far", together=True), Plot("n", "near", folded=True)])
    curves = {
        "run": [
            *values([row(9.0, 8.5, 9.5, "logits", 2), row(1.0, 0.9, 1.3, "a", 1)]),
            *values([row(4.0, series="easy")]),
        ],
        "deeper": values([row(2.0, place="b", depth=2), row(3.0, place="logits", depth=3)]),
    }
    (table,) = instrument_tables(shown, curves)
    assert table.columns == ["run", "run, easy", "deeper"]
    assert [(row.label, [cell.text for cell in row.cells]) for row in table.rows] == [
        ("a", ["1.00 (0.900 .. 1.30)", "4.00", ""]),
        ("b", ["", "", "2.00"]),
        ("logits", ["9.00 ±0.50", "", "3.00"]),
    ]
    assert instrument_tables(shown, curves, folded=True) == []
    apart = Shown("x", "X", "", [Plot("m", "far", percent=True)])
    tables = instrument_tables(apart, curves)
    assert [(table.title, list(table.columns)) for table in tables] == [
        ("far, %", ["run", "deeper"]),
        ("far, easy, %", ["run"]),
    ]
    assert tables[0].rows[-1].cells[0].text == "900 ±50"


def test_settings_in_words_and_as_a_key():
    asked = row(1.0, eps=8 / 255, l2_eps=0.5, steps=10, kinds=["a", "b"])
    assert settings_text(asked) == "1,000 test images, eps 8/255, l2_eps 0.5, steps 10, kinds a, b"
    assert settings_of(asked) == settings_of({**asked, "value": 3.0, "branches": ["main"]})
    assert settings_of(asked) != settings_of({**asked, "images": 3})


def test_over_the_training_each_plot_has_one_place_and_a_row_for_each_epoch():
    plots = [Plot("m", "far", together=True), Plot("n", "near", folded=True), Plot("dots", "dots", joined=False)]
    shown = Shown("x", "X", "Read.", plots)
    layers = [("image", 0), ("a", 1), ("b", 2), ("logits", 3)]
    rows = [
        {**row(100 * epoch + depth, place=place, depth=depth, series=series), "epoch": epoch}
        for epoch in (1, 10, 2) for place, depth in layers for series in ("main", "easy")
    ]  # fmt: skip
    rows += [{**row(7.0), "measure": measure, "epoch": 1} for measure in ("n", "dots")] + [row(5.0, place="b", depth=2)]
    over, found = over_training(shown, rows)
    assert (over.title, [(plot.title, plot.x) for plot in over.plots]) == (
        "X, over the training",
        [("far at b", "epoch")],
    )
    (table,) = instrument_tables(over, {"run": values(found)})
    assert (table.corner, list(table.columns)) == ("Epoch", ["run", "run, easy"])
    assert [(line.label, [cell.value for cell in line.cells]) for line in table.rows] == [
        (f"epoch {epoch}", [100 * epoch + 2] * 2) for epoch in (1, 2, 10)
    ]
    assert over.sentence({"run": values(found)}) == "Far at b at epoch 10: 1002."
    assert over_training(shown, [row(5.0)])[0].plots == []
