"""bench/paper_figures.py: saturated losses in closed form, batches that are not there, and rows made once."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn import data, evaluate

from ..small import small_images, small_net

FOLDER = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("bench_paper_figures", FOLDER / "paper_figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def tables(figures):
    spec = importlib.util.spec_from_file_location("bench_paper_tables", FOLDER / "paper_tables.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["paper_figures"] = figures  # its neighbour
    spec.loader.exec_module(module)
    del sys.modules["paper_figures"]
    return module


class Linear(nn.Module):
    """Two logits, k (s - 1/2) and its negative, for the mean pixel s: the margin of an image is k |2 s - 1|."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        s = self.factor * (x.flatten(1).mean(1) - 0.5)
        return torch.stack((s, -s), 1)


@pytest.mark.parametrize(("margin", "robust_by_library"), [(5.0, False), (20.0, False), (120.0, True)])
def test_a_saturated_loss_lets_the_library_report_the_clean_accuracy(margin, robust_by_library):
    """Gray images at 0.5 + 0.1, 4 pixels: the boundary is at l2 distance 0.2, so that eps 0.3 breaks every point."""
    x, y = torch.full((6, 1, 2, 2), 0.6), torch.zeros(6, dtype=torch.int64)
    model = Linear(margin / 0.2)
    point = x.clone().requires_grad_()
    losses = F.cross_entropy(model(point), y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), point)
    # margins beyond 17 round the true class's probability to 1, those beyond 104 the other's to 0
    assert bool((losses == 0).all()) == (margin > 17)
    assert bool((gradient == 0).all()) == (margin > 104) == robust_by_library
    options = {"norm": "l2", "eps": 0.3, "diagnosis": False}
    by_library = evaluate(model, x, y, protocol="robustness", **options)
    assert int(by_library.clean.sum()) == 6
    assert int(by_library.robust.sum()) == 6 * robust_by_library
    assert int(evaluate(model, x, y, protocol="strong", **options).robust.sum()) == 0


def test_where_the_step_stalls_the_library_s_figure_depends_on_the_batch(figures):
    """At margin 24 a gradient of 1e-10 or so is divided by the batch, and then compared with 1e-10."""
    x, y = torch.full((4, 1, 2, 2), 0.6), torch.zeros(4, dtype=torch.int64)
    model = Linear(24 / 0.2)
    norm = 24 / 0.2 * math.exp(-24) / 2  # of the gradient: k / 4 a pixel for either logit, by the other class alone
    by_batch = {batch: figures.library(model, x, y, batch, 0.3) for batch in (1, 100_000)}
    assert norm / 100_000 < 1e-10 / 50 < norm / 4
    assert by_batch == {1: 0, 100_000: 4}


@pytest.mark.parametrize("factor", [1.0, 60.0])
def test_a_batch_that_is_not_there_gives_what_the_whole_batch_does(figures, factor):
    model = nn.Sequential(small_net(), figures.Times(factor)).eval().double()
    x = small_images(48, dtype=torch.float64)
    y = model(x).argmax(1)
    whole = evaluate(model, x, y, eps=0.3, protocol="robustness", batch_size=48, diagnosis=False)
    parts = sum(figures.library(model, x[i : i + 24], y[i : i + 24], 48, 0.3) for i in (0, 24))
    assert parts == int(whole.robust.sum())
    assert 0 < parts < 48
    if factor > 1:  # the batch decides
        assert figures.library(model, x, y, 1, 0.3) < parts


def test_margins_count_what_is_flat_and_what_stalls(figures):
    source = data.load("sample")

    class Sure(nn.Module):
        """Right with a margin of 50 or of 120, by the images' own labels."""

        def __init__(self, margin: float) -> None:
            super().__init__()
            self.margin, self.seen = margin, 0

        def forward(self, x):
            labels = source.test.labels[self.seen : self.seen + len(x)]
            self.seen = (self.seen + len(x)) % len(source.test)
            return self.margin * F.one_hot(labels, 10) * (0.5 + x.flatten(1).mean(1, keepdim=True)).clamp(1, 1.001)

    assert len(source.test) % 500 == 0  # so that a round of batches ends where the next one begins
    for margin, zero in ((50.0, 0.0), (120.0, 1.0)):
        (row,) = figures.margins(Sure(margin), source)
        assert row["clean"] == row["n"] == len(source.test)
        assert row["margins"][0] >= margin
        assert row["flat"] == 1.0
        assert row["stalled"] == {"32": 1.0, "128": 1.0, "1000": 1.0}
        if zero:
            assert row["zero"] == 1.0


