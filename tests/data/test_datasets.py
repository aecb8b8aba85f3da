"""Published data sets: found, verified before anything in them is opened, downloaded."""

import gzip
import hashlib
import http.server
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from easybn.data import DataError, load
from easybn.data import datasets as datasets_module
from easybn.data.registry import SAMPLE

from .published import PUBLISHED, SIZES, dump2, idx, make, md5, tar


def silent(done: int, total: int, what: str) -> None:
    pass


def test_the_whole_of_fashion_mnist_is_what_is_known_of_it(real_fashion_mnist: Path) -> None:
    source = load("fashion-mnist", folder=real_fashion_mnist, progress=silent)
    assert source.train.labels.bincount().tolist() == [6000] * 10
    assert source.test.labels.bincount().tolist() == [1000] * 10
    assert source.mean == pytest.approx((0.2860,), abs=5e-5)  # the published values
    assert source.std == pytest.approx((0.3530,), abs=5e-5)
    assert source.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    part = load("fashion-mnist", folder=real_fashion_mnist, limit=50_000, progress=silent)
    assert part.train.labels.bincount().tolist() == [5000] * 10
    assert part.holdout(5000, 0)[1].labels.bincount().tolist() == [500] * 10


@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_a_set_is_found_by_folder_variable_and_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path, below: str
) -> None:
    make("fashion-mnist", tmp_path / "mine" / below, monkeypatch)
    assert len(load("fashion-mnist", folder=tmp_path / "mine").train) == SIZES["train"]
    with pytest.raises(DataError, match="was not found"):
        load("fashion-mnist")
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path / "mine"))
    assert len(load("fashion-mnist").train) == SIZES["train"]
    monkeypatch.delenv("EASYBN_DATA")
    if below:
        make("fashion-mnist", cache_home / "easybn" / below, monkeypatch)
        assert len(load("fashion-mnist", progress=silent).test) == SIZES["test"]


def test_files_that_are_packed_otherwise_or_not_at_all_serve_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make("fashion-mnist", tmp_path, monkeypatch)
    paths = sorted(tmp_path.glob("*.gz"))
    for path in paths[:2]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    paths[2].write_bytes(gzip.compress(gzip.decompress(paths[2].read_bytes()), 1, mtime=5))
    paths[3].write_bytes(gzip.decompress(paths[3].read_bytes()))  # under the name of a packed one
    found = load("fashion-mnist", folder=tmp_path)
    assert np.array_equal(found.train.images.numpy(), made.images["train"])


def test_a_given_folder_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("fashion-mnist", tmp_path / "there", monkeypatch)
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path / "there"))
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", folder=tmp_path / "elsewhere")
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "elsewhere") in message
    assert str(tmp_path / "there") not in message
    for part in ("train-images-idx3-ubyte.gz", "EASYBN_DATA", "download=True"):
        assert part in message


def test_sets_whose_files_have_the_same_names_are_told_apart_by_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("fashion-mnist", tmp_path, monkeypatch)
    monkeypatch.setenv("EASYBN_DATA", str(tmp_path))
    with pytest.raises(DataError, match="MNIST was not found"):
        load("mnist")
    made = make("mnist", tmp_path / "mnist", monkeypatch)
    assert load("mnist").train.labels.tolist() == made.labels["train"]
    assert load("mnist", folder=tmp_path / "mnist").test.labels.tolist() == made.labels["test"]
    assert len(load("fashion-mnist").test) == SIZES["test"]


def test_other_data_under_the_same_names_is_refused(tmp_path: Path) -> None:
    for path in SAMPLE.glob("*.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: is not the original .*Fashion-MNIST \(sha256"):
        load("fashion-mnist", folder=tmp_path, progress=silent)


PACKED = gzip.compress(idx(np.arange(24).reshape(2, 3, 4)), mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not the original file"),
        (b"\x89PNG", "is not the original file"),
        (PACKED, "is not the original file"),
        (PACKED[:-12], "cut short"),
        (PACKED[:-8] + b"1234" + PACKED[-4:], "damaged"),
        (b"\x1f\x8b\x08" + b"\xff" * 60, "cut short|damaged"),
        (gzip.compress(bytes(2**27 + 1)), "holds more than 134217728 bytes"),
    ],
    ids=["empty", "other", "another array", "cut", "checksum", "gzip damaged", "a bomb"],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    make("fashion-mnist", tmp_path, monkeypatch)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load("fashion-mnist", folder=tmp_path, progress=silent)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_no_pickle_but_the_original_is_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(name, tmp_path, monkeypatch)
    data = PUBLISHED[name]
    kind = getattr(torchvision.datasets, data.library)
    bomb = pickle.dumps({"data": _Bomb(tmp_path / "touched"), "labels": [1], "fine_labels": [1]}, 2)
    files = [kind.meta["filename"], *(file for file, _ in (*kind.train_list, *kind.test_list))]
    content = tar({f"{kind.base_folder}/{file}": bomb for file in files})
    (tmp_path / data.files[0]).write_bytes(content)
    with pytest.raises(DataError, match=r"is not the original file of CIFAR-10+ \(md5 \w{32}, expected \w{32}\)"):
        load(name, folder=tmp_path, progress=silent)
    # even in an archive of the right checksum, each file has to have its own
    monkeypatch.setattr(kind, "tgz_md5", md5(content))
    with pytest.raises(DataError, match="cannot be read"):
        load(name, folder=tmp_path, progress=silent)
    assert not (tmp_path / "touched").exists()
    pickle.loads(bomb)
    assert (tmp_path / "touched").exists()  # it would have run


