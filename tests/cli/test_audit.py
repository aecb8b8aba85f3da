"""``easybn evaluate --attacks fast`` on a small model of a user's, and what other commands make of its audit."""

import re
from pathlib import Path

import pytest
import torch

from easybn.cli import evaluate as command
from easybn.evaluation.audit import Audit
from easybn.evaluation.auditing import audit_stores
from easybn.evaluation.estimate import Estimate
from easybn.runs.run import Run
from easybn.runs.verdicts import find_store, finished_verdicts, store_verdicts
from easybn.tables.single_runs import fast_cell

from ..evaluation.weak_fast import patched

CODE = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
FOLDER = Path("runs/evaluations/fast_model-make-m")
WORDS = ("--attacks", "fast", "--norm", "linf", "--eps", "0.12", "--points", "60", "--audit", "8", "--no_diagnosis")


def told(found):
    """What is printed before the table, a line each."""
    return [line for line in found.out.partition("\u250f")[0].splitlines() if " at linf " in line]


@pytest.fixture(autouse=True)
def _presets(monkeypatch):
    patched(monkeypatch)


@pytest.fixture
def mine():
    """The words for a linear model whose weights are the classes' mean images."""
    from easybn.data import load

    train = load("sample").train
    x, y = train.images.float().flatten(1) / 255, train.labels
    means = torch.stack([x[y == label].mean(0) for label in range(10)])
    weights = {"1.weight": means, "1.bias": -(means**2).sum(1) / 2}
    Path("fast_model.py").write_text(CODE)
    torch.save(weights, "m.pt")
    return ("evaluate", "--model", "fast_model:make", "--weights", "m.pt", "--data", "sample")


def test_the_three_figures_everywhere(mine, easybn):
    found = easybn(*mine, *WORDS, "--keep_images")
    assert found.status == 0, found.err
    clean, row = Run(FOLDER).scores
    audit = Audit.of_row(row)
    assert (row["attack"], row["protocol"], row["requested_audit"]) == ("fast", None, [8, None])
    assert clean["audit"] is None
    assert audit.drawn == 8
    assert audit.broken > 0
    assert row["correct"] == audit.survivors - audit.broken
    assert row["broke"]["audit"] == audit.broken
    first, second = told(found)
    assert first.startswith(f"robust accuracy at linf 0.12: at most {100 * row['correct'] / 60:.1f}%, audited ")
    assert f"60 of 1,000 points, fast, 8 of {audit.survivors} survivors audited by AutoAttack standard: " in first
    assert second.startswith(f"audit at linf 0.12: AutoAttack standard broke {audit.broken} (apgd-ce ")
    assert "AutoAttack fast" not in found.out
    assert "equal" not in found.out
    # the store, alone
    store = find_store(FOLDER, ["fast"])
    assert len(audit_stores(store)) == 1
    assert int(finished_verdicts(store).robust(0.12).sum()) == row["correct"]
    (verdicts,) = store_verdicts(FOLDER)
    assert (verdicts["attack"], verdicts["protocol"], verdicts["broke"]) == ("fast", None, row["broke"])
    assert verdicts["curve"]["most"][-1] == row["correct"]
    assert "everything holds" in easybn("verify", str(store.folder), "--model", "fast_model:make").out
    part = audit_stores(store)[0].folder
    assert "everything holds" in easybn("verify", str(part), "--model", "fast_model:make").out
    # tables
    table = easybn("table", str(FOLDER)).out
    assert "fast, audited by AutoAttack standard" in table
    assert fast_cell(row).text in table
    curve = easybn("curve", str(FOLDER))
    assert "fast (audited), linf 0.12, 60 points" in curve.out
    # once more: nothing new, also with a smaller audit, but for its own row
    assert easybn(*mine, *WORDS, "--keep_images").status == 0
    assert len(Run(FOLDER).scores) == 2
    # a file of the audit is lost: said by verify, made again by evaluate
    next(part.glob("attempts/*-03.*")).unlink()
    lost = easybn("verify", str(store.folder), "--model", "fast_model:make")
    assert lost.status == 1
    assert "is it missing" in lost.out or "it is missing" in lost.out
    assert easybn(*mine, *WORDS, "--keep_images").status == 0
    assert "everything holds" in easybn("verify", str(store.folder), "--model", "fast_model:make").out


