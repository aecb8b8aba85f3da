import json
from io import StringIO

import pytest
from rich.console import Console

from easybn.runs.run import Run
from easybn.tables.formats import Fitted, markdown
from easybn.tables.single_runs import score_tables
from easybn.tables.table import Cell, TableRow


def clean(correct, n=1000):
    return {"attack": "clean", "correct": correct, "n": n}


def pgd(protocol, eps, correct, n=200, steps=100, batch_size=100, norm="l2"):
    row = {"attack": "pgd", "protocol": protocol, "eps": eps, "correct": correct, "n": n, "steps": steps}
    return {**row, "batch_size": batch_size, "norm": norm}


@pytest.fixture
def made(tmp_path):
    def make(name, recipe, *rows):
        run = Run(tmp_path / name)
        run.folder.mkdir()
        config = {"experiment": {"data": "sample", "model": "resnet18", "recipe": {"class": recipe}}}
        (run.folder / "config.json").write_text(json.dumps(config))
        run.add_scores(rows)
        return run

    return make


def wilson_half_width(correct, n, z=1.959964):
    p = correct / n
    return z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5


def test_numbers_are_those_of_the_scores(made):
    a = made("a", "EBN", clean(873), pgd("strong", 0.1, 150), pgd("strong", 0.5, 31), pgd("robustness", 0.5, 44))
    b = made("b", "own.Mine", clean(801), pgd("strong", 0.5, 0))
    robustness, strong = score_tables([a, b])
    assert strong.columns == ["Basic", "l2 0.1", "l2 0.5"]
    assert [row.label for row in strong.rows] == ["resnet18 (EBN)", "resnet18 (Mine)"]
    expected = [[(873, 1000), (150, 200), (31, 200)], [(801, 1000), None, (0, 200)]]
    for row, counts in zip(strong.rows, expected, strict=True):
        for cell, count in zip(row.cells, counts, strict=True):
            if count is None:
                assert cell == Cell()
            else:
                half = 100 * wilson_half_width(*count)
                assert cell.text == f"{100 * count[0] / count[1]:.2f} ±{half:.1f}"
                assert (cell.value, cell.n) == (pytest.approx(100 * count[0] / count[1]), count[1])
                assert (cell.high - cell.low) / 2 == pytest.approx(half)
    assert robustness.columns == ["Basic", "l2 0.5"]
    assert robustness.rows[1].cells[1] == Cell()
    assert "batch size 100" in robustness.caption
    assert "batch size" not in strong.caption
    assert "Attacks: 100 steps, 200 test images" in strong.caption


def test_markdown_is_a_table(made):
    run = made("a", "EBN", clean(873), pgd("strong", 0.1, 150), pgd("strong", 8 / 255, 31, norm="linf"))
    (table,) = score_tables([run])
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Model", "Basic", "l2 0.1", "linf 8/255"]
    assert cells[1] == ["---", "---:", "---:", "---:"]
    assert cells[2][0] == "resnet18 (EBN)"
    assert cells[2][1].startswith("87.30 ±")
    assert len(cells) == 3
    assert table.caption in markdown(table)


def test_the_terminal_shows_the_same_numbers(made):
    (table,) = score_tables([made("a", "EBN", clean(873), pgd("strong", 0.1, 150))])
    console = Console(file=StringIO(), width=120)
    console.print(Fitted(table))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(cell.text in shown for cell in table.rows[0].cells)


def test_the_latest_measurement_counts_and_the_caption_is_of_what_is_shown(made):
    run = made("a", "EBN", clean(800), pgd("strong", 0.1, 5, n=20, steps=5), pgd("strong", 0.1, 150), clean(870))
    (table,) = score_tables([run])
    assert [(c.value, c.n) for c in table.rows[0].cells] == [(87, 1000), (75, 200)]
    assert "Attacks: 100 steps, 200 test images." in table.caption
    other = made("b", "Vanilla", clean(800), pgd("strong", 0.1, 700, n=2000, steps=40))
    assert "Attacks: 40 / 100 steps, 200 / 2,000 test images." in score_tables([run, other])[0].caption


def test_runs_alike_are_told_apart(made):
    runs = [made(name, "EBN", clean(1)) for name in ("seed0", "seed1")] + [made("v", "Vanilla", clean(1))]
    names = [row.label for row in score_tables(runs)[0].rows]
    assert names == ["resnet18 (EBN) seed0", "resnet18 (EBN) seed1", "resnet18 (Vanilla)"]


def test_runs_without_scores(made):
    (table,) = score_tables([made("a", "EBN")])
    assert table.rows == [TableRow("resnet18 (EBN)", [Cell()])]
    assert "Nothing is measured yet" in table.caption
    (table,) = score_tables([made("b", "EBN", clean(10))])
    assert "Basic: 1,000 test images." in table.caption
    assert "Attacks" not in table.caption
