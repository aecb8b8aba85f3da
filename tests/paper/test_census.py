"""The census of easy examples: what an observer sees, and what a folder keeps."""

import json
from dataclasses import replace

import pytest
import torch
from rich.progress import Progress

from easybn import data
from easybn.json_files import read_rows
from easybn.metrics.easy_examples import Answers, PairedAnswers, answers
from easybn.paper import census as census_module
from easybn.paper.census import Census, EasyCensus, census, decile_row, subset_path
from easybn.perturb.ball import Linf
from easybn.perturb.pgd import PGD
from easybn.recipes import EBN
from easybn.runs.config import Experiment, SampleIds
from easybn.runs.prepare import prepare
from easybn.train.fit import fit
from easybn.train.observers import Observer
from easybn.train.schedule import Training

TINY = Experiment(
    recipe=EBN(), train_images=120, validation=0.2, training=Training(epochs=3, batch_size=20, lr=0.1, seed=7)
)
WANTED = Census(threshold=0.3, seeds=2)


@pytest.fixture
def display() -> Progress:
    return Progress(disable=True)


class After(Observer):
    """Ends the training after a step, or fails there."""

    def __init__(self, step, error=None):
        self.at, self.error = step, error

    def step(self, state):
        if state.step == self.at:
            state.stop = True
            if self.error:
                raise self.error


def test_the_observer_asks_the_network_of_that_epoch():
    asked, seen = prepare(TINY), {}
    watch = EasyCensus(asked.train, lambda epoch, own, copies: seen.update({epoch: (own, copies)}), epochs=2)
    watched = fit(asked.model, TINY.recipe, asked.train, TINY.training, observers=[watch], device="cpu")
    assert [row["epoch"] for row in watched.history] == [1, 2]  # ended there, of three
    assert list(seen) == [1, 2]
    for epoch, steps in ((1, 4), (2, 8)):
        stopped = fit(asked.model, TINY.recipe, asked.train, TINY.training, observers=[After(steps)], device="cpu")
        own, copies = answers(stopped.branched, asked.train, PGD(Linf(1 / 255)))
        assert torch.equal(seen[epoch][0].confidence, own.confidence)
        assert torch.equal(seen[epoch][1].of_label, copies.of_label)
    # looking changes nothing
    assert all(
        torch.equal(value, stopped.branched.state_dict()[name]) for name, value in watched.branched.state_dict().items()
    )


def test_the_observer_after_a_stop(tmp_path):
    asked, seen = prepare(TINY), []

    def once(*observers):
        watch = EasyCensus(asked.train, lambda epoch, own, _: seen.append((epoch, own)), epochs=2)
        settings = {"checkpoint": tmp_path / "c.pt", "observers": [watch, *observers], "device": "cpu"}
        return fit(asked.model, TINY.recipe, asked.train, TINY.training, **settings).history

    once(After(3))
    once(After(6))
    once()
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert once() == []  # the checkpoint is of the end
    assert len(seen) == 2
    whole = {}
    watch = EasyCensus(asked.train, lambda epoch, own, _: whole.update({epoch: own}), epochs=2, stop=False)
    history = fit(asked.model, TINY.recipe, asked.train, TINY.training, observers=[watch], device="cpu").history
    assert len(history) == 3
    for epoch, own in seen:
        assert torch.equal(own.confidence, whole[epoch].confidence)