def test_two_models_compared(mine, easybn):
    assert easybn(*mine, *WORDS).status == 0
    assert easybn(*mine, *WORDS, "--audit", "0", "--out", "other").status == 0
    found = easybn("compare", str(FOLDER), "other")
    assert found.status == 0, found.err
    assert f"A: {FOLDER} (fast (audited), linf 0.12, 60 points)" in found.out
    assert "B: other (fast (not audited), linf 0.12, 60 points)" in found.out
    assert "some of the points that it withstands may fall to AutoAttack standard" in found.out
    (line,) = told(easybn(*mine, *WORDS, "--audit", "0", "--out", "other"))
    assert re.search(r"at most [\d.]+% \(95%: .*, fast, not audited$", line)
    assert fast_cell(Run(Path("other")).scores[1]).text.endswith("(not audited)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--attacks autoattack --audit 9", "audit is about the preset fast"),
        ("--attacks apgd-ce --audit_width 1%", "audit_width is about the preset fast"),
        ("--audit 9", "audit is about the preset fast"),
        ("--attacks fast --audit -1", "audit must be 0 or more points, got -1"),
        ("--attacks fast --audit 9 --audit_width 1%", "give one of them"),
        ("--attacks fast --audit_width 0", "audit_width must be a share between 0 and 1, such as 0.01, got 0.0"),
        ("--attacks fast --audit_width 200%", "audit_width must be a share between 0 and 1"),
        ("--attacks fast --audit_width wide", "wide is not a share such as 1% or 0.01"),
        ("--attacks fast --audit many", "--audit: expected a whole number, got many"),
        ("--attacks fast square", "one preset, or names of attacks"),
    ],
)
def test_mistakes_are_one_line(words, message, easybn):
    found = easybn("evaluate", "--model", "fashion-mnist-vanilla", *words.split())
    assert found.status == 2
    assert message in found.err
    assert found.err.count("\n") == 1
    assert not Path("runs").exists()


# Fast is suggested where standard takes long.


@pytest.fixture
def timed(monkeypatch):
    """Estimates of so many seconds for a robust point in place of measured ones; the calls are noted."""
    from easybn.runs import evaluate as runs

    calls, seconds = [], {"standard": 1.5, "fast": 0.1}

    def estimate(target, config, rows=None):
        calls.append((config.names[0], rows))
        audited = {"audited": 40, "audit": 1.5} if config.names == ("fast",) else {}
        return Estimate(1000, {"a": 0.001}, 0.0, seconds[config.names[0]], **audited)

    monkeypatch.setattr(runs, "estimate_run", estimate)
    return calls, seconds


LINE = (
    "standard takes up to 25.0 minutes here, if no image falls early; --attacks fast takes up to 2.7 minutes, and says "
    "how many points"
)


def test_fast_is_suggested_with_its_cost(mine, timed, easybn, monkeypatch):
    calls, seconds = timed
    words = ("--attacks", "autoattack", "--points", "2", "--no_diagnosis", "--norm", "linf", "--eps", "0.3")
    found = easybn(*mine, *words, "--estimate")
    assert LINE in found.out
    assert "each of 40 that are audited: 1.5 s)" in easybn(*mine, *words[2:], "--attacks", "fast", "--estimate").out
    assert LINE in easybn(*mine, *words).out
    assert calls[-3:] == [("standard", command.QUICK_ROWS), ("standard", None), ("fast", None)]
    for more in ((), ("--budget", "5m"), ("--shard", "0/2")):  # it goes on, or its time is known
        assert LINE not in easybn(*mine, *words, *more).out
    calls.clear()
    seconds["standard"] = 0.5
    assert "--attacks fast" not in easybn(*mine, *words, "--out", "other").out
    assert calls == [("standard", command.QUICK_ROWS)]
    assert "--attacks fast" not in easybn(*mine, *words, "--estimate").out
