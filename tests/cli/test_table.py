"""``easybn table --paper`` on the committed rows."""

from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results"


def test_runs_beside_the_paper(easybn):
    study = str(RESULTS / "fashion-mnist-cpu")
    found = easybn("table", study, "--paper", "--markdown")
    assert found.status == 0, found.err
    assert "**ebn, resnet_tiny (EBN) beside the paper's RN-18 (EBN), table 1 (other network: " in found.out
    assert "| l2 0.5 | 83.27 ±0.7 | 2.00 ±2.1 | 2.00 ±2.1 | 2.00 ±2.1 |" in found.out
    assert "**Contradictions inside the paper's tables**" in found.out
    last = found.out.rstrip().splitlines()[-1]
    assert last.startswith("The paper has no row for: ")
    assert "vanilla: Vanilla on fashion-mnist" in last
    shown = easybn("table", study, "--paper").out
    for text in ("the paper", "83.27 ±0.7", "worst case", "90.89 and 83.27, 0.92 allowed for", "The paper has no row"):
        assert text in shown


def test_without_a_run_of_the_papers_there_are_its_contradictions(easybn):
    found = easybn("table", str(RESULTS / "fashion-mnist-cpu" / "vanilla"), "--paper")
    assert found.status == 0, found.err
    assert "Contradictions inside" in found.out
    assert "beside the paper's" not in found.out
