"""``easybn evaluate --attacks`` and ``easybn verify`` on a tiny run, in this process and killed in others."""

import argparse
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors.numpy import save_file

from easybn import models
from easybn.evaluation.store import Store
from easybn.recipes import EBN
from easybn.runs.config import Experiment
from easybn.runs.run import Run, train
from easybn.train.schedule import Training

from ..evaluation.store.fake_job import same
from .conftest import start

QUICK = ("--attacks", "pgd-ce", "--norm", "linf", "--points", "5", "--no_diagnosis", "--eps")
LONG = ("--attacks", "apgd-ce", "pgd-ce", "--eps", "0.01", "--points", "6", "--chunk", "2", "--no_diagnosis")
MINE = """
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))

class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, x):
        return {"logits": self.net(x), "features": x.flatten(1)}

def fails():
    raise RuntimeError("no such thing")

number = 3
"""


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    training = Training(epochs=2, batch_size=30, lr=0.05)
    asked = Experiment(recipe=EBN(), train_images=600, validation=0.0, training=training)
    return train(asked, tmp_path_factory.mktemp("run") / "r", device="cpu").folder


@pytest.fixture
def run(trained_run):
    shutil.copytree(trained_run, "r")
    return Run(Path("r"))


@pytest.fixture
def mine():
    Path("mine_to_evaluate.py").write_text(MINE)
    torch.manual_seed(0)
    parts = {"1.weight": (4, 784), "1.bias": (4,), "3.weight": (10, 4), "3.bias": (10,)}
    state = {name: torch.randn(shape) for name, shape in parts.items()}
    torch.save(state, "m.pt")
    save_file({name: value.numpy() for name, value in state.items()}, "m.safetensors")
    return ("evaluate", "--model", "mine_to_evaluate:make", "--data", "sample", *QUICK, "0.3", "--points", "40")


def stores(folder="r"):
    return sorted(Path(folder, "verdicts").iterdir())


def headlines(found):
    """The lines that give a robust accuracy; the table follows them."""
    before = found.out.partition("\u250f")[0]
    return [line for line in before.splitlines() if line.startswith("robust accuracy ")]


