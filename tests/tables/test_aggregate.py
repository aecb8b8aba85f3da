"""Runs in, settings and recipes out: groups of seeds and their labels."""

import json

import pytest

from easybn.paper.tables import paper_table
from easybn.tables.aggregate import settings
from easybn.tables.rows import read

from ..report.made_up import run


def change(folder, **fields):
    """Other training fields in a run's config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["experiment"]["training"] |= fields
    path.write_text(json.dumps(config))


def test_seeds_of_a_recipe_are_one_row(setting):
    assert setting.title == "fashion-mnist, resnet_tiny"
    assert [each.label for each in setting.recipes] == ["Vanilla", "AdvProp 8/255", "EBN 8/255", "AdvPropEBN 8/255"]
    assert all(list(each.runs) == [0, 1, 2] for each in setting.recipes)


def test_labels_say_what_differs_and_other_epochs_are_another_setting(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.05)):
        run(tmp_path / name, "vanilla", 0, lr=lr)
    run(tmp_path / "c", "vanilla", 0)  # the same experiment and seed as a
    run(tmp_path / "d", "ebn", 0)
    change(tmp_path / "d", epochs=9)
    run(tmp_path / "e", "ebn", 0, data="cifar10")
    found = settings(read(tmp_path).runs)
    titles = ["fashion-mnist, resnet_tiny, 6 epochs, batch 128", "fashion-mnist, resnet_tiny, 9 epochs, batch 128"]
    assert [each.title for each in found] == [*titles, "cifar10, resnet_tiny"]
    assert [each.label for each in found[0].recipes] == ["Vanilla, lr 0.05", "Vanilla, lr 0.1"]
    assert found[0].repeated == ["c repeats a and is left out."]
    across = settings(read(tmp_path).runs, ["epochs"])
    assert [each.title for each in across] == ["fashion-mnist, resnet_tiny", "cifar10, resnet_tiny"]
    assert [each.label for each in across[0].recipes] == [
        "Vanilla, epochs 6, lr 0.05",
        "Vanilla, epochs 6, lr 0.1",
        "EBN 8/255, epochs 9",
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_a_field_that_older_runs_lack_is_none_in_newer_ones(tmp_path, order):
    run(tmp_path / "a", "ebn", 0)
    for seed, name, share in ((1, "b", None), (0, "c", "affine"), (2, "d", None)):
        run(tmp_path / name, "ebn", seed)
        path = tmp_path / name / "config.json"
        config = json.loads(path.read_text())
        config["experiment"]["share"] = share
        path.write_text(json.dumps(config))
    run(tmp_path / "e", "vanilla", 0)
    (found,) = settings(read(tmp_path).runs[::order])
    assert {each.label: list(each.runs) for each in found.recipes} == {
        "Vanilla": [0], "EBN 8/255": [0, 1, 2], "EBN 8/255, share affine": [0],
    }  # fmt: skip


def test_many_runs_that_repeat_others_are_counted(tmp_path):
    for seed in range(4):
        run(tmp_path / f"a-{seed}", "vanilla", seed)
        run(tmp_path / f"b-{seed}", "vanilla", seed)
    (found,) = settings(read(tmp_path).runs)
    caption = paper_table(found).caption
    assert caption.endswith("b-0 repeats a-0 and is left out. So are 3 more that repeat another's seed.")
