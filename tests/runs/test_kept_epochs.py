"""Networks kept during a training: those that the training had after these epochs, and instruments along them."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

from easybn.json_files import read_rows
from easybn.metrics.features import features
from easybn.metrics.rank import CHANNELS, rank_of_rows
from easybn.metrics.registry import instruments
from easybn.models import load
from easybn.norm.convert import branches_of, strip
from easybn.recipes import Vanilla
from easybn.rows import ANALYSIS
from easybn.runs.analyse import Analysis, analyse_run
from easybn.runs.evaluate import draw_test_points
from easybn.runs.kept_epochs import KeepEpochs, check, kept_epochs, network_after
from easybn.runs.run import Run, train
from easybn.runs.target import EvaluationTarget
from easybn.train.observers import Observer

from ..conftest import TINY

LAST = "network.stages.2.0"
THREE = replace(TINY, training=replace(TINY.training, epochs=3, ema=0.9))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


class Copies(Observer):
    """The deployed network's weights after each epoch; fails after the first, once, if asked to."""

    def __init__(self, fails=False):
        self.states, self.fails = {}, fails

    def epoch(self, state, row):
        self.states[row["epoch"]] = {k: v.clone() for k, v in state.deployed.state_dict().items()}

    def step(self, state):
        if self.fails and state.epoch > 1:
            raise RuntimeError("the power is out")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run that kept two of its epochs, and the weights that it had after each."""
    folder, copies = tmp_path_factory.mktemp("kept") / "run", Copies()
    return train(THREE, folder, observers=[KeepEpochs(folder, (1, 3), THREE.digest), copies], device="cpu"), copies


def test_they_are_the_networks_that_the_training_had(watched):
    run, copies = watched
    assert kept_epochs(run) == [1, 3]
    for epoch in (1, 3):
        plain, branched = network_after(run, epoch)
        assert branches_of(branched) == ("main", "easy")
        assert same(branched.state_dict(), copies.states[epoch])
        assert same(plain.state_dict(), strip(branched).state_dict())
        assert not plain.training
        assert not branched.training
    assert same(network_after(run, 3)[0].state_dict(), load(run.folder).state_dict())
    assert not same(copies.states[1], copies.states[3])


def test_a_training_that_was_cut_off_keeps_the_same(watched, tmp_path):
    folder = tmp_path / "run"
    keep = KeepEpochs(folder, (1, 3), THREE.digest)
    with pytest.raises(RuntimeError, match="the power is out"):
        train(THREE, folder, observers=[keep, Copies(fails=True)], device="cpu", checkpoint_seconds=0)
    assert kept_epochs(Run(folder)) == [1]
    train(THREE, folder, observers=[keep], device="cpu")
    for epoch in (1, 3):
        assert same(network_after(Run(folder), epoch)[1].state_dict(), watched[1].states[epoch])


def test_a_network_without_branches(tmp_path):
    experiment = replace(TINY, recipe=Vanilla(), training=replace(TINY.training, epochs=1))
    run = train(experiment, tmp_path, observers=[KeepEpochs(tmp_path, (1,), experiment.digest)], device="cpu")
    plain, branched = network_after(run, 1)
    assert branched is None
    assert same(plain.state_dict(), load(run.folder).state_dict())


def test_instruments_measure_each_and_the_rows_say_which(watched, tmp_path):
    run = Run(shutil.copytree(watched[0].folder, tmp_path / "run"))
    target = EvaluationTarget.of_run(run)
    analysis = Analysis(instruments(["rank"]), images=20, epochs=True)
    for _ in range(2):  # the second time nothing is measured
        assert analyse_run(target, analysis, device="cpu") == []
    rows = read_rows(run.folder / "analysis.jsonl", ANALYSIS)
    assert {row.get("epoch") for row in rows} == {None, 1, 3}
    x, _ = target.source.test.batch(draw_test_points(target.source, 20, 0))
    for epoch in (1, 3):
        for branch in ("main", "easy"):
            model = strip(network_after(run, epoch)[1], branch).eval()
            (state,) = (each for each in features(model, [x], {LAST: model.get_submodule(LAST)}) if each.layer == LAST)
            asked = {"epoch": epoch, "series": branch, "place": LAST, "measure": CHANNELS}
            (row,) = (row for row in rows if asked.items() <= row.items())
            assert row["value"] == pytest.approx(rank_of_rows(state.pooled), rel=1e-5)
    final = [{**row, "epoch": 3} for row in rows if "epoch" not in row]
    assert len(final) == len(rows) // 3
    key = ("series", "place", "measure")
    last = {tuple(row[k] for k in key): row["value"] for row in rows if row.get("epoch") == 3}
    assert {tuple(row[k] for k in key): pytest.approx(row["value"], rel=1e-5) for row in final} == last


def test_without_any_it_is_said(finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.folder, tmp_path / "run"))
    analysis = Analysis(instruments(["rank"]), images=10, epochs=True)
    (note,) = analyse_run(EvaluationTarget.of_run(run), analysis, device="cpu")
    assert note == f"{run.folder}: no networks of epochs: easybn train --keep_epochs keeps them"


def test_files_of_another_run_or_epoch_and_damaged_ones_are_refused(watched, tmp_path):
    run = Run(shutil.copytree(watched[0].folder, tmp_path / "run"))
    first, third = (run.folder / "epochs" / f"000{epoch}.safetensors" for epoch in (1, 3))
    whole = first.read_bytes()
    shutil.copy(third, first)
    with pytest.raises(ValueError, match=r"0001\.safetensors is not of epoch 1 of the run beside it: delete it"):
        network_after(run, 1)
    first.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"0001\.safetensors is damaged"):
        network_after(run, 1)
    first.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"0001\.safetensors is no safetensors file, or damaged"):
        network_after(run, 1)
    config = run.folder / "config.json"
    config.write_text(re.sub(r'"digest": "\w+"', '"digest": "other"', config.read_text(), count=1))
    with pytest.raises(ValueError, match=r"checksum|not of epoch 3"):
        network_after(run, 3)


@pytest.mark.parametrize("epochs", [(0,), (1, 4), (-1,)])
def test_epochs_that_the_training_does_not_have(epochs):
    check((1, 3), 3)
    with pytest.raises(ValueError, match="the training has epochs 1 to 3, got"):
        check(epochs, 3)
