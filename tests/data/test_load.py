"""Data sets by name, and what is there."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from easybn.data import NAMES, DataError, available, load
from easybn.data.registry import SAMPLE
from easybn.progress import shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion_mnist", "did you mean 'fashion-mnist'?"),
        ("FashionMNIST", "did you mean 'fashion-mnist'?"),
        ("cifar-10", "did you mean 'cifar10'?"),
        ("cifar-100", "did you mean 'cifar100'?"),
        ("Sample", "did you mean 'sample'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(name)
    assert f"unknown data set {name!r}: {message}" in str(caught.value)


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(ValueError, match="unknown data set 'xyz': known are sample, fashion-mnist, cifar10, cifar100,"):
        load("xyz")


@pytest.mark.parametrize("name", ["./pets", "pets.zip", "~/pets"])
def test_what_looks_like_a_path_is_looked_for_as_one(name: str) -> None:
    with pytest.raises(DataError, match="there is no such folder or zip file"):
        load(name)


def test_a_relative_path_is_looked_for_in_the_data_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for root, size in ((here, 4), (there, 5)):
        for name in ("pets/train/cat/a.png", "pets/test/cat/b.png"):
            (root / name).parent.mkdir(parents=True)
            Image.linear_gradient("L").resize((size, size)).save(root / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EASYBN_DATA", str(there))
    assert load("./pets", cache=False).train.shape == (3, 5, 5)
    monkeypatch.chdir(here)  # what is here comes first
    assert load("./pets", cache=False).train.shape == (3, 4, 4)
    monkeypatch.chdir(there)
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path))
    with pytest.raises(DataError, match="there is no such folder or zip file"):
        load("./cats")


def test_a_known_name_is_not_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("sample").name == "sample"


@pytest.mark.parametrize("option", [{"resize": 8}, {"channels": 1}, {"test_fraction": 0.2}])
def test_an_option_that_does_not_apply_is_refused(option: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(option))} is for image folders and does not apply to 'sample'"):
        load("sample", **option)  # type: ignore[arg-type]


def test_a_path_needs_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder is for named data sets"):
        load(tmp_path, folder=tmp_path)


def test_a_limit_takes_the_first_training_images() -> None:
    source = load("sample", limit=700)
    assert (len(source.train), len(source.test)) == (700, 1000)
    with pytest.raises(DataError, match="limit"):
        load("sample", limit=0)


def test_the_table_tells_what_is_there_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row.name: row for row in available()}
    assert tuple(rows) == NAMES
    assert rows["sample"].found is not None
    assert len(rows["sample"].found) == 4
    assert rows["cifar100"].found is None
    assert "cifar-100-python.tar.gz" in rows["cifar100"].advice
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path))
    shutil.copytree(SAMPLE, tmp_path / "fashion-mnist")
    (tmp_path / "cifar-10-python.tar.gz").touch()
    rows = {row.name: row for row in available()}
    assert rows["fashion-mnist"].found is not None
    assert rows["fashion-mnist"].found[0] == tmp_path / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    assert rows["fashion-mnist"].advice == ""
    assert rows["cifar10"].found == (tmp_path / "cifar-10-python.tar.gz",)
    assert rows["cifar10"].looked[0] == tmp_path


def test_no_bar_is_drawn_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with shown(None) as show:
        show(1, 2, "something")
    assert capfd.readouterr() == ("", "")


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with shown(None) as show:
        show(1, 2, "something")
        show(2, 2, "something")
    drawn = capfd.readouterr()
    assert "something" in drawn.err
    assert "100%" in drawn.err
    assert drawn.out == ""
