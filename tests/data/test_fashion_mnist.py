"""Fashion-MNIST: found, verified, downloaded."""

import gzip
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from easybn.data import DataError, load
from easybn.data import datasets as fashion_mnist
from easybn.data.datasets import FOLDER
from easybn.data.idx import write_idx


@pytest.fixture
def sample_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bundled sample pass for the whole data set."""
    digests = {}
    for path in FOLDER.glob("*.gz"):
        header = 16 if "images" in path.name else 8
        digests[path.stem] = hashlib.sha256(gzip.decompress(path.read_bytes())[header:]).hexdigest()
    monkeypatch.setattr(fashion_mnist, "SHA256", {stem: digests[stem] for stem in fashion_mnist.SHA256})


def put(target: Path) -> Path:
    target.mkdir(parents=True)
    for path in FOLDER.glob("*.gz"):
        shutil.copy(path, target)
    return target


def silent(what: str, done: int, total: int | None) -> None:
    pass


def test_the_whole_data_set_is_what_is_known_of_it(real_fashion_mnist: Path) -> None:
    source = load("fashion-mnist", folder=real_fashion_mnist, progress=silent)
    assert source.train.labels.bincount().tolist() == [6000] * 10
    assert source.test.labels.bincount().tolist() == [1000] * 10
    assert source.mean == pytest.approx((0.2860,), abs=5e-5)  # the published values
    assert source.std == pytest.approx((0.3530,), abs=5e-5)
    assert source.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    part = load("fashion-mnist", folder=real_fashion_mnist, limit=50_000, progress=silent)
    assert part.train.labels.bincount().tolist() == [5000] * 10
    assert part.holdout(5000, 0)[1].labels.bincount().tolist() == [500] * 10


@pytest.mark.usefixtures("sample_counts")
@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_it_is_found_by_folder_variable_and_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path, below: str
) -> None:
    put(tmp_path / "mine" / below)
    assert len(load("fashion-mnist", folder=tmp_path / "mine").train) == 5000
    with pytest.raises(DataError, match="was not found"):
        load("fashion-mnist")
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path / "mine"))
    assert len(load("fashion-mnist").train) == 5000
    monkeypatch.delenv("EASYBN_DATA")
    if below:
        put(cache_home / "easybn" / below)
        assert len(load("fashion-mnist", progress=silent).test) == 1000


@pytest.mark.usefixtures("sample_counts")
def test_plain_files_serve_as_well(tmp_path: Path) -> None:
    for path in put(tmp_path / "plain").glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert torch.equal(load("fashion-mnist", folder=tmp_path / "plain").train.images, load("sample").train.images)


def test_a_given_folder_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYBN_DATA", str(put(tmp_path / "there")))
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", folder=tmp_path / "elsewhere")
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "elsewhere") in message
    assert str(tmp_path / "there") not in message
    for part in ("train-images-idx3-ubyte.gz", "EASYBN_DATA", "download=True"):
        assert part in message


def test_other_data_under_the_same_names_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "not-it")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: is not Fashion-MNIST's .*sha256"):
        load("fashion-mnist", folder=folder, progress=silent)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two addresses on this machine's disk: the first has nothing, the second is the folder given."""
    folder = put(tmp_path / "server")
    addresses = (f"{(tmp_path / 'empty').as_uri()}/", f"{folder.as_uri()}/")
    monkeypatch.setattr(fashion_mnist, "ADDRESSES", addresses)
    return folder


@pytest.mark.usefixtures("sample_counts", "server")
def test_a_download_tries_every_address_and_is_found_ever_after(cache_home: Path) -> None:
    seen: dict[str, list[tuple[int, int | None]]] = {}
    source = load(
        "fashion-mnist",
        download=True,
        progress=lambda what, done, total: seen.setdefault(what, []).append((done, total)),
    )
    assert len(source.train) == 5000
    size = (FOLDER / "train-images-idx3-ubyte.gz").stat().st_size
    assert seen["train-images-idx3-ubyte.gz"][-1] == (size, size)
    assert seen["fashion-mnist: train"][-1] == (5000, 5000)
    kept = sorted(path.name for path in (cache_home / "easybn" / "fashion-mnist").iterdir())
    assert kept == sorted(f"{stem}.gz" for stem in fashion_mnist.SHA256)
    assert len(load("fashion-mnist").test) == 1000


@pytest.mark.usefixtures("sample_counts")
def test_a_failed_download_keeps_nothing_and_says_what_to_do(server: Path, tmp_path: Path) -> None:
    write_idx(server / "train-labels-idx1-ubyte.gz", np.zeros(5000, np.uint8))
    target = tmp_path / "target"
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", folder=target, download=True, progress=silent)
    message = str(caught.value)
    assert "\n" not in message
    assert "could not download train-labels-idx1-ubyte.gz; tried" in message
    assert "empty/train-labels-idx1-ubyte.gz" in message
    assert "what came: is not Fashion-MNIST's train-labels-idx1-ubyte" in message
    assert message.endswith(f"put it into {target}")
    assert [path.name for path in target.iterdir()] == ["train-images-idx3-ubyte.gz"]


def test_nothing_is_downloaded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setattr("urllib.request.urlopen", forbidden)
    with pytest.raises(DataError, match="was not found"):
        load("fashion-mnist")
