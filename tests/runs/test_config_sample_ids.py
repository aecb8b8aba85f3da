"""Files of sample ids, and training without them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from easybn import data
from easybn.runs.config import Experiment, SampleIds
from easybn.runs.description import describe, differences
from easybn.runs.prepare import prepare
from easybn.runs.run import Run, train
from easybn.train.schedule import Training

TINY = Experiment(train_images=100, validation=0.2, training=Training(epochs=1, batch_size=20))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.json"
    SampleIds("sample", 100, tuple(range(0, 100, 3)), "every third").save(path)
    return path


def test_what_is_saved_is_read(file):
    assert SampleIds.read(file) == SampleIds("sample", 100, tuple(range(0, 100, 3)), "every third")


def test_they_are_left_out_of_training_and_the_validation_split_stays(file):
    whole, part = prepare(TINY), prepare(replace(TINY, leave_out=str(file)))
    assert part.train.numbers.tolist() == [number for number in whole.train.numbers.tolist() if number % 3]
    assert whole.val is not None
    assert part.val is not None
    assert part.val.numbers.tolist() == whole.val.numbers.tolist()
    source = data.load("sample").part(100)
    assert (part.train.images == source.train.images[part.train.numbers]).all()
    assert (part.train.labels == source.train.labels[part.train.numbers]).all()


def test_without_validation_too(file):
    assert len(prepare(replace(TINY, validation=0.0, leave_out=str(file))).train) == 66


def test_runs_know_each_other_by_the_ids_not_by_the_path(file, tmp_path):
    ours = replace(TINY, leave_out=str(file))
    moved = tmp_path / "moved.json"
    SampleIds("sample", 100, tuple(range(0, 100, 3)), "other words").save(moved)
    same = replace(TINY, leave_out=str(moved))
    assert same.digest == ours.digest
    assert differences(describe(same), describe(ours)) == []
    SampleIds("sample", 100, (1, 2)).save(moved)
    other = replace(TINY, leave_out=str(moved))
    assert len({other.digest, ours.digest, TINY.digest}) == 3
    assert [each.split(":")[0] for each in differences(describe(other), describe(ours))] == ["left_out"]
    assert [each.split(":")[0] for each in differences(describe(other), describe(TINY))] == ["left_out"]


def test_a_run_from_before_there_was_such_a_field_is_still_the_same(file):
    described = describe(TINY)
    del described["leave_out"], described["left_out"]
    assert differences(describe(TINY), described) == []
    assert TINY.digest == "457ff69a729d"  # as such runs have it in their config.json


def test_a_run_goes_on_only_with_the_same_ids(file, tmp_path):
    ours = replace(TINY, leave_out=str(file))
    run = train(ours, tmp_path / "run", device="cpu")
    assert run.finished
    card = (run.folder / "README.md").read_text()
    assert str(file) in card
    with pytest.raises(ValueError, match=r"holds another run \(left_out: '\w{12}' -> None\)"):
        Run(tmp_path / "run").check(TINY)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[1, 2]", "does not hold sample ids"),
        ("{", "does not hold sample ids"),
        ('{"data": "sample", "images": 100}', "no 'ids'"),
        ('{"data": "sample", "images": 100, "ids": [2, 1]}', "ascending, each number once"),
        ('{"data": "sample", "images": 100, "ids": [1, 1]}', "ascending, each number once"),
        ('{"data": "sample", "images": 100, "ids": [1, 100]}', r"ids must be in 0 \.\. 99, got 1 \.\. 100"),
        ('{"data": "sample", "images": 100, "ids": [-1]}', r"got -1 \.\. -1"),
        ('{"data": "sample", "images": 100, "ids": [true]}', "whole numbers"),
        ('{"data": "sample", "images": 100, "ids": ["1"]}', "whole numbers"),
        ('{"data": "sample", "images": 100, "ids": 3}', "does not hold sample ids"),
    ],
)
def test_a_file_that_is_none(content, told, file):
    file.write_text(content)
    with pytest.raises(ValueError, match=told) as error:
        replace(TINY, leave_out=str(file))
    assert str(file) in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*none\.json of sample ids"):
        replace(TINY, leave_out=str(tmp_path / "none.json"))


@pytest.mark.parametrize(("key", "value"), [("data", "cifar10"), ("images", 5000)])
def test_ids_of_other_data(key, value, file):
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(ValueError, match=r"leave_out: its ids number training images .*, the data set here has 100 of"):
        prepare(replace(TINY, leave_out=str(file)))


def test_nothing_left(file):
    SampleIds("sample", 100, tuple(range(100))).save(file)
    with pytest.raises(ValueError, match="no training image remains"):
        prepare(replace(TINY, leave_out=str(file)))


def test_ids_of_other_classes_are_refused(file):
    """A class that is renamed moves its images to other numbers."""
    classes = data.load("sample").classes
    SampleIds("sample", 100, (1, 2), classes=classes).save(file)
    assert SampleIds.read(file).classes == classes
    assert len(prepare(replace(TINY, validation=0.0, leave_out=str(file))).train) == 98
    SampleIds("sample", 100, (1, 2), classes=(*classes[1:], "Yeti")).save(file)
    with pytest.raises(ValueError, match=r"leave_out: its ids number the images of the classes .Trouser., "):
        prepare(replace(TINY, leave_out=str(file)))
