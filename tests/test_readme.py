"""The README says what is true: its code runs, and what it quotes is what stands in the files."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from easybn.models import build

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
