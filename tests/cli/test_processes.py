"""Processes of their own: trainings that are stopped or killed and go on to the same end, and the same work twice."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from easybn.evaluation.store import Store
from easybn.recipes import RECIPES
from easybn.runs.run import Run
from easybn.train.checkpoint import load

from ..evaluation.store.fake_job import same
from .conftest import ENVIRONMENT, start

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


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def assert_same_runs(a: str, b: str) -> None:
    assert Path(a, "model.safetensors").read_bytes() == Path(b, "model.safetensors").read_bytes()
    rows = [untimed(Run(Path(each)).metrics) for each in (a, b)]
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


TWICE = """
import sys
from easybn.cli.main import main

for recipe in sys.argv[1:]:
    words = ["--train_images", "96", "--epochs", "2", "--batch_size", "16", "--lr", "0.05", "--augment", "crop_flip"]
    assert main(["train", "--recipe", recipe, *words, "--device", "cpu", "--out", recipe]) == 0
attacks = ["--attacks", "autoattack", "--norm", "linf", "--eps", "16/255", "--points", "3", "--keep_images"]
assert main(["evaluate", sys.argv[1], *attacks, "--no_diagnosis"]) == 0
"""


def test_the_same_work_twice_is_the_same_to_the_bit():
    """Every recipe's training, and AutoAttack: in two new processes, with other hashes, and in another order."""
    recipes = sorted(RECIPES)
    for folder, order, seed in (("a", recipes, "1"), ("b", [recipes[0], *reversed(recipes[1:])], "2")):
        Path(folder).mkdir()
        words = [sys.executable, "-c", TWICE, *order]
        environment = {**ENVIRONMENT, "PYTHONHASHSEED": seed}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for recipe in recipes:
        a, b = Path("a", recipe), Path("b", recipe)
        assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
        first, second = load(a / "checkpoint.pt"), load(b / "checkpoint.pt")
        assert first.model.keys() == second.model.keys()
        assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items()), recipe
        assert untimed(Run(a).metrics) == untimed(Run(b).metrics)
    runs = [Run(Path(folder, recipes[0])) for folder in ("a", "b")]
    assert untimed(runs[0].scores) == untimed(runs[1].scores)
    stores = [next(run.folder.glob("verdicts/*")) for run in runs]
    assert same(Store.existing(stores[0]).record, Store.existing(stores[1]).record)
    images = [{path.name: path.read_bytes() for path in store.glob("images/*")} for store in stores]
    assert images[0] == images[1]
    assert len(images[0]) == 5
    digests = {(Path("a", recipe) / "model.safetensors").read_bytes() for recipe in recipes}
    assert len(digests) == len(recipes), "each is a training of its own"
