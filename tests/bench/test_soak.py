"""bench/soak.py: what it says of made-up rows, that it sees what differs, and that the document shows its rows."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from easybn.json_files import read_rows, write_json

ROOT = Path(__file__).parents[2]
STORED = sorted((ROOT / "results" / "soak").glob("*.jsonl"))


@pytest.fixture(scope="module")
def soak():
    sys.path.insert(0, str(ROOT / "bench"))
    spec = importlib.util.spec_from_file_location("bench_soak", ROOT / "bench" / "soak.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "bench"))


def made_up(soak, sessions: list[int], growth: float) -> list[dict]:
    noise = np.random.default_rng(0).normal(0, 0.1, sum(sessions))
    rows = []
    for session, rounds in enumerate(sessions):
        for n in range(rounds):
            warm = 50 * min(n, soak.WARM_UP)  # what is loaded at first does not count
            held = dict.fromkeys(soak.HELD, 3) | {"rss_mib": 1000 * session + warm + growth * n + noise[len(rows)]}
            counts = {"kills of training": 2, "seconds, at most": n}
            rows.append({"round": len(rows), "session": session, "seconds": 60.0, "counts": counts, "mismatches": []})
            rows[-1] |= held
    return rows


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_the_slope_is_that_of_the_longest_session_after_its_warm_up(growth, soak):
    rows = made_up(soak, [12, 60, 3], growth)
    found = soak.slope(rows, "rss_mib")
    assert found.rounds == 60 - soak.WARM_UP
    assert abs(found.slope - growth) <= found.half_width < 0.01
    assert soak.slope(rows, "descriptors")[:2] == (0, 0)
    assert soak.slope(rows[:12], "rss_mib") is not None
    assert soak.slope(rows[:10], "rss_mib") is None
    total = soak.summary(rows)
    assert (total["rounds"], total["sessions"], total["minutes"], total["kills"]) == (75, 3, 75, 150)
    assert total["counts"]["seconds, at most"] == 59


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_the_document_shows_what_the_rows_say(file, soak):
    rows = read_rows(file)
    assert [row["round"] for row in rows] == list(range(len(rows)))
    assert soak.table(rows) in (ROOT / "docs" / "reliability.md").read_text()
    assert soak.summary(rows)["mismatches"] == []


@pytest.mark.slow
def test_a_round_that_differs_is_told_and_kept_and_the_next_one_goes_on(soak, tmp_path):
    """The training that the first round compares with is one of another seed; the second one's is as it should be."""
    words = sys.modules["soak_rounds"].TRAIN
    undisturbed = tmp_path / "soak" / "undisturbed" / "Vanilla"
    command = [sys.executable, "-m", "easybn", *words, "1e9", "--recipe", "Vanilla", "--seed", "1"]
    subprocess.run([*command, "--out", str(undisturbed)], check=True, capture_output=True)
    write_json(undisturbed.with_name("Vanilla.json"), {"training": 5.0, "evaluation": 5.0})
    words = [sys.executable, str(ROOT / "bench" / "soak.py"), "--minutes", "60", "--kills", "1", "--kinds", "training"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for rounds in ("1", "2"):
        command = [*words, "--rounds", rounds, "--out", str(tmp_path / "soak")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
    rows = read_rows(tmp_path / "soak" / "soak.jsonl")
    told = "round 0, Vanilla: training: "
    assert {f"{told}model.safetensors differs", f"{told}weights of the checkpoint differ"} <= {*rows[0]["mismatches"]}
    assert (tmp_path / "soak" / "mismatch-0" / "training" / "model.safetensors").exists()
    assert (rows[1]["recipe"], rows[1]["mismatches"], rows[1]["session"]) == ("AdvProp", [], 1)
    assert not (tmp_path / "soak" / "mismatch-1").exists()
