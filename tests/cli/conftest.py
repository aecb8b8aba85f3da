"""Commands in this process and in others, in a folder of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from easybn.cli.main import main

ENVIRONMENT = {**os.environ, "COLUMNS": "200"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before, threads = set(sys.modules), torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # --threads sets them for good
    for name in set(sys.modules) - before:  # recipes from files of this test
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def easybn(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """``easybn("train", "--lr", "3")`` -> status, out, err."""

    def run(*words: str) -> SimpleNamespace:
        capsys.readouterr()
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
        found = capsys.readouterr()
        return SimpleNamespace(status=status, out=found.out, err=found.err)

    return run


def start(*words: str, **more: object) -> "subprocess.Popen[str]":
    """``python -m easybn ...`` with its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "easybn", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **more,
    )  # fmt: skip
