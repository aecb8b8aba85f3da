"""The package costs nothing until it is used; each claim is checked in a process of its own."""

import subprocess
import sys

import pytest

import easybn

HEAVY = ("torch", "numpy", "timm", "torchvision", "rich", "jsonargparse", "accelerate", "matplotlib", "PIL")


def loaded_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after ``code``."""
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())


def test_import_easybn_imports_nothing_heavy():
    assert loaded_after("import easybn; dir(easybn); easybn.__version__") == set()


def test_public_names_cost_torch_alone():
    code = "from easybn import convert, strip, branch_parameters, BranchedNorm, route, evaluating, frozen_stats\n"
    code += "from easybn import PGD, Linf, L2, easy, untargeted, targeted, random_target"
    assert loaded_after(code) <= {"torch", "numpy"}  # torch loads numpy where it finds it


def test_help_needs_neither_torch_nor_a_parser():
    code = "from easybn.cli.main import main\nassert main(['--help']) == 0"
    assert loaded_after(code) == set()


@pytest.mark.parametrize("name", easybn.__all__)
def test_every_public_name_is_there(name):
    assert getattr(easybn, name) is not None
    assert name in dir(easybn)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        easybn.no_such_name  # noqa: B018