def test_verdicts_are_kept_and_a_row_a_radius_is_added_once(run, easybn):
    words = ("evaluate", "r", *QUICK, "8/255", "1/255")
    found = easybn(*words)
    assert found.status == 0, found.err
    clean, small, large = run.scores
    assert (clean["attack"], clean["n"], clean["branch"]) == ("clean", 5, "main")
    assert [(row["attack"], row["eps"], row["n"]) for row in (small, large)] == [
        ("pgd-ce", 1 / 255, 5), ("pgd-ce", 8 / 255, 5),
    ]  # fmt: skip
    assert sum(large["broke"].values()) == 5 - large["correct"]
    assert large["forwards"] > 0
    (folder,) = stores()
    store = Store.existing(folder)
    assert int(store.verdicts().robust(8 / 255).sum()) == large["correct"]
    for text in ("95% interval", f"{100 * large['accuracy']:.2f} ", str(folder)):
        assert text in found.out
    for line, row, eps in zip(headlines(found), (small, large), ("1/255", "8/255"), strict=True):
        assert line.startswith(f"robust accuracy at linf {eps}: {100 * row['correct'] / 5:.1f}% (95%: ")
        assert line.endswith("), 5 of 1,000 points, pgd-ce")
    rows, files = run.scores, {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert easybn(*words).status == 0
    assert run.scores == rows
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == files
    assert "linf 8/255" in easybn("table", "r").out


def test_a_changed_model_is_refused(run, easybn):
    words = ("evaluate", "r", *QUICK, "0.01")
    assert easybn(*words).status == 0
    weights = Path("r/model.safetensors")
    with safetensors.safe_open(weights, "pt") as file:
        header = json.loads(file.metadata()["easybn"])
    changed = {name: value + value.is_floating_point() for name, value in safetensors.torch.load_file(weights).items()}
    kept = {"easybn": json.dumps({"model": header["model"], "data": header["data"]})}
    safetensors.torch.save_file(changed, weights, kept)
    found = easybn(*words)
    assert found.status == 2
    # where the change spoils the model altogether, how it could be prepared differs too
    assert re.search(r"another evaluation: .*move this one away model: '\w+' here, '\w+' asked", found.err)


def test_shards_write_the_score_once_all_is_there(run, easybn):
    words = ("evaluate", "r", *QUICK, "0.01", "--chunk", "2", "--shard")
    for i in (1, 2):
        found = easybn(*words, f"{i}/3")
        assert found.status == 0, found.err
        assert "no score is written yet" in found.out
        (line,) = headlines(found)
        assert re.search(r"[12345] of 1,000 points, pgd-ce, not finished: 5 points were asked for$", line)
        assert run.scores == []
    assert easybn(*words, "0/3").status == 0
    assert [row["n"] for row in run.scores] == [5, 5]
    total = Store.existing(stores()[0]).seconds  # of all three
    assert {row["seconds"] for row in run.scores} == {round(total, 1)}
    assert total > 0
    shutil.copytree("r", "whole", ignore=shutil.ignore_patterns("verdicts", "scores.jsonl"))
    assert easybn("evaluate", "whole", *words[2:-1]).status == 0
    assert same(Store.existing(stores()[0]).record, Store.existing(stores("whole")[0]).record)


def test_a_branch(run, easybn):
    found = easybn("evaluate", "r", *QUICK, "0.3", "--branch", "easy", "--keep_images")
    assert found.status == 0, found.err
    assert {row["branch"] for row in run.scores} == {"easy"}
    assert headlines(found)[0].endswith("5 of 1,000 points, pgd-ce, branch easy")
    assert "(EBN), branch easy" in easybn("table", "r").out
    assert "everything holds" in easybn("verify", str(stores()[0])).out
    assert "has no branch 'hard'; it has main, easy" in easybn("evaluate", "r", *QUICK, "1", "--branch", "hard").err
    Path("r/checkpoint.pt").unlink()
    found = easybn("evaluate", "r", *QUICK, "0.02", "--branch", "easy")
    assert "model.safetensors has only the deployed branch" in found.err


def test_a_budget_says_of_how_many_points_it_speaks(run, easybn):
    words = ("evaluate", "r", "--attacks", "pgd-ce", "--eps", "0.01", "--chunk", "4", "--no_diagnosis", "--budget")
    found = easybn(*words, "0.001s")
    assert found.status == 0, found.err
    assert "4 of 1,000 points, pgd-ce, drawn at random in a budget of " in found.out
    assert [(row["n"], row["budget"]) for row in run.scores] == [(4, 0.001), (4, 0.001)]
    assert "Within a time budget" in easybn("table", "r", "--format", "markdown").out
    assert easybn(*words, "soon").status == 2


def test_gradients_in_bf16_are_another_measurement(run, easybn):
    words = ("evaluate", "r", *QUICK, "0.01")
    assert easybn(*words).status == 0
    found = easybn(*words, "--precision", "bf16")
    assert found.status == 0, found.err
    assert [row["precision"] for row in run.scores] == ["float32", "float32", "bf16"]
    said = {Store.existing(folder).manifest.preparation.endswith("bf16") for folder in stores()}
    assert said == {True, False}
    rows = run.scores
    # rows of before there was a choice are those of float32
    Path("r/scores.jsonl").write_text(
        "".join(
            json.dumps({k: v for k, v in row.items() if k not in ("precision", "compile")}) + "\n" for row in rows[:2]
        )
    )
    assert easybn(*words).status == 0
    assert len(run.scores) == 2


def test_an_estimate_writes_nothing(run, easybn):
    before = set(Path("r").rglob("*"))
    found = easybn("evaluate", "r", "--attacks", "apgd-ce", "square", "--estimate")
    assert found.status == 0, found.err
    assert re.search(r"1,000 points: .* if nothing survives \.\. .* if all do", found.out)
    assert set(Path("r").rglob("*")) == before


@pytest.mark.parametrize("weights", ["m.pt", "m.safetensors"])
def test_a_model_of_ones_own(mine, weights, easybn):
    found = easybn(*mine, "--weights", weights, "--keep_images")
    assert found.status == 0, found.err
    folder = Path("runs/evaluations/mine_to_evaluate-make-m")
    assert [row["attack"] for row in Run(folder).scores] == ["clean", "pgd-ce"]
    assert "mine_to_evaluate-make-m" in easybn("table", "runs/evaluations").out
    (store,) = stores(folder)
    again = ("--model", "mine_to_evaluate:make")  # a file names no code that runs
    assert "repeat it: --model mine_to_evaluate:make" in easybn("verify", str(store)).err
    assert easybn("verify", str(store), *again).status == 0
    assert "repeat it: --model mine_to_evaluate:make" in easybn("evaluate", str(folder), *QUICK, "0.01").err
    assert easybn("evaluate", str(folder), *QUICK, "0.01", *again).status == 0
    named = ("--model", "mine_to_evaluate:make", "--weights", weights, "--data", "sample")
    shutil.move(store, "moved")
    assert "name its model and data" in easybn("verify", "moved").err
    assert easybn("verify", "moved", *named).status == 0
    torch.save({name: value + 1 for name, value in torch.load("m.pt").items()}, "other.pt")
    found = easybn("verify", "moved", *named[:2], "--weights", "other.pt", "--data", "sample")
    assert "the model is not the one that was evaluated" in found.err
    found = easybn(*mine, "--weights", "other.pt", "--out", str(folder))
    assert "holds the results of another model (weights: " in found.err


def test_one_of_several_outputs_by_its_name(mine, easybn):
    assert easybn(*mine, "--weights", "m.pt").status == 0
    torch.save({f"net.{name}": value for name, value in torch.load("m.pt").items()}, "several.pt")
    several = (*mine, "--model", "mine_to_evaluate:Several", "--weights", "several.pt")
    with_output = (*several, "--output", "logits", "--keep_images")
    found = easybn(*several)
    assert found.status == 2
    assert "dict with 'logits' (16, 10), 'features' (16, 784): name the one that is the logits: output" in found.err
    plain, selected = (Path(f"runs/evaluations/mine_to_evaluate-{name}") for name in ("make-m", "Several-several"))
    assert not selected.exists()
    found = easybn(*with_output)
    assert found.status == 0, found.err
    assert [row["correct"] for row in Run(selected).scores] == [row["correct"] for row in Run(plain).scores]
    (store,) = stores(selected)
    assert Store.existing(store).manifest.settings["output"] == "logits"
    named = ("--model", "mine_to_evaluate:Several")
    assert "everything holds" in easybn("verify", str(store), *named).out
    found = easybn(*several, "--output", "features")
    assert "another model (output: logits here, features asked)" in found.err


@pytest.mark.filterwarnings("default")
def test_weights_of_a_checkpoint_by_their_key(mine, easybn):
    plain = torch.load("m.pt")
    other = {name: -value for name, value in plain.items()}
    torch.save({"state_dict": plain, "state_dict_ema": other, "args": argparse.Namespace(lr=0.1)}, "best.pth.tar")
    found = easybn(*mine, "--weights", "best.pth.tar")
    assert found.status == 0
    assert "note: best.pth.tar: the weights under state_dict are used" in found.err
    assert "--weights_key state_dict_ema" in found.err
    key = ("--weights_key", "state_dict_ema")
    found = easybn(*mine, "--weights", "best.pth.tar", *key, "--keep_images")
    assert (found.status, "note" in found.err) == (0, False)
    folders = [Path(f"runs/evaluations/mine_to_evaluate-make-best.pth{end}") for end in ("", "-state_dict_ema")]
    about = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    assert [each["weights_key"] for each in about] == [None, "state_dict_ema"]
    models = [Store.existing(*stores(folder)).manifest.model for folder in folders]
    assert models[0] != models[1]
    found = easybn(*mine, "--weights", "best.pth.tar", *key, "--out", str(folders[0]))
    assert "another model (weights_key: None here, state_dict_ema asked)" in found.err
    # a folder from before the option was there goes on
    (folders[0] / "evaluation.json").write_text(json.dumps({k: v for k, v in about[0].items() if k != "weights_key"}))
    assert easybn(*mine, "--weights", "best.pth.tar").status == 0
    named = ("verify", str(*stores(folders[1])), *mine[1:5], "--weights", "best.pth.tar")
    assert easybn(*named, *key).status == 0
    assert "the model is not the one that was evaluated" in easybn(*named).err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--weights m.pt --weights_key ema", "m.pt has nothing under the weights_key ema (its keys: 1.weight, "),
        ("--weights_key ema", "--weights_key goes with --weights FILE"),
        ("--weights m.pt --model mine_to_evaluate:mak", "no function 'mak' in mine_to_evaluate; it has make"),
        ("--model mine_to_evaluate:number", "no function 'number'"),
        ("--model mine_to_evaluate:fails", "fails failed: RuntimeError: no such thing"),
        ("--model nowhere:make", "nowhere cannot be imported: ModuleNotFoundError"),
        ("--weights none.pt", "no weights at none.pt"),
        ("--weights mine_to_evaluate.py", "cannot be read as weights"),
        ('--weights m.pt --model_options {"width":5}', "do not fit the model: 3 of another shape, such as 1.weight"),
        ("--model timm:resnet18", "timm:resnet18 has random weights"),
        ("--model timm:resnet18 --weights m.pt", "unexpected, such as 1."),
        ("--data smaple", "did you mean 'sample'?"),
        ("--weights m.pt --eps -1", "eps must be a positive number"),
        ("--weights m.pt --eps 8", "is it in units of /255?"),
        ("--weights m.pt --eps nan", "nan"),
        ("--weights m.pt --attacks autoatack", "unknown attack 'autoatack' (did you mean autoattack?)"),
        ("--weights m.pt --shard 3/3", "--shard 3/3: a shard is i/n with i from 0 to n - 1, such as 0/3 .. 2/3"),
        ("--weights m.pt --shard two", "--shard two: a shard is i/n"),
        ("--weights m.pt --points 0", "points must be at least 1"),
        ("--weights m.pt --attacks pgd --budget 3m", "--budget is for attacks with stored verdicts"),
        ("--weights m.pt --output logits", "returns a tensor, not several outputs: leave out output='logits'"),
        ("--model m.onnx", "--model m.onnx has no gradient, and pgd-ce cannot do without: --attacks square can"),
        ("--model m.onnx --attacks pgd", "--model m.onnx has no gradient, and pgd cannot do without"),
        ("--model m.onnx --attacks square --weights m.pt", "m.onnx has its weights in it: leave out --weights"),
        ("--model m.pt2", "m.pt2: torch.export.load unpickles parts of an archive"),
        ("--weights m.pt --branch easy", "--branch is for runs"),
        ("--weights m.pt --precision fp8", "--precision"),
        ("--weights m.pt --attacks pgd --compile", "--compile is for attacks with stored verdicts"),
    ],
)
def test_mistakes_are_one_line(mine, words, told, easybn):
    found = easybn(*mine, *words.split())
    assert found.status == 2
    assert told in found.err
    assert found.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_run_and_a_model_do_not_go_together(run, easybn):
    assert "name no runs" in easybn("evaluate", "r", "--model", "timm:resnet18").err
    assert "name runs, --model my.py:make" in easybn("evaluate").err


