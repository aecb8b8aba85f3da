"""CIFAR-10-C and its kin, from small files of the same layout."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from easybn.data import DataError, Source
from easybn.data.corruptions import CORRUPTIONS
from easybn.data.published_corruptions import PublishedCorruptions, find_published, places

from .corrupted_files import write_published

LABELS = np.array([3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9])
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def folder(tmp_path):
    return write_published(tmp_path / "CIFAR-10-C", LABELS)


def source(labels=LABELS, classes=NAMES, shape=(3, 8, 8)):
    images = torch.randint(0, 255, (len(labels), *shape), dtype=torch.uint8)
    return Source.from_tensors(
        images, torch.as_tensor(labels), images, torch.as_tensor(labels), classes=classes, name="mine"
    )


@pytest.mark.parametrize("severity", [1, 4, 5])
def test_rows_are_those_of_kind_severity_and_number(folder, severity):
    published = PublishedCorruptions.open(folder)
    assert published.labels.tolist() == LABELS.tolist()
    assert published.shape == (3, 8, 8)
    rows = torch.tensor([0, 11, 4, 4])
    for number, kind in enumerate(CORRUPTIONS):
        x = published.images(kind, severity, rows)
        assert (x.shape, x.dtype) == ((4, 3, 8, 8), torch.float32)
        pixels = (x * 255).round()
        assert torch.equal(pixels[:, 0, 0, 0], (5.0 * rows + severity))
        assert (pixels[:, 2] == number).all()


def test_a_data_set_in_the_same_order_is_paired(folder):
    labels, paired = PublishedCorruptions.open(folder).matched(source())
    assert paired
    assert labels.tolist() == LABELS.tolist()
    # also where the model numbers the classes differently
    order = tuple(reversed(NAMES))
    labels, paired = PublishedCorruptions.open(folder).matched(source(9 - LABELS, order))
    assert paired
    assert [order[label] for label in labels.tolist()] == [NAMES[label] for label in LABELS.tolist()]


def test_cifar10_in_another_order_is_matched_by_name(folder):
    labels, paired = PublishedCorruptions.open(folder).matched(source(np.sort(LABELS)))
    assert not paired
    assert labels.tolist() == LABELS.tolist()


def test_other_data_sets_are_refused(folder):
    published = PublishedCorruptions.open(folder)
    letters = tuple("abcdefghij")
    assert published.matched(source(classes=letters))[1]  # its own order, whatever the names
    with pytest.raises(DataError, match="neither those of the test images of mine, one by one, nor of the classes of"):
        published.matched(source(np.sort(LABELS), letters))
    with pytest.raises(
        DataError, match=r"its images are 3 x 8 x 8 \(channels, height, width\), those of mine 3 x 9 x 8"
    ):
        published.matched(source(shape=(3, 9, 8)))


def test_they_are_found_by_name_where_data_sets_are(folder, monkeypatch):
    assert find_published("cifar10") is None
    monkeypatch.setenv("EASYBN_DATA", str(folder.parent))
    for name in ("cifar10", "cifar10-jpeg"):
        assert find_published(name).folder == folder
    assert find_published("cifar100") is None
    assert find_published("sample") is None
    assert places("sample") == []
    assert find_published("sample", folder).folder == folder
    assert find_published("sample", folder.parent).folder == folder  # the folder above


def test_a_folder_that_is_none_is_named(tmp_path, folder):
    with pytest.raises(DataError, match=r"nothing has no labels.npy \(nor 15 more\): --corruptions_folder is"):
        find_published("cifar10", tmp_path / "nothing")
    (folder / "snow.npy").unlink()
    with pytest.raises(DataError, match=r"CIFAR-10-C has no snow\.npy: "):
        PublishedCorruptions.open(folder)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def _objects(path):
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("fog.npy", _objects, "fog.npy cannot be read: its array is not of numbers"),
        ("fog.npy", lambda path: path.write_bytes(pickle.dumps(Trap())), "fog.npy cannot be read: it is no array"),
        ("fog.npy", _cut, r"fog.npy cannot be read: its array \(60, 8, 8, 3\) is cut off"),
        ("fog.npy", lambda path: path.write_bytes(b""), "fog.npy cannot be read: "),
        ("fog.npy", lambda path: path.write_bytes(b"\x93NUMPY\x07\x00 "), "fog.npy cannot be read: it is no array"),
        ("fog.npy", lambda path: np.savez(path.with_suffix(""), a=1) or path.with_suffix(".npz").replace(path),
         "fog.npy cannot be read: it is no array"),
        ("fog.npy", lambda path: path.unlink() or path.mkdir(), "fog.npy cannot be read: .* no file"),
        ("fog.npy", lambda path: np.save(path, np.zeros((60, 8, 8, 3))), r"must be uint8 \(60, 8, 8, 3\), got float64"),
        ("fog.npy", lambda path: np.save(path, np.zeros((60, 9, 8, 3), np.uint8)), r"got uint8 \(60, 9, 8, 3\)"),
        ("fog.npy", lambda path: np.save(path, np.zeros((60, 8), np.uint8)), r"got uint8 \(60, 8\)"),
        ("fog.npy", lambda path: np.save(path, np.asfortranarray(np.zeros((60, 8, 8, 3), np.uint8))), "Fortran"),
        ("gaussian_noise.npy", lambda path: np.save(path, np.zeros(60, np.uint8)), "must be uint8 images, got"),
        ("labels.npy", lambda path: np.save(path, np.arange(60)), r"five times, as integers, got int64 \(60,\)"),
        ("labels.npy", lambda path: np.save(path, np.zeros(60)), "five times, as integers, got float64"),
        ("labels.npy", lambda path: np.save(path, np.zeros(59, int)), r"got int64 \(59,\)"),
        ("labels.npy", lambda path: np.save(path, np.zeros((5, 12), int)), r"got int64 \(5, 12\)"),
        ("labels.npy", lambda path: np.save(path, np.full(60, -1)), "must hold labels from 0 on, got -1"),
        ("labels.npy", lambda path: np.save(path, np.zeros(65, int)), r"must be uint8 \(65, 8, 8, 3\), got"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_named(folder, name, damage, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage(folder / name)
    with pytest.raises(DataError, match=said) as raised:
        PublishedCorruptions.open(folder)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "trapped").exists()


def test_a_file_that_changes_meanwhile_is_noticed(folder):
    published = PublishedCorruptions.open(folder)
    np.save(folder / "fog.npy", np.zeros((5, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"fog.npy has changed: it is uint8 \(5, 8, 8, 3\) now"):
        published.images("fog", 1, torch.tensor([0]))
    with pytest.raises(DataError, match=r"cannot be read: .*No such file"):
        replace(published, folder=folder / "gone").images("fog", 1, torch.tensor([0]))
