"""What the documents say of results/gpu, and what they would say of rows that are made up."""

import json
import re

import pytest

from easybn.paper.claims import judge
from easybn.tables.rows import read

from ..report.made_up import run
from .stages import ROOT

RECIPES = ("vanilla", "advprop", "ebn")
CARD = {"card": "Card 1", "driver": "570.1", "torch": "2.11.0", "cuda": "12.8", "commit": "0123456789abcdef"}


@pytest.fixture(autouse=True)
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))


@pytest.fixture
def results(tmp_path):
    """Trainings of a small network, and, longer ones, of RN-18 in results/gpu."""
    for recipe in RECIPES:
        for seed in range(2):
            run(tmp_path / "results" / "cpu" / f"{recipe}-{seed}", recipe, seed)
            folder = tmp_path / "results" / "gpu" / f"fashion-mnist-{recipe}-{seed}"
            run(folder, recipe, seed)
            config = json.loads((folder / "config.json").read_text())
            config["experiment"]["model"] = "resnet18"
            config["experiment"]["training"] |= {"epochs": 31, "precision": "bf16"}
            (folder / "config.json").write_text(json.dumps(config))
            (session,) = json.loads((folder / "environment.json").read_text())
            (folder / "environment.json").write_text(json.dumps([{**session, "cuda": "Card 1"}]))
    return tmp_path / "results"


def speed_rows(folder, *rows):
    folder.mkdir(parents=True)
    date = {"date": "2026-12-01T10:00:00+00:00"}
    (folder / "speed.jsonl").write_text("".join(json.dumps({**CARD, **date, **row}) + "\n" for row in rows))


def step(kind, model, rate, precision="bf16", how="eager", **more):
    row = {"item": f"{kind}, {model}, batch 128, {precision}, {how}", "value": rate, "unit": "images/s", "kind": kind}
    return {**row, "model": model, "batch": 128, "precision": precision, "how": how, **more}


@pytest.mark.parametrize(("name", "part"), [("performance.md", "speed"), ("notes/results.md", "study")])
def test_the_documents_have_what_the_rows_say(name, part):
    from gpu import documents

    assert getattr(documents, part)(ROOT / "results") in (ROOT / "docs" / name).read_text()


def test_without_rows_nothing_is_measured(tmp_path):
    from gpu.documents import speed, study

    assert "Nothing yet" in speed(tmp_path)
    assert speed(tmp_path).count("not measured") == 7 + 4 * 3
    assert "Not measured" in study(tmp_path)


def test_hours_of_the_grid_are_images_by_images_a_second(tmp_path):
    from gpu.documents import speed

    rates = {"Vanilla": 21_000.0, "AdvProp": 8_400.0, "EBN": 8_400.0}
    rows = [step(kind, "resnet18", rate) for kind, rate in rates.items()]
    rows += [step(kind, "resnet50", rate / 4) for kind, rate in rates.items()]
    rows += [step("Vanilla", "resnet18", 10_000.0, "32"), step("usual AdvProp", "resnet18", 6_300.0)]
    rows += [{"item": "training loop, EBN, batch 128, device busy", "value": 0.97, "unit": "share"}]
    speed_rows(tmp_path / "gpu", *rows)
    text = speed(tmp_path)
    assert "**Card 1, driver 570.1, torch 2.11.0, 2026-12-01, commit 0123456789ab**" in text
    # 3 seeds, 1000 epochs, 60,000 + 50,000 images
    hours = sum(3 * 1000 * 110_000 / rate / 3600 for rate in rates.values())
    assert f"| bf16, eager | {hours:,.0f} h | {4 * hours:,.0f} h | {5 * hours:,.0f} h |" in text
    assert "| TF32, eager | not measured | not measured | not measured |" in text
    (line,) = re.findall(r"^\| resnet18, 128, bf16, eager \|.*$", text, re.MULTILINE)
    assert line.split(" | ")[1:] == [
        "21,000", "8,400", "8,400", "not measured", "not measured", "6,300", "2.50", "0.75", "not measured |",
    ]  # fmt: skip
    assert "| training loop, EBN, batch 128, device busy | at least 0.95 | 0.97 |" in text


def test_each_card_has_a_part_of_its_own(tmp_path):
    from gpu.documents import speed

    speed_rows(tmp_path / "gpu", step("EBN", "resnet18", 1.0), step("EBN", "resnet18", 2.0, card="Card 2"))
    assert re.findall(r"^\*\*(.*?), driver", speed(tmp_path), re.MULTILINE) == ["Card 1", "Card 2"]


def test_the_claims_take_in_runs_of_the_larger_network_and_name_it(results):
    before = {each.claim.name: len(each.evidence) for each in judge(read(results / "cpu"))}
    found = {each.claim.name: each for each in judge(read(results))}
    for name in ("C2", "C3", "C4", "C5"):
        assert len(found[name].evidence) == 2 * before[name] > 0
        of = [evidence.what.partition(":")[0] for evidence in found[name].evidence]
        assert sum("resnet18" in what for what in of) == before[name]


@pytest.mark.slow
def test_runs_are_shown_with_their_own_scale(results):
    from gpu.documents import claims, study

    text = study(results)
    scale = "Scale: fashion-mnist: resnet18, 31 epochs, batch 128, bf16; seeds 0, 1; on Card 1 (torch 2.14.1)."
    assert scale in text
    assert re.findall(r"^easybn (report results/gpu --tables markdown)$", text, re.MULTILINE)
    assert "**fashion-mnist, resnet18**" in text
    assert "resnet_tiny" not in text
    alone, every = text.partition("The claims against these runs alone")[2], claims(results)
    counts = [int(re.search(r"\| C2 \|.*? of (\d+) comparisons?", part).group(1)) for part in (alone, every)]
    assert counts == [1, 2]
