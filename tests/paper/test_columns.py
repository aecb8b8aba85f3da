"""``easybn table --paper``: runs beside the paper's rows, of hand-made scores, of stored verdicts and of results/."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from easybn.data import Source
from easybn.evaluation import Score, evaluate
from easybn.evaluation.config import EvaluateConfig
from easybn.evaluation.result import contradictions
from easybn.evaluation.store import Manifest, Store
from easybn.evaluation.verdicts import unpack_bits
from easybn.keyed_random import permutation
from easybn.paper.columns import COLUMNS, ROWS, beside_the_paper, in_the_paper, paper_columns, paper_row
from easybn.runs.evaluate import evaluate_run, store_folder
from easybn.runs.run import Run
from easybn.runs.target import EvaluationTarget
from easybn.runs.verdicts import store_verdicts
from easybn.tables.formats import markdown

from ..small import small_images, small_net
from ..tables.test_single_runs import clean, pgd

ROOT = Path(__file__).parents[2]


def autoattack(norm, eps, correct, n=200):
    row = {"attack": "autoattack", "protocol": "standard", "norm": norm, "eps": eps, "correct": correct, "n": n}
    return {**row, "broke": {}, "branch": "main", "notes": []}


@pytest.fixture
def made(tmp_path):
    def make(*rows, recipe="EBN", data="fashion-mnist", model="resnet18", name="r"):
        run = Run(tmp_path / name)
        run.folder.mkdir()
        config = {"experiment": {"model": model, "data": data, "recipe": {"class": recipe}}}
        (run.folder / "config.json").write_text(json.dumps(config))
        run.add_scores(rows)
        return run

    return make


def as_the_paper(row):
    """Our scores, were they the paper's, but for AutoAttack, which cannot leave more than PGD."""
    percent = dict(zip((each.name for each in COLUMNS), row.percent, strict=True))
    rows = [clean(round(100 * percent["Basic"]), 10_000)]
    for eps in (0.1, 0.5, 1.0):
        correct = round(100 * percent[f"l2 {eps}"])
        rows += [pgd(protocol, eps, correct, n=10_000) for protocol in ("robustness", "strong")]
    return rows


def test_each_number_is_where_it_belongs(made):
    rows = [
        clean(940), pgd("robustness", 0.1, 170), pgd("strong", 0.1, 168), pgd("robustness", 0.5, 160),
        pgd("strong", 0.5, 30), autoattack("l2", 0.5, 20), autoattack("linf", 8 / 255, 3),
    ]  # fmt: skip
    found = beside_the_paper(made(*rows))
    assert found.title == "r, resnet18 (EBN) beside the paper's RN-18 (EBN), table 1"
    cells = {row.label: [cell.text.split()[0] if cell.text else None for cell in row.cells[:4]] for row in found.rows}
    assert cells == {
        "Basic": ["94.28", "94.00", None, None],
        "l2 0.1": ["86.39", "85.00", "84.00", "84.00"],
        "l2 0.5": ["83.27", "80.00", "15.00", "10.00"],
        "l2 1.0": ["80.31", None, None, "10.00"],  # what falls within 0.5 falls within 1.0
        "AA linf 8/255": ["86.93", "1.50", None, "1.50"],
        "AA l2 0.5": ["90.89", "10.00", "15.00", "10.00"],
    }
    told = "\n".join(found.notes)
    assert "l2 0.5: ours: pgd (strong) l2 0.5 leaves 15.00, 65.00 points less" in told
    assert "AA linf 8/255: the paper's 86.93 is 85.43 points above ours under its protocol" in told
    assert "AA l2 0.5: the paper: autoattack (standard) l2 0.5 is 7.62 points above pgd (robustness) l2 0.5" in told
    marks = [mark for row in found.rows for mark in row.cells[4].text.split(", ") if mark]
    assert marks == [str(number) for number in range(1, len(found.notes) + 1)]
    assert all(flag.startswith(f"{mark}. ") for mark, flag in zip(marks, found.notes, strict=True))


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.model == "resnet18"], ids=lambda row: f"{row.table} {row.row}"
)
def test_figures_like_the_papers_leave_only_its_own_contradiction(made, row):
    recipe = {"ebn": "EBN", "advprop": "AdvProp"}[row.method]
    found = beside_the_paper(made(*as_the_paper(row), recipe=recipe, data=row.data))
    assert "other" not in found.title
    (flag,) = found.notes
    assert flag.startswith("1. AA l2 0.5: the paper: ")