def test_verify_finds_what_does_not_hold(run, easybn):
    assert easybn("evaluate", "r", *QUICK, "0.3", "--keep_images").status == 0
    (folder,) = stores()
    found = easybn("verify", str(folder))
    assert (found.status, "everything holds" in found.out) == (0, True), found.err
    store = Store.existing(folder)
    (file, record, images), *_ = [each for each in store.read() if each[2] is not None and len(each[2][0])]
    store.file(file.chunk, file.stage).save(record, (images[0], images[1] * 0 + 0.5))
    found = easybn("verify", str(folder))
    assert found.status == 1
    assert "the image is outside its ball" in found.out
    assert "problems" in found.out
    shutil.copytree("r", "kept")
    assert easybn("evaluate", "r", *QUICK, "0.2").status == 0
    without = next(each for each in stores() if each != folder)
    found = easybn("verify", str(without))
    assert found.status == 2
    assert "no images were kept (--keep_images)" in found.err
    assert "the record is complete and consistent" in found.err
    assert "everything holds" not in found.out
    assert "manifest.json" in easybn("verify", "r").err


def test_verify_misses_what_was_removed(run, easybn):
    assert easybn("evaluate", "r", *QUICK, "0.3", "--keep_images").status == 0
    (folder,) = stores()
    shutil.copytree(folder, "whole")

    def verified() -> str:
        found = easybn("verify", str(folder))
        assert (found.status, found.err) == (1, "")
        assert "everything holds" not in found.out
        return found.out

    shutil.rmtree(folder / "images")
    assert "its images are missing or have changed" in verified()
    shutil.rmtree(folder / "attempts")
    found = verified()
    assert "it is missing" in found
    assert "no adversarial image is there" in found
    assert "0 adversarial images tested again" in found
    shutil.rmtree(folder)
    shutil.copytree("whole", folder)
    assert easybn("verify", str(folder)).status == 0
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    found = easybn("verify", str(folder))
    assert found.status == 2
    assert "manifest.json is damaged: its checksum is another one" in found.err