def test_rows_are_what_the_answers_say(tmp_path, display):
    experiment = replace(TINY, training=Training(epochs=3, batch_size=6, lr=0.05))
    rows = census(experiment, tmp_path, WANTED, display, "cpu")
    assert rows == read_rows(tmp_path / "census.jsonl")
    assert [(row["seed"], row["epoch"]) for row in rows] == [(0, 1), (1, 1)]
    labels = data.load("sample").part(120).train.labels
    masks = []
    for row in rows:
        found = PairedAnswers.read(tmp_path / row["answers"])
        assert found.ids.tolist() == list(range(120))  # nothing is held out
        assert torch.equal(found.labels, labels)
        easy = [bool(c) and float(p) > 0.3 for c, p in zip(found.images.correct, found.images.confidence, strict=True)]
        copies = [
            bool(c) and float(p) > 0.3 for c, p in zip(found.copies.correct, found.copies.confidence, strict=True)
        ]
        masks.append(easy)
        assert (row["n"], row["easy"], row["copies_easy"]) == (120, sum(easy), sum(copies))
        assert row["made_easy"] == sum(after and not before for before, after in zip(easy, copies, strict=True))
        shift = (found.copies.of_label.double() - found.images.of_label.double()).mean()
        assert row["confidence_shift"] == pytest.approx(float(shift))
        assert sum(each["n"] for each in row["per_class"]) == 120
        for label, each in enumerate(row["per_class"]):
            assert each["easy"] == sum(e for e, y in zip(easy, labels.tolist(), strict=True) if y == label)
        assert (row["data"], row["model"], row["recipe"], row["threshold"]) == ("sample", "resnet_tiny", "EBN", 0.3)
    (pair,) = read_rows(tmp_path / "overlap.jsonl")
    both = [i for i in range(120) if masks[0][i] and masks[1][i]]
    assert (pair["seed_a"], pair["seed_b"], pair["easy_both"]) == (0, 1, len(both))
    assert 0 < len(both) < 120
    chosen = SampleIds.read(subset_path(tmp_path, WANTED))
    control = SampleIds.read(subset_path(tmp_path, WANTED, "random"))
    assert list(chosen.ids) == both
    assert control.ids != chosen.ids
    assert sorted(labels[list(control.ids)]) == sorted(labels[list(chosen.ids)])
    assert len(prepare(replace(TINY, validation=0.0, leave_out=str(subset_path(tmp_path, WANTED)))).train) == 120 - len(
        both
    )


def test_only_what_is_missing_is_trained(tmp_path, display, monkeypatch):
    trained = []

    def counting(*arguments, **more):
        trained.append(arguments[3].seed)
        return fit(*arguments, **more)

    monkeypatch.setattr(census_module, "fit", counting)
    census(TINY, tmp_path, replace(WANTED, seeds=1), display, "cpu")
    census(TINY, tmp_path, WANTED, display, "cpu")
    other = census(TINY, tmp_path, replace(WANTED, threshold=0.6), display, "cpu")
    assert trained == [0, 1]
    kept = read_rows(tmp_path / "census.jsonl")
    assert [(row["threshold"], row["seed"]) for row in kept] == [(0.3, 0), (0.3, 1), (0.6, 0), (0.6, 1)]
    assert kept[2:] == other
    census(TINY, tmp_path, replace(WANTED, threshold=0.6), display, "cpu")
    assert read_rows(tmp_path / "census.jsonl") == kept
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 2
    assert not list(tmp_path.glob("*.pt"))


def test_a_stop_in_between_changes_no_row(tmp_path, display, monkeypatch):
    whole = census(TINY, tmp_path / "whole", Census(threshold=0.3, epochs=2, seeds=1), display, "cpu")

    def failing(*arguments, observers, **more):
        # saved after each step, so that there is something to go on from
        return fit(*arguments, observers=[*observers, After(8, RuntimeError("killed"))], checkpoint_seconds=0, **more)

    monkeypatch.setattr(census_module, "fit", failing)
    with pytest.raises(RuntimeError, match="killed"):
        census(TINY, tmp_path / "cut", Census(threshold=0.3, epochs=2, seeds=1), display, "cpu")
    assert (tmp_path / "cut/seed-0-eps-0.00392157.pt").exists()
    assert not (tmp_path / "cut/census.jsonl").exists()
    monkeypatch.setattr(census_module, "fit", fit)
    assert census(TINY, tmp_path / "cut", Census(threshold=0.3, epochs=2, seeds=1), display, "cpu") == whole


def test_mistakes_are_told_before_anything_is_written(tmp_path, display):
    with pytest.raises(ValueError, match="epochs: 4 asked, the training has 3"):
        census(TINY, tmp_path / "c", replace(WANTED, epochs=4), display, "cpu")
    with pytest.raises(ValueError, match="did you mean resnet_tiny"):
        census(replace(TINY, model="resnet_tini"), tmp_path / "c", WANTED, display, "cpu")
    assert not (tmp_path / "c").exists()
    for field, value in (("threshold", 1.0), ("threshold", -0.1), ("seeds", 0), ("epochs", 0), ("eps", 0.0)):
        with pytest.raises(ValueError, match=field):
            replace(WANTED, **{field: value})


