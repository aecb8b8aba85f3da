"""Parts of documents that are written anew between marks, from rows.

A part stands between ``<!-- NAME: begin, by COMMAND --write -->`` and ``<!-- NAME: end -->``.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Parts = Mapping[tuple[str, str], Callable[[Path], str]]
"""Of a document in docs/ and the name of a mark in it: what makes its text from the folder results/."""


def replaced(document: str, mark: str, text: str) -> str:
    """The document with ``text`` between its marks; ValueError if it has not one of each."""
    begin = re.compile(rf"<!-- {re.escape(mark)}: begin, by [^\n<>]+ --write -->")
    end = f"<!-- {mark}: end -->"
    found = begin.findall(document)
    if len(found) != 1 or document.count(end) != 1:
        raise ValueError(f"no marks, or several: <!-- {mark}: begin, by COMMAND --write --> and {end}")
    before, _, rest = document.partition(found[0])
    return f"{before}{found[0]}\n{text}\n{end}{rest.partition(end)[2]}"


def write(parts: Parts, prog: str, description: str, argv: Sequence[str] | None = None) -> int:
    """The command that prints the parts, or with ``--write`` puts them into docs/."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--write", action="store_true", help="write it into docs/ instead of printing it")
    asked = parser.parse_args(argv)
    for (name, mark), render in parts.items():
        path, text = ROOT / "docs" / name, render(ROOT / "results")
        if asked.write:
            path.write_text(replaced(path.read_text(), mark, text))
        else:
            print(f"{text}\n")
    return 0