def test_another_network_and_other_images_are_said(made):
    rows = [{**row, "data": "cifar10-jpeg"} for row in (clean(700), pgd("robustness", 0.5, 2))]
    found = beside_the_paper(made(*rows, data="x/images.zip", model="resnet_small", recipe="AdvProp"))
    unlike = "(other network: resnet_small, other images: cifar10-jpeg)"
    assert found.title.endswith(f"RN-18 (AP), table 2 {unlike}")
    assert f"the paper's 29.17 is 28.17 points above ours under its protocol {unlike}" in "\n".join(found.notes)
    assert "RN-50 (AP)" in beside_the_paper(made(recipe="AdvProp", model="resnet50", name="deep")).title


def test_only_the_papers_steps_and_the_deployed_branch_and_the_latest_count(made):
    rows = [pgd("robustness", 0.5, 100, steps=20), {**pgd("robustness", 0.5, 90), "branch": "easy"}]
    run = made(*rows, pgd("strong", 0.5, 60), pgd("strong", 0.5, 50))
    (line,) = [row.cells for row in beside_the_paper(run).rows if row.label == "l2 0.5"]
    assert line[1].text == ""
    assert str(line[2]).startswith("25.00 ")


@pytest.mark.parametrize(
    ("asked", "told"),
    [({"recipe": "Vanilla"}, "r: Vanilla on fashion-mnist"), ({"data": "mine"}, "r: EBN on mine")],
)
def test_what_the_paper_has_no_row_for(made, asked, told):
    with pytest.raises(KeyError, match=told):
        beside_the_paper(made(**asked))


def test_stored_verdicts_count_together(made):
    run, model, x = made(), small_net(), small_images(30)
    y = model(x).argmax(1)
    index = permutation(30, 0, "some").sort().values
    left = []
    for number, (name, points, how) in enumerate((
        ("pgd-l2-0.5-a", 30, {"attacks": "pgd", "steps": 1, "step_size": 0.02}),
        ("fab-t-l2-0.5-b", 20, {"attacks": ["fab-t"]}),
        ("easy-fab-t-l2-0.5-c", 30, {"attacks": ["apgd-ce"]}),
    )):  # fmt: skip
        of = small_net(seed=1) if number == 2 else model
        how = {"norm": "l2", "eps": 0.5, "ids": index[:points], **how}
        found = evaluate(of, x[:points], y[:points], store=run.folder / "verdicts" / name, **how)
        left.append(torch.cat((found.robust, torch.ones(30 - points, dtype=torch.bool))))
    expected = int((left[0] & left[1]).sum())
    assert expected < int(left[0].sum())
    (line,) = [row.cells for row in beside_the_paper(run).rows if row.label == "l2 0.5"]
    assert (line[3].value, line[3].n) == (pytest.approx(100 * expected / 30), 30)


NAMES = ["random", "plus", "pgd", "fab-t", "apgd-ce", "main-x", "easy"]


def verdicts_of(run, branch, model, x, **how):
    """As ``easybn evaluate --branch`` stores them."""
    labels = model(x).argmax(1)
    images = (x * 255).round().byte()
    source = Source.from_tensors(images, labels, images, labels, classes="abcd", name="fashion-mnist")
    subject = EvaluationTarget(run, lambda: model, lambda: source, branch)
    wanted = {"attacks": ("apgd-ce",), "norm": "linf", "eps": (8 / 255,), "points": len(x), "diagnosis": False}
    return evaluate_run(subject, EvaluateConfig.of_run(**(wanted | how)))


def test_no_branch_counts_as_the_deployed_model_whatever_it_is_called(made):
    run, x = made(), small_images(5)
    found = verdicts_of(run, "main", small_net(), x)
    for number, name in enumerate(NAMES, 1):
        other = verdicts_of(run, name, small_net(seed=number), x)
        assert Store.existing(other.store).manifest.branch == name
    (row,) = store_verdicts(run.folder)
    assert row["n"] == 5
    assert unpack_bits(row["right"], 5).tolist() == found.evaluation.robust.tolist()
    (line,) = [row.cells for row in beside_the_paper(run).rows if row.label == "AA linf 8/255"]
    assert (line[3].value, line[3].n) == (pytest.approx(20 * int(found.evaluation.robust.sum())), 5)