def test_a_folder_is_of_one_experiment(tmp_path, display):
    wanted = replace(WANTED, seeds=1)
    census(TINY, tmp_path, wanted, display, "cpu")
    other = replace(TINY, training=replace(TINY.training, lr=0.2, seed=0))
    with pytest.raises(ValueError, match=r"holds another census \(training.lr: 0.1 -> 0.2\)"):
        census(other, tmp_path, wanted, display, "cpu")
    census(
        replace(TINY, training=replace(TINY.training, seed=3)), tmp_path, wanted, display, "cpu"
    )  # seeds are its own


def test_a_census_of_other_classes_is_refused(tmp_path, display):
    census(TINY, tmp_path, replace(WANTED, seeds=1), display, "cpu")
    about = json.loads((tmp_path / "census.json").read_text())
    del about["checksum"]
    assert about["classes"] == list(data.load("sample").classes)
    (tmp_path / "census.json").write_text(json.dumps({**about, "classes": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"holds another census \(classes: \['a', 'b'\] -> "):
        census(TINY, tmp_path, replace(WANTED, seeds=1), display, "cpu")
    (tmp_path / "census.json").write_text(json.dumps({k: v for k, v in about.items() if k != "classes"}))
    census(TINY, tmp_path, replace(WANTED, seeds=1), display, "cpu")  # made before classes were written


def test_a_flipped_bit_in_the_answers_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    own, copies = (Answers(torch.rand(3), torch.rand(3), torch.tensor([True, False, True])) for _ in range(2))
    PairedAnswers(torch.arange(3), torch.tensor([0, 1, 1]), own, copies).save(path)
    whole = path.read_bytes()
    for place in range(8 * (len(whole) - 70), 8 * len(whole), 7):  # the numbers themselves
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"a\.safetensors is damaged .*: delete it, to have it made again"):
            PairedAnswers.read(path)
    path.write_bytes(whole)
    assert torch.equal(PairedAnswers.read(path).images.confidence, own.confidence)


def test_of_test_images_how_easy_each_is(tmp_path, display):
    wanted = Census(seeds=2, split="test")
    rows = census(TINY, tmp_path, wanted, display, "cpu")
    assert [row["seed"] for row in rows] == [1000, 1001]
    source = data.load("sample")
    assert {row["n"] for row in rows} == {len(source.test)}
    (row,) = read_rows(tmp_path / "deciles.jsonl")
    assert (row["n"], row["seeds"], row["epoch"], row["data"]) == (len(source.test), [1000, 1001], 1, "sample")
    paths = [tmp_path / "answers" / f"test-seed-{seed}-epoch-1-eps-0.00392157.safetensors" for seed in (1000, 1001)]
    both = [PairedAnswers.read(path) for path in paths]
    assert torch.equal(both[0].labels, source.test.labels)
    mean = (both[0].images.of_label.double() + both[1].images.of_label.double()) / 2
    groups = torch.tensor([int(digit) for digit in row["deciles"]])
    assert groups.bincount().tolist() == [len(source.test) // 10] * 10
    for group in range(9):
        assert mean[groups == group].max() <= mean[groups == group + 1].min()
    assert not list(tmp_path.glob("easy-*.json"))
    census(TINY, tmp_path, Census(threshold=0.3, seeds=1), display, "cpu")  # of training images, in the same folder
    assert [row["seed"] for row in read_rows(tmp_path / "census.jsonl")] == [1000, 1001, 0]
    assert [wanted.has(row) for row in read_rows(tmp_path / "census.jsonl")] == [True, True, False]
    assert len(census(TINY, tmp_path, wanted, display, "cpu")) == 2
    assert len(read_rows(tmp_path / "deciles.jsonl")) == 1
    with pytest.raises(ValueError, match="no split 'val'"):
        Census(split="val")


def test_where_two_images_are_equally_easy_the_first_counts_as_harder():
    def seed(*of_label):
        values = torch.tensor(of_label)
        one = Answers(values, values, values > 0.5)
        return PairedAnswers(torch.arange(len(values)), torch.zeros(len(values), dtype=torch.int64), one, one)

    of_two = decile_row([seed(0.9, 0.5, 0.5, 0.1, 0.7), seed(0.9, 0.5, 0.5, 0.5, 0.1)])
    assert of_two == {"n": 5, "deciles": "84602"}  # means 0.9, 0.5, 0.5, 0.3, 0.4: ranks 4, 2, 3, 0, 1
