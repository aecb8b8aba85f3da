"""Verdicts by hand, and what made-up rows and the committed ones say to each claim."""

import json
import shutil
from pathlib import Path

import pytest

from easybn.paper.claims import CLAIMS, Evidence, Judged, combined_verdict, judge, verdict_of
from easybn.paper.columns import ROWS
from easybn.paper.tables import claims_table, claims_text, evidence_table, support
from easybn.report.page import report
from easybn.stats import PairedT
from easybn.tables.formats import markdown
from easybn.tables.rows import read

from ..report.made_up import study

RESULTS = Path(__file__).parents[2] / "results"
HOLDS, FAILS, OPEN, NONE = "holds", "does not hold", "undecided at this scale", "not measured"


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (0.0100, 0.0050, HOLDS),  # 0.5 .. 1.5 points
        (0.0004, 0.0003, HOLDS),  # 0.01 .. 0.07: above 0, reaches beyond 0.05
        (0.0003, 0.0001, FAILS),  # 0.02 .. 0.04: a gain, but negligible
        (0.0000, 0.0005, FAILS),  # -0.05 .. 0.05: negligible either way
        (0.0000, 0.0006, OPEN),  # -0.06 .. 0.06
        (0.0100, 0.0100, OPEN),  # 0 .. 2: touches 0
        (-0.0100, 0.0050, FAILS),  # -1.5 .. -0.5
        (-0.0100, 0.0200, OPEN),  # -3 .. 1
    ],
)
def test_verdict_of_an_interval(mean, half, verdict):
    assert verdict_of(PairedT(mean, half, 0.5, 3))[0] == verdict


def test_what_cannot_be_decided_says_why():
    assert verdict_of(None) == (NONE, "")
    assert verdict_of(PairedT(-0.25, None, None, 1)) == (OPEN, "one seed")
    assert verdict_of(PairedT(0.0, 0.001, 1.0, 3), saturated=True) == (OPEN, "both at the end of the scale")
    assert verdict_of(PairedT(0.0003, 0.0001, 0.01, 3)) == (FAILS, "a gain, but a negligible one")
    assert verdict_of(PairedT(0.05, 0.04, 0.01, 3), margin=0.10) == (FAILS, "a gain, but a negligible one")


@pytest.mark.parametrize(
    ("verdicts", "every", "some"),
    [
        ([], NONE, NONE),
        ([NONE, NONE], NONE, NONE),
        ([HOLDS, NONE], OPEN, HOLDS),
        ([FAILS, NONE], FAILS, OPEN),
        ([HOLDS, HOLDS], HOLDS, HOLDS),
        ([HOLDS, OPEN], OPEN, HOLDS),
        ([HOLDS, FAILS], FAILS, HOLDS),
        ([OPEN, FAILS], FAILS, OPEN),
        ([FAILS, FAILS], FAILS, FAILS),
    ],
)
def test_several_comparisons_together(verdicts, every, some):
    assert combined_verdict(verdicts) == every
    assert combined_verdict(verdicts, some=True) == some


def test_made_up_rows(tmp_path):
    found = {each.claim.name: each for each in judge(read(study(tmp_path)))}
    assert {name: each.verdict for name, each in found.items()} == {
        "C1": HOLDS,  # at 8/255; at 1/255 neither half matters
        "C2": FAILS,  # -1.18 points
        "C3": FAILS,  # -24 points at 0.1 and 0.5
        "C4": FAILS,
        "C5": FAILS,  # AdvProp is, EBN is not
        "C6": FAILS,  # EBN's states lie farther
    }
    assert [each.verdict for each in found["C1"].evidence] == [FAILS, HOLDS]
    assert found["C1"].decisive.test.mean == pytest.approx(0.476)  # 97.8 - 50.2 in the middle
    assert found["C2"].decisive.interval[1] == pytest.approx(-1.18 + 0.05, abs=0.001)
    c3 = {each.what.rpartition(", ")[2]: each.verdict for each in found["C3"].evidence}
    assert c3["l2 0.5 strong"] == FAILS
    assert c3["l2 1.0"] == c3["l2 1.0 strong"] == OPEN  # nothing is left of either
    assert {each.verdict for each in found["C5"].evidence if "AdvProp" in each.what} == {HOLDS, OPEN}
    layers = {each.why for each in found["C6"].evidence}
    assert layers == {"EBN closer in 0 of 2 layers"}


