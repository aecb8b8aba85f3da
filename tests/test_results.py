"""The tables of docs/notes/results.md, and the site's pages of paired tests, are those that the committed rows give."""

import importlib.util
import re
from pathlib import Path

import pytest

from easybn.cli.main import main
from easybn.json_files import read_rows
from easybn.paper.census import census_table
from easybn.paper.stacked import stacked_caption, stacked_tables
from easybn.paper.tables import paper_table
from easybn.runs.config import SampleIds
from easybn.runs.run import Run
from easybn.tables.aggregate import settings
from easybn.tables.deciles import decile_tables, latest
from easybn.tables.formats import markdown
from easybn.tables.rows import read
from easybn.tables.single_runs import score_tables

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path for path in (ROOT / "results").iterdir() if path.is_dir())
SEEDED = [path for path in FOLDERS if any(path.glob("*/evaluated.json"))]  # by easybn study
STUDIES = [path for path in FOLDERS if any(path.glob("*/scores.jsonl")) and path not in SEEDED]
STACKED = [path for path in FOLDERS if (path / "stacked.json").exists()]
SHOWN = ("Basic", "l2 0.5 strong", "AA linf 8/255", "AA l2 0.5")  # columns of the study in the README
CENSUS = [path.parent for path in sorted((ROOT / "results").glob("*/census/census.jsonl"))]
# trainings watched, not measured
CURVES = [path for path in FOLDERS if any(path.glob("*/config.json")) and path not in STUDIES + SEEDED + STACKED]
TEXT = (ROOT / "docs" / "notes" / "results.md").read_text()
SUMMARY = (ROOT / "docs" / "results.md").read_text()


def lab_notes() -> dict[Path, str]:
    """What tools/lab_notes.py makes of the rows, by the folder that they are in."""
    spec = importlib.util.spec_from_file_location("lab_notes", ROOT / "tools" / "lab_notes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages(ROOT / "results", TEXT)


LAB_NOTES = lab_notes()


def heading(block: str) -> str:
    """The title of a table as these pages have it; what else a table consists of is the same there."""
    return f"## {block.strip('*')}" if block.startswith("**") else block


def runs_of(study: Path) -> list[Run]:
    return [Run(path.parent) for path in sorted(study.glob("*/config.json"))]


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_tables_come_from_the_rows(study):
    found = score_tables(runs_of(study))
    assert len(found) == 2  # either protocol
    for table in found:
        assert markdown(table).strip() in TEXT


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_every_run_says_how_it_was_made(study):
    for run in runs_of(study):
        assert run.sessions[-1]["commit"]
        assert run.metrics[-1]["epoch"] == run.config["training"]["epochs"]
        assert run.folder.name in TEXT


@pytest.mark.parametrize("study", SEEDED, ids=lambda path: path.name)
def test_tables_over_seeds_and_the_report_come_from_the_rows(study, capsys, tmp_path, monkeypatch):
    (command,) = re.findall(rf"^easybn (report results/{study.name} --tables .*)$", TEXT, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    assert main(command.split()) == 0
    paired = False
    for block in capsys.readouterr().out.strip().split("\n\n"):  # heading, table, caption
        if block.startswith("**"):
            paired = block.endswith("paired tests**")
        assert heading(block) in LAB_NOTES[study]
        assert paired or block in TEXT
    page = tmp_path / "report.html"
    assert main(["report", str(study), "-o", str(page)]) == 0
    assert page.stat().st_size < 5_000_000
    written = page.read_text()
    for run in runs_of(study):
        assert run.folder.name in written
        assert run.sessions[-1]["commit"]


def test_the_claims_are_judged_from_all_rows(capsys, monkeypatch):
    assert "\neasybn claims results --format markdown\n" in SUMMARY
    monkeypatch.chdir(ROOT)
    assert main(["claims", "results", "--format", "markdown"]) == 0
    for block in capsys.readouterr().out.strip().split("\n\n"):
        assert block in SUMMARY
    assert main(["claims", "results", "--all", "--format", "markdown"]) == 0
    for block in capsys.readouterr().out.strip().split("\n\n"):
        assert heading(block) in LAB_NOTES[ROOT / "results"]


def test_the_summary_leads_to_every_page_of_tables():
    linked = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\((\.\./results[^)]*)\)", SUMMARY)}
    assert linked == set(LAB_NOTES)
    for study in LAB_NOTES:
        for run in runs_of(study):
            assert f"| {run.folder.name} |" in LAB_NOTES[study]


def test_the_readme_shows_the_study_as_its_rows_have_it():
    readme = (ROOT / "README.md").read_text().replace("**", "")
    assert readme.count(" | ".join(["| Recipe", *SHOWN]) + " |") == 2
    for setting in settings(read(ROOT / "results" / "cpu").runs):
        table = paper_table(setting)
        for line in table.rows:
            cells = [dict(zip(table.columns, line.cells, strict=True))[column].text for column in SHOWN]
            assert line.muted or " | ".join([f"| {line.label}", *cells]) + " |" in readme


@pytest.mark.parametrize("folder", CENSUS, ids=lambda path: path.parent.name)
def test_the_census_comes_from_its_rows(folder):
    table = census_table(read_rows(folder / "census.jsonl"), read_rows(folder / "overlap.jsonl"))
    assert markdown(table).strip() in TEXT
    found = {kind: SampleIds.read(path) for path in folder.glob("*-above-*.json") for kind in [path.stem[:4]]}
    left_out = {run.config["left_out"] for run in runs_of(folder.parent)}
    assert left_out == {None, found["easy"].digest, found["rand"].digest}
    assert f"the {len(found['easy'].ids):,} images" in TEXT


def test_which_images_recipes_change_comes_from_the_rows():
    rows, found = read(ROOT / "results/cpu").deciles, settings(read(ROOT / "results/cpu").runs)
    (setting,) = [each for each in found if each.data == "fashion-mnist"]
    clean, *_ = decile_tables(setting, latest(rows, setting.data))
    assert markdown(clean).strip() in TEXT


@pytest.mark.parametrize("folder", STACKED, ids=lambda path: path.name)
def test_tables_of_stacked_images_come_from_the_rows(folder, tmp_path):
    rows = read(folder).stacked[0].rows
    for table in stacked_tables(rows):
        assert markdown(table).strip() in TEXT
    assert stacked_caption(rows) in TEXT
    page = tmp_path / "report.html"
    assert main(["report", str(folder), "-o", str(page)]) == 0
    assert page.stat().st_size < 5_000_000
    assert "1 stacked experiment" in page.read_text()
    assert "0 runs" not in page.read_text()
    assert page.read_text().count("data:image/png") >= len(list(folder.glob("pictures/*.png"))) > 0


@pytest.mark.parametrize("study", CURVES, ids=lambda path: path.name)
def test_curves_come_from_the_metrics(study):
    for run in runs_of(study):
        assert run.sessions[-1]["commit"]
        for row in run.metrics:
            losses = ", ".join(f"{branch} {value['loss']:.3f}" for branch, value in row["train"].items())
            assert f"| {run.folder.name} | {row['epoch']} | {row['step']} | {losses} |" in TEXT
