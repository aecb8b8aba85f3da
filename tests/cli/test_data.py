from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easybn import data
from easybn.data.datasets import Published


@pytest.fixture(autouse=True)
def _nothing_found(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EASYBN_DATA", raising=False)


def test_the_known_ones_are_listed(easybn):
    found = easybn("data")
    assert (found.status, found.err) == (0, "")
    lines = found.out.splitlines()
    assert [line.split()[0] for line in lines] == list(data.NAMES)
    assert "comes with the package" in lines[0]
    assert "easybn data cifar10 --download" in lines[2]


def test_where_one_was_found(easybn, monkeypatch, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cifar-10-python.tar.gz").write_bytes(b"")
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path / "d"))
    assert f"cifar10        found in {tmp_path / 'd'}" in easybn("data").out


def test_one_is_described(easybn):
    found = easybn("data", "sample")
    assert found.status == 0
    source = data.load("sample")
    for text in ("5,000 for training, 1,000 for test", "1 x 28 x 28", "Ankle boot", f"{source.mean[0]:.4f}"):
        assert text in found.out


def test_an_image_folder(easybn):
    draw = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        Path("pets", kind).mkdir(parents=True)
        for i in range(5):
            pixels = draw.integers(0, 256, (10 + i, 12, 3), np.uint8)
            Image.fromarray(pixels).save(Path("pets", kind, f"{i}.png"))
    found = easybn("data", "pets", "--resize", "8", "--channels", "1", "--test_fraction", "0.2")
    assert found.status == 0, found.err
    for text in ("name     pets", "8 for training, 2 for test", "1 x 8 x 8", "2: cat, dog"):
        assert text in found.out
    assert "note     pictures of 5 sizes, 12 x 10 to 12 x 14" not in found.out  # a size was asked for
    found = easybn("data", "pets")
    assert "0 for training, 10 for test" in found.out
    assert "--test_fraction" in found.out
    assert "note     pictures of 5 sizes, 12 x 10 to 12 x 14 (width x height)" in found.out
    assert "mean" not in found.out
    Path("pets").rename("all")
    Path("pets").mkdir()
    Path("all").rename("pets/train")
    wrong = easybn("data", "pets", "--resize", "8")
    assert wrong.status == 2
    assert "--test_fraction" in wrong.err


def test_nothing_is_downloaded_unasked(easybn, monkeypatch):
    asked = []
    monkeypatch.setattr(Published, "download", lambda *args: asked.append(args))
    found = easybn("data", "cifar10")
    assert (found.status, asked) == (2, [])
    assert "easybn data cifar10 --download" in found.err
    assert found.err.count("\n") == 1
    easybn("data", "cifar10", "--download")  # fails later: nothing came
    assert len(asked) == 1


def test_options_without_a_name(easybn):
    found = easybn("data", "--download")
    assert found.status == 2
    assert "--download is for one data set: easybn data NAME --download" in found.err


def test_the_folder_of_a_data_set(easybn):
    found = easybn("data", "fashion-mnist", "--data_folder", "elsewhere")
    assert found.status == 2
    assert "elsewhere" in found.err
    found = easybn("data", "--data_folder", "elsewhere")
    assert (found.status, found.out) == (2, "")
    assert "--data_folder is for one data set: easybn data NAME --data_folder" in found.err
