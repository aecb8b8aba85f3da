"""The stacked experiment: what is trained and measured, what a folder keeps, and the tables."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from easybn import data, models
from easybn.data import Source
from easybn.json_files import read_rows
from easybn.paper import stacked as second_net
from easybn.paper import stacked_images as copies
from easybn.paper.stacked import fresh, stacked, stacked_caption, stacked_tables
from easybn.paper.stacked_images import HALVES, WAYS, Settings
from easybn.progress import progress_display
from easybn.runs.run import BusyError, Run
from easybn.stats import t_quantile
from easybn.tables.formats import Fitted, markdown

from .conftest import images

SMALL = Settings(classes=("a", "[c]"), eps=(8 / 255,), steps=(1, 2), seeds=2, epochs=2, batch_size=20)


@pytest.fixture
def display():
    """Shows nothing."""
    progress = progress_display()
    progress.disable = True
    return progress


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_rows_pictures_and_what_they_were_made_of(tiny, tmp_path, display):
    rows = stacked(replace(SMALL, seeds=1), tmp_path, display, "cpu")
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert len(rows) == 5 * 7
    for row in rows:
        assert (row["data"], row["classes"], row["model"], row["layout"]) == (
            "tiny",
            ["a", "[c]"],
            "resnet_tiny",
            "above",
        )
        assert (row["n"], row["train_n"], row["epochs"], row["epochs_first"]) == (20, 40, 2, 1)
        assert row["accuracy"] == row["correct"] / 20
        assert (tmp_path / row["picture"]).exists()
        assert (row["eps"] is None) == (row["steps"] is None) == (row["copy"] == "untouched")
        if row["copy"] == "untouched":
            assert row["first_net"]["copy"] == row["first_net"]["original"]
    what = {(row["copy"], row["eps"], row["steps"], row["half"], row["how"]) for row in rows}
    assert len(what) == 35
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1
    assert Run(tmp_path / "first" / "seed-0").finished
    assert Run(tmp_path / "first" / "seed-0").config["training"]["epochs"] == 1
    assert display.task_ids == [0]  # the bars of single trainings are gone


def test_stopped_at_any_training_it_goes_on_to_the_same_rows(tiny, tmp_path, display, monkeypatch):
    asked = replace(SMALL, copies=("easy", "untouched"), epochs=1)
    whole = stacked(asked, tmp_path / "whole", display, "cpu")
    assert len(whole) == 2 * 3 * 7
    fit, calls = second_net.fit, []  # type: ignore[attr-defined]

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) in (2, 6):
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(second_net, "fit", counted)
    for done in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            stacked(asked, tmp_path / "cut", display, "cpu")
        assert len((tmp_path / "cut" / "rows.jsonl").read_text().splitlines()) == 7 * done
    again = stacked(asked, tmp_path / "cut", display, "cpu")
    assert len(calls) == 6 + 2  # six trainings, and the two that were cut off
    assert without_seconds(again) == without_seconds(whole)


def test_only_what_is_missing_is_done(tiny, tmp_path, display, monkeypatch):
    some = replace(SMALL, steps=(1,), copies=("easy",), seeds=1)
    first = stacked(some, tmp_path, display, "cpu")
    files = (tmp_path / "rows.jsonl", tmp_path / "environment.json")
    before = [path.stat().st_mtime_ns for path in files]
    fit, calls = second_net.fit, []  # type: ignore[attr-defined]
    monkeypatch.setattr(second_net, "fit", lambda *a, **k: calls.append(1) or fit(*a, **k))
    assert stacked(some, tmp_path, display, "cpu") == first
    assert [path.stat().st_mtime_ns for path in files] == before
    more = replace(some, steps=(2, 1), copies=("easy", "untouched"))
    assert len(stacked(more, tmp_path, display, "cpu")) == 3 * 7
    assert len(calls) == 2
    assert stacked(some, tmp_path, display, "cpu") == first  # and only what is asked for is shown
    assert len(calls) == 2


def test_a_folder_of_other_settings_is_refused(tiny, tmp_path, display):
    some = replace(SMALL, steps=(1,), copies=("untouched",), seeds=1)
    stacked(some, tmp_path, display, "cpu")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"holds other rows \(epochs: 2 -> 3\): give another --out"):
        stacked(replace(some, epochs=3), tmp_path, display, "cpu")
    with pytest.raises(ValueError, match=r"classes: \['a', '\[c\]'\] -> \['\[c\]', 'a'\]"):
        stacked(replace(some, classes=("[c]", "a")), tmp_path, display, "cpu")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(stacked(replace(some, classes=("0", "2"), data_folder="elsewhere"), tmp_path, display, "cpu")) == 7
    with Run(tmp_path).locked(), pytest.raises(BusyError, match="another process"):
        stacked(some, tmp_path, display, "cpu")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"model": "resnet_tini"}, "unknown model"),
        ({"classes": ("a", "d")}, "no class 'd'"),
        ({"classes": None}, "name two"),
    ],
)
def test_a_mistake_takes_no_folder(wrong, told, tiny, tmp_path, display):
    with pytest.raises(ValueError, match=told):
        stacked(replace(SMALL, **wrong), tmp_path / "new", display, "cpu")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("layout", "channels"), [("above", 1), ("beside", 1), ("channels", 2)])
def test_every_layout_trains(layout, channels, tiny, tmp_path, display):
    some = replace(SMALL, layout=layout, steps=(1,), copies=("easy",), seeds=1, epochs=1)
    assert len(stacked(some, tmp_path, display, "cpu")) == 7
    assert fresh(some, tiny, 0).network.conv1.in_channels == channels


def test_the_second_network_is_a_fresh_one(tiny):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (fresh(SMALL, tiny, seed).network.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(0)  # as the first network of seed 0 begins
    assert not torch.equal(one, models.build("resnet_tiny", 3, 1).network.conv1.weight)


def test_a_network_that_can_only_learn_from_the_copies(tmp_path, display, monkeypatch):
    labels = torch.arange(60) % 2
    nothing = torch.zeros_like(labels)  # no original says anything about its class
    source = Source.from_tensors(images(nothing, 0), labels, images(nothing, 1)[:30], labels[:30], classes=("a", "b"))
    monkeypatch.setattr(data, "load", lambda *_, **__: source)
    monkeypatch.setattr(copies, "copied", lambda net, x, y, condition: images(y, 2))
    asked = replace(SMALL, classes=("a", "b"), copies=("untouched",), seeds=1, epochs=10)
    rows = stacked(asked, tmp_path, display, "cpu")
    found = {(row["half"], row["how"]): row["accuracy"] for row in rows}
    assert (found[None, None], found["copy", "swap"], found["original", "swap"]) == (1.0, 0.0, 1.0)


def test_a_first_network_of_other_classes_is_refused(tiny, tmp_path, display, monkeypatch):
    asked = replace(SMALL, copies=("untouched",), seeds=1, epochs=1)
    stacked(asked, tmp_path, display, "cpu")
    monkeypatch.setattr(data, "load", lambda *_, **__: replace(tiny, classes=("[c]", "b", "a")))
    with pytest.raises(ValueError, match=r"seed-0: was trained on the classes 'a', 'b', '\[c\]', and tiny has '\[c\]'"):
        stacked(replace(asked, seeds=2, copies=("untouched", "easy")), tmp_path, display, "cpu")


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
