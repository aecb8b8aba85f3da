import json
from io import StringIO

import pytest
from rich.console import Console

from easybn.runs.run import Run
from easybn.tables.scores import blocks


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
    robustness, strong = blocks([a, b])
    assert strong.columns == ["Basic", "l2 0.1", "l2 0.5"]
    assert [name for name, _ in strong.rows] == ["resnet18 (EBN)", "resnet18 (Mine)"]
    expected = [[(873, 1000), (150, 200), (31, 200)], [(801, 1000), None, (0, 200)]]
    for (_, cells), wanted in zip(strong.rows, expected, strict=True):
        assert [None if c is None else (c.correct, c.n) for c in cells] == wanted
        for cell in cells:
            if cell is not None:
                half = 100 * wilson_half_width(cell.correct, cell.n)
                assert str(cell) == f"{100 * cell.correct / cell.n:.2f} ±{half:.1f}"
    assert robustness.columns == ["Basic", "l2 0.5"]
    assert robustness.rows[1][1][1] is None
    assert "batch size 100" in robustness.caption
    assert "batch size" not in strong.caption
    assert "Attacks: 100 steps, 200 test images" in strong.caption


def test_markdown_is_a_table(made):
    run = made("a", "EBN", clean(873), pgd("strong", 0.1, 150), pgd("strong", 8 / 255, 31, norm="linf"))
    (block,) = blocks([run])
    lines = [line for line in block.markdown().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Model", "Basic", "l2 0.1", "linf 8/255"]
    assert cells[1] == ["---", "---:", "---:", "---:"]
    assert cells[2][0] == "resnet18 (EBN)"
    assert cells[2][1].startswith("87.30 ±")
    assert len(cells) == 3
    assert block.caption in block.markdown()


def test_the_terminal_shows_the_same_numbers(made):
    (block,) = blocks([made("a", "EBN", clean(873), pgd("strong", 0.1, 150))])
    console = Console(file=StringIO(), width=120)
    console.print(block.rich())
    shown = console.file.getvalue()
    assert all(str(cell) in shown for cell in block.rows[0][1])


def test_the_latest_measurement_counts_and_the_caption_is_of_what_is_shown(made):
    run = made("a", "EBN", clean(800), pgd("strong", 0.1, 5, n=20, steps=5), pgd("strong", 0.1, 150), clean(870))
    (block,) = blocks([run])
    assert [(c.correct, c.n) for c in block.rows[0][1]] == [(870, 1000), (150, 200)]
    assert "Attacks: 100 steps, 200 test images." in block.caption
    other = made("b", "Vanilla", clean(800), pgd("strong", 0.1, 700, n=2000, steps=40))
    assert "Attacks: 40 / 100 steps, 200 / 2,000 test images." in blocks([run, other])[0].caption


def test_runs_alike_are_told_apart(made):
    runs = [made(name, "EBN", clean(1)) for name in ("seed0", "seed1")] + [made("v", "Vanilla", clean(1))]
    names = [name for name, _ in blocks(runs)[0].rows]
    assert names == ["resnet18 (EBN) seed0", "resnet18 (EBN) seed1", "resnet18 (Vanilla)"]


def test_runs_without_scores(made):
    (block,) = blocks([made("a", "EBN")])
    assert block.rows == [("resnet18 (EBN)", [None])]
    assert "Nothing is measured yet" in block.caption
    (block,) = blocks([made("b", "EBN", clean(10))])
    assert "Basic: 1,000 test images." in block.caption
    assert "Attacks" not in block.caption
