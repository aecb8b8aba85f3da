"""Every test has a cache folder of its own and sees no data set of the machine, unless it asks for one."""

import os
from pathlib import Path

import pytest

_NAMED = os.environ.get("EASYBN_TEST_DATA", "")
_ROOTS = [*([Path(_NAMED)] if _NAMED else []), Path(__file__).parents[3] / "shared" / "data"]


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's parent folder; EASYBN_DATA and the system's folders are out of sight."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.delenv("EASYBN_DATA", raising=False)
    return home


def _found(*names: str) -> Path:
    for root in _ROOTS:
        for name in names:
            if (root / name).exists():
                return root / name
    pytest.skip(f"{names[-1]} is in none of {', '.join(map(str, _ROOTS))}")


@pytest.fixture
def real_fashion_mnist() -> Path:
    """The folder of the four original files."""
    return _found("train-images-idx3-ubyte.gz", "fashion-mnist/train-images-idx3-ubyte.gz").parent


@pytest.fixture
def cifar_zip() -> Path:
    """CIFAR-10 as a zip of JPEG files."""
    return _found("cifar10-images.zip")