def test_the_pace_grows_while_the_loss_falls_and_halves_when_it_does_not(figures):
    pace = figures.Pace()
    assert [pace.fell(loss) for loss in (1.0, 0.5, 0.5, 0.6, 0.1)] == [True, True, False, False, True]
    assert pace.rate == pytest.approx(figures.RATE * 1.2**3 / 4)


def test_a_training_gives_rows_and_networks_once(figures, tmp_path, monkeypatch):
    for name, value in (("IMAGES", 100), ("BATCH", 50), ("PLAIN_EPOCHS", 1), ("PAPER_STEPS", 2)):
        monkeypatch.setattr(figures, name, value)
    source, cells = data.load("sample"), [figures.Cell("ebn", 1e-4, steps=2)]
    out, runs = tmp_path / "rows", tmp_path / "runs"
    figures.train_all(out, runs, source, cells)
    rows = [json.loads(line) for line in (out / "trainings.jsonl").read_text().splitlines()]
    assert [(row["cell"], row["reached"], row["epoch"]) for row in rows] == [
        ("ebn-0.0001-0", "paper", 1), ("ebn-0.0001-0", "end", 3),
    ]  # fmt: skip
    assert rows[0]["steps"] == 2  # of the plain epoch
    assert set(rows[0]["losses"]) == {"main", "easy"}
    assert sorted(path.stem for path in runs.iterdir()) == ["ebn-0.0001-0-end", "ebn-0.0001-0-paper"]
    before = (out / "trainings.jsonl").read_text()
    figures.train_all(out, runs, source, cells)
    assert (out / "trainings.jsonl").read_text() == before


def test_scores_of_the_readings_become_rows_and_differences(figures, tables, tmp_path):
    def scores(run, clean, strong):
        folder = tmp_path / "study" / run
        folder.mkdir(parents=True)
        rows = [
            {"attack": "clean", "protocol": None, "norm": None, "eps": None, "n": 1000, "correct": clean},
            {"attack": "pgd", "protocol": "robustness", "norm": "l2", "eps": 0.5, "n": 100, "correct": 99},
            *({"attack": "pgd", "protocol": "strong", "norm": "l2", "eps": e, "n": 100, "correct": strong}
              for e in figures.RADII),
            {"attack": "fast", "protocol": None, "norm": "linf", "eps": 8 / 255, "n": 100, "correct": 7},
        ]  # fmt: skip
        text = "".join(json.dumps({**row, "seconds": 1.0, "right": "verdicts"}) + "\n" for row in rows)
        (folder / "scores.jsonl").write_text(text)

    scores("port-0", 900, 50)
    scores("port-label-0", 905, 30)
    (tmp_path / "out").mkdir()
    figures.collect(tmp_path / "out", tmp_path / "study")
    head, *body = tables.readings(tmp_path / "out")
    assert body == [
        ["port", "90.0", "50.0", "50.0", "50.0", "7.0", ""],
        ["port-label", "90.5", "30.0", "30.0", "30.0", "7.0", ""],
        ["", "+0.5", "-20.0", "-20.0", "-20.0", "+0.0", "port"],
    ]
    assert len(head) == len(body[0])
    assert "right" not in (tmp_path / "out" / "readings.jsonl").read_text()


def test_the_page_shows_the_tables_of_the_rows(tables):
    root = FOLDER.parent
    page = (root / "docs" / "paper.md").read_text(encoding="utf-8")
    for table in tables.tables(root / "results" / "paper-figures").split("\n\n"):
        assert table in page
