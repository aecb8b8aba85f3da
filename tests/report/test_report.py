"""The page as text: every section, rows as they are, markup shown as text, small enough for 30 runs."""

import json
import re
import shutil
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest

from easybn.evaluation.audit import Audit
from easybn.report import elements, sections
from easybn.report.page import report

from ..tables import strengths
from .made_up import HOSTILE, census, comparison, robust_correct, run, study

ROOT = Path(__file__).parents[2]
IDS = ["claims", "tables", "eps", "every-eps", "broken", "frontier", "compared", "corruptions", "deciles",
       "training", "gallery", "branches", "hidden", "analysis", "confidences", "stacked",
       "diagnosis", "made"]  # fmt: skip
MAKES = {
    "tables": "easybn evaluate",
    "eps": "easybn evaluate",
    "every-eps": "easybn evaluate",
    "broken": "easybn evaluate",
    "frontier": "easybn evaluate",
    "compared": "easybn compare",
    "corruptions": "easybn evaluate RUNS --corruptions",
    "training": "easybn train",
    "gallery": "easybn summarise",
    "branches": "easybn hidden",
    "hidden": "easybn hidden",
    "analysis": "easybn analyse",
    "deciles": "easybn census",
    "confidences": "easybn summarise",
    "stacked": "easybn stacked",
    "diagnosis": "easybn evaluate",
}


class Page(HTMLParser):
    """The sections' texts, and every tag with its attributes."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.open: list[str] = []
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data):
        if self._section and self.open[-1] not in ("script", "style"):
            self.texts[self._section] = self.texts.get(self._section, "") + data


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return report(study(tmp_path_factory.mktemp("study")), "made up")


def test_every_section_is_there_and_in_the_contents(html):
    page = Page(html)
    assert not page.open  # every tag is closed, in order
    assert list(page.texts) == IDS
    links = [about["href"] for tag, about in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in IDS]


NEW_SECTION = """
from easybn.report.elements import Block, Content, section
from easybn.tables.table import Cell, Table, TableRow


@section("seeds", "Seeds", order=15, lead="Which seeds were run.")
def seeds(material):
    rows = [TableRow(run.name, [Cell(str(run.seed), run.seed)]) for run in material.rows.runs]
    return Content([Block("table", table=Table("Seeds", "Run", ["seed"], rows))])
