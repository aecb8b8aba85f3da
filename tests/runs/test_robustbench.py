import ast
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from easybn import models
from easybn.data.image_folder import CIFAR10_CLASSES
from easybn.evaluation import Score
from easybn.models.weights import TrainedOn
from easybn.recipes import EBN
from easybn.runs.config import Experiment
from easybn.runs.robustbench import architecture, export_to_robustbench
from easybn.runs.robustbench_claim import Entry, figures
from easybn.runs.run import Run

from ..with_robustbench.stand_in import installed

# of model_info/cifar10/Linf/Rice2020Overfitting.json in RobustBench's README
FIELDS = ["link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture",
          "eps", "clean_acc", "reported", "autoattack_acc"]  # fmt: skip
LINF = Entry("Rice2020Overfitting", "cifar10", "Linf", 8 / 255)
CLEAN = {"data": "cifar10", "branch": "main", **Score("clean", 10_000, 8431).to_dict()}
ROBUST = {
    "data": "cifar10", "branch": "main", "budget": None,
    **Score("autoattack", 10_000, 4512, "standard", "linf", 0.0313725490196078).to_dict(),
}  # fmt: skip


def of_cifar(network: str = "resnet_tiny", **more) -> torch.nn.Module:
    """An untrained model whose batch norms have statistics of their own."""
    model = models.build(network, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616), **more)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def saved(path: Path, data: TrainedOn = TrainedOn("cifar10", (3, 32, 32), CIFAR10_CLASSES), **description) -> Path:
    model = of_cifar(**{"network": "resnet_tiny", **description})
    about = {"name": description.get("network", "resnet_tiny"), "num_classes": 10, "in_channels": 3}
    models.save(model, path, about, data)
    return path


@pytest.fixture
def run(tmp_path):
    """A finished run of CIFAR-10 without scores, with an untrained model."""
    run = Run(tmp_path / "run")
    about = TrainedOn("cifar10", (3, 32, 32), CIFAR10_CLASSES)
    run.claim(Experiment(recipe=EBN(), data="cifar10"), about)
    saved(run.folder / "model.safetensors")
    return run


def module_of(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("network", models.BUILT_IN)
def test_the_model_file_needs_torch_alone_and_has_the_same_outputs_gradients_and_names(network, tmp_path):
    model, path = of_cifar(network), tmp_path / "architecture.py"
    path.write_text(architecture(model, network))
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert names == {"collections", "collections.abc", "torch", "torch.nn.functional"}
    assert "easybn" not in path.read_text().partition('"""\n')[2]
    exported = module_of(path, f"architecture_{network}").make()
    names = list(exported.state_dict())
    assert names == list(model.state_dict())
    exported.load_state_dict(model.state_dict(), strict=True)
    assert {type(module).__module__.partition(".")[0] for module in exported.modules()} == {
        "torch", f"architecture_{network}"
    }  # fmt: skip
    assert torch.equal(exported.normalise.mean, model.normalise.mean)
    both = []
    for net in (exported.eval(), model):
        x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(5)).requires_grad_()
        logits = net(x)
        both.append((logits.detach(), torch.autograd.grad(logits[:, 1].sum(), x)[0]))
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
    # RobustBench cuts the beginning off every name in which one of these stands, wherever
    assert not [name for name in names if "module." in name or "model." in name]


def test_a_folder_is_loaded_by_robustbenchs_loader(run, tmp_path):
    found = export_to_robustbench(run.folder, tmp_path / "out")
    assert found.entry == Entry("EBN_resnet_tiny", "cifar10", "Linf", 8 / 255)
    assert found.difference < 1e-5
    place = "cifar10/Linf/EBN_resnet_tiny"
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    names = {"architecture.py", "register.py", "new_model.md"}
    assert files == names | {f"models/{place}.pt", f"model_info/{place}.json"}

    with installed(tmp_path, with_benchmark=True):
        from robustbench import load_model  # type: ignore[attr-defined]

        register = module_of(tmp_path / "out/register.py", "register")
        register.register()
        register.register()  # twice is once
        model = load_model(register.NAME, register.MODELS, register.DATASET, register.THREAT_MODEL)
        x = torch.rand(5, 3, 32, 32)
        torch.testing.assert_close(model(x), models.load(run.folder)(x), rtol=1e-4, atol=1e-5)
        assert not model.training
        assert register.EPS == 8 / 255

        export_to_robustbench(run.folder, tmp_path / "other", name="Rice2020Overfitting")
        with pytest.raises(ValueError, match="RobustBench has a model Rice2020Overfitting already"):
            module_of(tmp_path / "other/register.py", "register").register()


