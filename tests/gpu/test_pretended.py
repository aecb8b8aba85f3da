"""Trainings and attacks on a pretended CUDA device: no tensor is left on the CPU, and no step waits for the device."""

from itertools import product

import pytest
import torch

from easybn.attacks import registry
from easybn.attacks.apgd import APGD
from easybn.attacks.fab import FAB
from easybn.attacks.pgd import PGDSweep
from easybn.attacks.square import Square
from easybn.cli.main import main
from easybn.evaluation import evaluate
from easybn.recipes import EBN
from easybn.train.fit import fit
from easybn.train.schedule import Training

from ..evaluation.weak_fast import patched
from ..recipes.conftest import every_recipe
from ..small import small_images, small_net
from .pretended import OnDevice, pretended

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, which says more")
# older versions make some tensors of a backward pass on the CPU for a device that is pretended, not for a real one
NEEDS_NEW_TORCH = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 14),
    reason="the pretended CUDA device is complete from torch 2.14 on",
)
SHORT = {
    "apgd-ce": lambda ball: APGD(ball, "ce", iterations=6, restarts=2),
    "apgd-dlr": lambda ball: APGD(ball, "dlr", iterations=6, eot=2),
    "apgd-t": lambda ball: APGD(ball, "t", iterations=6, target_classes=2),
    "fab": lambda ball: FAB(ball, targeted=False, iterations=5, restarts=2),
    "fab-t": lambda ball: FAB(ball, iterations=5, target_classes=2),
    "square": lambda ball: Square(ball, queries=25),
    "pgd-ce": lambda ball: PGDSweep(ball, "ce", steps=5, random_start=True, restarts=2),
}


def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return small_images(n).mul(255).byte(), torch.arange(n) % 4


def waits_of(steps: int, recipe: type, precision: str) -> dict[str, int]:
    training = Training(epochs=1, batch_size=8, lr=0.01, precision=precision, augment="crop_flip", ema=0.9)
    with pretended() as waits:
        done = fit(small_net(), recipe(), images(8 * steps), training, device="cuda")
        assert all(isinstance(parameter, OnDevice) for parameter in done.model.parameters())
    return dict(waits)


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [*((r, "32") for r in every_recipe()), (EBN, "bf16"), pytest.param(EBN, "fp16", marks=NEEDS_NEW_TORCH)],
)
def test_a_training_step_waits_for_nothing(recipe, precision):
    """But for fp16's: the loss scaling of torch asks once a step whether the gradient was finite."""
    few, more = waits_of(2, recipe, precision), waits_of(7, recipe, precision)
    scaling = {name for name in more if name.startswith("step.take_step:")}
    assert {name: more[name] - few[name] for name in more if more[name] != few[name]} == dict.fromkeys(scaling, 5)
    assert len(scaling) == (precision == "fp16")


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    def after(steps: int):
        def step(state) -> None:
            if state.step == steps:
                state.stop = True

        return type("After", (), {"start": id, "epoch": id, "end": id, "step": lambda self, state: step(state)})()

    recipe, training = EBN, Training(epochs=2, batch_size=8, lr=0.01, augment="crop_flip", ema=0.9)
    with pretended():
        whole = fit(small_net(), recipe(), images(32), training, device="cuda")
        fit(small_net(), recipe(), images(32), training, device="cuda", checkpoint=tmp_path / "c", observers=[after(3)])
        resumed = fit(small_net(), recipe(), images(32), training, device="cuda", checkpoint=tmp_path / "c")
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name])


