"""A run under corruptions: its rows, and what a kill leaves of them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from easybn import data, models
from easybn.data import DataError, Source
from easybn.data.corruptions import CORRUPTIONS, SEVERITIES
from easybn.evaluation.corruptions import CorruptionConfig, evaluate_corruptions
from easybn.evaluation.verdicts import points_digest, unpack_bits
from easybn.runs import corruptions as module
from easybn.runs.corruptions import estimate_run_corrupted, evaluate_run_corrupted
from easybn.runs.evaluate import draw_test_points
from easybn.runs.measured import WantedRows
from easybn.runs.run import Run
from easybn.runs.target import EvaluationTarget

from ..data.corrupted_files import write_published

HOW = CorruptionConfig(points=12, seed=2)


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def measure(run, config=HOW):
    return evaluate_run_corrupted(EvaluationTarget.of_run(run), config)


@pytest.fixture(scope="module")
def sample():
    return data.load("sample")


def quick(folder, sample) -> EvaluationTarget:
    """A linear model, which takes no time."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    return EvaluationTarget(Run(folder), lambda: model, lambda: sample)


def test_rows_are_what_evaluate_corruptions_says(run):
    result = measure(run)
    source, points = data.load("sample"), draw_test_points(data.load("sample"), 12, 2)
    expected = evaluate_corruptions(models.load(run.folder), *source.test.batch(points), seed=2, ids=points)
    rows = run.corruptions
    assert [(row["corruption"], row["severity"]) for row in rows] == [*expected.right]
    for row in rows:
        right = expected.right[row["corruption"], row["severity"]]
        assert unpack_bits(row["right"], 12).tolist() == right.tolist()
        assert (row["n"], row["correct"], row["accuracy"]) == (12, int(right.sum()), float(right.double().mean()))
        assert (row["source"], row["branch"], row["data"]) == ("generated", "main", "sample")
        assert row["points"] == points_digest(points.tolist())
    clean, score = run.scores
    assert (clean["attack"], clean["n"]) == ("clean", 1000)
    assert (score["attack"], score["protocol"], score["n"], score["test_images"]) == (
        "corruptions",
        "generated",
        900,
        12,
    )
    assert score["accuracy"] == pytest.approx(expected.mean_accuracy, abs=1e-12)
    assert (score["low"], score["high"]) == pytest.approx(expected.interval())
    assert score["clean_correct"] == int(expected.clean.sum())
    assert any("frost is drawn" in note for note in score["notes"])
    assert (result.source, result.points, result.total) == ("generated", 12, 1000)
    assert result.evaluation.mean_accuracy == expected.mean_accuracy


def test_a_kill_loses_the_kind_that_was_at_work(tmp_path, sample, monkeypatch):
    target, done = quick(tmp_path / "mine", sample), []
    run = target.run

    def killed_after(kind):
        def evaluate(*args, on_kind, **more):
            def note(name, right):
                on_kind(name, right)
                done.append(name)
                if name == kind:
                    raise KeyboardInterrupt

            return evaluate_corruptions(*args, on_kind=note, **more)

        return evaluate

    monkeypatch.setattr(module, "evaluate_corruptions", killed_after("defocus_blur"))
    with pytest.raises(KeyboardInterrupt):
        evaluate_run_corrupted(target, HOW)
    assert len(run.corruptions) == 4 * 5
    assert [row["attack"] for row in run.scores] == ["clean"]
    assert not WantedRows.of(HOW).are_in(run.scores)
    monkeypatch.setattr(module, "evaluate_corruptions", killed_after(None))
    result = evaluate_run_corrupted(target, HOW)
    assert done == [*CORRUPTIONS]
    assert WantedRows.of(HOW).are_in(run.scores)
    rows, scores = run.corruptions, run.scores
    again = evaluate_run_corrupted(target, HOW)
    assert done == [*CORRUPTIONS]
    assert (run.corruptions, run.scores) == (rows, scores)
    assert all(torch.equal(right, again.evaluation.right[each]) for each, right in result.evaluation.right.items())
    whole = quick(tmp_path / "whole", sample)
    evaluate_run_corrupted(whole, HOW)
    assert whole.run.corruptions == rows


