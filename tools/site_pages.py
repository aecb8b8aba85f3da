"""Hooks of MkDocs: the pages that are not files of docs/, and links that are right on GitHub and on the site.

README, CHANGELOG, CONTRIBUTING and SECURITY become pages. The command line reference is made from the parsers. A link
to a source file leads to a page that shows it, a picture outside docs/ comes along; a link to anything that is not in
the repository stays as it is, and MkDocs (strict) refuses it.
"""

import argparse
import html
import re
import sys
from pathlib import Path
from posixpath import relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.append(str(Path(__file__).parent))
import lab_notes

ROOT = Path(__file__).resolve().parent.parent
RESULTS, NOTES = ROOT / "results", "notes/results.md"
TOP_PAGES = {name: f"{name.lower()}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")}
LINK = re.compile(r"(\]\()(?!\w+:)([^)#\s]+)")  # of Markdown, to a path
PICTURE = re.compile(r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\s*'
                     r'<img alt="([^"]*)" src="([^"]+)">\s*</picture>')  # fmt: skip
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc|obj):<code>~?\.*([^<]+)</code>")  # of docstrings, as rendered
OWN_NAME = re.compile(r"\[`?([\w/]+\.md)`?\](?=\(([^)#:]+\.md))")  # a link that is called by the name of its file
AFTER_THE_SYSTEM = re.compile(r"@media \(prefers-color-scheme: dark\) \{(?:[^{}]|\{[^}]*\})*\}")
CODE = re.compile(r"<code>([^<]+)</code>")  # in a line of text, as rendered
COMMANDS = re.compile(r'<div class="language-bash highlight">.*?</div>', re.S)
OPTION = re.compile(r"(?<=[ >])(--[\w.]+)")
CELL = re.compile(r"<td>(.*?)</td>", re.S)
WHOLE, LONG = 28, 24  # characters: of words of code that stay in one line, of cells that are text to read
LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".cff": "yaml", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    docs = Path(config.docs_dir)
    origins = {path.relative_to(docs).as_posix(): path for path in sorted(docs.rglob("*.md"))}
    for name, uri in TOP_PAGES.items():
        origins[uri] = ROOT / f"{name}.md"
        files.append(File.generated(config, uri, content=(ROOT / f"{name}.md").read_text()))
    files.append(File.generated(config, "commands.md", content=command_line_reference()))
    for folder, content in lab_notes.pages(RESULTS, (docs / NOTES).read_text()).items():
        files.append(File.generated(config, lab_address(folder), content=content))
    linked = {place for origin in origins.values() for place in places(origin) if docs not in place.parents}
    for place in sorted(linked - set(origins.values())):
        if is_measured(place):
            continue
        if place.suffix in (".png", ".svg"):
            files.append(File.generated(config, address(place), abs_src_path=str(place)))
        else:
            files.append(File.generated(config, address(place), content=source_page(place)))
    for path in sorted(docs.glob("*.svg")):  # dark where the reader's system is, on the white ground of the site
        text = path.read_text()
        if AFTER_THE_SYSTEM.search(text):
            if original := files.get_file_from_path(path.name):
                files.remove(original)
            files.append(File.generated(config, path.name, content=AFTER_THE_SYSTEM.sub("", text)))
    config.extra["origins"] = origins
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    markdown = in_both_schemes(markdown)
    markdown = markdown.replace("<details>", '<details markdown="1">')  # GitHub reads what is folded as it is
    origin = config.extra["origins"].get(page.file.src_uri)
    if origin is None:
        return markdown

    def on_the_site(found: re.Match[str]) -> str:
        place = (origin.parent / found[2]).resolve()
        if not place.exists():
            return found[0]
        return found[1] + relpath(address(place), Path(page.file.src_uri).parent.as_posix())

    def by_its_title(found: re.Match[str]) -> str:
        place = (origin.parent / found[2]).resolve()
        titles = re.findall(r"^# (.*)$", place.read_text(), re.M) if place.exists() else []
        return f"[{titles[0]}]" if titles else found[0]

    return LINK.sub(on_the_site, OWN_NAME.sub(by_its_title, markdown))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    content = ROLE.sub(r"<code>\1</code>", content)
    content = CODE.sub(lambda found: f"<code>{' '.join(map(breakable, found[1].split(' ')))}</code>", content)
    content = COMMANDS.sub(lambda found: OPTION.sub(r'<span class="whole">\1</span>', found[0]), content)
    content = CELL.sub(cell, content)
    return with_contents(content, page)


def breakable(word: str) -> str:
    """A word of code stays in one line, or may go on in the next one between its parts."""
    if len(word) <= WHOLE:
        return f'<span class="whole">{word}</span>'
    return re.sub(r"(::|[/_,.=])(?=\w)", r"\1<wbr>", word)


