"""``easybn compare`` and ``easybn curve`` on stores made by hand, whose figures are counted by a loop."""

import json
import math
import re
import sys
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from PIL import Image
from rich.cells import cell_len
from scipy.stats import binomtest

from easybn.data import load
from easybn.evaluation.store.manifest import data_digest
from easybn.runs.compare import SHOWN
from easybn.runs.user_model import UserModel

from ..evaluation.store.by_hand import RADII, stored
from .test_terminal_tables import columns_of

POINTS = range(0, 400, 10)
FIRST = {point: (0.0, 0.15, 0.3, math.inf, -0.4)[i % 5] for i, point in enumerate(POINTS)}
SECOND = {point: (0.0, 0.05, math.inf, math.inf)[i % 4] for i, point in enumerate(POINTS)}


@pytest.fixture(scope="module")
def digest():
    points = torch.tensor(POINTS)
    return data_digest(*load("sample").test.batch(points))


@pytest.fixture
def two(digest):
    """Two models' folders, a and b, each with an evaluation of the same points."""
    about = json.dumps(asdict(UserModel(model="fashion-mnist-vanilla")))
    for name, nearest in (("a", FIRST), ("b", SECOND)):
        Path(name).mkdir()
        Path(name, "evaluation.json").write_text(about)
        stored(Path(name, "verdicts", f"s-{name}"), nearest, data=digest)


def robust(nearest, eps):
    """The points that withstand, one by one."""
    found = set()
    for point, distance in nearest.items():
        if distance == math.inf or abs(distance) > eps or (distance < 0 and -distance > eps):
            found.add(point)
    return found


def test_compare_counts_as_a_loop_does(two, easybn):
    found = easybn("compare", "a", "b", "--json")
    assert found.status == 0, found.err
    row = json.loads(found.out)
    assert [pair["eps"] for pair in row["pairs"]] == [0.0, *RADII]
    for pair in row["pairs"]:
        a, b = robust(FIRST, pair["eps"]), robust(SECOND, pair["eps"])
        assert pair["points_only_first"] == sorted(a - b)
        assert pair["points_only_second"] == sorted(b - a)
        assert (pair["both"], pair["neither"]) == (len(a & b), len({*POINTS} - a - b))
        assert (pair["only_first"], pair["only_second"]) == (len(a - b), len(b - a))
        assert pair["difference"] == pytest.approx((len(a) - len(b)) / len(POINTS))
        discordant = len(a ^ b)
        assert pair["p"] == pytest.approx(binomtest(len(a - b), discordant).pvalue)
        assert pair["low"] < pair["difference"] < pair["high"]
    assert json.loads(easybn("compare", "b", "a", "--json").out)["pairs"][2]["low"] == pytest.approx(
        -row["pairs"][2]["high"]
    )


