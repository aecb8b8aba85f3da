"""Data parallel in one's own loop, as docs/own-loop.md says: two processes, gloo, torch's DDP and FSDP2.

Two processes are started once, and do everything; the tests look at what each of them wrote.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import easybn
from easybn import PGD, Linf, convert, easy, evaluating, recipes, route, strip
from easybn.train.distributed import GradientAverage, Processes

from ..recipes.conftest import every_recipe
from ..small import small_images, small_net
from ..test_examples import EXAMPLES, module

RANKS, EACH, STEPS = 2, 8, 3
WAYS = ("every term", "the last term", "one joint loss", "without DDP")  # where gradients are averaged
SHARDS = ("whole", "layers")  # what FSDP2 splits as one
RECIPES = [recipe.__name__ for recipe in every_recipe()]
FSDP2_COMPUTES_HERE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 14)
NEEDS_FSDP2 = pytest.mark.skipif(not FSDP2_COMPUTES_HERE, reason="FSDP2 of older versions of torch needs a GPU")
ATTACK = PGD(Linf(8 / 255))
State = dict[str, Tensor]


def share(rank: int | None = None) -> tuple[Tensor, Tensor]:
    """One process's images and labels; those of all."""
    rows = slice(None) if rank is None else slice(rank * EACH, (rank + 1) * EACH)
    return small_images(RANKS * EACH)[rows], (torch.arange(RANKS * EACH) % 4)[rows]


class Joint(nn.Module):
    """Both terms in one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, x_easy: Tensor, y: Tensor) -> Tensor:
        main = F.cross_entropy(self.model(x), y)
        with route(self.model, "easy"):
            return 0.5 * main + 0.5 * F.cross_entropy(self.model(x_easy), y)


def easier(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with route(model, "easy"), evaluating(model):
        return ATTACK(model, x, easy(y))


def backward(model: nn.Module, called: nn.Module, x: Tensor, y: Tensor, first: Any = None) -> None:
    """The two terms of examples/own_loop.py: ``called`` is the model or its wrapper."""
    with first or nullcontext():
        F.cross_entropy(called(x), y).mul(0.5).backward()
    x_easy = easier(model, x, y)
    with route(model, "easy"):
        F.cross_entropy(called(x_easy), y).mul(0.5).backward()


def wrapped(way: str, model: nn.Module, **options: Any) -> tuple[nn.Module, Callable[[Tensor, Tensor], None]]:
    """What is called instead of the model, and what leaves a step's averaged gradients in the model."""
    if way == "without DDP":
        Processes.here().start_alike(model)
        average = GradientAverage(Processes.here(), model)

        def both(x: Tensor, y: Tensor) -> None:
            backward(model, model, x, y)
            average(len(x), RANKS * len(x))

        return model, both
    if way == "one joint loss":
        joint = DistributedDataParallel(Joint(model), **options)
        joint.broadcast_buffers = False
        return joint, lambda x, y: joint(x, easier(model, x, y), y).backward()
    parallel = DistributedDataParallel(model, **{"find_unused_parameters": True, **options})
    parallel.broadcast_buffers = False
    first = parallel.no_sync if way == "the last term" else nullcontext
    return parallel, lambda x, y: backward(model, parallel, x, y, first())


def gradients(model: nn.Module) -> State:
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: (g.full_tensor() if hasattr(g, "full_tensor") else g).clone() for name, g in grads.items()}


