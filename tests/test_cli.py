"""What the command line makes of errors, of terminals that lack characters, and of readers that go away."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from easybn.cli import main as cli

MODEL = """
import torch
from torch import nn

class Wrong(nn.Module):
    def forward(self, x):
        return {}["logits"]

class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(7, 10)

    def forward(self, x):
        return self.last(x.flatten(1))
"""

RECIPE = """
from dataclasses import dataclass
from easybn.recipes import Context, Recipe, Term

@dataclass(frozen=True)
class Mine(Recipe):
    def __call__(self, model, x, y, ctx=Context()):
        yield Term.cross_entropy("main", modle(x), y, 1.0)
"""


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """The working folder is the test's, and its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("mine", None)


def easybn(*words, environment=None, **how):
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    given = {**os.environ, **(environment or {})}
    return subprocess.run([sys.executable, "-m", "easybn", *words], env=given, check=False, **how)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (OSError(12, "Cannot allocate memory"), "not enough memory"),
        (RuntimeError("Could not determine home directory."), "set HOME, or XDG_CACHE_HOME"),
        (ValueError("eps must be positive"), "eps must be positive"),
        (FileNotFoundError("no run in x"), "no run in x"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_user_can_mend_is_one_line(error, told, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("easybn.cli.doctor.run", fail)
    assert cli.main(["doctor"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("easybn: error: ")
    assert told in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("kind", [KeyError, TypeError, IndexError, AttributeError, RuntimeError, RecursionError])
def test_a_fault_of_our_own_keeps_its_traceback(kind, monkeypatch):
    # code that counts as the package's: compiled under the name of one of its files
    scope = {"kind": kind}
    exec(compile("def fail(_):\n    raise kind('inside')", cli.__file__, "exec"), scope)
    monkeypatch.setattr("easybn.cli.doctor.run", scope["fail"])
    with pytest.raises(kind, match="inside") as caught:
        cli.main(["doctor"])
    assert "please report it" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("Wrong", ["KeyError: 'logits'", "mine.py, line 7, in forward"]),
        ("Narrow", ["mat1", "mine.py, line 15, in f"]),
    ],
)
def test_an_error_in_a_users_file_names_the_line(model, told, in_folder, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MODEL)
    assert cli.main(["evaluate", "--model", f"mine:{model}", "--data", "sample", "--attacks", "clean"]) == 2
    error = capsys.readouterr().err
    assert all(words in error for words in told), error
    assert "Traceback" not in error


def test_an_error_in_a_users_recipe_names_the_line(in_folder, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(RECIPE)
    assert cli.main(["train", "--recipe", "mine.py:Mine", "--train_images", "100", "--epochs", "1"]) == 2
    assert "mine.py, line 8, in __call__: NameError: name 'modle' is not defined" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "50.0 +-1 ... e \\u65e5"),
        ("latin-1", "50.0 ±1 ... é \\u65e5"),
        ("utf-8", "50.0 ±1 … é 日"),
    ],
)
def test_characters_that_an_encoding_lacks(encoding, shown):
    cli.main(["--version"])  # registers the handler
    assert "50.0 \u00b11 \u2026 \u00e9 \u65e5".encode(encoding, "easybn").decode(encoding) == shown


def test_a_table_is_printed_to_a_terminal_without_its_characters(tmp_path):
    words = ("evaluate", "--model", "fashion-mnist-vanilla", "--attacks", "clean", "--points", "4")
    done = easybn(*words, environment={"PYTHONIOENCODING": "ascii"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"+-" in done.stdout


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], pytest.param(["data"], marks=pytest.mark.slow), ["nonsense"], []]
)
def test_a_reader_that_goes_away(words):
    """The pipe is closed before the command writes."""
    reader, writer = os.pipe()
    os.close(reader)
    done = easybn(*words, stdout=writer)
    os.close(writer)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="users are numbers on POSIX alone")
def test_no_home(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()
    assert cli.main(["data"]) == 2
    assert "set HOME, or XDG_CACHE_HOME" in capsys.readouterr().err