@pytest.mark.filterwarnings("default:.*points are there and used")
def test_summarise_takes_no_part_of_the_points_without_a_word(run, easybn):
    assert easybn("evaluate", "r", *QUICK, "0.01", "--chunk", "2").status == 0
    assert easybn("summarise", "r").status == 0
    summary = Path("r/verdicts.jsonl").read_text()
    (folder,) = stores()
    file = folder / "attempts" / "00001-01.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    found = easybn("summarise", "r")
    assert found.status == 2
    assert f"{file} is damaged: no Parquet file of ours" in found.err
    assert Path("r/verdicts.jsonl").read_text() == summary
    file.unlink()
    Path("r/summary.json").unlink()
    found = easybn("summarise", "r")
    assert found.status == 0
    assert "3 of 5 points are there and used; chunk 1 is not: is the evaluation finished?" in found.err


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 3])
def test_killed_at_any_moment_it_ends_with_the_same_verdicts(run, kills, easybn):
    shutil.copytree("r", "whole")
    assert easybn("evaluate", "whole", *LONG).status == 0
    for number in range(kills):
        process = start("evaluate", "r", *LONG)
        deadline = time.monotonic() + 600
        # stages of the first chunk, then of later ones
        while len(list(Path("r").glob("verdicts/*/attempts/*.parquet"))) < 2 * number + 2 and process.poll() is None:
            assert time.monotonic() < deadline, "the process is too slow"
            time.sleep(0.005)
        process.kill()
        process.communicate(timeout=300)
    assert run.scores == []
    assert easybn("evaluate", "r", *LONG).status == 0
    assert same(Store.existing(stores()[0]).record, Store.existing(stores("whole")[0]).record)
    assert [row["correct"] for row in run.scores] == [row["correct"] for row in Run(Path("whole")).scores]