def test_a_store_from_before_branches_were_written_into_it_goes_on_and_counts(made):
    run, x, how = made(), small_images(4), {"eps": (0.001, 0.002)}
    found = verdicts_of(run, "main", small_net(), x, **how)
    verdicts_of(run, "pgd", small_net(seed=5), x, **how)
    for path in run.folder.glob("verdicts/*/manifest.json"):
        values = json.loads(path.read_text())
        shutil.rmtree(path.parent / "attempts")
        unsaid = ("branch", "checksum")  # neither was written then
        path.write_text(json.dumps({name: value for name, value in values.items() if name not in unsaid}))
    again = verdicts_of(run, "main", small_net(), x, **how)
    assert again.store == found.store
    assert Store.existing(again.store).manifest.branch is None
    assert [row["eps"] for row in store_verdicts(run.folder)] == [0.001, 0.002]


@pytest.mark.parametrize("attacks", [("apgd-ce",), ("square", "pgd"), ("standard",), ("plus",), ("fab-t", "square")])
@pytest.mark.parametrize("branch", ["main", "easy", "random", "pgd", "square", "plus", "main-x"])
def test_stores_from_before_branches_were_written_are_told_apart_by_their_whole_names(attacks, branch):
    asked = EvaluateConfig.of_run(attacks, norm="l2", eps=(0.25, 0.5))
    folder = store_folder(EvaluationTarget(Run(Path("r")), small_net, lambda: None, branch), asked)
    ran = [attack.name for attack in asked.attacks_at(0.5)]
    manifest = Manifest(model="m", data="d", points=(1,), norm="l2", eps=asked.eps, attacks=tuple(ran))
    assert Store(folder, manifest).deployed == (branch == "main")
    assert Store(folder, replace(manifest, branch=branch)).deployed == (branch == "main")


def test_the_papers_own_contradictions():
    table = in_the_paper()
    assert len(table.rows) == len(ROWS) == 8
    for shown, row in zip(table.rows, ROWS, strict=True):
        cells = [cell.text for cell in shown.cells]
        percent = dict(zip((each.name for each in COLUMNS), row.percent, strict=True))
        assert shown.label == f"table {row.table}, {row.row}"
        assert (cells[0], cells[2]) == ("AA l2 0.5", "l2 0.5")
        assert [cell.split()[0] for cell in (cells[1], cells[3])] == [
            f"{percent[column]:.2f}" for column in ("AA l2 0.5", "l2 0.5")
        ]
        assert cells[4].startswith(f"{percent['AA l2 0.5'] - percent['l2 0.5']:.2f} (")


def test_the_docs_show_what_the_committed_rows_give():
    text = (ROOT / "docs" / "notes" / "evaluation.md").read_text()
    shown = markdown(beside_the_paper(Run(ROOT / "results" / "fashion-mnist-cpu" / "advprop"))).strip()
    assert shown in text
    assert markdown(in_the_paper()).strip() in text
    assert len(re.findall(r"^\d\. ", shown, re.MULTILINE)) > 2


N = 1000


def _score(attack: str, percent: float, norm=None, eps=None, protocol=None, n=N, steps=100) -> Score:
    return Score(attack, n, round(percent / 100 * n), protocol=protocol, norm=norm, eps=eps, steps=steps)


def _consistent() -> list[Score]:
    return [
        _score("clean", 93),
        *(_score("pgd", p, "l2", e, "robustness") for e, p in ((0.1, 60), (0.5, 2.1), (1.0, 0.1))),
        *(_score("pgd", p, "l2", e, "strong") for e, p in ((0.1, 59.5), (0.5, 1.5), (1.0, 0))),
        _score("autoattack", 0, "linf", 8 / 255, "standard", steps=0),
        _score("autoattack", 1, "l2", 0.5, "standard", steps=0),
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table} {row.row}")
def test_every_row_of_the_paper_contradicts_itself(row):
    by_name = dict(zip((column.name for column in COLUMNS), row.percent, strict=True))
    (found,) = contradictions(row.scores)
    assert (found.higher.attack, found.higher.norm) == ("autoattack", "l2")
    assert (found.lower.attack, found.lower.eps) == ("pgd", 0.5)
    assert 100 * found.excess == pytest.approx(by_name["AA l2 0.5"] - by_name["l2 0.5"])
    assert 7 < 100 * found.excess < 50
    flagged = {each.column.name: each.flags for each in paper_columns([], row) if each.flags}
    assert list(flagged) == ["AA l2 0.5"]
    assert "which it cannot exceed" in flagged["AA l2 0.5"][0]


