"""The step that opens models: a tiny run summarised, and what the report makes of it."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from easybn import data, models
from easybn.evaluation import evaluate
from easybn.evaluation.verdicts import pack_bits, unpack_bits
from easybn.json_files import write_json
from easybn.models.weights import save, trained_on
from easybn.report.page import report
from easybn.runs import summary as module
from easybn.runs.run import Run
from easybn.runs.summary import bins, gallery_images, summarise
from easybn.tables.aggregate import point_verdicts
from easybn.tables.rows import Column, read


@pytest.fixture(scope="module")
def summarised(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("summary") / "tiny"
    shutil.copytree(finished_run.folder, folder)
    assert summarise(Run(folder))
    return folder


@pytest.fixture(scope="module")
def predicted(summarised):
    """The model's confidences on the test images, computed plainly, and the labels."""
    source = data.load("sample")
    with torch.no_grad():
        logits = models.load(summarised)(source.test.images.float() / 255)
    return logits.softmax(1), source.test.labels


def test_verdicts_and_bins_are_those_of_the_model(summarised, predicted):
    confidence, labels = predicted
    right = confidence.argmax(1) == labels
    (row,) = [json.loads(line) for line in (summarised / "verdicts.jsonl").read_text().splitlines()]
    first, second = confidence.topk(2, dim=1).values.unbind(1)
    clear = (first - second > 1e-5).numpy()  # the others' class may depend on the size of the batch
    assert clear.mean() > 0.99
    assert row["n"] == len(labels)
    assert np.array_equal(unpack_bits(row["right"], row["n"])[clear], right.numpy()[clear])
    summary = json.loads((summarised / "summary.json").read_text())
    assert summary["n"] == len(labels)
    sure = confidence.max(1).values
    for side, of in (("right", sure[right]), ("wrong", sure[~right])):
        found = summary["confidence"][side]
        edges = [int(((of >= i / 20 - 1e-6) & (of < (i + 1) / 20 + 1e-6)).sum()) for i in range(20)]
        assert sum(found) == len(of)
        assert found == pytest.approx(edges, abs=1)


def test_the_pictures_are_the_test_images_and_copies_within_8_of_255(summarised, predicted):
    confidence, labels = predicted
    gallery = json.loads((summarised / "summary.json").read_text())["gallery"]
    index = gallery_images(labels, confidence.argmax(1) == labels)
    assert len(gallery["images"]) == len(index) <= 6
    sheet = np.asarray(Image.open(summarised / "gallery.png"), np.int16)
    height, width = gallery["size"]
    source = data.load("sample")
    for i, item in enumerate(gallery["images"]):
        original, easy, adversarial = (
            sheet[i * height : (i + 1) * height, j * width : (j + 1) * width] for j in range(3)
        )
        assert np.array_equal(original, source.test.images[index[i], 0].numpy())
        assert np.abs(easy - original).max() <= 8
        assert np.abs(adversarial - original).max() <= 8
        assert item["original"]["class"] == item["label"] == source.classes[int(labels[index[i]])]
        assert item["easy"]["confidence"] >= item["original"]["confidence"]


def test_small_and_shown(summarised):
    sizes = [(summarised / name).stat().st_size for name in ("summary.json", "gallery.png", "verdicts.jsonl")]
    assert sum(sizes) < 60_000
    html = report(summarised)
    assert "easybn summarise" not in html.partition("<main>")[2].replace("easybn summarise RUNS, or a study", "")
    images = json.loads((summarised / "summary.json").read_text())["gallery"]["images"]
    assert html.count("data:image/png") == 5 * len(images)


