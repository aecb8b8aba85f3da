"""The documentation's pages: every public name is explained and listed, every page has its place, and its code runs."""

import ast
import re
import shlex
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import easybn
from easybn import recipes
from easybn.user_code import forbid_all

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


def test_the_page_on_training_lists_every_recipe_with_its_cost():
    listed = re.findall(r"^\| `(\w+)`.* \| ([\d.]+) \|$", (DOCS / "training.md").read_text(), re.M)
    rows = dict(listed) | {"FastEBN": dict(listed)["FastAdvProp"]}  # the two are in one row
    classes = [getattr(recipes, name) for name in recipes.__all__]
    packaged = {
        cls.__name__: cls.__doc__ for cls in classes if isinstance(cls, type) and cls.__base__ is recipes.Recipe
    }
    assert set(rows) == set(packaged)
    for name, passes in rows.items():
        assert re.search(rf"\b{re.escape(passes)}\b", packaged[name]), name


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


def anchors(path: Path) -> set[str]:
    """Those that GitHub and the site make of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    return {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }


def test_every_link_to_a_heading_finds_it():
    pages = [*sorted(DOCS.rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    links = [
        (path, *link) for path in pages for link in re.findall(r"\]\(([\w./-]*\.md|)#([\w-]+)\)", path.read_text())
    ]
    assert len(links) >= 40
    assert not [link for link in links if link[2] not in anchors((link[0].parent / link[1]) if link[1] else link[0])]


BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.*?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCKS = {path: [found.groupdict() for found in BLOCK.finditer(path.read_text())] for path in PAGES}
REASONS = ("several processes", "a trainer of its own", "minutes", "an environment of its own")
EXAMPLES = {path: path.read_text() for path in sorted((ROOT / "examples").rglob("*.py"))}


def pages_with(language: str) -> list[Any]:
    found = [path for path in PAGES if any(block["language"] == language for block in BLOCKS[path])]
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in found]


def test_blocks_of_code_are_of_a_language_that_is_checked_and_say_why_they_do_not_run():
    """A comment above a block of Python names one of ``REASONS`` and the test that does what the block shows."""
    for path, blocks in BLOCKS.items():
        assert len(re.findall(r"^```\w*\n.*?^```$", path.read_text(), re.M | re.S)) == len(blocks), path
        assert {block["language"] for block in blocks} <= {"python", "bash", "text"}, path
        for block in blocks:
            if block["why"]:
                reason, _, test = block["why"].partition(": ")
                assert reason in REASONS
                assert (ROOT / test).is_file()


@pytest.mark.parametrize("path", [each for each in pages_with("python") if each.values[0] != ROOT / "README.md"])
def test_the_python_of_a_page_runs(path, tmp_path, monkeypatch):
    """In order and in one namespace, as a reader would; what is quoted from examples/ is run by their own tests."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": path.name}
    for block in BLOCKS[path]:
        quoted = any(block["code"] in text for text in EXAMPLES.values())
        if block["language"] == "python" and not quoted and not block["why"]:
            exec(compile(block["code"], path.name, "exec"), space)


LAUNCHERS = re.compile(r"(?:torchrun|accelerate launch|srun) (?:-.*? )?(?:-m )?(?=easybn )")
OTHERS = re.compile(r"python3 -m venv .venv|\. .venv/bin/activate|pip install (?:-e \.|'easybn\[\w+\]')")


def commands(path: Path) -> list[str]:
    """Those of a page, one by one, without the launcher before them and the comment behind."""
    text = "".join(block["code"] for block in BLOCKS[path] if block["language"] == "bash").replace("\\\n", " ")
    lines = [part.partition(" #")[0].strip() for line in text.splitlines() for part in line.split(" && ")]
    return [LAUNCHERS.sub("", line) for line in lines if line and not line.startswith("#")]


@pytest.fixture
def examples_are_forgotten():
    yield
    forbid_all()
    for path in EXAMPLES:
        sys.modules.pop(path.stem, None)


@pytest.mark.usefixtures("examples_are_forgotten")
@pytest.mark.parametrize("path", pages_with("bash"))
def test_the_commands_of_a_page_are_understood(path, monkeypatch, capsys):
    """Each is parsed by its command's own parser, so that every option and value is one that there is."""
    from easybn.cli.arguments import Parser
    from easybn.cli.main import _command

    monkeypatch.chdir(ROOT)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in commands(path):
        first, *words = shlex.split(line)
        if first == "easybn":
            configure, _, description = _command(words[0])
            parser = Parser(prog=f"easybn {words[0]}", description=description, allow_abbrev=False, exit_on_error=False)
            configure(parser)
            try:
                parser.read(words[1:])
            except SystemExit as end:  # of --help and its like
                if end.code:
                    raise
        elif first == "make":
            assert words[0] in targets, line
        elif first in ("python", "pytest"):
            assert (ROOT / words[0]).is_file(), line
        else:
            assert OTHERS.fullmatch(line), line


def test_messages_that_pages_quote_are_printed_so():
    quoted = re.findall(r"^### .*`([^`\n]+)`", (DOCS / "faq.md").read_text(), re.M)
    quoted += re.findall(r"^\| `([^`\n]+)`", (DOCS / "robustness.md").read_text(), re.M)
    assert len(quoted) > 20
    source = "".join(path.read_text() for path in sorted((ROOT / "src/easybn").rglob("*.py")))
    assert not [words for words in quoted if words not in source]
