"""Hidden states of a trained model, measured once."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from easybn.json_files import read_rows
from easybn.metrics.hidden_states import branch_distances, default_layers, relative_distances
from easybn.perturb.ball import Linf
from easybn.perturb.goal import untargeted
from easybn.perturb.pgd import PGD
from easybn.runs import hidden_states as hidden_module
from easybn.runs.evaluate import draw_test_points as points_of
from easybn.runs.hidden_states import Hidden, measure, rows_of, write_branch_distances
from easybn.runs.run import Run
from easybn.runs.target import EvaluationTarget
from easybn.tables.single_runs import hidden_tables
from easybn.train.checkpoint import load

WANTED = Hidden(images=30, eps=(8 / 255,), batch_size=20)


@pytest.fixture
def run(finished_run, tmp_path) -> Run:
    """A copy that may be written to."""
    return Run(shutil.copytree(finished_run.folder, tmp_path / "run"))


def test_rows_are_means_over_the_images(run):
    what = EvaluationTarget.of_run(run)
    measure(what, WANTED, device="cpu")
    rows = rows_of(what, WANTED)
    assert rows == read_rows(run.folder / "hidden.jsonl")
    layers = ["image", "network.stages.0.0", "network.stages.1.0", "network.stages.2.0", "logits"]
    for each, found in (("easy", rows[:5]), ("untargeted", rows[5:10]), ("noise", rows[10:])):
        assert [row["layer"] for row in found] == layers
        assert [row["depth"] for row in found] == [0, 1, 2, 3, 4]
        assert {(row["perturbation"], row["branch"], row["data"], row["n"]) for row in found} == {
            (each, "main", "sample", 30)
        }
    model = what.model
    x, y = what.source.test.batch(points_of(what.source, 30, 0))
    moved = PGD(Linf(8 / 255))(model, x, untargeted(y))
    distances = relative_distances(model, x, {"p": moved}, default_layers(model))
    # in other batches: a distance of some percent of a state is known to some 1e-5 of itself in float32, and where a
    # gradient is next to nothing a step's sign may turn
    for row in rows[5:10]:
        values = distances[row["layer"]]["p"].tolist()
        mean = sum(values) / 30
        error = 1.959964 * (sum((value - mean) ** 2 for value in values) / 29 / 30) ** 0.5
        assert row["relative_distance"] == pytest.approx(mean, rel=1e-4)
        assert (row["low"], row["high"]) == pytest.approx((mean - error, mean + error), rel=1e-4)


def test_only_what_is_missing_is_measured(run, monkeypatch):
    what, asked = EvaluationTarget.of_run(run), []

    def counting(model, x, moved, layers):
        asked.append(len(moved))
        return relative_distances(model, x, moved, layers)

    monkeypatch.setattr(hidden_module, "relative_distances", counting)
    measure(what, replace(WANTED, perturbations=("easy",)), device="cpu")
    measure(what, WANTED, device="cpu")
    before = (run.folder / "hidden.jsonl").read_text()
    measure(what, WANTED, device="cpu")
    assert asked == [1, 1, 2, 2]  # two batches each time
    assert (run.folder / "hidden.jsonl").read_text() == before
    measure(what, replace(WANTED, layers=("network.stages.1",), perturbations=("noise",)), device="cpu")
    assert len(rows_of(what, WANTED)) == 15
    rows = rows_of(what, replace(WANTED, layers=("network.stages.1",)))
    assert [row["layer"] for row in rows] == ["image", "network.stages.1", "logits"]


def test_the_batch_size_changes_no_result(run):
    what = EvaluationTarget.of_run(run)
    measure(what, WANTED, device="cpu")
    first = rows_of(what, WANTED)
    (run.folder / "hidden.jsonl").unlink()
    measure(what, replace(WANTED, batch_size=7), device="cpu")
    for row, other in zip(first, rows_of(what, WANTED), strict=True):
        assert row["relative_distance"] == pytest.approx(other["relative_distance"], rel=1e-4)


def test_another_branch_is_other_rows(run):
    for branch in (None, "easy"):
        measure(EvaluationTarget.of_run(run, branch), WANTED, device="cpu")
    rows = read_rows(run.folder / "hidden.jsonl")
    assert [row["branch"] for row in rows] == ["main"] * 15 + ["easy"] * 15
    assert rows[9]["relative_distance"] != rows[24]["relative_distance"]


def test_mistakes(run):
    for field, value in (
        ("images", 1), ("steps", 0), ("batch_size", 0), ("perturbations", ("hard",)), ("norm", "l1"), ("eps", (2.0,)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=field.removesuffix("s")):
            replace(WANTED, **{field: value})
    with pytest.raises(ValueError, match=r"did you mean network\.stages\.1"):
        measure(EvaluationTarget.of_run(run), replace(WANTED, layers=("network.stage.1",)), device="cpu")
    assert not (run.folder / "hidden.jsonl").exists()


def test_branches_of_the_checkpoint(run):
    for _ in range(2):  # written anew, not appended
        assert write_branch_distances(run).endswith(f"branches main, easy compared in {run.folder}/branches.jsonl")
    rows = read_rows(run.folder / "branches.jsonl")
    found = list(branch_distances(load(run.folder / "checkpoint.pt").model))
    assert [row["value"] for row in rows] == [each.value for each in found]
    assert {(row["data"], row["model"], row["recipe"], row["step"]) for row in rows} == {
        ("sample", "resnet_tiny", "EBN", 4)
    }
    assert max(row["value"] for row in rows) > 0


def test_without_branches_or_a_checkpoint_it_is_said(run, tmp_path):
    (run.folder / "checkpoint.pt").unlink()
    assert "no checkpoint.pt" in write_branch_distances(run)
    assert not (run.folder / "branches.jsonl").exists()
    assert "not a training run" in write_branch_distances(Run(tmp_path))


def test_the_table_has_models_of_other_depths_side_by_side():
    def rows(*layers):
        return [
            {"perturbation": "easy", "norm": "linf", "eps": 8 / 255, "steps": 1, "images": 500, "layer": layer,
             "depth": depth, "depths": len(layers) - 1, "relative_distance": depth / 10, "low": 0.0,
             "high": depth / 10 + 0.01}
            for depth, layer in enumerate(layers)
        ]  # fmt: skip

    (table,) = hidden_tables({"a": rows("image", "x", "logits"), "b": rows("image", "x", "y", "logits")})
    assert table.title == "easy, linf 8/255, 1 step"
    assert [(row.label, [cell.text for cell in row.cells]) for row in table.rows] == [
        ("image", ["0.00 ±1.00", "0.00 ±1.00"]),
        ("x", ["10.00 ±1.00", "10.00 ±1.00"]),
        ("y", ["", "20.00 ±1.00"]),
        ("logits", ["20.00 ±1.00", "30.00 ±1.00"]),
    ]


def test_a_layer_that_is_zero_for_all_images_is_not_moved(run):
    what = EvaluationTarget.of_run(run)
    norm = what.model.get_submodule("network.stages.1.0.bn2")
    shortcut = what.model.get_submodule("network.stages.1.0.shortcut.1")
    with torch.no_grad():
        for each in (norm, shortcut):
            each.weight.zero_()
            each.bias.fill_(-1.0)
    measure(what, replace(WANTED, perturbations=("untargeted",)), device="cpu")
    rows = read_rows(run.folder / "hidden.jsonl")
    by_layer = {row["layer"]: row for row in rows}
    assert by_layer["network.stages.1.0"]["relative_distance"] == 0.0
    assert all(json.dumps(row, allow_nan=False) for row in rows)
