"""Tables 1 and 2 from made-up runs: means, bold cells, the paper's rows beside."""

import json
import math

import pytest

from easybn.paper.tables import paper_table
from easybn.stats import t_quantile
from easybn.tables.aggregate import settings
from easybn.tables.rows import read

from ..report.made_up import study

HALF = t_quantile(2, 0.95) / math.sqrt(3)  # times s


def test_means_and_intervals_by_hand(setting):
    table = paper_table(setting)
    assert table.columns[:2] == ["Basic", "l2 0.1"]
    lines = {line.label: dict(zip(table.columns, line.cells, strict=True)) for line in table.rows}
    cell = lines["EBN 8/255"]["Basic"]  # 91.30, 91.37, 91.44
    assert cell.text == f"91.37 ±{0.07 * HALF:.2f}"
    assert (cell.value, cell.seeds, cell.n) == (pytest.approx(91.37), 3, 10_000)
    assert cell.high - cell.low == pytest.approx(2 * 0.07 * HALF)
    # 0 of 200 at every seed: no spread but that of rounding
    assert lines["EBN 8/255"]["l2 1.0"].text == f"0.00 ±{0.5 / math.sqrt(12) * HALF:.2f}"
    assert [cell.text for cell in table.rows[4].cells][:4] == ["94.28", "86.39", "83.27", "80.31"]
    assert table.rows[4].label == "paper: RN-18 (EBN)"
    assert table.rows[4].muted
    assert "mean over 3 seeds" in table.caption
    assert "t = 4.30" in table.caption


def test_mca_is_a_column_with_the_interval_over_seeds_or_that_of_its_row(setting, tmp_path):
    table = paper_table(setting)
    assert table.columns[-1] == "mCA"
    cells = {line.label: line.cells[-1] for line in table.rows}
    assert cells["AdvProp 8/255"].text == f"61.00 ±{HALF:.2f}"  # 120, 122, 124 of 200
    assert (cells["AdvProp 8/255"].bold, cells["AdvProp 8/255"].n) == (True, 200)
    assert cells["paper: RN-18 (AP)"].text == ""
    assert "mCA: 200 test images, mean over 15 common corruptions at five severities, made here (frost" in table.caption
    assert "Attacks: 200 test images, PGD 100 steps" in table.caption
    study(tmp_path, ("vanilla", "advprop"), seeds=1)
    single = paper_table(settings(read(tmp_path).runs)[0])
    cell = single.rows[1].cells[-1]
    assert (cell.text, cell.low, cell.high) == ("60.00 ±35.00", 20, 90)  # of 200 points, not of 15,000 answers


def test_bold_where_a_test_tells_the_best_from_every_other(setting):
    table = paper_table(setting)
    bold = {
        (line.label, column)
        for line in table.rows
        for column, cell in zip(table.columns, line.cells, strict=True)
        if cell.bold
    }
    assert ("AdvProp 8/255", "Basic") in bold
    assert ("AdvProp 8/255", "l2 0.5 strong") in bold
    assert not {name for name, column in bold if column == "l2 1.0"}  # nothing is left of any
    assert {name for name, _ in bold} == {"AdvProp 8/255"}


def test_no_bold_without_a_test(tmp_path):
    study(tmp_path, ("vanilla", "advprop"), seeds=1)
    table = paper_table(settings(read(tmp_path).runs)[0])
    assert not any(cell.bold for line in table.rows for cell in line.cells)
    assert table.rows[0].cells[0].text == "92.00 ±0.53"  # Wilson, 9,200 of 10,000
    assert "one seed" in table.caption


def test_noise_between_seeds_takes_the_bold_away(tmp_path):
    study(tmp_path, ("vanilla", "advprop"))
    for seed, correct in enumerate((9300, 9100, 9310)):  # above vanilla's 9200 to 9210 in two of three seeds
        path = tmp_path / f"advprop-{seed}" / "scores.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0]["correct"] = correct
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (setting,) = settings(read(tmp_path).runs)
    assert not any(line.cells[0].bold for line in paper_table(setting).rows)
    assert any(line.cells[2].bold for line in paper_table(setting).rows)
