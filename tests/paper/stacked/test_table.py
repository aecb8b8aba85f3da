import io

from rich.console import Console

from easybn.paper.stacked import stacked_caption, stacked_tables
from easybn.paper.stacked_images import HALVES, WAYS
from easybn.stats import t_quantile
from easybn.tables.formats import Fitted, markdown

SHARED = {"data": "d", "classes": ["[red]a", "b"], "model": "m", "n": 1000}
WHAT = [(None, None), *((half, how) for half in HALVES for how in WAYS)]


def rows(seeds, copy="easy", eps=8 / 255, steps=1):
    """Accuracies 0.10, 0.11 .. 0.16 in the order of WHAT, one percent more a seed."""
    return [
        {**SHARED, "seed": seed, "copy": copy, "eps": eps, "steps": steps, "half": half, "how": how,
         "accuracy": (10 + seed + i) / 100}
        for seed in range(seeds) for i, (half, how) in enumerate(WHAT)
    ]  # fmt: skip


def texts(table):
    return [(row.label, *(cell.text for cell in row.cells)) for row in table.rows]


def test_the_papers_claim_beside_ours():
    half = t_quantile(2, 0.95) / 3**0.5
    every = [*rows(3), *rows(1, "untouched", None, None)]
    copy, original = stacked_tables(every)
    assert copy.title == "The copy randomised (the paper: 99.0 to 0.0)"
    assert original.title == "The original randomised (the paper: 99.0 to 99.0)"
    assert texts(copy) == [
        ("the paper: easy", "99.0", "0.0", "", ""),
        ("easy 8/255, 1 step", *(f"{mean}.0 ±{half:.1f}" for mean in (11, 12, 13, 14))),
        ("untouched", "10.0", "11.0", "12.0", "13.0"),
    ]
    assert copy.rows[0].muted
    assert texts(original)[0][2] == "99.0"
    assert texts(original)[1][1:] == tuple(f"{mean}.0 ±{half:.1f}" for mean in (11, 15, 16, 17))
    assert "mean over 3 seeds" in stacked_caption(every)
    assert "[red]a against b, m, 1,000 test pairs" in stacked_caption(every)


def test_in_a_terminal_and_as_markdown():
    table = stacked_tables(rows(1))[0]
    out = io.StringIO()
    Console(file=out, width=80).print(Fitted(table))
    shown = out.getvalue().splitlines()
    assert shown[0].rstrip() == table.title
    assert texts(table)[1] in [tuple(cell.strip() for cell in line.split("│")[1:-1]) for line in shown]
    lines = markdown(table).splitlines()
    assert lines[2] == "| Beside the original | intact | noise | swap | blank |"
    assert lines[5] == "| easy 8/255, 1 step | 10.0 | 11.0 | 12.0 | 13.0 |"
    assert stacked_caption(rows(1)).startswith("Accuracy in %, 1 seed; d, [red]a against b, m, 1,000 test pairs.")
