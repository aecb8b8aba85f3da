"""No input of any reader ends in anything but an answer or one clear error (see tests/fuzzing.py)."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fuzzing import READERS, changed, check

ROUGH = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("name", READERS)
def test_whole_inputs_are_read(name, tmp_path):
    """Otherwise the others would end at the first byte."""
    reader = READERS[name]()
    for number, seed in enumerate(reader.seeds()):
        if (name, number) not in {("weights", 0), ("weights", 1), ("pictures", 10)}:  # refused for what they are
            reader.read(seed, tmp_path / f"{number}")


@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs(name, tmp_path):
    reader = READERS[name]()
    seeds = reader.seeds()

    @ROUGH
    @given(st.integers(0, len(seeds) - 1), st.integers(0, 2**32))
    def run(which, number):
        check(reader, changed(seeds[which], random.Random(number)), tmp_path / "input")

    run()


@pytest.mark.parametrize("name", READERS)
def test_made_up_inputs(name, tmp_path):
    reader = READERS[name]()

    @ROUGH
    @given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
    def run(content):
        check(reader, content, tmp_path / "input")

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_hundred_thousand_inputs(name, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed: pip install atheris")
    program = Path(__file__).with_name("fuzzing.py")
    done = subprocess.run(
        [sys.executable, program, name, "--runs", "100000"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 100000 runs" in done.stderr
