"""Rows in, numbers out: groups of seeds, means, tests, bold cells, the paper beside."""

import csv
import io
import json
import math

import pytest
from rich.console import Console

from easybn.paper.numbers import OURS, STRONG
from easybn.paper.tables import paper_table
from easybn.stats import holm, mcnemar, t_quantile
from easybn.tables.aggregate import settings
from easybn.tables.comparison import compare, differences_table, pairs, signed
from easybn.tables.formats import as_csv, column_widths, latex, markdown, terminal, tex
from easybn.tables.rows import CLEAN, read
from easybn.tables.table import Cell, Table, TableRow

from ..report.made_up import run, study

HALF = t_quantile(2, 0.95) / math.sqrt(3)  # times s


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = study(tmp_path_factory.mktemp("rows"))
    (found,) = settings(read(folder).runs)
    return found


def change(folder, **fields):
    """Other training fields in a run's config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["experiment"]["training"] |= fields
    path.write_text(json.dumps(config))


def test_seeds_of_a_recipe_are_one_row(setting):
    assert setting.title == "fashion-mnist, resnet_tiny"
    assert [each.label for each in setting.recipes] == ["Vanilla", "AdvProp 8/255", "EBN 8/255", "AdvPropEBN 8/255"]
    assert all(list(each.runs) == [0, 1, 2] for each in setting.recipes)


def test_labels_say_what_differs_and_other_epochs_are_another_setting(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.05)):
        run(tmp_path / name, "vanilla", 0, lr=lr)
    run(tmp_path / "c", "vanilla", 0)  # the same experiment and seed as a
    run(tmp_path / "d", "ebn", 0)
    change(tmp_path / "d", epochs=9)
    run(tmp_path / "e", "ebn", 0, data="cifar10")
    found = settings(read(tmp_path).runs)
    titles = ["fashion-mnist, resnet_tiny, 6 epochs, batch 128", "fashion-mnist, resnet_tiny, 9 epochs, batch 128"]
    assert [each.title for each in found] == [*titles, "cifar10, resnet_tiny"]
    assert [each.label for each in found[0].recipes] == ["Vanilla, lr 0.05", "Vanilla, lr 0.1"]
    assert found[0].repeated == ["c repeats a and is left out."]
    across = settings(read(tmp_path).runs, ["epochs"])
    assert [each.title for each in across] == ["fashion-mnist, resnet_tiny", "cifar10, resnet_tiny"]
    assert [each.label for each in across[0].recipes] == [
        "Vanilla, epochs 6, lr 0.05",
        "Vanilla, epochs 6, lr 0.1",
        "EBN 8/255, epochs 9",
    ]


def test_many_runs_that_repeat_others_are_counted(tmp_path):
    for seed in range(4):
        run(tmp_path / f"a-{seed}", "vanilla", seed)
        run(tmp_path / f"b-{seed}", "vanilla", seed)
    (found,) = settings(read(tmp_path).runs)
    caption = paper_table(found).caption
    assert caption.endswith("b-0 repeats a-0 and is left out. So are 3 more that repeat another's seed.")


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


def test_differences_over_seeds_and_over_points(setting):
    vanilla, advprop, ebn, _ = setting.recipes
    found = compare(ebn, advprop, CLEAN)  # -1.20, -1.18 and -1.16 points
    assert found.seed_test.mean == pytest.approx(-0.0118)
    assert found.seed_test.half_width == pytest.approx(0.0002 * HALF)
    assert found.point_test == (0, 120 + 118 + 116, mcnemar(0, 354), 3)
    assert compare(ebn, advprop, STRONG[0]).point_test is None
    assert compare(ebn, advprop, STRONG[2]).saturated
    assert not compare(ebn, vanilla, STRONG[1]).saturated


def test_other_numbers_of_points_are_not_compared(tmp_path):
    study(tmp_path, ("vanilla", "ebn"))
    path = tmp_path / "ebn-1" / "scores.jsonl"
    path.write_text(path.read_text().replace('"n": 10000', '"n": 9999'))
    (setting,) = settings(read(tmp_path).runs)
    assert compare(setting.recipes[1], setting.recipes[0], CLEAN).seed_test.seeds == 2


def test_ebn_meets_advprop_of_its_own_radius_and_rate(tmp_path):
    for name, recipe, lr in (("v", "vanilla", 0.1), ("a", "advprop", 0.1), ("b", "advprop", 0.05), ("e", "ebn", 0.1)):
        run(tmp_path / name, recipe, 0, lr=lr)
    (setting,) = settings(read(tmp_path).runs)
    found = [(first.label, second.label) for first, second in pairs(setting)]
    assert found[0] == ("EBN 8/255", "AdvProp 8/255, lr 0.1")
    assert {second for _, second in found[1:]} == {"Vanilla"}
    assert len(found) == 4


def test_a_recipe_without_some_images_meets_itself_and_those_without_the_same(tmp_path):
    for name, kind, path, digest in (
        ("a", "vanilla", None, None),
        ("b", "vanilla", "x/easy-3.json", "11"),
        ("c", "vanilla", "x/random-3.json", "22"),
        ("d", "ebn", "elsewhere/easy-3.json", "11"),  # the same images from a file that lies elsewhere
        ("e", "ebn", None, None),
    ):
        run(tmp_path / name, kind, 0)
        path_of = tmp_path / name / "config.json"
        config = json.loads(path_of.read_text())
        config["experiment"] |= {"leave_out": path, "left_out": digest}
        path_of.write_text(json.dumps(config))
    (found,) = settings(read(tmp_path).runs)
    easy, chance, ebn = "Vanilla, without easy-3", "Vanilla, without random-3", "EBN 8/255"
    assert {(first.label, second.label) for first, second in pairs(found)} == {
        (ebn, "Vanilla"),
        (f"{ebn}, without easy-3", easy),
        (easy, "Vanilla"),
        (chance, "Vanilla"),
        (easy, chance),
        (f"{ebn}, without easy-3", ebn),
    }


def test_the_tests_as_a_table(setting):
    table = differences_table(setting, OURS)
    (line,) = [
        line
        for line in table.rows
        if line.label == "EBN 8/255 \N{MINUS SIGN} AdvProp 8/255" and line.cells[0].text == "Basic"
    ]
    assert [cell.text for cell in line.cells] == [
        "Basic",
        "3",
        f"\N{MINUS SIGN}1.18 ±{0.02 * HALF:.2f}",
        "<0.001",
        "0",
        "354",
        "<0.001",
    ]


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


NASTY = Table(
    "A | B <b>",
    "Row",
    ["a_b", "50%"],
    [
        TableRow("[red]x & y", [Cell("*1*", 1.0, bold=True), Cell("\N{MINUS SIGN}2 ±1", -2.0, -3.0, -1.0, 3, 200)]),
        TableRow("paper", [Cell("3"), Cell()], muted=True),
    ],
    "see #1",
)


def test_markdown_keeps_its_columns_and_shows_markup_as_text():
    lines = markdown(NASTY).splitlines()
    assert lines[0] == "**A \\| B &lt;b&gt;**"
    assert lines[2:] == [
        "| Row | a_b | 50% |",
        "| --- | ---: | ---: |",
        "| \\[red\\]x &amp; y | **\\*1\\*** | \N{MINUS SIGN}2 ±1 |",
        "| *paper* | 3 |  |",
        "",
        "see #1",
    ]


def test_latex_escapes():
    text = latex(NASTY)
    assert r"[red]x \& y & \textbf{*1*} & $-$2 $\pm$1 \\" in text
    assert r"Row & a\_b & 50\% \\" in text
    assert r"\begin{tabular}{lrr}" in text
    assert tex("a\\b{c}~^<>") == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"


def test_csv_has_a_line_a_figure():
    rows = list(csv.DictReader(io.StringIO(as_csv(NASTY))))
    assert len(rows) == 3  # the empty cell is none
    expected = {
        "table": "A | B <b>",
        "row": "[red]x & y",
        "column": "50%",
        "text": "\N{MINUS SIGN}2 ±1",
        "value": "-2",
        "low": "-3",
    }
    assert rows[1] == {**expected, "high": "-1", "seeds": "3", "n": "200", "bold": "0"}


def test_the_terminal_shows_brackets_as_they_are():
    assert "[red]x & y" in terminal(NASTY, Console(width=80))


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_the_terminal_cuts_no_figure(setting, width):
    for table in (paper_table(setting), differences_table(setting, OURS)):
        text = terminal(table, Console(width=width))
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        found = [word for word in text.replace("│", " ").split() if word[0].isdigit()]
        figures = [cell.text for line in table.rows for cell in line.cells]
        assert not {word for text in figures for word in text.split() if word[0].isdigit()} - set(found)
    parts = column_widths(paper_table(setting), width)
    assert [i for part in parts for i in part if i >= 0] == list(range(len(paper_table(setting).columns)))
    assert (len(parts) == 1) is (width == 300)
    told = [list(part)[:2] for part in column_widths(differences_table(setting, OURS), width)]
    assert told == [[-1, 0]] * len(told)  # which recipes and which column, in every part


def test_signs():
    assert [signed(value) for value in (1.234, -0.5, 0.001, -0.001)] == ["+1.23", "\N{MINUS SIGN}0.50", "0.00", "0.00"]
