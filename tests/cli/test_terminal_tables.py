"""Every table of every command is whole in narrow and wide terminals: what is shown is read back, column by column."""

import re
from collections import defaultdict
from dataclasses import replace
from html import unescape
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from rich.cells import cell_len
from rich.console import Console

import easybn as package
from easybn.attacks.registry import PRESETS
from easybn.cli import show_evaluation
from easybn.cli import study as show_study
from easybn.cli import trained as perturb
from easybn.evaluation.audit import Audit
from easybn.evaluation.config import EvaluateConfig
from easybn.evaluation.result import Score
from easybn.paper import census, stacked
from easybn.progress import progress_display
from easybn.runs.run import Run
from easybn.study import plan as study_state
from easybn.study import status
from easybn.study.state import State
from easybn.tables.formats import Fitted, show, terminal
from easybn.tables.single_runs import hidden_tables
from easybn.tables.table import Cell, Table, TableRow

from ..report.made_up import study

WIDTHS = [60, 80, 120]
LONG = "torchvision:vit_base_patch16_224.augreg2_in21k_ft_in1k (my_package.recipes.EasyBatchNormalisation)"
BRANCH = f"{LONG}, branch a-branch_with-a.rather_long-name"
ATTACKS = ["clean", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square", "pgd-ce", "pgd-margin"]
RADII = [1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255]


def columns_of(text: str) -> list[tuple[str, ...]]:
    """The tables in ``text``, each as its columns: all that stands in one, without spaces."""
    tables: list[dict[int, str]] = []
    for line in text.splitlines():
        if line.startswith("┏"):
            tables.append(defaultdict(str))
        if line[:1] in ("┃", "│"):
            for i, cell in enumerate(re.split("[┃│]", line)[1:-1]):
                tables[-1][i] += re.sub(r"\s", "", cell)
    return [tuple(each.values()) for each in tables]


def squeezed_lines(out: StringIO) -> str:
    """What was printed on one line."""
    return " ".join(out.getvalue().split())


def squeezed(*texts: str) -> str:
    return re.sub(r"\s", "", "".join(texts))


def assert_whole(text: str, width: int, heads: list[str], columns: list[list[str]]) -> None:
    """``columns``: the head and cells of each; those in ``heads`` begin every part, the others are in one each."""
    assert "…" not in text
    assert max(cell_len(line) for line in text.splitlines() if line[:1] in tuple("┏┃┡│└")) <= width
    wanted = [squeezed(*column) for column in columns]
    parts = columns_of(text)
    assert all(part[: len(heads)] == tuple(heads) for part in parts)
    assert [each for part in parts for each in part[len(heads) :]] == wanted


def of_block(block) -> tuple[list[str], list[list[str]]]:
    """The columns of a table, and of them those that every part begins with."""
    table = block.table if isinstance(block, Fitted) else block
    numbers = list(table.is_number)
    first = [*numbers, True].index(True)
    first = first if first < len(numbers) else 0
    columns = [[head, *(line.cells[i].text for line in table.rows)] for i, head in enumerate(table.columns)]
    names = squeezed(table.corner, *(line.label for line in table.rows))
    return [names, *(squeezed(*column) for column in columns[:first])], columns[first:]


def printed(thing, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width).print(thing)
    return out.getvalue()


def test_there_is_no_other_way_to_show_a_table():
    files = [
        path for path in Path(package.__file__).parent.rglob("*.py") if "rich.table import Table" in path.read_text()
    ]
    assert [path.name for path in files] == ["formats.py"]


words = some.text(some.sampled_from("abcdefghij -_.界é[]"), min_size=1, max_size=100)
figures = some.sampled_from(["", "0", "12.34 ±5.6", "-100.00 ±100.00", "1.0 .. 99.9", "1,234,567", "undefined"])


@settings(max_examples=60)
@given(some.data(), some.sampled_from([40, *WIDTHS, 200]), some.booleans())
def test_any_table_is_whole(data, width, soft):
    columns = data.draw(some.lists(words, min_size=1, max_size=10))
    numeric = data.draw(some.sampled_from([[True] * len(columns), [i != 0 for i in range(len(columns))]]))
    rows = data.draw(some.lists(words, min_size=1, max_size=4))
    cells = [[data.draw(figures if number else words) for number in numeric] for _ in rows]
    lines = [TableRow(name, [Cell(text) for text in texts]) for name, texts in zip(rows, cells, strict=True)]
    table = Table("title " * 30, "Name", columns, lines, "caption " * 30, numeric)
    out = StringIO()
    show(table, Console(file=out, width=width, soft_wrap=soft))
    assert max(cell_len(line) for line in out.getvalue().splitlines()) <= width
    assert_whole(out.getvalue(), width, *of_block(table))
    assert "".join(terminal(table, Console(width=width)).split()) == "".join(out.getvalue().split())


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_stay_on_one_line(width):
    lines = [TableRow(LONG, [Cell(f"{i}{i}.25 ±10.5") for i in range(1, 10)])]
    text = terminal(Table("", "Model", [f"linf {i}/255" for i in range(9)], lines), Console(width=width))
    shown = [cell.strip() for line in text.splitlines() for cell in line.split("│")]
    assert all(f"{i}{i}.25 ±10.5" in shown for i in range(1, 10))


@pytest.mark.parametrize("width", WIDTHS)
def test_evaluate_with_eight_attacks_and_five_radii(width):
    clean = Score("clean", 10_000, 9_123)
    broke = dict(zip(ATTACKS, range(1, 10**6, 111_111), strict=False))
    attacked = [
        Score("autoattack", 10_000, 5_000, "standard", norm, eps, broke=broke, max_perturbation=eps)
        for norm, eps in [*(("linf", eps) for eps in RADII), ("l2", 0.8)]
    ]
    found = SimpleNamespace(
        clean=torch.ones(10_000), scores=[clean, *attacked], asked=10_000, notes=[], remarks=[], complete=True
    )
    result = SimpleNamespace(evaluation=found, findings=[], store="verdicts", seconds=1.0, complete=True)
    run, branch = Run(Path("runs") / squeezed(LONG)), "a-branch_with-a.rather_long-name"
    subject = SimpleNamespace(run=run, branch=branch, source=SimpleNamespace(test=range(20_000)))
    out = StringIO()
    console = Console(file=out, width=width, highlight=False, soft_wrap=True)
    show_evaluation.show_result(
        console, subject, EvaluateConfig.of_run(["autoattack"], norm="linf", eps=tuple(RADII)), result
    )
    text = out.getvalue().partition("Accuracy in %")[0]
    lines = out.getvalue().splitlines()[:6]
    assert all(line.startswith("robust accuracy at l") and line.endswith(f", branch {branch}") for line in lines)
    assert "at linf 8/255: 50.0% (95%: 49.0 to 51.0), 10,000 of 20,000 points, AutoAttack standard" in lines[3]
    heads = ["epsclean1/2552/2554/2558/25516/2550.8"]
    columns = [["accuracy", "91.23"], ["95% interval", "90.7 .. 91.8"]]
    rest = [[name, *[f"{broke[name]:,}"] * 6] for name in ATTACKS]
    accuracy, interval = show_evaluation._accuracy(attacked[0])
    columns = [[*columns[0], *[accuracy] * 6], [*columns[1], *[interval] * 6], *rest]
    assert_whole(text, width, heads, columns)
    if width > 60:
        assert "Farthest image found: 0.00392, 0.00784, 0.01569, 0.03137, 0.06275, 0.80000" in squeezed_lines(out)


@pytest.mark.parametrize("preset", ["standard", "fast"])
def test_the_table_of_a_preset_is_one_piece_in_80_columns(preset):
    broke = dict.fromkeys(("clean", *PRESETS[preset]), 1234) | ({"audit": 1} if preset == "fast" else {})
    clean, attacked = Score("clean", 10_000, 9_123), Score("autoattack", 10_000, 5_000, "standard", "linf", 16 / 255)
    attacked = replace(attacked, broke=broke, max_perturbation=16 / 255)
    if preset == "fast":
        attacked = replace(attacked, attack="fast", protocol=None, audit=Audit(5_001, 0, 40, 0, 1, {"apgd-t": 1}))
    found = SimpleNamespace(clean=torch.ones(10_000), scores=[clean, attacked], asked=10_000, remarks=[])
    result = SimpleNamespace(evaluation=found, findings=[], store="verdicts", seconds=1.0, complete=True)
    subject = SimpleNamespace(run=Run(Path("r")), branch="main", source=SimpleNamespace(test=range(10_000)))
    out = StringIO()
    console = Console(file=out, width=80, highlight=False, soft_wrap=True)
    show_evaluation.show_result(console, subject, EvaluateConfig.of_run([preset]), result)
    assert len(columns_of(out.getvalue())) == 1
    assert max(cell_len(line) for line in out.getvalue().splitlines() if line[:1] == "│") <= 80


def folder_of_runs(tmp_path: Path) -> Path:
    """Runs with long names, and one of them with another branch's scores."""
    folder = study(tmp_path / "s", ("vanilla", "advprop", "ebn"), 2)
    for path in sorted(folder.glob("*-1")):
        path.rename(folder / f"{path.name}-{'a_long-name.' * 6}")
    for path in folder.glob("*/config.json"):
        path.write_text(path.read_text().replace('"resnet_tiny"', '"timm:vit_base_patch16_224.augreg2_in21k_ft_in1k"'))
    for path in folder.glob("*/scores.jsonl"):
        path.write_text(path.read_text().replace('"steps": 100', '"steps": 100, "batch_size": 100'))
    path = folder / "ebn-0" / "scores.jsonl"
    path.write_text(path.read_text() + path.read_text().replace('"main"', '"a-branch_with-a.rather_long-name"'))
    return folder


def markdown_tables(text: str) -> list[list[str]]:
    """The columns of each table, head and cells without spaces and marks."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            plain = re.sub(r"\\(.)", r"\1", line.replace("\\|", "¦"))
            tables[-1].append([squeezed(unescape(cell)).strip("*") for cell in plain.split("|")[1:-1]])
        elif tables[-1]:
            tables.append([])
    whole = [[row for row in table if not set("".join(row)) <= set("-:")] for table in tables if table]
    return [["".join(cells) for cells in zip(*table, strict=True)] for table in whole]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("words", "markdown"),
    [
        (("table", "s", "--format"), "markdown"),
        (("table", "s", "--paper", "--format"), "markdown"),
        (("report", "s", "--tables"), "markdown"),
        (("claims", "s", "--all", "--format"), "markdown"),
    ],
)
def test_what_commands_print_is_what_they_write_as_markdown(words, markdown, width, tmp_path, easybn, monkeypatch):
    folder_of_runs(tmp_path)
    written = markdown_tables(easybn(*words, markdown).out)
    monkeypatch.setenv("COLUMNS", str(width))
    found = easybn(*words, *(["terminal"] if words[-1].startswith("--") and words[-1] != "--paper" else []))
    assert found.status == 0, found.err
    assert "…" not in found.out
    assert max(map(cell_len, found.out.splitlines())) <= width
    shown = {column for table in columns_of(found.out) for column in table}
    expected = [column.replace("¦", "|") for table in written for column in table]
    if words[0] == "claims":  # the claims themselves are paragraphs
        expected = [column for table in written[1:] for column in table]
    assert expected
    assert not [column for column in expected if column not in shown]


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_of_blocks(width):
    per_class = [{"class": f"{LONG} {i}", "n": 6000, "easy": 123 * i, "copies_easy": 120 * i} for i in range(3)]
    row = {
        "model": LONG,
        "recipe": LONG,
        "data": "d",
        "epoch": 1,
        "training_epochs": 3,
        "threshold": 0.9,
        "eps": 1 / 255,
    }
    row |= {"per_class": per_class, "accuracy": 0.9, "confidence_shift": 0.1, "easy_share": 0.2}
    row |= {"n": 18_000, "easy": 369, "copies_easy": 360}
    blocks = [census.census_table([row, {**row, "easy": 400}], [])]
    layer = {"perturbation": "easy", "norm": "linf", "eps": 8 / 255, "steps": 1, "images": 500, "depths": 1, "low": 0.1}
    layer |= {"relative_distance": 0.2, "high": 0.3}
    layers = [{**layer, "layer": f"network.stages.{d}.downsample.{LONG}", "depth": d} for d in range(2)]
    blocks += hidden_tables({f"{LONG} {i}": layers for i in range(5)})
    rows = [
        {
            "copy": "adversarial",
            "eps": eps,
            "steps": 10,
            "half": half,
            "how": how,
            "seed": seed,
            "n": 100,
            "accuracy": 0.5 + seed / 9,
        }
        for eps in RADII
        for half in (None, "copy", "original")
        for how in ((None,) if half is None else ("noise", "swap", "blank"))
        for seed in (0, 1)
    ]
    for block in [*blocks, *stacked.stacked_tables(rows)]:
        text = printed(Fitted(block), width)
        assert_whole(text, width, *of_block(block))
        assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_a_study_under_way(width):
    names = [f"{squeezed(LONG)}-{seed}" for seed in range(3)]
    states = [
        State("done", 4, 4, 7, 7, 4000.0, {}, clean=0.9123),
        State("failed", 2, 4, 0, 7, 40.0, {}, error="RuntimeError: " + "x" * 200),
        State("evaluating", 4, 4, 3, 7, 40.0, {}),
    ]
    seen = SimpleNamespace(states=dict(zip(names, states, strict=True)), here={names[2]}, elsewhere=set())
    needed = {"": 1e6, **dict.fromkeys(names, 123_456.0)}
    fitted = status.status_table(seen, needed)
    text = printed(fitted, width)
    assert_whole(text, width, *of_block(fitted))
    assert "91.23" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_plan_of_a_study(width, monkeypatch, tmp_path):
    runs = [SimpleNamespace(name=f"{squeezed(LONG)}-{i}", evaluations=["clean"], code=None) for i in range(2)]
    failed = State("failed", 2, 4, 0, 7, 40.0, {}, error="RuntimeError: [bold] " + "word " * 20)
    monkeypatch.setattr(study_state, "state", lambda run, folder: failed)
    out = StringIO()
    plan = SimpleNamespace(name="s", attacks_not_loaded=())
    show_study.show_plan(Console(file=out, width=width, highlight=False), plan, runs, tmp_path, {})
    heads = [squeezed("run", *(run.name for run in runs)), squeezed("status", *[f"failed: {failed.error}"] * 2)]
    columns = [["training, minutes", "not measured", "not measured"]]
    text = out.getvalue()
    assert_whole(text, width, heads, columns)
    assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_confidences_of_perturb(width):
    classes = tuple(f"{LONG} {i}" for i in range(5))
    confidence = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])
    found = SimpleNamespace(before=confidence, after=confidence.flip(0), after_saved=confidence)
    out = StringIO()
    perturb.show(Console(file=out, width=width, highlight=False, soft_wrap=True), found, classes, {0})
    percent = [f"{100 * value:.2f}%" for value in confidence.tolist()]
    columns = [["original", *percent], ["perturbed", *percent[::-1]], ["perturbed.png (8 bits)", *percent]]
    assert_whole(out.getvalue(), width, [squeezed("class", *classes)], columns)
    assert np.isclose(confidence.sum(), 1)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_lines_of_progress_bars(width):
    display = progress_display()
    out = StringIO()
    display.live.console = Console(file=out, width=width)
    info = "epoch 10/100  12,345 images/s  main 0.123/98.7% easy 0.012/99.9%"
    display.add_task(f"{squeezed(LONG)}: apgd-ce 0.03137", total=30_006, completed=29_999, info=info)
    display.live.console.print(display.make_tasks_table(display.tasks))
    text = out.getvalue()
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= width
    assert "29999/30006" in text
