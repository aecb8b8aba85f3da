"""The documentation's pages: every public name is explained and listed, every page has its place, and its code runs."""

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import easybn

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = {path: path.read_text() for path in sorted((DOCS / "api").glob("*.md"))}
SHOWN = {name for text in REFERENCE.values() for name in re.findall(r"^::: ([\w.]+)", text, re.M)}
ROOMS = ("norm", "perturb", "recipes", "attacks", "evaluation", "metrics")


@cache
def definitions(path: Path) -> dict[str, ast.AST]:
    """The public functions and classes of a module."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, kinds)]
    return {node.name: node for node in nodes if not node.name.startswith("_")}


def home(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def public() -> dict[str, Any]:
    """What users import, by the name of its module: what easybn and its rooms list, every attack and instrument."""
    found = [getattr(easybn, name) for name in easybn.__all__ if name != "__version__"]
    for room in ("recipes", "evaluation", "models", "data"):
        module = import_module(f"easybn.{room}")
        found += [getattr(module, name) for name in module.__all__]
    attacks, metrics = import_module("easybn.attacks.registry"), import_module("easybn.metrics.registry")
    found += [make.func for make in attacks.ATTACKS.values()] + list(metrics.INSTRUMENTS.values())
    return {home(value): value for value in found if hasattr(value, "__qualname__")}


def test_every_public_name_has_a_docstring_and_is_in_the_reference():
    names = public()
    assert len(names) > 60
    shown = {name for name in names if name in SHOWN or name.rpartition(".")[0] in SHOWN}
    assert not sorted(set(names) - shown), "add them to a page of docs/api"
    own = {
        name for name, value in names.items() if value.__doc__ and not value.__doc__.startswith(f"{value.__name__}(")
    }
    assert not sorted(set(names) - own), "without a docstring"


def test_every_public_function_and_class_of_the_rooms_has_a_docstring():
    files = [path for room in ROOMS for path in sorted((ROOT / "src/easybn" / room).rglob("*.py"))]
    nodes = {(path, name): node for path in files for name, node in definitions(path).items()}
    assert len(nodes) > 300
    silent = [
        f"{path.relative_to(ROOT)}: {name}" for (path, name), node in nodes.items() if not ast.get_docstring(node)
    ]
    assert not silent, "\n".join(silent)


def test_what_the_reference_shows_exists():
    for name in sorted(SHOWN):
        module, _, last = name.rpartition(".")
        path = ROOT / "src" / name.replace(".", "/")
        if path.with_suffix(".py").exists():
            continue
        assert last in definitions((ROOT / "src" / module.replace(".", "/")).with_suffix(".py")), name


def test_the_table_of_public_names_says_what_their_docstrings_say():
    table = REFERENCE[DOCS / "api/index.md"]
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md#([\w.]+)\) \| (.*) \|$", table, re.M)
    assert {name for name, *_ in rows} == set(easybn.__all__) - {"__version__"}
    for name, page, anchor, text in rows:
        value = getattr(easybn, name)
        assert anchor == home(value)
        listed = re.findall(r"^::: ([\w.]+)", REFERENCE[DOCS / f"api/{page}.md"], re.M)
        assert anchor in listed or anchor.rpartition(".")[0] in listed
        first = " ".join(value.__doc__.split("\n\n")[0].split())
        assert text == re.sub(r":\w+:(`[^`]+`)", r"\1", first)


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags are MkDocs' own."""


_Loader.add_multi_constructor("", lambda loader, tag, node: None)


def test_every_page_is_in_the_navigation():
    def pages(part: Any) -> list[str]:
        parts = part.values() if isinstance(part, dict) else part
        return [part] if isinstance(part, str) else [page for inner in parts for page in pages(inner)]

    listed = pages(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"])
    generated = {"readme.md", "changelog.md", "contributing.md", "security.md", "commands.md"}
    assert set(listed) - generated == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("page", ["index.md", "coming-from.md"])
def test_the_code_of_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)
    assert blocks
    space: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), space)


@pytest.mark.parametrize("page", ["index.md", "faq.md"])
def test_the_commands_of_a_page_are_understood(page):
    """Each line is parsed by its command's own parser, so that every option and value is one that there is."""
    from easybn.cli.arguments import Parser
    from easybn.cli.main import _command

    blocks = "".join(re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.S))
    lines = re.findall(r"^easybn (\w+)(.*)$", blocks, re.M)
    assert lines
    for name, words in lines:
        configure, _, description = _command(name)
        parser = Parser(prog=f"easybn {name}", description=description, allow_abbrev=False, exit_on_error=False)
        configure(parser)
        parser.parse_args(words.partition("#")[0].split())


def test_messages_in_headings_of_the_faq_are_printed_so():
    quoted = re.findall(r"^### .*`([^`\n]+)`", (DOCS / "faq.md").read_text(), re.M)
    assert len(quoted) > 10
    source = "".join(path.read_text() for path in sorted((ROOT / "src/easybn").rglob("*.py")))
    assert not [words for words in quoted if words not in source]
