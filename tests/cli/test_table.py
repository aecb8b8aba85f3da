"""``easybn table --paper`` on the committed rows."""

from pathlib import Path

from ..report.made_up import census, study
from ..tables import strengths

RESULTS = Path(__file__).parents[2] / "results"


def test_runs_beside_the_paper(easybn):
    study = str(RESULTS / "fashion-mnist-cpu")
    found = easybn("table", study, "--paper", "--format", "markdown")
    assert found.status == 0, found.err
    assert "**ebn, resnet_tiny (EBN) beside the paper's RN-18 (EBN), table 1 (other network: " in found.out
    assert "| l2 0.5 | 83.27 ±0.7 | 2.00 ±2.1 | 2.00 ±2.1 | 2.00 ±2.1 |" in found.out
    assert "**Contradictions inside the paper's tables**" in found.out
    last = found.out.rstrip().splitlines()[-1]
    assert last.startswith("The paper has no row for: ")
    assert "vanilla: Vanilla on fashion-mnist" in last
    latex = easybn("table", study, "--paper", "--format", "latex").out
    assert latex.count(r"\begin{table}") == found.out.count("\n| ---")
    assert "The paper has no row" not in latex
    shown = easybn("table", study, "--paper").out
    for text in ("the paper", "83.27 ±0.7", "worst case", "90.89 and 83.27, 0.92 allowed for", "The paper has no row"):
        assert text in shown


def test_without_a_run_of_the_papers_there_are_its_contradictions(easybn):
    found = easybn("table", str(RESULTS / "fashion-mnist-cpu" / "vanilla"), "--paper")
    assert found.status == 0, found.err
    assert "Contradictions inside" in found.out
    assert "beside the paper's" not in found.out


def test_frontiers_of_recipes_at_several_strengths(easybn, tmp_path):
    strengths.study(tmp_path / "runs")
    found = easybn("table", "runs", "--frontier", "--format", "markdown")
    assert found.status == 0, found.err
    assert "**fashion-mnist, resnet_tiny: frontiers**" in found.out
    # see tests/tables/test_frontier.py
    assert "| EBN \N{MINUS SIGN} AdvProp | pgd strong l2 0.5 | 90.50 to 92.00 | 33.50 | 40.83 |" in found.out
    assert "| 3 | \N{MINUS SIGN}7.33 ±2.48 |" in found.out
    assert "EBN \N{MINUS SIGN} AdvProp" in easybn("table", "runs", "--frontier").out
    assert "batch size unknown" in easybn("table", "runs", "--format", "latex").out  # rows that do not say it


def test_frontiers_that_cannot_be_drawn(easybn, tmp_path):
    strengths.study(tmp_path / "runs")
    for words, message in (
        (("runs/advprop-8-0", "--frontier"), "needs two recipes with two strengths each"),
        (("runs", "--frontier", "--paper"), "two tables"),
        (("runs", "--apart", "eps"), "--apart is for --frontier"),
        (("runs", "--frontier", "--apart", "q"), "no recipe has a field 'q'; they have"),
        (("runs", "--frontier", "--apart", "eps"), "needs two recipes with two strengths each"),
    ):
        found = easybn("table", *words)
        assert found.status != 0
        assert message in found.err
        assert not found.out


def test_which_tenth_of_the_images_a_recipe_helps(easybn, tmp_path):
    census(study(tmp_path / "runs", ("vanilla", "ebn")) / "census" / "x")
    found = easybn("table", "runs", "--deciles", "runs/census/x", "--format", "markdown")
    assert found.status == 0, found.err
    assert "**fashion-mnist, resnet_tiny: clean accuracy, by tenths of the images**" in found.out
    assert "| 1 (hardest) | 20.5 | -6.8 ±0.5 |" in found.out  # see tests/tables/test_deciles.py
    shown = easybn("table", "runs", "--deciles", "runs/census").out
    assert "Beside Vanilla, EBN 8/255 changes most on the hardest tenth: -6.8 points" in " ".join(shown.split())


def test_deciles_that_cannot_be_shown(easybn, tmp_path):
    study(tmp_path / "runs", ("vanilla", "ebn"), 1)
    census(tmp_path / "census" / "x", "cifar10")
    for words, message in (
        (("runs", "--deciles", "nowhere"), "no run in nowhere"),
        (("runs", "--deciles", "runs"), "runs has no deciles.jsonl: easybn census NAME --split test makes it"),
        (("runs", "--deciles", "census"), "nothing to compare: the census is of cifar10"),
        (("runs", "--deciles", "census", "--paper"), "--paper and --deciles are two tables"),
    ):
        found = easybn("table", *words)
        assert found.status == 2
        assert message in found.err
        assert not found.out