def test_done_once(summarised, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("opened a model")

    monkeypatch.setattr(module.models, "load", fail)  # type: ignore[attr-defined]
    assert not summarise(Run(summarised))


def attack(folder, images, **how):
    """Verdicts on some test images in the run's folder, in chunks of two."""
    x, y = data.load("sample").test.batch(torch.tensor(images))
    how |= {"attacks": ["apgd-ce"], "norm": "linf", "eps": 8 / 255, "ids": images, "chunk": 2, "branch": "main"}
    return evaluate(models.load(folder), x, y, store=folder / "verdicts" / "a", diagnosis=False, **how)


def shown(folder):
    """The verdicts that tables take: of the stored attack, and whether they are those in verdicts.jsonl, too."""
    column = Column("", "apgd-ce", None, "linf", 8 / 255)
    found = point_verdicts(read(folder).runs[0], column)
    rows = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    kept = [(row["n"], row["right"]) for row in rows if row["attack"] == "apgd-ce"]
    return found.right.tolist(), kept == [(len(found.right), pack_bits(found.right))]


@pytest.mark.filterwarnings("ignore:.*points are there and used")  # the half that is not there yet
def test_a_store_that_has_grown_or_changed_is_not_shown_as_it_was(summarised, tmp_path):
    run = Run(shutil.copytree(summarised, tmp_path / "r"))
    half = attack(run.folder, [0, 1, 2, 3], shard=(0, 2))
    assert summarise(run)
    assert shown(run.folder) == (half.robust.tolist(), True)
    assert not summarise(run)
    whole = attack(run.folder, [0, 1, 2, 3])
    assert shown(run.folder) == (whole.robust.tolist(), False)  # tables do not wait for the summary
    assert summarise(run)
    assert shown(run.folder) == (whole.robust.tolist(), True)
    # as many rows and as many points, but others
    row = clean_row(run)
    right = unpack_bits(row["right"], row["n"])
    for images in (np.flatnonzero(right)[:4].tolist(), np.flatnonzero(~right)[:4].tolist()):
        shutil.rmtree(run.folder / "verdicts")
        found = attack(run.folder, images)
        assert summarise(run)
        assert shown(run.folder) == (found.robust.tolist(), True)
        assert not summarise(run)


def clean_row(run):
    return json.loads((run.folder / "verdicts.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("name", ["verdicts.jsonl", "gallery.png", "summary.json"])
def test_what_is_missing_or_damaged_is_made_again(name, summarised, tmp_path):
    run = Run(shutil.copytree(summarised, tmp_path / "r"))
    before = (run.folder / name).read_bytes()
    (run.folder / name).unlink()
    assert summarise(run)
    assert (run.folder / name).read_bytes() == before
    if name == "summary.json":
        (run.folder / name).write_text("{}")
        assert summarise(run)


def test_other_weights_are_summarised_again_even_if_the_file_is_older(summarised, tmp_path):
    run = Run(shutil.copytree(summarised, tmp_path / "r"))
    weights, before, about = run.folder / "model.safetensors", clean_row(run), trained_on(run.folder)
    model, described = models.load(run.folder), description(weights)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    save(model, weights, described, about)
    os.utime(weights, (0, 0))
    assert summarise(run)
    assert clean_row(run)["right"] != before["right"]


def test_a_clean_verdict_that_the_scores_have_is_not_kept_twice(summarised, tmp_path):
    run = Run(shutil.copytree(summarised, tmp_path / "r"))
    before = point_verdicts(read(run.folder).runs[0], Column("", "clean", None, None, None))
    run.add_scores([{**clean_row(run), "correct": int(before.right.sum()), "branch": "main"}])
    assert summarise(run)
    assert (run.folder / "verdicts.jsonl").read_text() == ""
    after = point_verdicts(read(run.folder).runs[0], Column("", "clean", None, None, None))
    assert (after.points, after.right.tolist()) == (before.points, before.right.tolist())
    assert not summarise(run)


def description(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["easybn"])["model"]


def test_an_unfinished_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not finished"):
        summarise(Run(tmp_path))


def test_bins_of_the_ends():
    found = bins(torch.tensor([0.0, 0.049, 0.051, 0.999, 1.0]))
    assert (found[0], found[1], found[19], sum(found)) == (2, 1, 2, 5)


def test_the_first_right_image_of_each_class():
    labels = torch.tensor([1, 0, 1, 2, 0, 2])
    right = torch.tensor([False, True, True, False, True, False])
    assert gallery_images(labels, right).tolist() == [1, 2]
    assert gallery_images(labels, torch.zeros(6, dtype=torch.bool)).tolist() == []


def test_findings_of_an_evaluation_by_hand_are_summarised_once(finished_run, tmp_path):
    """Those beside the verdicts, which a study keeps too, and those of PGD's rows."""
    folder = tmp_path / "r"
    shutil.copytree(finished_run.folder, folder)
    wide = {"name": "points", "severity": "note", "what": "wide", "how_much": "", "why": "", "remedy": ""}
    dice = wide | {"name": "randomised", "severity": "warning"}
    store = folder / "verdicts" / "pgd-ce-linf-0.1-00"
    store.mkdir(parents=True)
    write_json(store / "findings.json", {"points": 5, "checks": [], "findings": [wide]})
    write_json(folder / "evaluated.json", [{"digest": "0", "findings": [wide]}])
    row = {"attack": "pgd", "n": 5, "correct": 2, "norm": "l2", "eps": 0.1, "protocol": "strong"}
    Run(folder).add_scores([row | {"findings": [dice, wide]}, row | {"eps": 0.2}])
    assert summarise(Run(folder))
    assert json.loads((folder / "summary.json").read_text())["findings"] == [wide, dice, wide]
    assert not summarise(Run(folder))
    shutil.rmtree(folder / "verdicts")
    (folder / "evaluated.json").unlink()
    assert "2 runs" not in report(folder)
    assert "randomised" in report(folder)
