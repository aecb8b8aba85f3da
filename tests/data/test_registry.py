"""Data sets by name, what is there, and the bundled sample."""

import gzip
import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
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


TOOL = Path(__file__).parents[2] / "tools" / "make_sample.py"


def test_the_sample_has_what_it_promises() -> None:
    source = load("sample")
    assert source.name == "sample"
    assert source.train.images.shape == (5000, 1, 28, 28)
    assert source.test.images.shape == (1000, 1, 28, 28)
    assert source.train.labels.bincount().tolist() == [500] * 10
    assert source.test.labels.bincount().tolist() == [100] * 10
    assert source.classes[0] == "T-shirt/top"
    assert source.classes[9] == "Ankle boot"


def test_the_sample_is_small_and_says_whose_it_is() -> None:
    sizes = [path.stat().st_size for path in SAMPLE.iterdir()]
    assert max(sizes) < 4e6
    assert sum(sizes) <= 3.5e6
    assert "Copyright (c) 2017 Zalando SE, https://tech.zalando.com" in (SAMPLE / "LICENSE").read_text()
    assert "arXiv:1708.07747" in (SAMPLE / "README.md").read_text()


@pytest.mark.parametrize("train", [True, False])
def test_torchvision_reads_the_same(tmp_path: Path, train: bool) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in SAMPLE.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    theirs = torchvision.datasets.FashionMNIST(tmp_path, train=train)
    ours = load("sample").train if train else load("sample").test
    assert torch.equal(ours.images[:, 0], theirs.data)
    assert torch.equal(ours.labels, theirs.targets)
    assert tuple(theirs.classes) == load("sample").classes


def test_the_tool_makes_the_sample_again(tmp_path: Path, real_fashion_mnist: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_sample", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.make(real_fashion_mnist, tmp_path)
    for path in SAMPLE.glob("*.gz"):
        made, kept = (gzip.decompress((folder / path.name).read_bytes()) for folder in (tmp_path, SAMPLE))
        assert made == kept


def test_the_sample_is_the_first_of_each_class_in_file_order(real_fashion_mnist: Path) -> None:
    whole, sample = load("fashion-mnist", folder=real_fashion_mnist, progress=lambda *_: None), load("sample")
    for ours, all_of, count in ((sample.train, whole.train, 500), (sample.test, whole.test, 100)):
        seen, rows = [0] * 10, []
        for row, label in enumerate(all_of.labels.tolist()):
            if seen[label] < count:
                rows.append(row)
            seen[label] += 1
        assert torch.equal(ours.images, all_of.images[rows])
        assert torch.equal(ours.labels, all_of.labels[rows])