"""


def test_a_section_is_one_function_in_one_file(tmp_path, monkeypatch):
    (tmp_path / "my_section.py").write_text(NEW_SECTION)
    known = dict(elements.SECTIONS)
    monkeypatch.setattr(elements, "SECTIONS", known)
    monkeypatch.setattr(sections, "SECTIONS", known)
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    page = Page(report(study(tmp_path / "study", ("ebn",), 2)))
    monkeypatch.delitem(sys.modules, "easybn.report.sections.my_section")
    assert list(page.texts) == [*IDS[:2], "seeds", *IDS[2:]]
    assert "Which seeds were run." in page.texts["seeds"]
    assert "ebn-1" in page.texts["seeds"]


def test_two_sections_of_one_id_are_refused():
    with pytest.raises(ValueError, match="two sections of the report have the id 'claims'"):
        elements.section("claims", "Others", order=0)(lambda material: elements.Content())


def test_nothing_comes_from_outside(html):
    page = Page(html)
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"data:image/png;base64,[^\"]*", "", html))
    for tag, about in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not [name for name in about if name.startswith("on")]
        for name in ("src", "href"):
            assert (about.get(name) or "#").startswith(("data:", "#"))
    (policy,) = [about["content"] for tag, about in page.tags if about.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_corruptions_are_shown_by_recipe_kind_and_severity(html):
    text = " ".join(Page(html).texts["corruptions"].split())
    assert "fashion-mnist, resnet_tiny: corruptions made here" in text
    assert "AdvProp 8/255 61.0 ±2.5 61.0 ±2.5" in text
    assert "frost*" in text
    assert "mean over 3 seeds" in text.lower()
    # advprop at severity 1: 160, 162, 164 of 200
    assert '<td class="n" data-value="81.0" style="--heat:0.810">81.0</td>' in html
    assert html.count("--heat:") == 4 * 5 + 16 * 4 + 4 * 16 * 6  # means, kinds by recipe, kinds by severity


def test_every_picture_says_what_it_shows(html):
    page = Page(html)
    charts = [about for tag, about in page.tags if tag == "svg" and about.get("role") == "img"]
    assert len(charts) > 30
    assert all(about["aria-label"] for about in charts)
    assert all(about["alt"] for tag, about in page.tags if tag == "img")
    drawn = [about for tag, about in page.tags if tag == "svg" and about.get("role") != "img"]
    assert all(about["aria-hidden"] == "true" for about in drawn)


def test_figures_are_those_of_the_rows(html):
    texts = Page(html).texts
    assert "91.37 ±0.17" in texts["tables"]  # EBN: 91.30, 91.37, 91.44
    assert "94.28" in texts["tables"]  # the paper's
    assert "27,600 right, 2,250 wrong" in texts["confidences"]  # 3 seeds of 9,200 and 750
    assert "easybn train --config fashion-mnist-ebn --seed 2" in texts["made"]
    assert "boot 99.9%" in texts["gallery"]
    assert "bag 80.0%" in texts["gallery"]
    assert "warning" in texts["diagnosis"]
    assert "does not hold" in texts["claims"]


def test_instruments_have_a_figure_and_a_sentence(html):
    """AdvProp's rank is 40, 42, 44 over seeds before the logits, EBN's 23, 25, 27, vanilla's 20, 22, 24."""
    text = " ".join(Page(html).texts["analysis"].split())
    half = 4.302653 * 2 / 3**0.5
    low, high = (f"{value:.1f}" for value in (42 - half, 42 + half))
    sentence = f"Effective rank of channels at stages.1: highest AdvProp 8/255 42.0 ({low} .. {high}), lowest "
    assert sentence in text
    assert "do not overlap" in text
    assert "500 test images" in text
    assert "AdvProp 8/255, adv" in text
    assert "42.0 ±5.0" in text
    assert "effective rank of weights" in text
    labels = [str(about["aria-label"]) for tag, about in Page(html).tags if tag == "svg" and about.get("aria-label")]
    (words,) = [words for words in labels if "Rank of representations: effective rank of channels. " in words]
    assert "EBN 8/255: 15 at 1, 35 at 3" in words
    assert "mine <i>" in text  # an instrument that is not of the package is drawn plainly
    assert "9 at 1" not in text


def test_networks_kept_on_the_way_are_curves_over_the_training(tmp_path):
    """Two seeds of EBN, whose rank before the logits is 23 and 25 at the end, and was 1 and 3, 5 and 7 before."""
    study(tmp_path, ("ebn",), 2)
    for seed in range(2):
        path = tmp_path / f"ebn-{seed}" / "analysis.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rank = [row for row in rows if row["instrument"] == "rank"]
        kept = [
            {**row, "epoch": epoch, "value": value + 2 * seed} for epoch, value in ((1, 1.0), (4, 5.0)) for row in rank
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *kept]))
    page = Page(report(tmp_path))
    text = " ".join(page.texts["analysis"].split())
    assert "Rank of representations, over the training" in text
    half = 12.7062 * 2**0.5 / 2**0.5
    ends = f"({6 - half:.2f} .. {6 + half:.1f})"
    assert f"Effective rank of channels at stages.1 at epoch 4: 6.00 {ends}." in text
    labels = [str(about["aria-label"]) for tag, about in page.tags if tag == "svg" and about.get("aria-label")]
    (over,) = [words for words in labels if "over the training: effective rank of channels at stages.1" in words]
    assert "EBN 8/255: 2 at 1, 6 at 4" in over
    (trained,) = [words for words in labels if "Rank of representations: effective rank of channels. " in words]
    assert "EBN 8/255: 14 at 1, 34 at 3" in trained


def test_which_images_a_recipe_helps(tmp_path):
    """Of the 1,000 hardest images vanilla gets 200, 205 and 210 right, EBN 70, 68 and 66 fewer."""
    census(study(tmp_path, ("vanilla", "ebn")) / "census" / "x")
    page = Page(report(tmp_path))
    text = " ".join(page.texts["deciles"].split())
    half = 4.302653 * 0.2 / 3**0.5
    assert f"Beside Vanilla, EBN 8/255 changes most on the hardest tenth: -6.8 points ({-6.8 - half:+.1f} to" in text
    assert "on the easiest tenth +0.0 points" in text
    assert "2 trainings of resnet_tiny (Vanilla), after 1 epoch" in text
    labels = [str(about["aria-label"]) for tag, about in page.tags if tag == "svg" and about.get("aria-label")]
    (words,) = [words for words in labels if "clean accuracy" in words]
    assert words.endswith("EBN 8/255: -6.8 at 1, 0 at 10")
    run(tmp_path / "other", "vanilla", 0, data="cifar10")  # whose test images are others
    assert "cifar10" not in Page(report(tmp_path)).texts["deciles"]


