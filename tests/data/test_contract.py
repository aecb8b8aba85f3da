"""What every data set of the table keeps, and the example of a user's own: read from tiny files of its format."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from easybn.data import NAMES, DataError, Source, available, licence, load
from easybn.user_code import permit

from .published import PUBLISHED, SIZES, make

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_dataset.py"


def check_source(source: Source) -> None:
    """What holds of any source."""
    assert isinstance(source, Source)
    assert source.name
    assert len(set(source.classes)) == len(source.classes) > 1
    for split in (source.train, source.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(split), *source.test.shape)
        assert split.labels.dtype == torch.int64
        x, y = split.batch(torch.arange(min(3, len(split))))
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        assert int(y.max()) < len(source.classes)
    assert len(source.mean) == len(source.std) == source.train.shape[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_set_gives_the_images_labels_and_classes_of_its_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(name, tmp_path / "files", monkeypatch)
    source = load(name, folder=tmp_path / "files", progress=lambda *_: None)
    check_source(source)
    assert source.name == name
    assert source.classes == tuple(made.classes)
    for split, found in (("train", source.train), ("test", source.test)):
        assert np.array_equal(found.images.numpy(), made.images[split])
        assert found.labels.tolist() == made.labels[split]
    assert list((tmp_path / "files").iterdir())  # nothing else than the originals
    assert {path.name for path in (tmp_path / "files").iterdir()} == set(PUBLISHED[name].files)


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_other_byte_anywhere_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(name, tmp_path, monkeypatch)
    for file in PUBLISHED[name].files:
        good = (tmp_path / file).read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        (tmp_path / file).write_bytes(bad)
        with pytest.raises(DataError, match=file) as caught:
            load(name, folder=tmp_path, cache=False, progress=lambda *_: None)
        assert "download it again" in str(caught.value)
        assert "\n" not in str(caught.value)
        (tmp_path / file).write_bytes(good)


def test_the_table_says_what_each_set_is_and_how_to_get_it() -> None:
    rows = {row.name: row for row in available()}
    assert tuple(rows) == NAMES == ("sample", *PUBLISHED)
    for name, data in PUBLISHED.items():
        row = rows[name]
        assert f"easybn data {name} --download" in row.advice
        assert all(file in row.advice for file in data.files)
        assert data.title in row.about
        assert f"{data.train:,}" in row.about
        assert (licence(name) or "").endswith(".")
    assert licence("sample") == licence("fashion-mnist")
    assert licence("my-pictures") is None


@pytest.mark.parametrize("name", [name for name, data in PUBLISHED.items() if data.folders[0] != "medmnist"])
def test_the_names_of_the_files_are_torchvisions(name: str) -> None:
    data = PUBLISHED[name]
    originals = data.originals()
    assert len(originals) == len(data.files)
    for file, original in zip(data.files, originals, strict=True):
        assert original.urls
        assert all(url.endswith(f"/{file}") for url in original.urls)
        assert len(original.md5) == 32


@pytest.mark.slow  # `make test-all` installs the package, which brings a dozen others
def test_the_medical_sets_are_those_of_their_package() -> None:
    package = pytest.importorskip("medmnist")
    for name, data in PUBLISHED.items():
        if data.folders[0] == "medmnist":
            about = package.INFO[name]
            size = about["n_samples"]
            assert (data.train, data.test, data.classes) == (size["train"], size["test"], len(about["label"]))
            assert data.shape[0] == about["n_channels"]
            assert about["license"] in data.licence
            assert getattr(package, about["python_class"])


def test_a_set_whose_package_is_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("pathmnist", tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(DataError, match=r"PathMNIST needs the package medmnist .*pip install 'easybn\[medmnist\]'"):
        load("pathmnist", folder=tmp_path)
    with pytest.raises(DataError, match="needs the package medmnist"):
        load("pathmnist", download=True)


def test_the_bundled_sample() -> None:
    check_source(load("sample"))


def test_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{EXAMPLE}:make"
    with pytest.raises(DataError, match="a stored name runs no code"):
        load(name)
    permit(name)
    source = load(name)
    check_source(source)
    assert source.name == "my_dataset"
    assert len(source.train) > SIZES["train"]
