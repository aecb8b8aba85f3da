"""Trainings that are stopped and killed, as processes of their own, and go on to the same end."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from easybn.runs.run import Run
from easybn.train.checkpoint import load

from .conftest import start

TIMING = ("images_per_second", "seconds")
WORDS = (
    "train", "--recipe", "EBN", "--train_images", "160", "--epochs", "4", "--batch_size", "16", "--lr", "0.05",
    "--augment", "crop_flip", "--clip_norm", "5", "--device", "cpu", "--checkpoint_seconds",
)  # fmt: skip
STEPS = 36


def wait_until(reached, process, seconds: float = 300.0) -> None:
    """Until ``reached()``, or the process has ended."""
    deadline = time.monotonic() + seconds
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "the process is too slow"
        time.sleep(0.005)


def assert_same_runs(a: str, b: str) -> None:
    assert Path(a, "model.safetensors").read_bytes() == Path(b, "model.safetensors").read_bytes()
    rows = [[{k: v for k, v in row.items() if k not in TIMING} for row in Run(Path(each)).metrics] for each in (a, b)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_kills_at_any_moment_change_nothing(kills, easybn):
    draw, statuses = random.Random(kills), []
    checkpoint = Path("killed/checkpoint.pt")
    for _ in range(kills):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(*WORDS, "0", "--out", "killed")
        # it has saved once more, so that every session gets on; then at any moment
        wait_until(lambda before=before: checkpoint.exists() and checkpoint.stat().st_mtime_ns != before, process)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.communicate(timeout=60)
        statuses.append(process.returncode)
    assert statuses[0] == -signal.SIGKILL
    assert not Run(Path("killed")).finished or kills > 1
    assert easybn(*WORDS, "1e9", "--out", "killed").status == 0
    assert easybn(*WORDS, "1e9", "--out", "whole").status == 0
    assert_same_runs("killed", "whole")
    assert len(json.loads(Path("killed/environment.json").read_text())) > 1


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_stops_it_with_one_line_and_it_goes_on(signum, status, easybn):
    process = start(*WORDS, "0", "--out", "stopped")
    wait_until(Path("stopped/checkpoint.pt").exists, process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    found = re.fullmatch(
        rf"easybn: stopped after step (\d+) of {STEPS}, saved to stopped/checkpoint\.pt: "
        r"run the same command again to resume\n",
        err,
    )
    assert found, err
    assert not Run(Path("stopped")).finished
    with Run(Path("stopped")).locked():
        second = easybn(*WORDS, "0", "--out", "stopped")
    assert second.status == 2
    who = rf"process {os.getpid()} on .*, since .*"
    told = rf"easybn: error: another process is at work in stopped \({who}\): wait for it, or give another --out\n"
    assert re.fullmatch(told, second.err), second.err
    assert load(Path("stopped/checkpoint.pt")).step == int(found[1])
    assert easybn(*WORDS, "1e9", "--out", "stopped").status == 0
    assert [row["epoch"] for row in Run(Path("stopped")).metrics] == [1, 2, 3, 4]
