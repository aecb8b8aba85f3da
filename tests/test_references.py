"""What docstrings, the README and docs/ refer to exists."""

import ast
import importlib.util
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src/easybn").rglob("*.py"))
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc|obj):`~?([^`<]+)`")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON_FILE = re.compile(r"[\w/]+\.py\b")
DOTTED = re.compile(r"`(easybn(?:\.\w+)+)`")
PATH = re.compile(r"(?<![\w./~-])(?:src/easybn|tests|bench|docs|examples|results|tools)/[\w./-]*\w")

OPTIONAL = {"easybn.integrations.transformers"}  # of packages that are not everywhere: then not looked at


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def references(path: Path) -> set[tuple[str, str]]:
    """(class around it or "", target) of each reference in strings that stand alone: docstrings of whatever."""

    def visit(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                found.update((inside, target) for target in ROLE.findall(str(child.value.value)))
            visit(child, child.name if isinstance(child, ast.ClassDef) else inside)

    found: set[tuple[str, str]] = set()
    visit(ast.parse(path.read_text()), "")
    return found


@cache
def imported(name: str) -> Any:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    try:
        # a folder without modules, such as that of the trained models, would take the place of the function of its name
        return importlib.import_module(name) if spec is not None and spec.origin is not None else None
    except ModuleNotFoundError:
        if name in OPTIONAL:
            return None
        raise


def follow(start: Any, names: list[str]) -> bool:
    """Whether ``start`` has such an attribute of an attribute; fields of dataclasses count."""
    for name in names:
        if hasattr(start, name):
            start = getattr(start, name)
        elif name in getattr(start, "__annotations__", {}):
            return name == names[-1]
        else:
            return False
    return True


def resolves(target: str, module: str, inside: str) -> bool:
    """As a name in the module or the class, or as a path from the top; with dots before it as an import has them."""
    here = imported(module)
    package = module if hasattr(here, "__path__") else module.rpartition(".")[0]
    while target.startswith(".."):
        target, package = target[1:], package.rpartition(".")[0]
    if target.startswith("."):
        target = f"{package}{target}"
    names = target.removesuffix("()").split(".")
    starts = [here, getattr(here, inside, None) if inside else None]
    if any(start is not None and follow(start, names) for start in starts):
        return True
    for cut in range(len(names), 0, -1):
        if (start := imported(".".join(names[:cut]))) is not None:
            return follow(start, names[cut:])
    return False


def test_references_in_docstrings_lead_somewhere():
    found = [(path, inside, target) for path in SOURCES for inside, target in sorted(references(path))]
    assert len(found) > 50
    lost = [
        f"{path.relative_to(ROOT)}: {target}"
        for path, inside, target in found
        if not (module_name(path) in OPTIONAL and imported(module_name(path)) is None)
        and not resolves(target, module_name(path), inside)
    ]
    assert not lost, "\n".join(lost)


def test_the_check_tells_a_reference_to_nothing():
    assert resolves("PGD.run", "easybn.perturb.pgd", "")
    assert resolves("run", "easybn.perturb.pgd", "PGD")
    assert resolves(".ball.Linf", "easybn.perturb.pgd", "")
    assert resolves("..norm.fold.folded", "easybn.perturb.pgd", "")
    assert resolves("easybn.recipes", "easybn.perturb.pgd", "")
    assert not resolves("PGD.nothing", "easybn.perturb.pgd", "")
    assert not resolves(".nothing.Linf", "easybn.perturb.pgd", "")
    assert not resolves("easybn.perturb.nothing", "easybn.perturb.pgd", "")


# written in documents, and not of this repository: a reader's files, and places for a name of theirs
OWN = r"(my|torch|timm|wandb|architecture|register)\.py"
OTHERS = re.compile(OWN + r"|results/gpu|(.*[/_])?(NAME|ROOM|STUDY|FILE|NAME_WHAT)(\.py)?")


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.exists()], ids=lambda path: path.name)
def test_what_documents_name_is_in_the_repository(path):
    """Links and paths, Python files by the end of their path, modules by their dotted name, tests as FILE::NAME."""
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    text = path.read_text()
    linked = {str((path.parent / link).resolve().relative_to(ROOT)) for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    paths, files = linked | set(PATH.findall(text)), {name.lstrip("/") for name in PYTHON_FILE.findall(text)}
    lost = {name for name in paths if not any(f"{file}/".startswith(f"{name.rstrip('/')}/") for file in kept)}
    lost |= {name for name in files if not any(f"/{file}".endswith(f"/{name}") for file in kept)}
    lost |= {name for name in DOTTED.findall(text) if not resolves(name, "easybn", "")}
    for file, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text():
            lost.add(f"{file}::{test}")
    lost = {name for name in lost if not OTHERS.fullmatch(name)}
    assert not lost, "\n".join(sorted(lost))
