"""The runs of make test-portable and make test-oldest, and the rule about skips, without running them."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from .conftest import no_other_skips
from .portable import ROOT, SETTINGS, copied, lower_bounds, split


def test_the_settings_have_every_value_that_was_asked_for():
    environments = [setting.environment for setting in SETTINGS.values()]
    for name, values in {
        "ONEDNN_MAX_CPU_ISA": {None, "AVX2", "SSE41"},
        "ATEN_CPU_CAPABILITY": {None, "avx2", "default"},
        "OMP_NUM_THREADS": {"1", "2"},
        "PYTHONHASHSEED": {"0", "random"},
    }.items():
        assert {environment.get(name) for environment in environments} == values
    orders = {word for setting in SETTINGS.values() for word in setting.options if "seed" in word}
    assert len(orders) == 3
    assert any(setting.elsewhere for setting in SETTINGS.values())


def test_constraints_are_the_lower_bounds_of_all_lists():
    text = """
[project]
dependencies = ["torch>=2.6", "named[extra] >= 4.45", "free", "exact==1.0"]
[project.optional-dependencies]
onnx = ["onnx>=1.18,<3"]
[dependency-groups]
dev = ["pytest>=8.3"]
bench = [{ include-group = "dev" }, "matplotlib>=3.9"]
"""
    assert lower_bounds(text) == ["matplotlib==3.9", "named==4.45", "onnx==1.18", "pytest==8.3", "torch==2.6"]


def test_a_copy_has_the_files_of_the_tree(tmp_path):
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True, check=False).returncode:
        files = ["pyproject.toml"]  # unpacked from an archive: there is nothing to ask
    else:
        copied(tmp_path)
        files = ["pyproject.toml", "tests/portable.py", "src/easybn/__init__.py", "results/cpu"]
        assert not (tmp_path / ".venv").exists()
    for name in files:
        assert (ROOT / name).exists()
        assert len(files) == 1 or (tmp_path / name).exists()


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_other_sums_are_the_same_but_for_rounding(n):
    x, weight, bias = torch.rand(n, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    ours = split(torch.conv2d, (1, 2))  # as it is, also where F.conv2d is split already
    found, expected = ours(x, weight, bias, padding=1), torch.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, ours(x, weight, bias, padding=1))  # alike in every batch of this size
    assert torch.equal(found, expected) == (n % 3 == 0)


def test_a_run_of_pytest_is_told_in_the_table(tmp_path):
    (tmp_path / "test_x.py").write_text("def test_y(): pass")  # without the suite's conftest.py, which loads torch
    code = """
import sys, tests.portable as portable
portable.SETTINGS, portable.TESTS = {"x": portable.Setting({}, ("-k", "no_such_test"))}, ("-m", "pytest")
sys.argv[1:] = ["--rootdir", sys.argv[1], sys.argv[1]]
print("status", portable.main())
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "### x: -k no_such_test" in out
    assert "| x | FAILED (status 5)" in out  # pytest's own: no test was run
    assert out.endswith("status 1\n")


@pytest.mark.parametrize(
    ("reason", "outcome"), [("Skipped: needs a GPU", "skipped"), ("Skipped: the extra onnx is not installed", "failed")]
)
@pytest.mark.parametrize("where", [lambda reason: ("test_x.py", 3, reason), str])
def test_a_skip_for_another_reason_fails_where_there_is_a_rule(reason, outcome, where, monkeypatch):
    def report():
        return SimpleNamespace(skipped=True, outcome="skipped", longrepr=where(reason), nodeid="test_x.py::test_y")

    monkeypatch.delenv("EASYBN_SKIPS", raising=False)
    assert no_other_skips(report()).outcome == "skipped"
    monkeypatch.setenv("EASYBN_SKIPS", "GPU|CUDA")
    assert no_other_skips(report()).outcome == outcome