def gathered(model: nn.Module) -> State:
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def steps(model: nn.Module, take: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> None:
    optimizer = sgd(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        take(x, y)
        optimizer.step()


# What each of the two processes does.


def _work(rank: int, folder: str) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    found: dict[str, Any] = {}
    for part in (_ddp, _traps, _example, *((_fsdp, _sharded_recipes) if FSDP2_COMPUTES_HERE else ())):
        torch.manual_seed(rank)
        found.update(part(rank))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _ddp(rank: int) -> Iterator[tuple[str, Any]]:
    x, y = share(rank)
    for way in WAYS:
        model = convert(small_net()).eval()
        _, take = wrapped(way, model)
        take(x, y)
        yield f"gradients, {way}", gradients(model)
        model = convert(small_net(seed=rank)).train()  # other weights on each rank at first: rank 0's are sent to all
        _, take = wrapped(way, model)
        steps(model, take, x, y)
        yield f"trained, {way}", model.state_dict()


def _traps(rank: int) -> Iterator[tuple[str, Any]]:
    x, y = share(rank)
    model = convert(small_net()).eval()
    _, take = wrapped("the last term", model, find_unused_parameters=False)
    take(x, y)
    yield "no_sync alone", gradients(model)
    model = convert(small_net()).eval()
    _, take = wrapped("every term", model, find_unused_parameters=False)
    try:
        take(x, y)
        yield "alone", ""
    except RuntimeError as error:
        yield "alone", str(error)


def _example(rank: int) -> Iterator[tuple[str, Any]]:
    yield "example", module("own_loop_data_parallel").train(epochs=1, images=100, batch_size=20).state_dict()


def sharded(how: str, model: nn.Module) -> nn.Module:
    if how == "layers":
        for layer in model.children():
            if any(True for _ in layer.parameters()):
                fully_shard(layer)
    fully_shard(model)
    return model


def _fsdp(rank: int) -> Iterator[tuple[str, Any]]:
    x, y = share(rank)
    for how in SHARDS:
        model = sharded(how, convert(small_net()).eval())
        yield f"easier, {how}", easier(model, x, y)
        backward(model, model, x, y)
        yield f"gradients, {how}", gradients(model)
        steps(model, lambda x, y, m=model: backward(m, m, x, y), x, y)
        yield f"gathered, {how}", gathered(model)
    calls = {"strip": strip, "evaluate": lambda m: easybn.evaluate(m, x, y, norm="linf", eps=8 / 255)}
    calls["fit"] = lambda m: easybn.fit(m, recipes.EBN(), (x.mul(255).byte(), y))
    for name, call in calls.items():
        try:
            call(model)
            yield f"sharded {name}", ""
        except ValueError as error:
            yield f"sharded {name}", str(error)


def _sharded_recipes(rank: int) -> Iterator[tuple[str, Any]]:
    """A step of each recipe under FSDP2 and under DDP, from the same weights with the same noise."""
    x, y = share(rank)
    for name in RECIPES:
        recipe = getattr(recipes, name)()
        for kind in ("FSDP2", "DDP"):
            model = small_net().train()
            model = convert(model, recipe.branches) if len(recipe.branches) > 1 else model
            before = {key: value.clone() for key, value in model.state_dict().items()}
            called = sharded("layers", model) if kind == "FSDP2" else wrapped("every term", model)[0]
            optimizer = sgd(model)
            torch.manual_seed(rank)
            for term in recipe(called, x, y):
                (term.weight * term.loss).backward()
            optimizer.step()
            yield f"{kind}, {name}", gathered(model) if kind == "FSDP2" else model.state_dict()
        yield f"before, {name}", before


# What they wrote.


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_work, (str(folder),), nprocs=RANKS)  # type: ignore[attr-defined]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def joined() -> tuple[State, State]:
    """Gradients of a single process for both shares, and its weights after some steps; statistics are frozen."""
    model = convert(small_net()).eval()
    backward(model, model, *share())
    found = gradients(model)
    steps(model, lambda x, y: backward(model, model, x, y), *share())
    return found, model.state_dict()


def assert_close(a: State, b: State, atol: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def trainable(state: State) -> State:
    return {name: value for name, value in state.items() if "running" not in name and "batches" not in name}


@pytest.mark.parametrize("way", WAYS)
def test_averaged_gradients_are_those_of_the_joined_batch(ranks, joined, way):
    for rank in ranks:
        assert_close(rank[f"gradients, {way}"], joined[0])
    assert all(value.abs().max() > 1e-3 for value in joined[0].values())


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_one_model(ranks, way):
    first, second = (rank[f"trained, {way}"] for rank in ranks)
    assert all(torch.equal(value, trainable(second)[name]) for name, value in trainable(first).items())
    start = convert(small_net())
    assert not any(torch.equal(value, start.state_dict()[name]) for name, value in trainable(first).items())
    statistics = (rank[f"trained, {way}"]["1.norms.easy.running_mean"] for rank in ranks)
    assert torch.equal(*statistics) == (way == "without DDP")  # under DDP each has its own, until they are averaged
    if way != "without DDP":  # whose attack sees the averaged statistics
        assert_close(trainable(first), trainable(ranks[0]["trained, every term"]), atol=1e-5)


def test_without_find_unused_parameters_torch_stops_or_parts_the_ranks(ranks):
    assert all("Expected to have finished reduction" in rank["alone"] for rank in ranks)
    first, second = (rank["no_sync alone"] for rank in ranks)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) > 1e-3


def test_the_example_ends_with_one_model_and_its_statistics(ranks):
    first, second = (rank["example"] for rank in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any("norms.easy.running_var" in name for name in first)


@NEEDS_FSDP2
@pytest.mark.parametrize("how", SHARDS)
def test_fsdp2_trains_a_converted_model_like_a_single_process(ranks, joined, how):
    model, (x, y) = convert(small_net()).eval(), share()
    assert torch.equal(torch.cat([rank[f"easier, {how}"] for rank in ranks]), easier(model, x, y))
    for rank in ranks:
        assert_close(rank[f"gradients, {how}"], joined[0])
        assert_close(rank[f"gathered, {how}"], joined[1])
    model.load_state_dict(ranks[0][f"gathered, {how}"])
    plain, expected = strip(model), convert(small_net()).eval()
    expected.load_state_dict(joined[1])
    torch.testing.assert_close(plain(x), strip(expected)(x))
    assert plain.state_dict().keys() == small_net().state_dict().keys()


@NEEDS_FSDP2
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_the_same_step_under_fsdp2_as_under_ddp(ranks, recipe):
    before = trainable(ranks[0][f"before, {recipe}"])
    for rank in ranks:
        fsdp, ddp = trainable(rank[f"FSDP2, {recipe}"]), trainable(rank[f"DDP, {recipe}"])
        assert_close(fsdp, ddp)
        assert all(torch.equal(value, trainable(ranks[0][f"DDP, {recipe}"])[name]) for name, value in ddp.items())
        moved = [name for name, value in ddp.items() if not torch.equal(value, before[name])]
        assert len(moved) == len(ddp)


@NEEDS_FSDP2
def test_a_sharded_model_is_gathered_before_anything_else_is_done_with_it(ranks):
    for rank in ranks:
        assert "split over processes: gather them" in rank["sharded strip"]
        assert "split over processes: gather them" in rank["sharded evaluate"]
        assert "split over processes: give fit a plain model" in rank["sharded fit"]


@pytest.mark.slow
def test_the_example_runs_under_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(EXAMPLES / "own_loop_data_parallel.py")]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "error"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.rpartition("test accuracy ")[2].partition("%")[0])
    assert accuracy > 60  # ten classes
    state = torch.load(tmp_path / "own_loop.pt", weights_only=True)
    assert not any("norms" in name for name in state)