def test_controls_decide_nothing(tmp_path):
    study(tmp_path, ("vanilla",), 2)
    path = tmp_path / "stacked-fashion-mnist" / "rows.jsonl"
    path.write_text(path.read_text().replace('"copy": "easy"', '"copy": "adversarial"'))
    c1 = judge(read(tmp_path))[0]
    assert c1.verdict == NONE
    assert [each.verdict for each in c1.evidence] == [None, None]
    assert "C1  NOT MEASURED  " in claims_text([c1])
    assert "not measured: easybn stacked" in claims_text([c1])


def test_a_claim_that_nothing_was_measured_for_says_so_everywhere(tmp_path):
    """Vanilla alone: there is no EBN or AdvProp to compare."""
    study(tmp_path, ("vanilla",), 2)
    shutil.rmtree(tmp_path / "stacked-fashion-mnist")
    found = judge(read(tmp_path))
    assert {each.verdict for each in found} == {NONE}
    table = claims_table(found)
    assert [line.cells[-1].text for line in table.rows] == [NONE] * 6
    assert all(line.cells[2].text.startswith("not measured: easybn") for line in table.rows)
    cards = report(tmp_path).partition("Claims of the paper")[2]
    assert cards.count("</span> not measured</p>") == 6
    for text in (markdown(table), claims_text(found).partition("A comparison is")[0]):
        assert "undecided" not in text.partition("A comparison is")[0]


def test_a_comparison_that_was_not_measured_is_counted_as_that():
    first = Evidence("a", "points", PairedT(0.01, 0.005, 0.01, 3), HOLDS)
    other = Evidence("b", "points", None, *verdict_of(None))
    both = Judged(CLAIMS[1], [first, other], combined_verdict([first.verdict, other.verdict]))
    assert support(both) == "holds in 1, not measured in 1 of 2 comparisons"
    assert [line.cells[-1].text for line in evidence_table([both]).rows] == [HOLDS, NONE]


def test_hidden_states_are_compared_at_the_blocks_and_on_the_same_images(tmp_path):
    """Rows of other layers, another branch or other images beside them change no comparison."""
    study(tmp_path)
    before = [each.evidence for each in judge(read(tmp_path)) if each.claim.name == "C6"]
    for path in tmp_path.glob("ebn*/hidden.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        far = [{**row, "relative_distance": 9.0} for row in rows]
        other = [{"layers": ["x"]}, {"branch": "easy"}, {"images": 7}, {"seed": 5}]
        strange = [{**row, **each} for row in far for each in other]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *strange]))
    assert before[0]
    assert [each.evidence for each in judge(read(tmp_path)) if each.claim.name == "C6"] == before


def test_one_seed_decides_nothing():
    found = judge(read(RESULTS / "fashion-mnist-cpu"))
    assert {each.claim.name: each.verdict for each in found} == dict.fromkeys(["C2", "C3", "C5"], OPEN) | {
        "C1": NONE,
        "C4": NONE,
        "C6": NONE,
    }
    text = claims_text(found)
    assert "undecided in 6 of 6 comparisons (one seed)" in text
    assert "EBN 1/255 \N{MINUS SIGN} AdvProp 1/255, l2 0.5: \N{MINUS SIGN}25.00 points" in text


def test_the_tables_have_a_line_a_claim_and_a_line_a_comparison(tmp_path):
    found = judge(read(study(tmp_path, ("vanilla", "advprop", "ebn"), 2)))
    table = claims_table(found)
    assert [line.label for line in table.rows] == ["C1", "C2", "C3", "C4", "C5", "C6"]
    assert len(evidence_table(found).rows) == sum(len(each.evidence) for each in found)


def test_what_is_told_of_the_papers_tables_is_in_them():
    """More of EBN's figures than AdvProp's: all clean ones, 11 of 12 under l2 PGD, AutoAttack by its norm."""
    rows = {(row.data, row.model, row.method): row.percent for row in ROWS}
    gains = [[b - a for a, b in zip(rows[*key, "advprop"], rows[*key, "ebn"], strict=True)]
             for key in {key[:2] for key in rows}]  # fmt: skip
    clean = sorted(gain[0] for gain in gains)
    assert f"+{clean[0]:.2f} to +{clean[-1]:.2f}" in CLAIMS[1].where
    higher = sum(value > 0 for gain in gains for value in gain[1:4])
    assert f"{higher} of 12 higher" in CLAIMS[2].where
    assert [sum(gain[column] > 0 for gain in gains) for column in (4, 5)] == [4, 0]
    assert "l-infinity (4 of 4), lower in l2 (4 of 4)" in CLAIMS[3].where
