"""easybn report, claims and summarise, as typed."""

import csv
import io
from pathlib import Path

import pytest

from easybn.cli import report
from easybn.tables import aggregate as recipes

from ..report.made_up import study

RESULTS = str(Path(__file__).parents[2] / "results")


def test_a_report_is_one_file(easybn, tmp_path):
    found = easybn("report", RESULTS, "-o", "page.html", "--title", "Ours")
    assert found.status == 0, found.err
    size = Path("page.html").stat().st_size
    assert found.out == f"page.html: {size / 1e6:.2f} MB\n"
    assert size < 5e6
    assert "<title>Ours" in Path("page.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_tables_in_every_format(easybn, tmp_path):
    study(tmp_path / "s")
    out = {how: easybn("report", "s", "--tables", how).out for how in ("terminal", "markdown", "latex", "csv")}
    assert "| EBN 8/255 | 91.37 ±0.17 |" in out["markdown"]
    assert "| **92.55 ±" in out["markdown"]
    assert r"\textbf{92.55 $\pm$0.12}" in out["latex"]
    assert "91.37 ±0.17" in out["terminal"]
    rows = list(csv.DictReader(io.StringIO(out["csv"])))
    assert sum(row["table"] == "table" for row in rows) == 0  # one head for all tables
    assert {"fashion-mnist, resnet_tiny", "fashion-mnist, resnet_tiny: paired tests"} == {row["table"] for row in rows}
    assert not Path("report.html").exists()


def test_claims(easybn, tmp_path):
    study(tmp_path / "s")
    found = easybn("claims", "s")
    assert found.status == 0, found.err
    assert "C2  DOES NOT HOLD  EBN has a higher clean accuracy than AdvProp." in found.out
    assert "C1  HOLDS" in found.out
    assert "Every comparison" not in found.out
    assert "| C2 |" in easybn("claims", "s", "--format", "markdown").out
    assert "Every comparison" in easybn("claims", "s", "--all").out


@pytest.mark.parametrize("command", ["report", "claims"])
def test_no_runs_is_one_line(easybn, command):
    Path("empty").mkdir()
    found = easybn(command, "empty")
    assert found.status == 2
    assert found.err == "easybn: error: no run in empty: a run's folder has a config.json\n"
    assert not Path("report.html").exists()


def test_nothing_measured_is_one_line(easybn):
    found = easybn("report", str(Path(RESULTS) / "resnet18-curves"), "--tables", "csv")
    assert found.status == 2
    assert found.err == f"easybn: error: nothing is measured in {RESULTS}/resnet18-curves: easybn evaluate\n"


def test_a_damaged_file_leaves_the_old_report(easybn, tmp_path):
    study(tmp_path / "s", ("vanilla",), 1)
    Path("report.html").write_text("old")
    (tmp_path / "s" / "vanilla-0" / "scores.jsonl").write_text("{\n")
    found = easybn("report", "s")
    assert found.status == 2
    assert "scores.jsonl, line 1 is damaged" in found.err
    assert Path("report.html").read_text() == "old"


def test_summarise_needs_finished_runs(easybn):
    found = easybn("summarise", f"{RESULTS}/fashion-mnist-cpu")
    assert found.status == 2
    assert "is not finished: run its easybn train again" in found.err


def test_what_recipes_may_be_compared_across_is_what_the_tables_know():
    assert sorted(recipes.ACROSS, key=report.ACROSS.index) == report.ACROSS