def test_of_several_settings_the_most_common_is_drawn(tmp_path):
    study(tmp_path, ("vanilla", "ebn"), 1)
    path = tmp_path / "ebn-0" / "analysis.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    more = [{**row, "images": 20, "value": 77.0} for row in rows if row["instrument"] == "rank"]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*more, *rows]))
    text = " ".join(Page(report(tmp_path)).texts["analysis"].split())
    assert "500 test images. Of 2 settings under which it was measured, the one that most runs share is shown." in text
    assert "77" not in text


def test_a_check_that_finds_the_same_in_many_runs_is_one_line(tmp_path):
    same = {"name": "points", "severity": "note", "what": "the interval is wide", "why": "few points"}
    for seed in range(4):
        run(tmp_path / f"r-{seed}", "ebn", seed)
        path = tmp_path / f"r-{seed}" / "evaluated.json"
        path.write_text(json.dumps([{"findings": [same]}, {"findings": [same]}]))
    text = Page(report(tmp_path, "x")).texts["diagnosis"]
    assert "4 runs" in text
    assert "All 4 findings" in text  # one a run, though two evaluations found it
    assert text.count("the interval is wide") == 1 + 4
    assert "r-0: the interval is wide" in text


def test_the_collapse_of_the_easy_loss_is_said_in_words(html):
    """0.4 / epoch^3 beside 0.5 / epoch: the curve's description, for those who do not see it."""
    labels = [str(about["aria-label"]) for tag, about in Page(html).tags if tag == "svg" and about.get("aria-label")]
    described = [words for words in labels if "EBN 8/255, train loss" in words]
    assert any("easy: 0.4 at 1, 0.00185 at 6" in words for words in described)


def test_one_colour_a_recipe(html):
    """Wherever a label stands beside a swatch, the swatch has one class."""
    found = re.findall(r'<svg class="swatch (r\d+)"[^>]*>.*?</svg>([^<]+)', html)
    assert {label.strip() for _, label in found} >= {"Vanilla", "EBN 8/255", "AdvProp 8/255"}
    classes = {}
    for css_class, label in found:
        assert classes.setdefault(label.strip(), css_class) == css_class


def test_a_users_recipe_is_shown_as_its_class_said_when_it_was_trained(tmp_path):
    study(tmp_path, ("vanilla", "ebn"), 1)
    run(tmp_path / "own", "vanilla", 0)
    path = tmp_path / "own" / "config.json"
    config = json.loads(path.read_text())
    config["experiment"]["recipe"]["class"] = "mine.Own"
    config["appearance"] = {"label": "Consistency", "colour": ["#010203", "#fafbfc"], "order": 15}
    path.write_text(json.dumps(config))
    html = report(tmp_path)
    rows = re.findall(r'<svg class="swatch (r\d+)"[^>]*>.*?</svg>([^<]+)', html)
    assert list(dict.fromkeys(label.strip() for _, label in rows))[:3] == ["Vanilla", "Consistency", "EBN 8/255"]
    css_class = next(name for name, label in rows if label.strip() == "Consistency")
    assert f".{css_class}{{color:#010203}}" in html
    assert f".{css_class}{{color:#fafbfc}}" in html


def test_a_users_attack_is_shown_as_its_class_said_when_it_was_run(tmp_path):
    run(tmp_path / "r", "ebn", 0)
    path = tmp_path / "r" / "scores.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    shown = {"label": "Mine <i>", "colour": ["#010203", "#fafbfc"], "order": 200, "bounded": True}
    broke = {"clean": 16, "mine": 150}
    score = {"attack": "mine", "norm": "linf", "eps": 0.1, "n": 200, "correct": 34, "branch": "main", "broke": broke}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**score, "appearance": {"mine": shown}}]))
    html = report(tmp_path)
    assert "Mine <i>, l-infinity" in Page(html).texts["eps"]
    assert "Mine <i>" in Page(html).texts["broken"]
    (css_class,) = set(re.findall(r'<rect[^>]*class="(attack\d+)"', html))
    assert f".{css_class}{{color:#010203}}" in html
    assert f".{css_class}{{color:#fafbfc}}" in html
    assert f".{css_class}{{fill:currentColor;background:currentColor}}" in html