def test_an_archive_that_torchvision_does_not_understand_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("cifar10", tmp_path, monkeypatch)
    kind = torchvision.datasets.CIFAR10
    batch = dump2({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]})
    members = {file: batch for file, _ in (*kind.train_list, *kind.test_list)}
    members[kind.meta["filename"]] = dump2({b"label_names": [b"a"]})
    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(kind, listed, [[file, md5(batch)] for file, _ in getattr(kind, listed)])
    content = tar({f"{kind.base_folder}/{name}": member for name, member in members.items()})
    monkeypatch.setattr(kind, "tgz_md5", md5(content))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz: CIFAR-10 cannot be read \(ValueError: ") as caught:
        load("cifar10", folder=tmp_path, progress=silent)
    assert "\n" not in str(caught.value)


def test_nothing_unpacked_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path) -> None:
    make("cifar10", tmp_path, monkeypatch)
    load("cifar10", folder=tmp_path, progress=silent)
    assert [path.name for path in (cache_home / "easybn").iterdir()] == ["decoded"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a server on this machine gives its files."""
    folder = tmp_path / "server"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def test_a_download_tries_every_address_and_is_found_ever_after(
    server: tuple[Path, str], cache_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, address = server
    made = make("fashion-mnist", folder, monkeypatch)
    elsewhere: Any = {"mirrors": (f"{address}none/",)}
    monkeypatch.setitem(PUBLISHED, "fashion-mnist", replace(PUBLISHED["fashion-mnist"], **elsewhere))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [address])
    seen: dict[str, list[tuple[int, int | None]]] = {}
    source = load(
        "fashion-mnist",
        download=True,
        progress=lambda done, total, what: seen.setdefault(what, []).append((done, total)),
    )
    assert torch.equal(source.train.images, torch.from_numpy(made.images["train"]))
    size = (folder / "train-images-idx3-ubyte.gz").stat().st_size
    assert seen["train-images-idx3-ubyte.gz"] == [(size, size)]
    assert seen["fashion-mnist: train"][-1] == (SIZES["train"], SIZES["train"])
    kept = sorted(path.name for path in (cache_home / "easybn" / "fashion-mnist").iterdir())
    assert kept == sorted(PUBLISHED["fashion-mnist"].files)
    assert len(load("fashion-mnist").test) == SIZES["test"]
    assert capfd.readouterr() == ("", "")  # no bar where there is no terminal


def test_an_archive_is_downloaded_and_verified(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    make("cifar100", folder, monkeypatch)
    kind = torchvision.datasets.CIFAR100
    monkeypatch.setattr(kind, "url", f"{address}cifar-100-python.tar.gz")
    assert len(load("cifar100", folder=tmp_path / "here", download=True, progress=silent).train) == SIZES["train"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["cifar-100-python.tar.gz"]
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(b"").hexdigest())
    with pytest.raises(
        DataError, match=r"could not download cifar-100-python.tar.gz; tried http://127.*corrupted"
    ) as e:
        load("cifar100", folder=tmp_path / "target", download=True, progress=silent)
    assert "\n" not in str(e.value)
    assert str(e.value).endswith(f"put it into {tmp_path / 'target'}")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=r"could not download cifar-10-python.tar.gz; tried .*get it by other means"):
        load("cifar10", folder=tmp_path, download=True, progress=silent)


def test_nothing_is_downloaded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setattr("urllib.request.urlopen", forbidden)
    for name in PUBLISHED:
        with pytest.raises(DataError, match="was not found"):
            load(name)


def test_unpacking_goes_elsewhere_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets_module, "cache_folder", lambda: tmp_path / "file" / "cache")
    make("kmnist", tmp_path / "files", monkeypatch)
    assert len(load("kmnist", folder=tmp_path / "files", cache=False).train) == SIZES["train"]
