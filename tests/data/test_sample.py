"""The bundled sample."""

import gzip
import importlib.util
from pathlib import Path

import pytest
import torch
import torchvision

from easybn.data import load
from easybn.data.registry import SAMPLE

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
