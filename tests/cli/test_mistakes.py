"""A user's mistake is one line on stderr that names what was meant, with exit status 2."""

from pathlib import Path

import pytest

RECIPE = """
from dataclasses import dataclass
from easybn.recipes import Context, Recipe, Term

@dataclass(frozen=True)
class Mine(Recipe):
    factor: float = 1.0
    branches = ("main",)

    def __call__(self, model, x, y, ctx=Context()):
        yield Term.cross_entropy("main", model(x), y, self.factor)

class Other:
    pass
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trian", "no command 'trian' (did you mean train?)"),
        ("train --lrr 3", "unrecognized arguments: --lrr 3 (did you mean lr?)"),
        ("train --epoch 3", "(did you mean epochs?)"),
        ("train --recipe EBM", "EBM (did you mean EBN?)"),
        (
            "train --recipe EBN --recipe.atack.steps 3",
            "--recipe.atack.steps: EBN has no such field (did you mean attack.steps?)",
        ),
        ("train --recipe EBN --recipe.attack.ball.eps 8/x", "8/x"),
        ("train --recipe EBN --recipe.attack.ball.eps -1", "eps"),
        ("train --lr much", "--lr: expected a number, got much"),
        ("train --lr -1", "lr must be at least 0, got -1"),
        ("train --lr .inf", "lr must be finite, got inf"),
        ("train --recipe.label_smoothing 2", "label_smoothing must be in [0, 1), got 2"),
        ("train --recipe EBN --recipe.easy_weight .nan", "easy_weight must be a finite number, got nan"),
        (
            "train --seed 99999999999999999999",
            "seed must be a whole number in -2^63 .. 2^64 - 1, got 99999999999999999999",
        ),
        ("evaluate --model fashion-mnist-vanilla --seed 99999999999999999999 --attacks apgd-ce", "seed must be"),
        ("evaluate --model fashion-mnist-vanilla --batch_size 0", "batch_size must be at least 1, got 0"),
        ("evaluate --model fashion-mnist-vanilla --batch_size -1 --attacks apgd-ce", "batch_size must be at least 1"),
        ("evaluate --model fashion-mnist-vanilla --steps 0", "steps must be at least 1, got 0"),
        ("evaluate --model resnet_tiny --data sample --mean 0 --std 0", "std positive"),
        ('train --model_options {"num_classes":"banana"}', "num_classes must be a whole number from 1 on"),
        ('train --model_options {"in_channels":3}', "the model does not take sample's images of 1 x 28 x 28"),
        ("train --device meta", "device 'meta' computes nothing"),
        ("train --out own.py", "own.py: there is a file in the place of a folder"),
        ("train --augment crop", "crop_flip"),
        ("train --schedule Cosin", "Cosin"),
        ("train --config a.yaml", "a.yaml: Option 'lrr' is not accepted (did you mean lr?)"),
        ("train --config=a.yaml", "a.yaml: Option 'lrr' is not"),
        ("train --config nested.yaml", "nested.yaml: "),
        (
            "train --config class.yaml",
            "class.yaml: recipe.clas_path: Vanilla has no such field (did you mean class_path?)",
        ),
        ("train --config lost.yaml", "lost.yaml: --recipe ./none.py:Mine: there is no file ./none.py"),
        (
            "train --config nested.yaml",
            "nested.yaml: recipe.atack.steps: EBN has no such field (did you mean attack.steps?)",
        ),
        ("train --config broken.yaml", "Problems parsing config"),
        ("train --config none.yaml", "none.yaml"),
        ("train --data smaple", "unknown data set 'smaple': did you mean 'sample'?"),
        ("train --model resnet_tini", "unknown model 'resnet_tini' (did you mean resnet_tiny?)"),
        ("train --model_options {wide:2}", "model_options"),
        ("train --device tpux", "no device 'tpux' here"),
        ("train --train_images 0", "1 .. 5000"),
        ("train --recipe ./none.py:Mine", "there is no file ./none.py"),
        ("train --recipe ./own.py:Mein", "no recipe 'Mein' in ./own.py; it has Mine"),
        ("train --recipe ./own.py:Other", "no recipe 'Other' in ./own.py; it has Mine"),
        ("train --recipe=./own.py:Mein", "no recipe 'Mein'"),
        ("train --recipe ./wrong.py:Mine", "wrong.py cannot be imported: SyntaxError"),
        ("train --recipe ./json.py:Mine", "rename the file"),
        ("train --recipe ./a-b.py:Mine", "rename the file"),
        ("train --recipe ./own.py:Mine --recipe.facto 2", "(did you mean factor?)"),
        ("table nowhere", "no run in nowhere"),
        ("table empty", "no run in empty"),
        ("evaluate nowhere", "no run in nowhere"),
        ("evaluate begun", "begun is not finished"),
        ("evaluate begun --eps x", "--eps, value 1: eps must be a number or a fraction such as '8/255', got 'x'"),
        ("evaluate begun --eps 1/0", "'8/255', got '1/0'"),
        ("evaluate begun --norm l3", "l3"),
        ("evaluate", "runs"),
    ],
)
def test_one_line(words, told, easybn):
    Path("own.py").write_text(RECIPE)
    for name in ("json.py", "a-b.py"):
        Path(name).write_text(RECIPE)
    Path("wrong.py").write_text("def x(")
    Path("a.yaml").write_text("lrr: 3\n")
    Path("nested.yaml").write_text("recipe:\n  class_path: EBN\n  init_args:\n    atack:\n      steps: 3\n")
    Path("class.yaml").write_text("recipe:\n  clas_path: EBN\n")
    Path("lost.yaml").write_text("recipe: ./none.py:Mine\n")
    Path("broken.yaml").write_text("lr: [0.3\n")
    Path("begun").mkdir()
    Path("empty").mkdir()
    Path("begun/config.json").write_text('{"experiment": {"data": "sample", "data_folder": null}}')
    found = easybn(*words.split())
    assert found.status == 2
    assert told in found.err
    assert found.err.count("\n") == 1
    assert found.err.startswith("easybn")
    assert "error: " in found.err
    assert found.err.count("did you mean") <= 1
    assert found.out.strip() == ""
    assert list(Path().glob("runs/*/config.json")) == []  # a mistake leaves no run behind


def test_a_name_taken_by_another_module_leaves_that_one_alone(easybn):
    import json

    Path("json.py").write_text(RECIPE)
    assert easybn("train", "--recipe", "./json.py:Mine").status == 2
    import sys

    assert sys.modules["json"] is json


def test_the_traceback_is_there_for_who_asks(easybn, monkeypatch):
    monkeypatch.setenv("EASYBN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown data set"):
        easybn("train", "--data", "smaple")