def test_what_was_not_measured_is_not_claimed(run, tmp_path):
    export_to_robustbench(run.folder, tmp_path / "out", name="Doe2026Easy")
    about = json.loads((tmp_path / "out/model_info/cifar10/Linf/Doe2026Easy.json").read_text())
    assert [field for field in FIELDS if field not in about] == []
    assert (about["clean_acc"], about["autoattack_acc"], about["reported"]) == (None, None, None)
    assert (about["dataset"], about["eps"], about["additional_data"]) == ("cifar10", "8/255", False)
    text = (tmp_path / "out/new_model.md").read_text()
    assert "Title: [New Model] Doe2026Easy" in text
    for line in ("Clean accuracy**: ", "Robust accuracy**: ", "Evaluation method**: "):
        assert f"- **{line}not measured\n" in text


def test_what_was_measured_on_all_test_images_is_claimed(run, tmp_path):
    run.add_scores([CLEAN, ROBUST, {**ROBUST, "norm": "l2", "eps": 0.5, "correct": 3333}])
    for threat_model, eps, correct in (("Linf", "8/255", "45.12"), ("L2", "0.5", "33.33")):
        out = tmp_path / threat_model
        found = export_to_robustbench(run.folder, out, "Doe2026Easy", threat_model)
        assert (found.clean.claim, found.robust.claim) == ("84.31", correct)
        about = json.loads((out / f"model_info/cifar10/{threat_model}/Doe2026Easy.json").read_text())
        assert (about["clean_acc"], about["autoattack_acc"], about["reported"]) == ("84.31", correct, correct)
        assert about["eps"] == eps
        text = (out / "new_model.md").read_text()
        assert f"- **Threat Model**: {threat_model}\n- **eps**: {eps}\n- **Clean accuracy**: 84.31%\n" in text
        assert f"- **Robust accuracy**: {correct}%\n- **Additional data**: false\n" in text
        assert "AutoAttack, standard version" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": 200, "correct": 90}, "linf 8/255: 45.0% (95%: 38.3 to 51.9), 200 of 10,000 points, AutoAttack standard"),
        ({"norm": "l2"}, None),
        ({"eps": 4 / 255}, None),
        ({"protocol": "plus"}, None),
        ({"attack": "pgd"}, None),
        ({"attack": "apgd-ce"}, None),
        ({"branch": "easy"}, None),
        ({"budget": 60.0}, None),
    ],
)
def test_other_rows_are_no_claim(change, told):
    clean, robust = figures([CLEAN, {**ROBUST, **change}], LINF, itself=True)
    assert (clean.claim, robust.claim) == ("84.31", None)
    expected = (
        f"not measured on the 10,000 test images of CIFAR-10 (robust accuracy at {told})" if told else "not measured"
    )
    assert robust.words == expected


def test_of_several_rows_the_one_with_the_most_points_counts():
    rows = [{**ROBUST, "n": 100, "correct": 60}, ROBUST, {**ROBUST, "n": 300, "correct": 60}]
    assert figures(rows, LINF, itself=True)[1].claim == "45.12"


def test_the_same_images_in_other_files_are_no_claim(tmp_path):
    run = Run(tmp_path / "run")
    about = TrainedOn("cifar10-jpeg", (3, 32, 32), CIFAR10_CLASSES)
    run.claim(Experiment(recipe=EBN(), data="cifar10-images.zip"), about)
    saved(run.folder / "model.safetensors", about)
    run.add_scores([{**CLEAN, "data": "cifar10-jpeg"}])
    found = export_to_robustbench(run.folder, tmp_path / "out")
    assert found.clean.claim is None
    assert "(of cifar10-jpeg: clean accuracy: 84.3% (95%: 83.6 to 85.0), 10,000 points)" in found.clean.words
    info = json.loads((tmp_path / "out/model_info/cifar10/Linf/EBN_resnet_tiny.json").read_text())
    assert (info["additional_data"], info["clean_acc"]) == (None, None)
    assert "true/false (it was trained on the image folder cifar10-jpeg)" in (tmp_path / "out/new_model.md").read_text()