def test_other_points_and_seeds_are_other_rows(tmp_path, sample):
    target = quick(tmp_path / "mine", sample)
    run = target.run
    evaluate_run_corrupted(target, HOW)
    for change in ({"points": 2}, {"points": 2, "seed": 5}):
        before = len(run.corruptions)
        assert not WantedRows.of(replace(HOW, **change)).are_in(run.scores)
        evaluate_run_corrupted(target, replace(HOW, **change))
        assert len(run.corruptions) == before + 75
        assert WantedRows.of(replace(HOW, **change)).are_in(run.scores)
    assert len(run.scores) == 4
    assert not WantedRows.of(replace(HOW, branch="easy")).are_in(run.scores)
    assert not WantedRows.of(replace(HOW, source="published")).are_in(run.scores)
    assert WantedRows.of(replace(HOW, source="generated")).are_in(run.scores)


def coloured(labels) -> Source:
    images = torch.randint(
        0, 255, (len(labels), 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    labels = torch.as_tensor(labels)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return Source.from_tensors(images, labels, images, labels, classes=names, name="cifar10")


def of_colours(run, labels) -> EvaluationTarget:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    return EvaluationTarget(Run(run.folder.with_name("mine")), lambda: model, lambda: coloured(labels))


def test_published_files_are_used_where_they_are(run, tmp_path, monkeypatch):
    labels = np.arange(20) % 10
    folder = write_published(tmp_path / "CIFAR-10-C", labels)
    target = of_colours(run, labels)
    generated = evaluate_run_corrupted(target, HOW)
    assert generated.source == "generated"
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path))
    result = evaluate_run_corrupted(target, HOW)
    assert (result.source, result.points, result.total) == ("published", 12, 20)
    points = draw_test_points(target.source, 12, 2)
    # image i at severity s is (5 i + s, 5 i + s, number of the kind) everywhere
    number = [*CORRUPTIONS].index("snow")
    x = torch.stack([torch.tensor([5 * i + 4, 5 * i + 4, number]) for i in points.tolist()])
    x = x[:, :, None, None].expand(-1, -1, 8, 8).float() / 255
    expected = target.model(x).argmax(1) == torch.from_numpy(labels)[points]
    assert torch.equal(result.evaluation.right["snow", 4], expected)
    clean = target.model(target.source.test.batch(points)[0]).argmax(1) == torch.from_numpy(labels)[points]
    assert torch.equal(result.evaluation.clean, clean)
    assert {row["source"] for row in target.run.corruptions} == {"generated", "published"}
    assert [row["protocol"] for row in target.run.scores[1:]] == ["generated", "published"]
    assert "corrupted images of CIFAR-10-C, as published" in target.run.scores[-1]["notes"]
    explicit = evaluate_run_corrupted(target, replace(HOW, source="published", folder=str(folder)))
    assert explicit.evaluation.mean_accuracy == result.evaluation.mean_accuracy
    assert len(target.run.corruptions) == 150


def test_another_order_is_not_paired(run, tmp_path):
    labels = np.arange(20) % 10
    folder = write_published(tmp_path / "CIFAR-10-C", labels)
    target = of_colours(run, np.sort(labels))
    result = evaluate_run_corrupted(target, replace(HOW, folder=str(folder), source="published"))
    assert result.evaluation.clean is None
    (score,) = target.run.scores[1:]
    assert "clean_correct" not in score
    assert any("come in another order than the published ones" in note for note in score["notes"])


def test_mistakes_leave_nothing_behind(run, tmp_path):
    target = of_colours(run, np.arange(20) % 10)
    with pytest.raises(DataError, match=r"cifar10: published corruptions were not found in .*CIFAR-10-C: name their"):
        evaluate_run_corrupted(target, replace(HOW, source="published"))
    with pytest.raises(DataError, match=r"there has no labels.npy \(nor 15 more\)"):
        evaluate_run_corrupted(target, replace(HOW, source="published", folder=str(tmp_path / "there")))
    assert not target.run.folder.exists()
    with pytest.raises(
        DataError, match="sample: published corruptions are known only of cifar10, cifar10-jpeg, cifar100"
    ):
        measure(run, replace(HOW, source="published"))
    assert run.scores == []
    with pytest.raises(DataError, match="its images are 3 x 8 x 8"):
        measure(run, replace(HOW, source="published", folder=str(write_published(tmp_path / "c", np.arange(10)))))


def test_the_time_is_estimated_from_a_few_images(run):
    seconds = estimate_run_corrupted(EvaluationTarget.of_run(run), HOW)
    assert seconds > 0
    assert run.scores == run.corruptions == []
    assert len(SEVERITIES) == 5
