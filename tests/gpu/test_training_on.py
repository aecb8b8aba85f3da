"""Training on the device: every recipe in every precision, compiled, resumed, parallel; memory and waiting."""

import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from easybn import convert
from easybn.keyed_random import Noise
from easybn.models import build
from easybn.modes import full_float32
from easybn.recipes import EBN, Context, FastEBN, Vanilla
from easybn.train.fit import fit
from easybn.train.observers import Observer, TrainingState
from easybn.train.schedule import Training
from easybn.train.step import take_step

from ..recipes.conftest import every_recipe
from ..small import small_images, small_net

ROUNDING = {"32": 1e-4, "bf16": 5e-2, "fp16": 5e-3}  # of losses near 2, the smallest batches of three images


def images(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return small_images(n, seed=seed).mul(255).byte(), torch.arange(n) % 4


class Losses(Observer):
    """The losses of the first step: later ones carry every rounding on."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}

    def step(self, state: TrainingState) -> None:
        if state.step == 1:
            self.first = {name: float(row[0] / row[2]) for name, row in state.tally.items()}


class StopAfter(Observer):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, state: TrainingState) -> None:
        state.stop = state.step >= self.steps


def first_losses(recipe, training: Training, device: str, data_on_device: bool | None = None) -> dict[str, float]:
    losses = Losses()
    how = {"observers": [losses], "device": device, "data_on_device": data_on_device}
    with full_float32():
        done = fit(small_net(), recipe, images(48), training, **how)
    assert all(value.isfinite().all() for value in done.branched.state_dict().values())
    assert next(done.model.parameters()).device.type == device
    return losses.first


@pytest.mark.parametrize("precision", ["32", "bf16", "fp16"])
@pytest.mark.parametrize("recipe", every_recipe(), ids=lambda recipe: recipe.__name__)
def test_a_step_has_the_losses_of_the_cpu(device, recipe, precision):
    training = Training(
        epochs=1, batch_size=16, lr=0.01, precision=precision, augment="crop_flip", ema=0.9, clip_norm=1
    )
    expected = first_losses(recipe(), Training(epochs=1, batch_size=16, lr=0.01, augment="crop_flip"), "cpu")
    found = first_losses(recipe(), training, device)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        # the first scale of fp16 may make a gradient infinite: images that it would move stay, and no step is taken
        if precision != "fp16" or name in ("main", "noisy"):
            assert found[name] == pytest.approx(loss, abs=ROUNDING[precision]), name


@pytest.mark.parametrize("recipe", every_recipe(), ids=lambda recipe: recipe.__name__)
def test_a_compiled_step_has_the_losses_of_the_cpu(device, recipe):
    if device == "cpu" and recipe is not EBN:
        pytest.skip("tests/train/test_prepare_compile.py has the others; here it is CUDA's compiler that is tried")
    training = Training(epochs=1, batch_size=16, lr=0.01)
    expected = first_losses(recipe(), training, "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own warnings are not ours
        found = first_losses(recipe(), Training(epochs=1, batch_size=16, lr=0.01, compile=True), device)
    for name, loss in expected.items():
        assert found[name] == pytest.approx(loss, abs=ROUNDING["32"]), name


def test_images_kept_on_the_device_make_the_same_batches(device):
    training = Training(epochs=1, batch_size=16, lr=0.01, augment="crop_flip")
    kept, sent = (first_losses(EBN(), training, device, on) for on in (True, False))
    assert kept == sent


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_training_goes_on_to_the_same_bits(device, precision, tmp_path):
    """Stopped in the middle of an epoch, saved, and read again."""
    training = Training(
        epochs=2, batch_size=16, lr=0.05, augment="crop_flip", ema=0.9, precision=precision, momentum=0.9
    )
    net = build("resnet_tiny", num_classes=4)
    whole = fit(net, EBN(), images(96), training, device=device)
    path = tmp_path / "checkpoint.pt"
    fit(net, EBN(), images(96), training, device=device, checkpoint=path, observers=[StopAfter(8)])
    resumed = fit(net, EBN(), images(96), training, device=device, checkpoint=path)
    for one, other in ((whole.model, resumed.model), (whole.branched, resumed.branched)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("recipe", [EBN(), FastEBN()], ids=lambda recipe: type(recipe).__name__)
def test_data_parallel_with_one_process_is_training_without(device, recipe, tmp_path):
    """NCCL on CUDA, gloo on the CPU: the hooks of DistributedDataParallel, and recipes of several backward passes."""
    store = dist.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    x, y = small_images(16).to(device), (torch.arange(16) % 4).to(device)
    trained = []
    for parallel in (False, True):
        model = convert(small_net().train(), recipe.branches).to(device)
        called, optimizer = model, torch.optim.SGD(model.parameters(), lr=0.1)
        with ExitStack() as stack:
            if parallel:
                dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=0, world_size=1)
                stack.callback(dist.destroy_process_group)
                devices = [0] if device == "cuda" else None
                called = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)
            for step in range(3):
                optimizer.zero_grad()
                for term in recipe(called, x, y, Context(torch.arange(16, device=device), step)):
                    (term.weight * term.loss).backward()
                optimizer.step()
        trained.append(model.state_dict())
    for name, value in trained[0].items():
        assert torch.allclose(value.float(), trained[1][name].float(), rtol=1e-4, atol=1e-5), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only the memory of CUDA is counted, and there is none here")
def test_a_step_of_ebn_takes_hardly_more_memory_than_vanillas():
    """One graph is alive at a time: what EBN has more is a second norm, images, and gradients in its second pass."""

    def peak(recipe) -> int:
        net = build("resnet18", num_classes=10)
        model = (convert(net, recipe.branches) if len(recipe.branches) > 1 else net).to("cuda").train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        x, y = torch.rand(128, 3, 32, 32, device="cuda"), torch.arange(128, device="cuda") % 10
        for _ in range(3):  # the first makes the optimiser's state
            torch.cuda.reset_peak_memory_stats()
            take_step(model, optimizer, lambda: recipe(model, x, y))
        return torch.cuda.max_memory_allocated()

    vanilla, ebn = peak(Vanilla()), peak(EBN())
    assert ebn <= 1.1 * vanilla


class Strict(Observer):
    """An error for whatever waits for the device in the steps between the first and the last of the epoch."""

    def step(self, state: TrainingState) -> None:
        inside = 1 <= state.step < state.total_steps - 1
        torch.cuda.set_sync_debug_mode("error" if inside else "default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA says what waits for it, and there is none here")
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@pytest.mark.parametrize("recipe", every_recipe(), ids=lambda recipe: recipe.__name__)
def test_no_step_waits_for_the_device(recipe, augment):
    try:
        training = Training(epochs=1, batch_size=16, lr=0.01, precision="bf16", augment=augment, ema=0.9)
        done = fit(small_net(), recipe(), images(160), training, device="cuda", observers=[Strict()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(done.history) == 1


def test_random_numbers_are_those_of_the_cpu(device):
    ids = torch.tensor([0, 1, 59_999, 2**40])
    here, there = (Noise.of(3, "purpose", ids.to(where), step=7).child("part") for where in ("cpu", device))
    assert torch.equal(here.bits(1001), there.bits(1001).cpu())
    assert torch.equal(here.uniform(3, 31, 31), there.uniform(3, 31, 31).cpu())
    assert torch.equal(here.integers(1000, 77), there.integers(1000, 77).cpu())
    assert torch.allclose(here.normal(3, 32, 32), there.normal(3, 32, 32).cpu(), rtol=1e-5, atol=1e-6)


def test_a_run_by_commands(device, tmp_path: Path, monkeypatch):
    """Trained, evaluated and verified on the device; the file of weights is the same model on the CPU."""
    from easybn import load
    from easybn.cli.main import main

    monkeypatch.chdir(tmp_path)
    where = ("--device", device)
    shape = ("--train_images", "200", "--epochs", "2", "--batch_size", "50")
    assert main(["train", "--recipe", "EBN", *shape, "--out", "run", *where]) == 0
    assert main(["evaluate", "run", "--points", "20", "--attacks", "apgd-ce", "--keep_images", *where]) == 0
    (store,) = (tmp_path / "run" / "verdicts").iterdir()
    assert main(["verify", str(store), *where]) == 0
    assert main(["verify", str(store)]) == 0  # on the CPU, another machine as far as roundings go
    (weights,) = (tmp_path / "run").glob("*.safetensors")
    model = load(weights)
    assert next(model.parameters()).device.type == "cpu"