def cell(found: re.Match[str]) -> str:
    """A cell with much text is marked, so that it is not squeezed to the width of a word."""
    text = re.sub(r"<[^>]+>", "", found[1])
    return f'<td class="long">{found[1]}</td>' if len(text) > LONG else found[0]


def with_contents(content: str, page: Page) -> str:
    """The contents behind the title, folded: for narrow windows, where no list stands beside the page."""
    links = [link for top in page.toc for link in (top.children if top.level == 1 else [top])]
    if len(links) + sum(len(link.children) for link in links) < 2:
        return content
    items = "".join(f'<li><a href="{link.url}">{link.title}</a></li>' for top in links for link in (top, *top.children))
    folded = f'<details class="contents"><summary>On this page</summary><ul>{items}</ul></details>'
    return content.replace("</h1>", f"</h1>\n{folded}", 1)


def in_both_schemes(markdown: str) -> str:
    """A picture for light and one for dark pages as Material shows them, which has a switch of its own."""
    return PICTURE.sub(r"![\2](\3#only-light) ![\2](\1#only-dark)", markdown)


def places(origin: Path) -> set[Path]:
    """The files and folders of the repository that a page links to."""
    text = in_both_schemes(origin.read_text())
    linked = {(origin.parent / target).resolve() for _, target in LINK.findall(text)}
    return {place for place in linked if place.exists() and ROOT in place.parents}


def address(place: Path) -> str:
    """Where a file of the repository is on the site."""
    path = place.relative_to(ROOT)
    if path.parts[0] == "docs":
        return Path(*path.parts[1:]).as_posix()
    if is_measured(place):
        return lab_address(place)
    if path.stem in TOP_PAGES and len(path.parts) == 1:
        return TOP_PAGES[path.stem]
    return f"source/{path.as_posix()}" + ("" if place.suffix in (".png", ".svg") else ".md")


def is_measured(folder: Path) -> bool:
    """A folder of rows: a link to it leads to the tables that are made from them."""
    return folder == RESULTS or (RESULTS in folder.parents and any(folder.glob("*/scores.jsonl")))


def lab_address(folder: Path) -> str:
    name = folder.relative_to(RESULTS).as_posix().replace("/", "-")
    return f"lab/{'claims' if folder == RESULTS else name}.md"


def source_page(place: Path) -> str:
    """A page that shows a file, or the files of a folder."""
    kept = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.is_file())
    title = f"# {place.relative_to(ROOT).as_posix()}\n"
    parts = ["---\nsearch: {exclude: true}\n---\n", title]
    for path in kept:
        parts += [f"## {path.name}\n"] * (path != place)
        parts += [f"````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text().rstrip()}\n````\n"]
    return "\n".join(parts)


def command_line_reference() -> str:
    """Every command with its help and options, from the parsers themselves."""
    from easybn.cli.arguments import Parser
    from easybn.cli.main import COMMANDS, _command

    parts = ["# Command line reference\n", "`easybn COMMAND --help` says the same.\n"]
    parts += ["| command | |\n| --- | --- |"]
    parts += [f"| [{name}](#{name}) | {text} |" for name, text in COMMANDS.items()]
    for name in COMMANDS:
        configure, _, description = _command(name)
        parser = Parser(prog=f"easybn {name}", description=description, allow_abbrev=False)
        configure(parser)
        parts += ["", f"## {name}\n", prose(description or ""), *options(parser)]
    return "\n".join(parts) + "\n"


def prose(text: str) -> str:
    """Help text as Markdown: lines that begin with spaces are code there too, options are set as code."""
    code = re.compile(r"(?<![\w`-])(--[\w.]+)")
    lines = (line if line.startswith("    ") else code.sub(r"`\1`", line) for line in text.strip().split("\n"))
    return "\n".join(line if line.startswith("    ") else line.replace("<", "&lt;") for line in lines) + "\n"


def options(parser: argparse.ArgumentParser) -> list[str]:
    """A definition list for every group of options."""
    formatter, parts = parser._get_formatter(), []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions:
            continue
        parts += [f"**{html.escape(group.title or '')}**\n"]
        parts += [prose(group.description or "")]
        for action in actions:
            given = formatter._format_args(action, action.metavar or action.dest.rpartition(".")[2].upper())
            given = "".join(filter(str.isprintable, given))
            words = [f"{option} {given}".strip() for option in action.option_strings] or [given]
            text = " ".join(formatter._expand_help(action).split()) if action.help else ""
            parts += [f"`{', '.join(words)}`\n:   {prose(text)}"]
    return parts