def test_corruptions_have_no_eps(run, tmp_path):
    found = export_to_robustbench(run.folder, tmp_path / "out", threat_model="corruptions")
    info = json.loads((tmp_path / "out/model_info/cifar10/corruptions/EBN_resnet_tiny.json").read_text())
    assert (info["eps"], info["corruptions_acc"], found.entry.eps) == (None, None, None)
    assert "autoattack_acc" not in info
    text = (tmp_path / "out/new_model.md").read_text()
    assert "- **Threat Model**: Common Corruptions\n- **eps**: N/A\n" in text
    assert "EPS = None" in (tmp_path / "out/register.py").read_text()


CORRUPTED = {"data": "cifar10", "branch": "main", "attack": "corruptions", "norm": None, "eps": None}


@pytest.mark.parametrize(
    ("rows", "claim", "words"),
    [
        ([("published", 750_000, 0.70125)], "70.12", "70.12%"),  # 15 kinds, 5 severities, 10,000 images
        ([("published", 750_000, 0.70125), ("generated", 750_000, 0.9)], "70.12", "70.12%"),
        (
            [("generated", 750_000, 0.9)],
            None,
            "of CIFAR-10-C (mean accuracy: 90.0%, 10,000 points, generated corruptions)",
        ),
        (
            [("published", 75_000, 0.7)],
            None,
            "of CIFAR-10-C (mean accuracy: 70.0%, 1,000 points, published corruptions)",
        ),
        ([], None, "not measured"),
    ],
)
def test_under_corruptions_a_claim_is_about_the_published_files(rows, claim, words):
    scores = [{**CORRUPTED, "protocol": source, "n": n, "accuracy": accuracy} for source, n, accuracy in rows]
    _, found = figures([CLEAN, ROBUST, *scores], Entry("Doe2026Easy", "cifar10", "corruptions", None), itself=False)
    assert found.claim == claim
    assert found.words.endswith(words)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"name": "../up"}, "letters, digits, _ and - only"),
        ({"name": "a" * 101}, "letters, digits"),
        ({"threat_model": "L1"}, "threat_model must be one of Linf, L2, corruptions"),
        ({"threat_model": "corruptions"}, "an eps goes with Linf and L2"),
        ({"eps": None}, "an eps goes with Linf and L2"),
        ({"dataset": "cifar100", "threat_model": "L2"}, "RobustBench has no models for CIFAR-100 and L2"),
    ],
)
def test_what_robustbench_has_no_place_for(entry, told):
    with pytest.raises(ValueError, match=told):
        Entry(**{**asdict(LINF), **entry})


def test_models_that_cannot_be_exported_leave_nothing_behind(finished_run, tmp_path):
    with pytest.raises(
        ValueError, match=r"was trained on sample, 10 classes of 1 x 28 x 28: RobustBench's small images"
    ):
        export_to_robustbench(finished_run.folder, tmp_path / "new/out")
    other = tmp_path / "timm.safetensors"
    models.save(of_cifar(), other, {"name": "timm:resnet10t"}, TrainedOn("cifar10", (3, 32, 32), CIFAR10_CLASSES))
    with pytest.raises(
        ValueError, match=r"is a timm:resnet10t: a folder for RobustBench is made of resnet18, resnet50"
    ):
        export_to_robustbench(other, tmp_path / "new/out")
    others = tuple(reversed(CIFAR10_CLASSES))
    with pytest.raises(ValueError, match="was trained on pets, 10 classes of 3 x 32 x 32"):
        export_to_robustbench(
            saved(tmp_path / "p.safetensors", TrainedOn("pets", (3, 32, 32), others)), tmp_path / "new/out"
        )
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists already: give another folder"):
        export_to_robustbench(saved(tmp_path / "c.safetensors"), tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
