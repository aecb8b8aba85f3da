"""Documents' parts between marks, the page on easy examples among them, and the rows that they are made from."""

import json
import xml.etree.ElementTree as ET

import pytest

from easybn.json_files import read_rows, write_rows
from easybn.report.plots import frontier_plot
from easybn.runs.measured import WantedRows
from easybn.study.plan_file import StudyPlan, write_plan
from easybn.study.state import Expected
from easybn.tables.aggregate import settings
from easybn.tables.rows import read

from ..report.made_up import run
from .stages import ROOT


@pytest.fixture(autouse=True)
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))


def test_a_part_is_written_between_its_marks():
    from marked import replaced

    begin, end = "<!-- gpu: begin, by bench/gpu/figures --write -->", "<!-- gpu: end -->"
    document = f"a\n{begin}\nold\n{end}\nb\n"
    new = replaced(document, "gpu", "new")
    assert new == f"a\n{begin}\nnew\n{end}\nb\n"
    assert replaced(new, "gpu", "new") == new
    for bad in ("a\n", f"{end}\n", f"{begin}{begin}{end}"):
        with pytest.raises(ValueError, match="no marks"):
            replaced(bad, "gpu", "new")


def test_the_page_on_easy_examples_has_what_the_rows_say():
    from easy import PARTS
    from marked import replaced

    page = (ROOT / "docs" / "easy.md").read_text()
    for (name, mark), render in PARTS.items():
        assert name == "easy.md"
        assert replaced(page, mark, render(ROOT / "results")) == page


@pytest.mark.parametrize("dark", ["", "-dark"])
@pytest.mark.parametrize(("name", "study"), [("easy-frontier", "shared-affine"), ("easy-cifar10", "cifar10")])
def test_its_pictures_show_the_rows(name, study, dark):
    """As easybn table results/easy/STUDY --frontier --apart p --panels strong --plot docs/FILE draws it."""
    file = f"{name}{dark}.svg"
    found = settings(read(ROOT / "results" / "easy" / study).runs)
    [told] = ET.parse(ROOT / "docs" / file).iter("{http://purl.org/dc/elements/1.1/}description")
    assert json.loads(told.text) == frontier_plot(found, ("p",)).only(["strong"]).numbers
    assert f'"{file}"' in (ROOT / "docs" / "easy.md").read_text()


def test_rows_that_a_study_asked_for_are_kept_without_folders_and_weights(tmp_path, capsys):
    from keep import main

    runs, results = tmp_path / "runs", tmp_path / "results"
    for name in ("vanilla-0", "vanilla-1", "ebn-0"):
        run(runs / name, name.partition("-")[0], int(name[-1]))
    (runs / "vanilla-0/model.safetensors").write_bytes(b"weights")
    (session,) = json.loads((runs / "vanilla-0/environment.json").read_text())
    session["command"] += ["--out", str(runs), "--threads", "1"]
    (runs / "vanilla-0/environment.json").write_text(json.dumps([session]))
    rows = read_rows(runs / "vanilla-0/scores.jsonl")
    wanted_row = next(row for row in rows if row["attack"] != "clean")
    wanted = WantedRows("0", "main", ({name: wanted_row[name] for name in ("attack", "norm", "eps")},), None)
    write_rows(runs / "ebn-0/scores.jsonl", [row for row in rows if row["attack"] == "clean"])  # not evaluated yet
    experiment = {"data": "fashion-mnist", "training": {"seed": 0}}
    names = ("vanilla-0", "vanilla-1", "ebn-0", "never-begun-0")
    write_plan(runs, StudyPlan("made-up", tuple(Expected(name, experiment, "k", (wanted,)) for name in names)))

    assert main([str(runs), str(results)]) == 0
    assert capsys.readouterr().out.split() == [str(results / "vanilla-0"), str(results / "vanilla-1")]
    assert {path.name for path in (results / "vanilla-0").iterdir()} == {
        "config.json", "environment.json", "evaluated.json", "metrics.jsonl", "scores.jsonl", "analysis.jsonl",
    }  # fmt: skip
    assert not [path for path in results.rglob("*") if path.is_file() and str(tmp_path) in path.read_text()]
    kept = read_rows(results / "vanilla-0/scores.jsonl")
    assert {row["attack"] for row in kept} == {"clean", wanted_row["attack"]}
    assert all(row["eps"] == wanted_row["eps"] for row in kept if row["attack"] != "clean")
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(results)])
