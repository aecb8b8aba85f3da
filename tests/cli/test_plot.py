"""``--plot`` of evaluate and table: files with the numbers of the rows, and mistakes that are told before any work."""

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from easybn.json_files import read_rows

from ..report.made_up import study
from ..tables import strengths

RESULTS = Path(__file__).parents[2] / "results"
QUICK = ("--norm", "linf", "--points", "5", "--no_diagnosis", "--eps", "2/255", "8/255")


def told(file: str) -> list[dict]:
    """The numbers that an SVG file says it shows."""
    [text] = ET.fromstring(Path(file).read_text()).iter("{http://purl.org/dc/elements/1.1/}description")
    return json.loads(text.text)


def test_an_evaluation_is_drawn_from_its_scores_and_drawn_again_without_an_attack(easybn, finished_run):
    shutil.copytree(finished_run.folder, "r")
    words = ("evaluate", "r", "--attacks", "pgd-ce", *QUICK, "--plot", "new/c.svg")
    found = easybn(*words)
    assert found.status == 0, found.err
    assert found.out.endswith("written: new/c.svg\n")
    rows = [row for row in read_rows(Path("r/scores.jsonl"), {}) if row["n"] == 5]
    assert [row["eps"] for row in rows] == [None, 2 / 255, 8 / 255]
    [panel] = told("new/c.svg")
    [curve] = panel["curves"]
    assert [(point["x"], point["y"]) for point in curve["points"]] == [
        (round(row["eps"] or 0.0, 6), row["correct"] / 5) for row in rows
    ]
    assert all(point["low"] <= point["y"] <= point["high"] for point in curve["points"])
    before = Path("new/c.svg").read_bytes()
    assert easybn(*words).status == 0
    assert Path("new/c.svg").read_bytes() == before
    assert not list(Path("new").glob(".*"))
    assert easybn(*words[:-1], "dark.svg", "--dark").status == 0
    assert told("dark.svg") == told("new/c.svg")
    assert Path("dark.svg").read_bytes() != before


def test_what_a_table_compares_is_drawn(easybn):
    runs = [str(RESULTS / "cpu" / f"fashion-mnist-{name}-{seed}") for name in ("vanilla", "ebn-8") for seed in range(3)]
    found = easybn("table", *runs, "--plot", "t.svg", "--panels", "strong")
    assert found.status == 0, found.err
    assert "resnet_tiny (EBN)" in found.out
    assert found.out.endswith("written: t.svg\n")
    [panel] = told("t.svg")
    assert panel["title"] == "PGD (strong), l2"
    assert [curve["label"] for curve in panel["curves"]] == ["Vanilla", "EBN 8/255"]


def test_frontiers_are_drawn(easybn, tmp_path):
    strengths.study(tmp_path / "runs")
    found = easybn("table", "runs", "--frontier", "--plot", "f.svg", "--format", "markdown")
    assert found.status == 0, found.err
    assert found.out == easybn("table", "runs", "--frontier", "--format", "markdown").out + "written: f.svg\n"
    [panel] = told("f.svg")
    marks = {curve["label"]: curve["points"] for curve in panel["curves"] if not curve["joined"]}
    assert [(point["x"], point["y"], point["label"]) for point in marks["AdvProp"]] == [
        (0.92, 0.2, "1/255"), (0.91, 0.5, "4/255"), (0.9, 0.6, "8/255"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--plot", "x.jpg"), "--plot x.jpg: a figure is a .png, .svg or .pdf file"),
        (("--plot", "x"), "--plot x: a figure is a .png, .svg or .pdf file"),
        (("--plot", "folder.svg"), "--plot folder.svg: there is a folder in the place of a file"),
        (("--dark",), "--dark is for --plot FILE"),
        (("--panels", "l2"), "--panels is for --plot FILE"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "table"])
def test_mistakes_are_told_before_anything_is_read(easybn, command, words, message):
    Path("folder.svg").mkdir()
    found = easybn(command, "nowhere", *words)
    assert found.status == 2
    assert found.err.startswith(f"easybn: error: {message}")
    assert found.err.count("\n") == 1
    assert not found.out
    assert [path.name for path in Path().iterdir()] == ["folder.svg"]


@pytest.mark.parametrize("command", ["evaluate", "table"])
def test_without_matplotlib_one_line_says_how_to_get_it(easybn, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = easybn(command, "nowhere", "--plot", "x.svg")
    assert (found.status, found.out) == (2, "")
    assert found.err == "easybn: error: --plot needs matplotlib: pip install 'easybn[plot]'\n"


def test_what_has_no_eps_or_is_not_whole_is_not_drawn(easybn, tmp_path):
    aa = ("--attacks", "autoattack")
    for words, message in (
        ((*aa, "--estimate"), "give it without --estimate"),
        ((*aa, "--shard", "0/2"), "give it without --shard"),
        ((*aa, "--executor", "slurm", "--slurm.detach"), "give it without --slurm.detach"),
        (("--corruptions",), "without an attack there is no eps"),
        (("--attacks", "clean"), "without an attack there is no eps"),
    ):
        found = easybn("evaluate", "nowhere", *words, "--plot", "x.svg")
        assert (found.status, found.out) == (2, ""), words
        assert message in found.err
    study(tmp_path / "runs", ("vanilla",), 1)
    for words, message in (
        (("--paper",), "not --paper, not --deciles"),
        (("--deciles", "x"), "not --paper, not --deciles"),
        (("--panels", "l1"), "--panels l1: no panel is called so; there are "),
    ):
        found = easybn("table", "runs", *words, "--plot", "x.svg")
        assert (found.status, found.out) == (2, ""), words
        assert message in found.err
    assert not Path("x.svg").exists()