def test_the_three_figures_of_fast(tmp_path):
    folder = study(tmp_path / "study", ("ebn",), 1)
    path = next(folder.rglob("scores.jsonl"))
    shared = {"attack": "fast", "protocol": None, "norm": "linf", "n": 200, "branch": "main", "notes": []}
    audit = Audit(119, 3, 40, 1, 1, {"apgd-ce": 0, "apgd-t": 1, "fab-t": 0, "square": 1})
    broke = {"clean": 16, "malt": 65, "audit": 2}
    rows = [
        {**shared, "eps": 8 / 255, "correct": 117, "broke": broke, "audit": asdict(audit)},
        {**shared, "eps": 16 / 255, "correct": 40, "broke": {"clean": 16, "malt": 144}},
    ]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    text = Page(report(folder)).texts["eps"]
    assert "fast (an upper bound), l-infinity" in text
    points, last = audit.accuracy_interval(200), audit.population_interval(200)
    ends = [f"{100 * low:.1f} to {100 * high:.1f}" for low, high in (points, last)]
    told = ["l-infinity 8/255", "EBN 8/255", "0", "58.5", "57.6", ends[0], "2 of 43 of 119", ends[1]]
    assert re.search(r"\s+".join(map(re.escape, told)), text)
    assert re.search(r"l-infinity 16/255\s+EBN 8/255\s+0\s+20.0\s+not audited", text)
    path.write_text(path.read_text().replace('"survivors"', '"survivor"'))
    with pytest.raises(ValueError, match=r"scores\.jsonl"):
        report(folder)


def test_names_that_contain_markup_are_shown_as_text(tmp_path):
    study(tmp_path, ("vanilla", "hostile"), 1)
    run(tmp_path / "<script>alert(2)<", "ebn", 0, data=f"{HOSTILE}&amp;")
    path = tmp_path / "vanilla-0" / "scores.jsonl"
    path.write_text(path.read_text().replace('"notes": []', '"notes": ["<script>alert(3)</script>"]'))
    html = report(tmp_path, HOSTILE)
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert all(str(about["src"]).startswith("data:image/png;base64,") for tag, about in page.tags if tag == "img")
    assert "<script>alert(1)</script>" in page.texts["tables"]  # the recipe's class
    assert "<script>alert(2)<" in page.texts["made"]  # the run's name
    assert "<script>alert(3)</script>" in page.texts["diagnosis"]
    assert HOSTILE in html.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")


@pytest.mark.parametrize("section", MAKES)
def test_a_section_without_rows_says_what_makes_them(tmp_path, section):
    run(tmp_path / "r", "ebn", 0)
    for name in ("metrics", "scores", "verdicts", "corruptions", "hidden", "branches", "analysis"):
        (tmp_path / "r" / f"{name}.jsonl").unlink()
    for name in ("summary", "evaluated"):
        (tmp_path / "r" / f"{name}.json").unlink()
    text = Page(report(tmp_path)).texts[section]
    assert MAKES[section] in text
    assert len(text.strip().splitlines()) <= 3  # its title and a line


def test_curves_over_eps_of_all_seeds_together(html):
    """Of each seed 200 points: 190 right, 150 at 4/255, and at 8/255 as many as the score says."""
    labels = [str(about["aria-label"]) for tag, about in Page(html).tags if tag == "svg" and about.get("aria-label")]
    (words,) = [
        words for words in labels if "AutoAttack, l-infinity" in words and "0.0314" in words and "95.0%" in words
    ]
    left = sum(robust_correct("ebn", seed, 0.3) for seed in range(3))
    assert f"EBN 8/255: 95.0% at 0, {100 * left / 600:.1f}% at 0.0314" in words


