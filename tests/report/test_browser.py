"""The page in a real headless Chromium: no complaint, no request, all sections, on a desktop and on a phone."""

import pytest

from easybn.report.page import report

from . import chromium
from .made_up import HOSTILE, run, study
from .test_report import IDS

pytestmark = pytest.mark.skipif(
    chromium.EXECUTABLE is None, reason="no Chromium is installed here: apt-get install chromium, or EASYBN_CHROMIUM"
)
BODY = "document.querySelector('#tables tbody')"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = study(tmp_path_factory.mktemp("study"))
    run(folder / "hostile-0", "hostile", 0)
    path = folder / "report.html"
    path.write_text(report(folder, HOSTILE))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_opened(page, path, width, dark):
    page.requests.clear()
    page.open(path, width, dark=dark)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [path.as_uri()]
    assert page.value("[...document.querySelectorAll('section')].map(s => s.id)") == IDS
    shown = page.value("[...document.querySelectorAll('section')].map(s => s.offsetHeight > 60)")
    assert shown == [True] * len(IDS)
    assert page.value("document.documentElement.scrollWidth") == width  # wide tables scroll in their own boxes
    pictures = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
    assert page.value(f"{pictures} + 100 * (document.images.length == 0)") == 0
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) is dark


def test_markup_in_names_stays_text(page, path):
    page.open(path)
    assert page.value("document.title") == f"{HOSTILE} – easybn"  # noqa: RUF001
    assert page.value("document.querySelector('h1').textContent") == HOSTILE
    assert page.value("document.querySelectorAll('img[onerror]').length") == 0


def test_tables_are_sorted_by_a_click(page, path):
    page.open(path)
    names = f"[...{BODY}.rows].filter(r => !r.classList.contains('muted')).map(r => r.cells[0].textContent)"
    click = "document.querySelectorAll('#tables thead th button')[1].click()"
    order = ["AdvProp 8/255", "AdvPropEBN 8/255", "Vanilla", "EBN 8/255", "<script>alert(1)</script>"]
    page.value(click)
    assert page.value(names) == order
    assert page.value(f"{BODY}.rows[1].textContent.includes('paper: RN-18 (AP)')")  # stays below its row
    page.value(click)
    assert page.value(names) == order[::-1]
    assert page.value("document.querySelectorAll('#tables thead th')[1].ariaSort") == "ascending"


def test_printed(page, path):
    page.open(path)
    assert len(page.send("Page.printToPDF", printBackground=True)["data"]) > 50_000
    assert page.complaints == []
