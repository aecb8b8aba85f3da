"""What trackers are sent during a training, and that none of them can disturb it; tests/cli reads real ones back."""

import threading
from typing import ClassVar

import numpy as np
import pytest
import torch

import easybn.train.tracking as tracking
from easybn.interrupt import Interrupted
from easybn.perturb.ball import Linf
from easybn.perturb.pgd import PGD
from easybn.recipes import EBN, FastAdvProp, Recipe, Term, Vanilla
from easybn.train.fit import fit
from easybn.train.observers import MetricsFile, Observer
from easybn.train.schedule import Training
from easybn.train.trackers import TRACKERS, check_trackers

CONFIG = {"recipe": {"class": "Vanilla", "weight": 1.0}, "model": "tiny", "widths": [1, 2], "ema": None}
TRAINING = Training(epochs=3, batch_size=32, lr=0.05)  # 3 steps an epoch


class Remembers:
    """A tracker that keeps what it is given; ``opened`` are all that were."""

    opened: ClassVar[list["Remembers"]]

    def __init__(self, about, kept):
        self.about, self.kept, self.given, self.done = about, {"id": kept.get("id", "new")}, [], None
        self.continues = dict(kept)
        type(self).opened.append(self)

    def log(self, values, step):
        self.given.append((step, values))

    def images(self, pictures, step):
        self.given.append((step, pictures))

    def scores(self, values, step):
        self.given.append((step, values))

    def close(self, done):
        self.done = done


@pytest.fixture
def remembers(monkeypatch):
    class Fresh(Remembers):
        opened: ClassVar[list[Remembers]] = []

    monkeypatch.setitem(TRACKERS, "tensorboard", Fresh)
    return Fresh


class Ends(Observer):
    """Ends the training in its second epoch, as a signal would."""

    def step(self, state):
        if state.step == 5:
            raise Interrupted(15, "stopped")


def test_flat():
    found = {"recipe/class": "Vanilla", "recipe/weight": 1.0, "model": "tiny", "widths": "[1, 2]", "ema": "None"}
    assert tracking.flat(CONFIG) == found


def test_curves_of_terms_and_branches_and_pictures_arrive_and_nothing_else_changes(small, images, tmp_path, remembers):
    recipe = EBN(PGD(Linf(8 / 255)))
    plain = fit(small, recipe, images, TRAINING, val=images)
    observer = tracking.Tracking(["tensorboard"], "ebn", tmp_path, CONFIG)
    tracked = fit(small, recipe, images, TRAINING, val=images, observers=[observer])
    for name, value in plain.branched.state_dict().items():
        assert torch.equal(value, tracked.branched.state_dict()[name]), name
    (tracker,) = remembers.opened
    assert (tracker.about.name, tracker.about.config, tracker.done) == ("ebn", tracking.flat(CONFIG), True)
    rows = [(step, values) for step, values in tracker.given if "lr" in values]
    assert [step for step, _ in rows] == [3, 6, 9]
    for (_, values), row in zip(rows, tracked.history, strict=True):
        scores = {f"{of}/{name}/{score}" for of in ("train", "val") for name in ("main", "easy")
                  for score in ("loss", "accuracy")}  # fmt: skip
        assert values.keys() == {"epoch", "lr", *scores}
        assert values["val/easy/loss"] == row["val"]["easy"]["loss"]
        assert values["train/main/accuracy"] == row["train"]["main"]["accuracy"]
    shown = [(step, values) for step, values in tracker.given if "lr" not in values]
    assert [(step, list(values)) for step, values in shown] == [
        (3, ["images/main", "images/easy"]), (9, ["images/main", "images/easy"]),
    ]  # fmt: skip
    assert {picture.shape for _, values in shown for picture in values.values()} == {(24, 64, 3)}


class Shifts(Recipe):
    """Brightens the second half of a batch by 0.1: what the pictures of it must show is known."""

    branches = ("main",)

    def __call__(self, model, x, y, ctx=None):
        half = len(x) // 2
        yield Term.cross_entropy("main", model(x), y, 1.0)
        yield Term.cross_entropy("half", model(x[half:] + 0.1), y[half:], 1.0)


