"""Every writer of the package, killed at random moments: files stay valid, and the next start leaves nothing over."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from easybn.evaluation.store import Store, work
from easybn.json_files import read_json, read_rows
from easybn.models import weights
from easybn.train import checkpoint

from .evaluation.store.fake_job import Fake, manifest, same
from .writers import write

CYCLES = 3


def forked(folder: Path, *lines: int) -> str:
    """Let processes write into ``folder``, see tests/writers.py; what they print."""
    words = [sys.executable, "-W", "error", "-m", "tests.writers", str(folder), str(CYCLES), *map(str, lines)]
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root / "src"), str(root)])
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def versions(folder: Path) -> list[int]:
    """What each file holds, in the order in which they are written; -1 where there is none. All must be readable."""
    text = folder / "text.txt"
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["version"] for row in rows] == list(range(len(rows)))
    made = list((folder / "verdicts").glob("folder-*"))
    assert all((each / "x").read_bytes() == bytes([int(each.name[7:])]) for each in made)
    saved = folder / "checkpoint.pt"
    found = checkpoint.load(saved) if saved.exists() else None
    assert found is None or torch.equal(found.model["w"], torch.full((8,), float(found.step)))
    older = checkpoint.previous(saved)
    # the older one is written first, from the file that is replaced then
    assert not older.exists() or found.step - 1 <= checkpoint.load(older).step <= found.step
    model = folder / "model.safetensors"
    return [
        int(text.read_text()) if text.exists() else -1,
        len(rows) - 1,
        read_json(folder / "config.json", {"version": -1})["version"],
        len(made) - 1,
        -1 if found is None else found.step,
        int(weights.load(model).network.linear.weight[0, 0]) if model.exists() else -1,
    ]


def names(folder: Path) -> set[str]:
    """All that is there but locks and the chunks of the evaluation, which go on from where they were."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in there if ".lock" not in name and not name.startswith("store/")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[list[int]], Store]:
    """A folder that nothing disturbed, when each line of the code was executed, and an evaluation that is done."""
    folder = tmp_path_factory.mktemp("whole")
    executed = json.loads(forked(folder, 0))
    store = Store.open(folder / "done", manifest())
    work(store, Fake())
    return folder / "0", executed, store


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_writers_killed_at_any_moment_leave_valid_files(kills, whole, tmp_path):
    undisturbed, executed, done = whole
    draw = random.Random(kills)
    # of lines of the code and not of moments, most of which would be in the same few loops
    moments = [draw.choice(when) for when in draw.sample(executed, kills)]
    assert forked(tmp_path, *moments) == ""
    for moment in moments:
        folder = tmp_path / str(moment)
        found = versions(folder)
        assert found == sorted(found, reverse=True), "they are written one after the other"
        assert found[0] - found[-1] <= 1
        write(folder, CYCLES)  # the next start
        assert versions(folder) == [CYCLES - 1] * 6
        assert names(folder) == names(undisturbed)
        store = Store.existing(folder / "store")
        assert work(store, Fake())
        assert same(store.record, done.record)
        assert not list(folder.rglob(".*.easybn-part"))