def test_the_numbers_are_those_of_the_tables():
    """Compared with the paper's text when they were typed; the sums keep them."""
    assert len({(row.data, row.model, row.method) for row in ROWS}) == len(ROWS) == 8
    assert all(len(row.percent) == len(COLUMNS) == 6 for row in ROWS)
    assert [row.table for row in ROWS] == [1] * 4 + [2] * 4
    assert [round(sum(row.percent), 2) for row in ROWS] == [
        510.44, 522.07, 449.49, 452.33, 303.32, 306.71, 308.32, 311.45,
    ]  # fmt: skip
    assert paper_row("cifar10", "resnet18", "ebn").percent[-1] == 77.19
    with pytest.raises(KeyError, match="no row for vanilla"):
        paper_row("cifar10", "resnet18", "vanilla")


def test_figures_that_fit_together():
    columns = paper_columns(_consistent())
    assert [each.column.name for each in columns] == [column.name for column in COLUMNS]
    assert not any(each.flags for each in columns)
    assert contradictions(_consistent()) == []
    at = {each.column.name: each for each in columns}
    assert all(each.paper is None for each in columns)
    assert at["Basic"].strong is None
    assert (at["l2 0.5"].protocol.accuracy, at["l2 0.5"].strong.accuracy) == (0.021, 0.015)
    assert at["l2 0.5"].worst.attack == "autoattack"
    assert at["l2 1.0"].worst.accuracy == 0
    assert at["l2 0.1"].worst.accuracy == 0.595
    assert at["AA linf 8/255"].strong is None


@pytest.mark.parametrize(
    ("number", "percent", "told"),
    [
        (1, 97, "pgd (robustness) l2 0.1 is 4.00 points above clean"),
        (3, 20, "above pgd (robustness) l2 0.5"),
        (6, 20, "above pgd (robustness) l2 1"),
        (8, 40, "autoattack (standard) l2 0.5 is 38.50 points above pgd (strong) l2 0.5"),
        (7, 99, "autoattack (standard) linf 8/255 is 6.00 points above clean"),
    ],
)
def test_a_planted_contradiction(number, percent, told):
    scores = _consistent()
    scores[number] = replace(scores[number], correct=round(percent / 100 * N))
    assert any(told in str(found) for found in contradictions(scores))
    assert any(told in flag for each in paper_columns(scores) for flag in each.flags)


@pytest.mark.parametrize(("number", "percent"), [(1, 93.9), (3, 2.5), (8, 2.4)])
def test_less_than_chance_is_no_contradiction(number, percent):
    scores = _consistent()
    scores[number] = replace(scores[number], correct=round(percent / 100 * N))
    assert contradictions(scores) == []


def test_what_bounds_nothing():
    strong = _score("pgd", 30, "l2", 0.5, "strong", steps=100)
    assert contradictions([strong, _score("pgd", 50, "l2", 1.0, "strong", steps=10)]) == []  # fewer steps
    assert contradictions([strong, _score("autoattack", 50, "linf", 0.5, "standard", steps=0)]) == []  # another norm
    assert contradictions([strong, _score("autoattack", 50, "l2", 0.1, "standard", steps=0)]) == []  # a smaller eps
    assert contradictions([strong, _score("apgd-ce", 50, "l2", 0.5, steps=0)]) == []  # a list of one's own
    assert contradictions([_score("apgd-ce", 5, "l2", 0.5, steps=0), strong]) == []
    (found,) = contradictions([_score("apgd-ce", 5, "l2", 0.1, steps=0), _score("apgd-ce", 50, "l2", 0.5, steps=0)])
    assert found.excess == pytest.approx(0.45)


def test_the_fault_of_the_protocol_is_told():
    scores = _consistent()
    scores[2] = replace(scores[2], correct=500)
    flags = next(each.flags for each in paper_columns(scores) if each.column.name == "l2 0.5")
    assert any("pgd (strong) l2 0.5 leaves 1.50, 48.50 points less" in flag for flag in flags)
    assert any("autoattack (standard) l2 0.5 leaves 1.00" in flag for flag in flags)


def test_the_paper_away_from_ours_and_scores_from_files():
    scores = [Score.from_dict(json.loads(json.dumps(score.to_dict()))) for score in _consistent()]
    columns = {each.column.name: each for each in paper_columns(scores, ROWS[4])}
    assert columns["AA l2 0.5"].paper.accuracy == pytest.approx(0.7785)
    assert any("the paper's 77.85 is 76.85 points above ours" in flag for flag in columns["AA l2 0.5"].flags)
    assert columns["Basic"].flags == ()


def test_of_two_measurements_the_larger_counts():
    columns = paper_columns([*_consistent(), _score("clean", 80, n=10), _score("clean", 94, n=9000)])
    assert columns[0].protocol.n == 9000