@pytest.mark.parametrize(
    ("norm", "where", "stored"),
    [
        ("linf", "cuda", False),
        ("l2", "cuda", True),
        *(
            pytest.param(norm, where, stored, marks=pytest.mark.slow)
            for norm, where, stored in product(("linf", "l2"), ("cpu", "cuda"), (False, True))
            if (norm, where, stored) not in (("linf", "cuda", False), ("l2", "cuda", True))
        ),
    ],
)
@NEEDS_NEW_TORCH
def test_attacks_find_on_the_device_what_they_find_on_the_cpu(norm, where, stored, tmp_path, monkeypatch):
    """The model on the device, the images there or not; the same kernels, so the same verdicts to the last point."""
    monkeypatch.setattr(registry, "ATTACKS", SHORT)
    net, x = small_net(), small_images(8)
    y = net(x).argmax(1)
    how = {"norm": norm, "eps": 0.02 if norm == "linf" else 0.2, "attacks": list(SHORT), "diagnosis": False}
    expected = evaluate(net, x, y, **how)
    assert 0 < int(expected.robust.sum()) < len(x)
    with pretended():
        net, x, y = net.to("cuda"), x.to(where), y.to(where)
        for store in (tmp_path / "s", tmp_path / "s") if stored else (None,):
            found = evaluate(net, x, y, **how, keep_images=True, store=store)
            assert found.robust.device.type == where
            assert torch.equal(found.robust.cpu(), expected.robust)
            assert found.record.forwards.tolist() == expected.record.forwards.tolist()


@NEEDS_NEW_TORCH
def test_the_audit_of_fast_on_the_device(tmp_path, monkeypatch):
    patched(monkeypatch)
    net, x = small_net(), small_images(12)
    y = net(x).argmax(1)
    how = {"norm": "linf", "eps": 0.02, "attacks": "fast", "audit": 3, "diagnosis": False, "keep_images": True}
    expected = evaluate(net, x, y, **how)
    assert 0 < expected.audits[0.02].drawn < expected.audits[0.02].survivors < 12
    with pretended():
        found = evaluate(net.to("cuda"), x.to("cuda"), y.to("cuda"), **how, store=tmp_path / "s")
        assert found.audits == expected.audits
        assert torch.equal(found.robust.cpu(), expected.robust)
        assert torch.equal(found.images.cpu(), expected.images)


@pytest.mark.parametrize("protocol", ["strong", "robustness"])
def test_pgd_and_the_diagnosis_on_the_device(protocol):
    net, x = small_net(), small_images(8)
    y = net(x).argmax(1)
    how = {"norm": "l2", "eps": 0.2, "steps": 5, "protocol": protocol}
    expected = evaluate(net, x, y, **how)
    with pretended():
        found = evaluate(net.to("cuda"), x.to("cuda"), y.to("cuda"), **how)
        assert torch.equal(found.robust.cpu(), expected.robust)
        assert found.notes == expected.notes


def test_what_the_pretended_device_refuses_and_counts():
    with pretended() as waits:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="indices"):
            here[there.long() - 1]
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert not waits
        assert there.sum().item() == 3
        assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2]
        assert there[there > 0].cpu().device.type == "cpu"
        assert here.to("cuda").device == there.device
        assert sum(waits.values()) == 5
        here.to("cuda", non_blocking=True)
        assert sum(waits.values()) == 5


@pytest.mark.slow
def test_the_commands_on_the_device(tmp_path, monkeypatch):
    """Trained, timed, evaluated in both ways, verified, its hidden states measured, its easy examples counted."""
    monkeypatch.setattr(registry, "ATTACKS", SHORT)
    monkeypatch.chdir(tmp_path)
    short = ("--train_images", "120", "--epochs", "2", "--batch_size", "30")
    for words in (
        ("train", "--recipe", "EBN", *short, "--out", "run"),
        ("train", "--recipe", "EBN", *short, "--estimate"),
        ("evaluate", "run", "--points", "16", "--attacks", "apgd-ce", "--keep_images"),
        ("evaluate", "run", "--points", "16", "--attacks", "pgd", "--steps", "3"),
        ("verify", "run/verdicts"),
        ("hidden", "run", "--images", "20"),
        ("census", "run", "--epochs", "1", "--seeds", "2"),
    ):
        words = tuple(str(next((tmp_path / word).iterdir())) if word == "run/verdicts" else word for word in words)
        with pretended():
            assert main([*words, "--device", "cuda"]) == 0, words