def test_pictures_are_of_what_each_term_is_of(small, images):
    dark = (images[0] // 2, images[1])
    seen = {}

    class Watches(Observer):
        def epoch(self, state, row):
            seen["x"] = (state.batch[0][:8] * 255).round().byte().numpy()[:, 0]
            seen["pictures"] = tracking.pictures(state)

    fit(small, Shifts(), dark, Training(epochs=1, batch_size=32), observers=[Watches()])
    tiles = {
        name: sheet[:, :, 0].reshape(3, 8, -1, 8).transpose(0, 2, 1, 3) for name, sheet in seen["pictures"].items()
    }
    x = seen["x"]
    assert np.array_equal(tiles["main"], [x, x, np.full_like(x, 128)])  # no difference is grey
    assert np.array_equal(tiles["half"][0], x[4:])
    assert np.abs(tiles["half"][1].astype(int) - x[4:] - 25.5).max() <= 0.5
    assert (tiles["half"][2] == 255).all()


def test_terms_that_use_an_earlier_ones_gradient_are_shown(small, images):
    found = {}

    class Watches(Observer):
        def epoch(self, state, row):
            found.update(tracking.pictures(state))

    fit(small, FastAdvProp(fraction=0.25), images, Training(epochs=1, batch_size=32), observers=[Watches()])
    assert {name: sheet.shape for name, sheet in found.items()} == {
        "main": (24, 48, 3), "noisy": (24, 16, 3), "adv": (24, 16, 3),
    }  # fmt: skip


def test_a_resumed_training_goes_on_in_the_same_run(small, images, tmp_path, remembers):
    def train(*observers):
        metrics = MetricsFile(tmp_path / "metrics.jsonl")
        track = tracking.Tracking(["tensorboard"], "run", tmp_path, {}, tmp_path / "metrics.jsonl")
        data = {"val": images, "checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
        return fit(small, Vanilla(), images, TRAINING, **data, observers=[metrics, track, *observers])

    with pytest.raises(Interrupted):
        train(Ends())
    train()
    first, second = remembers.opened
    assert (first.continues, second.continues) == ({}, {"id": "new", "step": 3})
    assert (first.done, second.done) == (False, True)
    assert [step for step, values in first.given + second.given if "lr" in values] == [3, 6, 9]


def test_a_tracker_gets_later_what_it_has_missed(small, images, tmp_path, remembers):
    def train(*observers):
        data = {"val": images, "checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
        return fit(
            small, Vanilla(), images, TRAINING, **data, observers=[MetricsFile(tmp_path / "m.jsonl"), *observers]
        )

    with pytest.raises(Interrupted):
        train(Ends())  # nothing tracks it
    train(tracking.Tracking(["tensorboard"], "run", tmp_path, {}, tmp_path / "m.jsonl"))
    assert [step for step, values in remembers.opened[0].given if "lr" in values] == [3, 6, 9]


def test_without_a_file_of_metrics_another_training_is_another_run(small, images, tmp_path, remembers):
    for _ in range(2):
        observer = tracking.Tracking(["tensorboard"], "run", tmp_path, {})
        fit(small, Vanilla(), images, Training(epochs=1, batch_size=32), observers=[observer])
    assert [tracker.continues for tracker in remembers.opened] == [{}, {}]


def full(*given):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("method", ["__init__", "log", "images", "close"])
def test_a_tracker_that_fails_ends_nothing_and_says_so_once(method, small, images, tmp_path, remembers, monkeypatch):
    expected = fit(small, Vanilla(), images, TRAINING, val=images)
    monkeypatch.setattr(remembers, method, full)
    observer = tracking.Tracking(["tensorboard"], "run", tmp_path, {})
    with pytest.warns(UserWarning, match="tensorboard") as warned:
        found = fit(small, Vanilla(), images, TRAINING, val=images, observers=[observer])
    (line,) = (str(each.message) for each in warned)
    assert line.startswith("the tracker tensorboard failed (OSError: [Errno 28] No space left on device): ")
    assert found.history == expected.history


def test_a_tracker_that_hangs_is_not_waited_for(small, images, tmp_path, remembers, monkeypatch):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.01)
    free = threading.Event()
    monkeypatch.setattr(remembers, "log", lambda *given: free.wait())
    observer = tracking.Tracking(["tensorboard"], "run", tmp_path, {})
    with pytest.warns(UserWarning, match="the tracker tensorboard has not taken everything within 0 seconds"):
        fit(small, Vanilla(), images, TRAINING, observers=[observer])
    free.set()


def test_a_recipe_that_cannot_be_shown_is_trained_all_the_same(small, images, tmp_path, remembers):
    class Large(Recipe):
        branches = ("main",)

        def __call__(self, model, x, y, ctx=None):
            if len(x) < 32:
                raise ValueError("32 images at least")
            yield Term.cross_entropy("main", model(x), y, 1.0)

    observer = tracking.Tracking(["tensorboard"], "run", tmp_path, {})
    with pytest.warns(UserWarning, match="no pictures of what the recipe sees: ValueError: 32 images at least"):
        fit(small, Large(), images, Training(epochs=1, batch_size=32), observers=[observer])
    assert [step for step, _ in remembers.opened[0].given] == [3]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensorbord", "unknown tracker 'tensorbord'; known: tensorboard, wandb, trackio, mlflow"),
        ("mlflow", r"the tracker mlflow is not installed: pip install 'easybn\[mlflow\]'"),
    ],
)
def test_clear_errors(name, says, monkeypatch):
    monkeypatch.setattr("easybn.train.trackers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=says):
        check_trackers([name])
