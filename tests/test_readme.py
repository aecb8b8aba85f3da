"""The README says what is true: its code runs, and what it quotes is what stands in the files."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch

from easybn.models import build
from easybn.report.plots import table_plot
from easybn.tables.aggregate import settings
from easybn.tables.rows import read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
QUOTED = [ROOT / "src/easybn/recipes/ebn.py", ROOT / "examples/my_recipe.py"]


def is_quoted(block: str) -> bool:
    return any(block in path.read_text() for path in QUOTED)


def test_the_method_is_quoted_verbatim():
    body = QUOTED[0].read_text()
    assert body[body.index("    def __call__") :] in BLOCKS
    assert sum(is_quoted(block) for block in BLOCKS) == 2


def test_the_code_blocks_run_in_order():
    torch.manual_seed(0)
    model = build("resnet_tiny", num_classes=3, in_channels=1)
    loader = [(torch.rand(6, 1, 28, 28), torch.arange(6) % 3) for _ in range(2)]
    space: dict[str, Any] = {"model": model, "loader": loader}
    run = [block for block in BLOCKS if not is_quoted(block)]
    assert len(run) == 2
    for block in run:
        exec(compile(block, "README.md", "exec"), space)
    assert list(space["model"].state_dict()) == list(model.state_dict())
    assert space["result"].robust.shape == (50,)
    assert space["result"].robust_accuracy <= space["result"].clean_accuracy


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)h#][^)]*)\)", README))))
def test_every_link_within_the_project_leads_somewhere(link):
    file, _, anchor = link.partition("#")
    assert (ROOT / file).exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.M)
        assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_every_command_named_exists():
    from easybn.cli.main import COMMANDS

    named = set(re.findall(r"^easybn (\w+)", README, re.M))
    assert named
    assert named <= set(COMMANDS)
    targets = set(re.findall(r"make ([\w-]+)", README))
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def expanded(word: str) -> list[str]:
    """``a{b,c}d`` -> ``abd``, ``acd``, as a shell does."""
    parts = [part.split(",") for part in re.split(r"[{}]", word)]
    choices = [[",".join(part)] if i % 2 == 0 else part for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def test_the_pictures_show_the_committed_rows():
    [command] = re.findall(r"<!-- in results/cpu: easybn table (.*?) -->", README, re.S)
    names, panels = re.fullmatch(r"(\S+) --panels ([\w ]+)\s.*", command, re.S).groups()
    folders = [ROOT / "results/cpu" / name for name in expanded(names)]
    assert len(folders) == 15
    runs = [run for folder in folders for run in read(folder).runs]
    shown = table_plot(settings(runs)).only(panels.split()).numbers
    files = re.findall(r"--plot ../../(\S+?);? ", f"{command} ")
    assert len(files) == 2
    for file in files:
        assert f'"{file}"' in README
        assert (ROOT / file).stat().st_size < 60_000
        [told] = ET.parse(ROOT / file).iter("{http://purl.org/dc/elements/1.1/}description")
        assert json.loads(told.text) == shown
    # and these are the figures of the table below
    of_fashion = README.partition("**Fashion-MNIST**")[2].partition("**CIFAR-10")[0].replace("**", "")
    for panel, eps, place in ((shown[0], 0.5, 2), (shown[1], 8 / 255, 3)):
        for curve in panel["curves"]:
            label = curve["label"].replace("Vanilla", "Vanilla, lr 0.1")
            [cells] = [line.split(" | ") for line in of_fashion.splitlines() if line.startswith(f"| {label} |")]
            [point] = [point for point in curve["points"] if point["x"] == pytest.approx(eps, abs=1e-6)]
            mean, half = map(float, cells[place].split("|")[0].split("±"))
            assert 100 * point["y"] == pytest.approx(mean, abs=0.006)
            assert 100 * point["low"] == pytest.approx(max(0, mean - half), abs=0.02)