def test_a_model_of_the_package_needs_no_training(easybn):
    done = easybn(
        "evaluate", "--model", "fashion-mnist-vanilla", "--attacks", "apgd-ce", "--eps", "24/255", "--points", "20",
        "--no_diagnosis",
    )  # fmt: skip
    assert done.status == 0
    folder = Path("runs/evaluations/fashion-mnist-vanilla")
    (row,) = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()][-1:]
    assert (row["data"], row["n"]) == ("sample", 20)
    assert row["broke"]["apgd-ce"] > 15  # 24/255 leaves next to nothing of a plain model


def test_with_nothing_to_evaluate_it_says_what_could_be(easybn):
    done = easybn("evaluate")
    assert done.status == 2
    assert "--model fashion-mnist-vanilla" in done.err


@pytest.mark.parametrize("attacks", [("--attacks", "pgd-ce"), ("--steps", "2", "--protocols", "strong")])
def test_findings_are_shown_again_and_in_the_report(run, easybn, attacks):
    words = ("evaluate", "r", *attacks, "--norm", "linf", "--points", "5", "--eps", "0.001")
    first = easybn(*words)
    assert first.status == 0, first.err
    told = [line for line in first.out.splitlines() if line.startswith(("note ", "warning ", "ok "))]
    assert any(line.startswith("note     units: Eps is below") or "units: Eps is below" in line for line in told)
    assert told[-1].startswith("ok ")
    assert [line for line in easybn(*words).out.splitlines() if line in told] == told
    assert easybn("report", "r").status == 0
    page = Path("report.html").read_text()
    assert page.count("eps is below what 8 bits can show") == 1
    assert "in 1 of 1 runs" in page


def test_the_command_line_without_a_diagnosis(run, easybn):
    for attacks in (("--attacks", "pgd-ce"), ("--steps", "1", "--protocols", "strong")):
        words = ("evaluate", "r", *attacks, "--norm", "linf", "--points", "5", "--eps", "0.001", "--no_diagnosis")
        assert "units" not in easybn(*words).out
    easybn("report", "r")
    assert "No diagnosis is kept" in Path("report.html").read_text()


def test_other_weights_or_images_under_the_same_names_are_refused(easybn):
    """Rows that are there already must not be shown as those of what the names now stand for."""
    words = ("evaluate", "--model", "mine:net", "--weights", "w.pt", "--eps", "0.1", "--points", "4", "--steps", "1")
    words = (*words, "--data", "images", "--channels", "1")
    for split in ("train", "test"):
        for label in range(10):
            folder = Path("images", split, str(label))
            folder.mkdir(parents=True)
            Image.fromarray(np.full((28, 28), 20 * label + 9 * (np.arange(28) % 2), np.uint8)).save(folder / "0.png")
    Path("mine.py").write_text(
        "from easybn import models\ndef net():\n    return models.build('resnet_tiny', in_channels=1)\n"
    )
    torch.manual_seed(0)
    first, second = (models.build("resnet_tiny", in_channels=1).state_dict() for _ in range(2))

    def changed(what: str) -> None:
        found = easybn(*words)
        assert found.status == 2
        assert f"holds the results of other {what} under the same name: give another --out" in found.err

    torch.save(first, "w.pt")
    assert easybn(*words).status == 0
    assert easybn(*words).status == 0
    torch.save(second, "w.pt")
    changed("weights or code")
    torch.save(first, "w.pt")
    assert easybn(*words).status == 0
    Image.fromarray(np.full((28, 28), 77, np.uint8)).save("images/test/3/0.png")
    changed("test images")