def test_points_that_only_one_withstands(tmp_path):
    study(tmp_path, ("vanilla", "ebn"), 1)
    comparison(tmp_path / "vs")
    html = report(tmp_path)
    page = Page(html)
    text = " ".join(page.texts["compared"].split())
    assert "A: runs/a (AutoAttack standard)" in text
    assert "At linf 8/255: A 13.5%, B 10.0%, difference +3.5 (95%: +0.5 to +7.1), McNemar's exact p 0.035" in text
    assert "linf 8/255: 10 points that only A withstands, the first 3" in text
    assert "linf 8/255: 3 points that only B withstands12 shirt A: wrong as it is" in text
    assert "1,017 boot B: broken by fab-t" in text
    tiles = [about for tag, about in page.tags if tag == "img" and str(about["alt"]) == "a test image of boot"]
    assert len(tiles) == 3
    assert len({about["src"] for about in tiles}) == 3


def test_a_comparison_that_is_damaged_is_named(tmp_path):
    comparison(tmp_path / "vs")
    assert "runs/a and runs/b" in report(tmp_path)  # also without a run
    path = tmp_path / "vs" / "comparison.json"
    kept = json.loads(path.read_text())
    for broken in ({"pairs": []}, {"names": ["a"]}, {"pictures": {"size": [1], "tiles": []}}):
        path.write_text(json.dumps(kept | broken))
        with pytest.raises(ValueError, match=r"comparison.json is damaged: \w+ must be"):
            report(tmp_path)
    huge = {"size": [10**9, 10**9], "tiles": kept["pictures"]["tiles"]}
    path.write_text(json.dumps(kept | {"pictures": huge}))
    with pytest.raises(ValueError, match=r"points.png is damaged: it has no room for 6 tiles of 1,000,000,000 x"):
        report(tmp_path)
    path.write_text(json.dumps(kept))
    (tmp_path / "vs" / "points.png").unlink()
    assert "points that only" not in Page(report(tmp_path)).texts["compared"].partition("withstands")[2]


def test_the_committed_rows(tmp_path):
    texts = Page(report(ROOT / "results")).texts
    assert "92.25 ±0.52" in texts["tables"]
    assert "cifar10-jpeg, resnet_small" in texts["tables"]
    assert "resnet18" in texts["training"]


def test_losses_that_are_not_finite_are_left_out(tmp_path):
    run(tmp_path / "r", "ebn", 0)
    path = tmp_path / "r" / "metrics.jsonl"
    path.write_text(
        path.read_text().replace('"loss": 0.5,', '"loss": NaN,').replace('"loss": 0.25,', '"loss": Infinity,')
    )
    html = report(tmp_path)
    charts = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.S))
    assert not re.search(r"\b(nan|inf)\b", charts)


def test_pictures_outside_the_folder_are_not_read(tmp_path):
    study(tmp_path / "s", ("vanilla",), 1)
    shutil.copy(tmp_path / "s" / "vanilla-0" / "gallery.png", tmp_path / "secret.png")
    path = tmp_path / "s" / "stacked-fashion-mnist" / "rows.jsonl"
    path.write_text(path.read_text().replace("pictures/easy.png", "../../secret.png"))
    assert "of both classes, their copies" not in report(tmp_path / "s")


def test_30_runs_make_at_most_5_megabytes(tmp_path):
    """30 different recipes with galleries of noise: nothing is shared, and no PNG is small."""
    for i in range(30):
        run(tmp_path / f"run-{i}", ("ebn", "advprop", "both")[i % 3], 0, lr=0.1 + i / 1000, colour=True)
    html = report(tmp_path)
    assert len(html.encode()) <= 5_000_000
    assert "left out to keep the page small" in html


def test_the_frontier_of_recipes_at_several_strengths_is_drawn(tmp_path):
    page = Page(report(strengths.study(tmp_path)))
    text = page.texts["frontier"]
    assert "EBN \N{MINUS SIGN} AdvProp" in text
    assert "90.50 to 92.00" in text
    drawn = [attrs["aria-label"] for tag, attrs in page.tags
             if tag == "svg" and "pgd strong l2 0.5" in attrs.get("aria-label", "")]  # fmt: skip
    assert drawn == [
        "fashion-mnist, resnet_tiny: pgd strong l2 0.5. AdvProp: 60.0% at 0.9, 20.0% at 0.92; "
        "EBN: 41.0% at 0.905, 21.0% at 0.925"
    ]