def test_compare_says_it_in_lines_and_a_table_of_80_columns(two, easybn, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = easybn("compare", "a", "b/verdicts/s-b", "--list")
    assert found.status == 0, found.err
    lines = found.out.splitlines()
    assert lines[0] == "A: a (fab-t+apgd-ce, linf 0.1 51/255 102/255, 40 points)"
    a, b = robust(FIRST, 0.2), robust(SECOND, 0.2)
    p = binomtest(len(a - b), len(a ^ b)).pvalue
    (line,) = [line for line in lines if line.startswith("at linf 51/255: ")]
    assert f"A {100 * len(a) / 40:.1f}%, B {100 * len(b) / 40:.1f}%, difference " in line
    assert f"McNemar's exact p {p:.3f}; of 40 points {len(a - b)} only A withstands, {len(b - a)} only B" in line
    assert f"only A, linf 51/255 ({len(a - b)}): {' '.join(map(str, sorted(a - b)))}" in lines
    assert len(columns_of(found.out)) == 1
    assert max(cell_len(line) for line in lines if line[:1] in tuple("┏┃│└")) <= 80


def test_compare_keeps_pictures_of_the_points(two, easybn):
    found = easybn("compare", "a", "b", "--out", "vs")
    assert found.status == 0, found.err
    kept = json.loads(Path("vs/comparison.json").read_text())
    tiles, sheet = kept["pictures"]["tiles"], Image.open("vs/points.png")
    source = load("sample").test
    assert sheet.size == (28 * len(tiles), 28)
    counted = {}
    for i, tile in enumerate(tiles):
        image = (source.batch(torch.tensor([tile["point"]]))[0][0, 0] * 255).round().byte()
        assert list(sheet.crop((28 * i, 0, 28 * i + 28, 28)).tobytes()) == image.flatten().tolist()
        a, b = robust(FIRST, tile["eps"]), robust(SECOND, tile["eps"])
        assert tile["point"] in (a - b if tile["only"] == "first" else b - a)
        loser = SECOND if tile["only"] == "first" else FIRST
        by = {0.0: "clean"}.get(loser[tile["point"]], "apgd-ce" if loser[tile["point"]] < 0 else "fab-t")
        assert tile["broken_by"] == by
        counted[tile["eps"], tile["only"]] = counted.get((tile["eps"], tile["only"]), 0) + 1
    for eps in RADII:
        for only, ids in (("first", robust(FIRST, eps) - robust(SECOND, eps)),
                          ("second", robust(SECOND, eps) - robust(FIRST, eps))):  # fmt: skip
            assert counted.get((eps, only), 0) == min(SHOWN, len(ids))
    assert max(counted.values()) == SHOWN
    assert easybn("compare", "a", "b", "--out", "vs").status == 0  # its own folder is written again
    assert "a holds other things" in easybn("compare", "a", "b", "--out", "a").err


@pytest.mark.filterwarnings("default:.*points are there and used")
def test_what_cannot_be_compared_is_one_line(two, digest, easybn):
    for name, nearest, more in (
        ("points", {**FIRST, 401: 0.1}, {"data": digest}),
        ("images", FIRST, {}),
        ("norm", FIRST, {"data": digest, "norm": "l2"}),
        ("radii", FIRST, {"data": digest, "eps": (0.3,)}),
        ("clean", FIRST, {"data": digest, "attacks": ()}),
        ("none", FIRST, {"data": digest, "chunks": 0}),
        ("part", FIRST, {"data": digest, "chunk": 16, "chunks": 1, "attacks": ("fab-t",)}),
    ):
        stored(Path(name), nearest, **more)
    told = {
        "points": "they are of other points (40 and 41, 40 in common): evaluate both with the same --points and --seed",
        "images": "the test images or labels of one are not those of the other",
        "norm": "one is in linf, the other in l2",
        "radii": "no radius was attacked in both (0.1 51/255 102/255 in one, 0.3 in the other)",
        "clean": "no radius was attacked in both",
        "none": "no point has its verdict in both yet",
        "a": "is compared with itself",
        "nowhere": "nowhere: there is no such folder",
        "b/verdicts": "b/verdicts has no stored verdicts: easybn evaluate b/verdicts --attacks autoattack",
    }
    for other, line in told.items():
        found = easybn("compare", "a", other)
        assert (found.status, found.out) == (2, "")
        assert line in found.err
    found = easybn("compare", "a", "part")
    assert found.status == 0, found.err
    assert "note: a was attacked by fab-t, apgd-ce and part by fab-t: a difference may be one of" in found.out
    assert "note: of 40 points, these are the 16 that have a verdict in both" in found.out
    found = easybn("compare", "part", "images", "--out", "o")
    assert found.status == 2
    assert not Path("o").exists()


def test_an_evaluation_is_chosen_by_what_it_is(two, digest, easybn):
    stored(Path("a/verdicts/l2"), FIRST, data=digest, norm="l2", model="a")
    stored(Path("a/verdicts/easy"), FIRST, data=digest, branch="easy", model="a")
    stored(Path("a/verdicts/small"), FIRST, data=digest, eps=(0.05,), model="a")
    stored(Path("a/verdicts/aa"), FIRST, data=digest, attacks=("apgd-ce", "apgd-t", "fab-t", "square"), model="a")
    for words, name in (
        (("--attacks", "apgd-ce", "fab-t", "--norm", "linf", "--eps", "0.1"), "s-a"),
        (("--norm", "l2"), "l2"),
        (("--branch", "easy"), "easy"),
        (("--eps", "1/20"), "small"),
        (("--attacks", "autoattack"), "aa"),
    ):
        found = easybn("curve", "a", *words)
        assert found.status == 0, found.err
        assert found.out == easybn("curve", f"a/verdicts/{name}").out.replace(f"a/verdicts/{name}: ", "a: ")
    found = easybn("curve", "a")
    assert (
        "a has 4 evaluations that fit: choose by --attacks, --norm, --eps or name one of a/verdicts/aa, " in found.err
    )
    assert "a has no evaluation that fits: name one of " in easybn("curve", "a", "--eps", "0.3").err
    assert "the evaluations are in l2 and linf: choose by --norm" in easybn("curve", "a/verdicts/l2", "b").err


def test_a_curve_is_drawn_where_the_points_say(two, easybn):
    found = easybn("curve", "a", "b", "-o", "c.svg")
    assert found.status == 0, found.err
    text = Path("c.svg").read_text()
    top = ET.fromstring(text)
    assert not re.findall(r"(?:href|src|url)", text)
    space = "{http://www.w3.org/2000/svg}"
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in top.iter(f"{space}circle")]
    assert len(dots) == 2 * (1 + len(RADII))
    paths = [
        each.get("d")
        for each in top.iter(f"{space}path")
        if each.get("class") == "curve" and "M2 " not in each.get("d")
    ]
    for nearest, path, mine in ((FIRST, paths[0], dots[:4]), (SECOND, paths[1], dots[4:])):
        zero, step = mine[0][0], (mine[3][0] - mine[0][0]) / 0.4
        top_y = min(y for _, y in dots) - 0  # clean accuracy of both
        places = [tuple(map(float, each.split())) for each in path[1:].split("L")]
        assert places[-1][0] == pytest.approx(mine[-1][0], abs=0.1)  # nothing beyond the largest radius
        for (x, y), eps in zip(mine, (0.0, *RADII), strict=True):
            assert x == pytest.approx(zero + step * eps, abs=0.11)
            assert y >= top_y
            assert (x, y) in places
        for eps in (0.02, 0.07, 0.17, 0.29, 0.33, 0.37):  # the line is at the last place on the left
            height = [y for x, y in places if x <= zero + step * eps + 0.05][-1]
            share = sum(abs(d) * (1 if d >= 0 else 0.9) > eps if math.isfinite(d) else True for d in nearest.values())
            assert height == pytest.approx(176 - (176 - 8) * share / len(POINTS), abs=0.1)
    assert "Nothing" in text
    assert "an upper bound" in " ".join(each.text for each in top.iter(f"{space}text"))


def test_a_curve_is_no_other_kind_of_file(two, easybn, monkeypatch):
    assert "--out c.pdf: a curve is written as .svg or .png" in easybn("curve", "a", "-o", "c.pdf").err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = easybn("curve", "a", "-o", "c.png")
    assert found.status == 2
    assert found.err == "easybn: error: a PNG file needs matplotlib: pip install 'easybn[plot]', or name a .svg file\n"
    assert not list(Path().glob("c.*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_curve_as_png(two, easybn):
    pytest.importorskip("matplotlib")
    assert easybn("curve", "a", "b", "-o", "c.png").status == 0
    with Image.open("c.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert {(0, 0x69, 0xA8), (0xC6, 0x52, 0)} <= colours
