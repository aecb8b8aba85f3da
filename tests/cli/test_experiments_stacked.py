"""``easybn stacked`` from the command line."""

import json
from pathlib import Path

import pytest

from easybn.paper import stacked as second_net

TINY = ("--train_images", "200", "--seeds", "1", "--epochs", "1", "--steps", "1", "--batch_size", "20")


def test_on_the_bundled_sample_and_not_twice(easybn, monkeypatch):
    words = ("stacked", *TINY, "--eps", "8/255", "--copies", "easy", "untouched", "--device", "cpu")
    found = easybn(*words)
    assert found.status == 0, found.err
    folder = Path("runs/stacked-sample")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["eps"] for row in rows] == [8 / 255] * 7 + [None] * 7
    assert {(row["classes"][0], row["classes"][1], row["n"]) for row in rows} == {("T-shirt/top", "Shirt", 200)}
    assert {path.name for path in (folder / "pictures").iterdir()} == {"easy-8of255-1step.png", "untouched.png"}
    assert "The copy randomised (the paper: 99.0 to 0.0)" in found.out
    assert "The original randomised (the paper: 99.0 to 99.0)" in found.out
    assert "rows: runs/stacked-sample/rows.jsonl" in found.out
    monkeypatch.setattr(second_net, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = easybn(*words, "--format", "markdown")
    assert again.status == 0, again.err
    for row in rows:
        if row["how"] in (None, "noise"):
            assert f"| {100 * row['accuracy']:.1f} |" in again.out
    assert again.out.count("| easy 8/255, 1 step |") == again.out.count("| untouched |") == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--classes Shirt Shrit", "--classes: no class 'Shrit' (did you mean Shirt?); there are T-shirt/top, Trouser,"),
        ("--classes Shirt 6", "--classes: Shirt is named twice"),
        ("--classes Shirt", "--classes"),
        ("--eps -1/255", "--eps"),
        ("--eps=-1/255", "eps must be a positive number in [0, 1] pixel units, got '-1/255'"),
        ("--eps 0.01", "got 2.55/255"),
        ("--eps x", "eps"),
        ("--steps 0", "steps must be at least 1, got 0"),
        ("--copies hard", "hard"),
        ("--seeds 0", "seeds must be at least 1, got 0"),
        ("--data smaple", "did you mean 'sample'?"),
        ("--model resnet_tini", "did you mean resnet_tiny?"),
        ("--device tpux", "no device 'tpux' here"),
        ("--train_images 0", "1 .. 5000"),
        ("--layout below", "below"),
        ("--epoch 3", "did you mean epochs"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, told, easybn):
    found = easybn("stacked", *words.split())
    assert found.status == 2
    assert told in found.err
    assert found.err.count("\n") == 1
    assert found.out.strip() == ""
    assert list(Path().iterdir()) == []
