"""``easybn evaluate --corruptions`` on a tiny run and on a model of the package."""

import re
import shutil
from pathlib import Path

import pytest

from easybn.data.corruptions import CORRUPTIONS
from easybn.runs.run import Run


@pytest.fixture
def run(finished_run):
    shutil.copytree(finished_run.folder, "r")
    return Run(Path("r"))


def test_mca_and_every_kind_are_shown_and_kept(run, easybn):
    found = easybn("evaluate", "r", "--corruptions", "--points", "9", "--seed", "1")
    assert found.status == 0, found.err
    rows, (clean, score) = run.corruptions, run.scores
    line = next(line for line in found.out.splitlines() if line.startswith("mean corruption accuracy"))
    assert line.startswith(f"mean corruption accuracy (mCA): {100 * score['accuracy']:.1f}% (95%: ")
    assert line.endswith("), 9 of 1,000 points, generated corruptions")
    for kind in CORRUPTIONS:
        label = "frost*" if kind == "frost" else kind
        (shown,) = [line for line in found.out.splitlines() if line.startswith(f"│ {label} ")]
        numbers = [float(number) for number in re.findall(r"│ +([\d.]+)", shown)]
        accuracies = [100 * row["accuracy"] for row in rows if row["corruption"] == kind]
        assert numbers == pytest.approx([*accuracies, sum(accuracies) / 5], abs=0.051)
    assert "texture of frost* is drawn here" in " ".join(found.out.split())
    table = easybn("table", "r").out
    assert "Under corruptions made here" in table
    assert f"{100 * score['accuracy']:.1f} ±" in table
    markdown = easybn("table", "r", "--format", "markdown").out
    assert "| mCA | noise | blur | weather | digital |" in markdown
    assert easybn("table", "r", "--paper").status == 0
    again = easybn("evaluate", "r", "--corruptions", "--points", "9", "--seed", "1")
    assert line in again.out
    assert (run.corruptions, run.scores) == (rows, [clean, score])


def test_an_estimate_writes_nothing(run, easybn):
    found = easybn("evaluate", "r", "--corruptions", "--estimate")
    assert found.status == 0, found.err
    assert re.search(r"^r: about .+ on this machine as it is now", found.out, re.M)
    assert run.scores == run.corruptions == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--corruptions", "--norm", "l2"], "--norm is for attacks and does not go with --corruptions"),
        (["--corruptions", "--attacks", "autoattack"], "--attacks is for attacks and does not go with --corruptions"),
        (["--corruptions", "--no_diagnosis"], "--no_diagnosis is for attacks and does not go with --corruptions"),
        (["--corruptions", "--budget", "9s"], "--budget is for attacks and does not go with --corruptions"),
        (["--corruptions_source", "generated"], "--corruptions_source goes with --corruptions"),
        (["--corruptions", "--points", "0"], "points must be at least 1, got 0"),
        (
            ["--corruptions", "--corruptions_folder", "there"],
            "there has no labels.npy (nor 15 more): --corruptions_folder",
        ),
        (
            ["--corruptions", "--corruptions_folder", "x", "--corruptions_source", "generated"],
            "does not go with generated",
        ),
        (["--corruptions", "--corruptions_source", "published"], "published corruptions are known only of cifar10"),
    ],
)
def test_mistakes_are_one_line(run, easybn, words, said):
    found = easybn("evaluate", "r", *words)
    assert found.status != 0
    assert said in found.err
    assert found.err.strip().count("\n") == 0
    assert run.scores == run.corruptions == []
