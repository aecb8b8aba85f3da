"""Verification finds what is planted in a store."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from easybn.evaluation.record import CLEAN, Record, Stage
from easybn.evaluation.store import Manifest, StageResult, Store, Task, work
from easybn.evaluation.verify import Problem, verify
from easybn.json_files import Damaged, write_json

POINTS = (5, 2, 9, 4)
X = torch.tensor([[0.5, 0.2], [0.4, 0.0], [0.9, 0.1], [0.2, 0.6]])  # class 0 where the first is larger
Y = torch.tensor([0, 0, 0, 0])
LEVEL = Manifest(
    model="m", data="d", points=POINTS, norm="l2", eps=(0.25,), attacks=("fab-t",), chunk=2, keep_images=True
)


def logits(images: Tensor) -> Tensor:
    assert images.dtype == torch.float32
    return images


def attack(task: Task) -> StageResult:
    x = X[[POINTS.index(point) for point in task.points]]
    gap = (x[:, 0] - x[:, 1]).double().numpy()
    if task.stage == CLEAN:
        wrong = gap < 0
        return StageResult(Record.of(CLEAN, task.points, success=wrong, distance=np.where(wrong, 0, np.inf)))
    change = torch.tensor([-0.501, 0.501]) * torch.from_numpy(gap)[:, None].float()
    image = (x + change).numpy()
    distance = np.linalg.norm(image.astype(float) - x.double().numpy(), axis=1)
    record = Record.of(task.stage, task.points, success=distance <= 0.25, distance=distance)
    return StageResult(record, (task.points, image))


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store.open(tmp_path / "store", LEVEL)
    work(store, attack)
    return store


def spoil(store: Store, point: int, image: list[float]) -> None:
    """Put another image in the place of a point's."""
    chunk = POINTS.index(point) // 2
    record, (ids, images) = store.file(chunk, 1).load()
    images = images.copy()
    images[ids == point] = image
    store.file(chunk, 1).save(record, (ids, images))


def test_all_is_well(store):
    told = []
    assert store.record.success.sum() == 2
    assert sum(len(images[0]) for _, _, images in store.read()) == 3, "one of them lies beyond eps"
    assert verify(store, logits, X, Y, batch_size=1, progress=lambda *what: told.append(what)) == []
    assert told[-1][:2] == (4, 4)


@pytest.mark.parametrize(
    ("point", "image", "what"),
    [
        (5, [0.2, 0.5], "the image is outside its ball"),
        (5, [0.5, 0.3], "the image is classified correctly"),
        (9, [0.2, 0.9], "the image is outside its ball"),  # it did not fall: farther than the record says
        (2, [0.2, -0.001], None),
        (5, [float("nan"), 0.5], None),
    ],
)
def test_planted_faults(point, image, what, store):
    spoil(store, point, image)
    problems = verify(store, logits, X, Y)
    assert {problem.point for problem in problems} == {point}
    if what:
        assert problems == [Problem(point, "fab-t", 0.25, what)]


def test_a_pixel_outside(store):
    spoil(store, 2, [0.3, -0.001])
    assert Problem(2, "fab-t", 0.25, "the image is outside [0, 1]") in verify(store, logits, X, Y)


def test_another_model(store):
    problems = verify(store, lambda images: images.flip(1), X, Y)
    assert {problem.point for problem in problems if problem.attack == "clean"} == set(POINTS)
    assert {problem.point for problem in problems if problem.attack == "fab-t"} == {5, 2, 9}


def test_another_number_of_images(store):
    with pytest.raises(ValueError, match="3 images and 4 labels for 4 points"):
        verify(store, logits, X[:3], Y)


def test_without_images_the_record_and_the_clean_stage_are_tested(tmp_path):
    bare = Store.open(tmp_path / "bare", replace(LEVEL, keep_images=False))
    work(bare, attack)
    assert not (bare.folder / "images").exists()
    assert verify(bare, logits, X, Y) == []
    assert {problem.point for problem in verify(bare, lambda images: images.flip(1), X, Y)} == set(POINTS)
    bare.file(1, 1).path().unlink()
    missing = "it is missing: is the evaluation finished, or was the file removed?"
    assert told(bare) == [f"fab-t 0.25: {bare.file(1, 1).path()}: {missing}"]


def told(store: Store) -> list[str]:
    return [str(problem) for problem in verify(store, logits, X, Y)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(4, len(data), 50):  # not all bytes of a Parquet file carry something
        data[place] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("attempts/00000-01.parquet", Path.unlink, "00000-01.parquet: it is missing"),
        ("attempts/00001-00.parquet", Path.unlink, "00001-00.parquet: it is missing"),
        ("attempts/00000-01.parquet", flip, "00000-01.parquet: "),
        ("attempts/00000-01.parquet", lambda path: path.write_bytes(b""), "no Parquet file of ours"),
        ("images/00001-01.safetensors", Path.unlink, "its images are missing or have changed"),
        ("images/00001-01.safetensors", flip, "its images are missing or have changed"),
        ("attempts/00000-01.parquet", lambda path: shutil.copy(path.with_name("00001-01.parquet"), path), "of another"),
        ("attempts/00000-01.parquet", lambda path: shutil.copy(path, path.with_name("00002-01.parquet")), "no such"),
        ("attempts", shutil.rmtree, "it is missing"),
        ("images", shutil.rmtree, "its images are missing or have changed"),
        ("attempts", lambda path: [each.unlink() for each in path.glob("*-01.parquet")], "it is missing"),
    ],
)  # fmt: skip
def test_a_stage_that_is_missing_or_damaged_is_a_problem(name, damage, what, store):
    damage(store.folder / name)
    assert any(what in each for each in told(store))


