from importlib import metadata

import pytest

from easybn import data
from easybn.cli import doctor


def about(*names):
    return {found.about: found for found in doctor.findings() if not names or found.about in names}


def test_all_is_well_here(easybn):
    found = easybn("doctor")
    assert found.status == 0, found.err
    assert "broken" not in found.out
    for name in ("easybn", "torch", "numpy", "memory", "disk", "threads", "cpu", "sample", "cifar10", "onnx"):
        assert f" {name} " in found.out, name


def test_what_is_missing_comes_with_the_command(easybn, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = easybn("doctor")
    assert found.status == 0
    for command in ("pip install 'easybn[onnx]'", "pip install 'easybn[plot]'", "easybn data cifar10 --download"):
        assert f"-> {command}\n" in found.out


@pytest.mark.parametrize(
    ("line", "told", "mend"),
    [
        ("no-such-package>=1.5", "no-such-package is missing", "pip install 'no-such-package>=1.5'"),
        ("torch>=99.1", "is older than 99.1", "pip install 'torch>=99.1'"),
    ],
)
def test_something_essential_is_broken(line, told, mend, easybn, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=1.26", line, "x>=9; extra == 'onnx'"])
    found = easybn("doctor")
    assert found.status == 2
    assert told in " ".join(found.out.split())
    assert mend in found.out
    assert found.err.startswith(f"easybn: error: broken: {line.partition('>')[0]};")
    assert "numpy" not in found.err


def test_bundled_images_that_cannot_be_read(easybn, monkeypatch):
    def fail(name):
        raise data.DataError("damaged")

    monkeypatch.setattr(data, "load", fail)
    found = easybn("doctor")
    assert found.status == 2
    assert "cannot be read: damaged" in found.out


def test_versions_compare_as_numbers():
    assert doctor._numbers("2.10.0+cu126") > doctor._numbers("2.9.1")
    assert doctor._requirement("jsonargparse[signatures]>=4.45") == ("jsonargparse", "4.45")
    assert doctor._requirement("odd") == ("", "")
    for line in metadata.requires("easybn"):
        assert doctor._requirement(line)[0] or "extra" in line


def test_threads_that_were_limited(monkeypatch):
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    found = about("threads")["threads"]
    assert (found.state, found.mend) == ("note", "unset OMP_NUM_THREADS")
    assert "1 of torch on 3 processors" in found.text
