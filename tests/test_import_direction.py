"""Imports go down only: the plan of the house, checked on every file."""

import ast
from pathlib import Path

import pytest

import easybn

ROOT = Path(easybn.__file__).parent
FLOORS = {
    "keyed_random": 0, "modes": 0, "files": 0, "sealed": 0, "rows": 0, "copying": 0, "reading": 0, "terminal": 0,
    "escapes": 0, "norm": 0, "perturb": 0,
    "models": 1, "data": 1,
    "recipes": 2, "attacks": 2,
    "train": 3, "evaluation": 3, "analysis": 3,
    "experiments": 4,
    "commands": 5, "cli": 5, "__main__": 5,
}  # fmt: skip
# within a floor parts do not meet (norm and perturb, train and evaluation), but for these
SERVE_ALL = {"keyed_random", "modes", "files", "sealed", "rows", "copying", "reading", "terminal", "escapes"}
SIDEWAYS = {"commands": {"cli"}, "cli": {"commands"}, "__main__": {"cli"}}
ONLY_FOR_COMMANDS = {"jsonargparse", "yaml", "argparse"}
FILES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it."""
    package = ["easybn", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} if node.module else {f"{module}.{alias.name}" for alias in node.names}
    return found


def violations(path: Path, imported: set[str]) -> list[str]:
    here = part(path)
    wrong = []
    for name in sorted(imported):
        words = name.split(".")
        if words[0] != "easybn":
            if words[0] in ONLY_FOR_COMMANDS and FLOORS[here] < 5:
                wrong.append(f"{name}: argv and YAML belong to the commands")
            continue
        if len(words) == 1 or words[1] not in FLOORS:
            continue  # easybn itself: the version
        there = words[1]
        if FLOORS[there] > FLOORS[here]:
            wrong.append(f"{name}: goes up")
        elif FLOORS[there] == FLOORS[here] and there != here and there not in SERVE_ALL | SIDEWAYS.get(here, set()):
            wrong.append(f"{name}: goes sideways")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    if path.parent == ROOT and path.name == "__init__.py":
        return  # names homes of public names for type checkers, imports none
    assert part(path) in FLOORS, "a new part of the package needs a floor"
    assert not violations(path, imports(path))


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("norm/route.py", "easybn.perturb.pgd"),
        ("perturb/pgd.py", "easybn.norm.route"),
        ("models/resnet.py", "easybn.recipes.ebn"),
        ("train/loop.py", "easybn.evaluation.pgd"),
        ("data/source.py", "easybn.models"),
        ("recipes/ebn.py", "easybn.train.loop"),
        ("experiments/run.py", "jsonargparse"),
    ],
)
def test_the_check_itself_sees_what_it_should(path, imported):
    assert violations(ROOT / path, {imported})