def test_rows_that_do_not_fit_the_manifest_are_a_problem(store):
    record, images = store.file(0, 1).load()
    for wrong, what in (
        (record.where(record.point != 2), "points without an attempt: 1, such as point 2"),
        (
            Record.of(Stage("fab-t", 0.25), [5, 2, 9], success=False, distance=np.inf),
            "not to be attacked: 1, such as",
        ),
        (replace(record, distance=np.where(record.success, 0.3, record.distance)), "successes lie beyond the radius"),
        (replace(record, eps=record.eps * 2), "rows of another stage"),
    ):
        ids = np.isin(images[0], wrong.point[np.isfinite(wrong.distance)])
        store.file(0, 1).save(wrong, (images[0][ids], images[1][ids]))
        assert any(what in each for each in told(store)), what
    store.file(0, 1).save(record, (images[0][:1], images[1][:1]))
    assert any("no image of 1 points for which one was found" in each for each in told(store))
    store.file(0, 1).save(record, (images[0], images[1][:, :1]))
    assert any("images of shape (1,), and the originals' is (2,)" in each for each in told(store))


def test_no_image_at_all_is_not_everything_holds(tmp_path):
    store = Store.open(tmp_path, LEVEL)

    def in_vain(task: Task) -> StageResult:
        none = task.points[:0], np.empty((0, 2), np.float32)
        return StageResult(Record.of(task.stage, task.points, success=False, distance=np.inf), none)

    work(store, in_vain)
    assert any("no adversarial image is there, so that none was tested" in each for each in told(store))


def test_a_manifest_that_was_changed_is_refused(store):
    path = store.folder / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "eps": [0.5]}))
    with pytest.raises(Damaged, match=r"manifest\.json is damaged: its checksum is another one"):
        Store.existing(store.folder)
    changed = {**whole, "eps": [0.5]}
    del changed["checksum"]  # as of an earlier version
    path.write_text(json.dumps(changed))
    assert sum("it is of another evaluation" in each for each in told(Store.existing(store.folder))) == 4


def test_under_a_budget_the_chunks_that_were_done_are_expected(tmp_path):
    store = Store.open(tmp_path, LEVEL)
    work(store, attack, most=1)
    assert sum("is missing" in each for each in told(store)) == 2
    write_json(tmp_path / "budget.json", {"pilot_seconds": 1.0, "chunks": [0]})
    assert told(store) == []
    write_json(tmp_path / "budget.json", {"pilot_seconds": 1.0, "chunks": [0, 1]})
    assert sum("is missing" in each for each in told(store)) == 2
    write_json(tmp_path / "budget.json", {"pilot_seconds": 1.0})  # of an earlier version
    assert told(store) == []
    store.file(0, 1).path().unlink()
    assert any("is missing" in each for each in told(store))


def success(task: Task, **changes) -> StageResult:
    return StageResult(
        Record.of(task.stage, **({"point": task.points, "success": False, "distance": np.inf} | changes))
    )


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda t: success(t, point=t.points[:1]), "points without an attempt: 1, such as point 2"),
        (lambda t: success(t, point=[5, 2, 9]), "were not to be attacked: 1, such as"),
        (lambda t: success(t, success=True), "successes at no distance"),
        (lambda t: success(t, distance=-1.0), "and without success"),
        (lambda t: success(t, finished=False), "given up without success"),
        (lambda t: StageResult(success(t).record.where([0, 1]), (t.points, X[:2].numpy())), "for which none was found"),
        (lambda t: StageResult(success(t).record, (t.points[[0, 0]], X[:2].numpy())), "2 images for 1 points"),
        (
            lambda t: StageResult(Record.of(Stage("x", 0.1), t.points, success=False, distance=np.inf)),
            "rows of another stage",
        ),
    ],
)
def test_a_stage_that_did_not_do_its_task_is_not_stored(found, message, tmp_path):
    store = Store.open(tmp_path, LEVEL)
    with pytest.raises(ValueError, match=message):
        work(store, lambda task: found(task))
    assert len(store.record) == 0
    assert not list(tmp_path.glob("claims/*.json"))


def test_images_must_be_there_and_float32(tmp_path):
    store = Store.open(tmp_path, LEVEL)

    def without(task):
        return StageResult(attack(task).record)

    def doubles(task):
        ids, images = attack(task).images or (task.points[:0], np.empty((0, 2)))
        return StageResult(attack(task).record, (ids, images.astype(np.float64)))

    with pytest.raises(ValueError, match="no image of 2 points for which one was found"):
        work(store, without)
    with pytest.raises(TypeError, match="float32, got float64"):
        work(store, doubles)
