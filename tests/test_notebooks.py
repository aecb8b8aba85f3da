"""The notebooks of examples/notebooks: they run, and the pages of docs/notebooks show them as they are."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.py"))


def page_of(notebook: Path) -> Path:
    return ROOT / "docs" / "notebooks" / f"{notebook.stem.replace('_', '-')}.md"


def cells(notebook: Path) -> list[tuple[str, str]]:
    """Kind and text of every cell, of jupytext's percent format."""
    parts = re.split(r"^# %%(.*)\n", notebook.read_text(), flags=re.M)
    found = []
    for mark, text in zip(parts[1::2], parts[2::2], strict=True):
        if "[markdown]" in mark:
            text = re.sub(r"^# ?", "", text, flags=re.M)
        found.append(("markdown" if "[markdown]" in mark else "code", text.strip("\n")))
    return found


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_page_shows_its_text_and_code_and_what_came_of_them(notebook):
    """In order; ``python tools/notebooks.py`` writes the page anew."""
    page = page_of(notebook).read_text()
    at = 0
    for kind, text in cells(notebook):
        shown = text if kind == "markdown" else f"```python\n{text}\n```\n"
        assert shown in page[at:], f"not on its page: {text[:200]}"
        at += page[at:].index(shown) + len(shown)
    drawn = [text for _, text in cells(notebook) if "plt.show()" in text]
    pictures = re.findall(r"^!\[.*\]\((.*)\)$", page, re.M)
    assert len(pictures) == len(drawn) > 1
    assert {path.name for path in page_of(notebook).parent.glob(f"{page_of(notebook).stem}-*.png")} == set(pictures)
    assert sum((page_of(notebook).parent / name).stat().st_size for name in pictures) < 400_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of what runs notebooks
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, monkeypatch):
    """As a process of its own would, with few images; the printed figures are not those of the page."""
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    monkeypatch.setenv("EASYBN_NOTEBOOK", "quick")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    found = nbclient.NotebookClient(jupytext.read(notebook), timeout=600, kernel_name="python3").execute()
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code] == [text for kind, text in cells(notebook) if kind == "code"]
    for cell in code:
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(pictures) == cell.source.count("plt.show()")
