"""The notebooks of examples/notebooks as pages of docs/notebooks: text, code, and what the code printed and drew.

python tools/notebooks.py             # runs them all and writes the pages: some minutes of a processor
python tools/notebooks.py ebn_in_15_minutes

A notebook is a Python file in jupytext's percent format, which Jupyter and VS Code open. Pages are written by this
command and kept in the repository, so that they are read on GitHub too, and the site is built without running anything.
It needs ``pip install --group notebooks``.
"""

import argparse
import base64
from pathlib import Path
from platform import machine
from typing import Any

import jupytext
import nbclient
import torch

ROOT = Path(__file__).resolve().parent.parent
SOURCES, PAGES = ROOT / "examples" / "notebooks", ROOT / "docs" / "notebooks"
ABOUT = """
*A notebook: [{source}](../../{source}) opens in Jupyter (with jupytext) and in VS Code. Its outputs here are
of {place}.*
"""


def executed(source: Path, seconds: int = 3600) -> Any:
    """The notebook with the outputs of its cells; a cell that fails raises.

    Args:
        seconds: that a cell may take.
    """
    notebook = jupytext.read(source)
    return nbclient.NotebookClient(notebook, timeout=seconds, kernel_name="python3").execute()


def page(notebook: Any, source: Path) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by name."""
    parts, pictures = [f"<!-- written by tools/notebooks.py from {source.relative_to(ROOT).as_posix()} -->\n"], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source + "\n")
            if cell is notebook.cells[0]:
                place = f"torch {torch.__version__.partition('+')[0]} on a processor ({machine()})"
                parts.append(ABOUT.lstrip("\n").format(source=source.relative_to(ROOT).as_posix(), place=place))
            continue
        parts.append(f"```python\n{cell.source}\n```\n")
        for output in joined(cell.outputs):
            if isinstance(output, str):
                parts.append(f"```text\n{output.rstrip()}\n```\n")
            else:
                name = f"{source.stem.replace('_', '-')}-{len(pictures) + 1}.png"
                pictures[name] = output
                parts.append(f"![What the code above draws]({name})\n")
    return "\n".join(parts), pictures


def joined(outputs: list[Any]) -> list[str | bytes]:
    """Texts, those that follow each other as one, and pictures; progress and warnings (stderr) are left out."""
    found: list[str | bytes] = []
    for output in outputs:
        if output.output_type == "stream":
            text = output.text if output.name == "stdout" else ""
        else:
            text = output.data.get("text/plain", "")
            if "image/png" in output.data:
                found.append(base64.b64decode(output.data["image/png"]))
                continue
        if text and found and isinstance(found[-1], str):
            found[-1] += text
        elif text:
            found.append(text)
    return found


def main() -> None:
    names = sorted(path.stem for path in SOURCES.glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help="of a file in examples/notebooks")
    for name in parser.parse_args().names:
        source = SOURCES / f"{name}.py"
        text, pictures = page(executed(source), source)
        PAGES.mkdir(exist_ok=True)
        stem = name.replace("_", "-")
        for old in PAGES.glob(f"{stem}-*.png"):
            old.unlink()
        for file, picture in pictures.items():
            (PAGES / file).write_bytes(picture)
        (PAGES / f"{stem}.md").write_text(text)
        print(f"{PAGES / stem}.md: {len(pictures)} pictures")


if __name__ == "__main__":
    main()
