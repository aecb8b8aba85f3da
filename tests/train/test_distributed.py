"""Data parallel training: two real processes (gloo) against one, for every recipe.

The two processes are started once: they play all scenarios one after the other and write down what each of them has at
the end; the tests compare that.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from easybn import convert, fit, route
from easybn.data import Split
from easybn.norm.convert import strip
from easybn.recipes import EBN, RECIPES, AdvProp, Context, Recipe, Vanilla
from easybn.train.checkpoint import load
from easybn.train.distributed import GradientAverage, Processes, synchronised
from easybn.train.launch import check_gpus, launched
from easybn.train.observers import Observer, TrainingState
from easybn.train.prepare import Batches, seeded, with_branches
from easybn.train.schedule import Training
from easybn.train.step import SGD, take_step

from ..small import small_images, small_net

COUNT, STEPS, CLASSES = 2, 20, 4
UNEVEN = 9
"""Images of a batch that two processes cannot share evenly."""
TRAINING = Training(epochs=2, batch_size=UNEVEN, lr=0.05, seed=3)
RECIPE_NAMES = sorted(RECIPES)


def images(n: int = 10 * UNEVEN + 4) -> Split:
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(x, torch.randint(0, CLASSES, (n,), generator=generator))


def batch(n: int = UNEVEN) -> tuple[Tensor, Tensor, Context]:
    ids = torch.arange(100, 100 + n)
    return small_images(n, seed=7), ids % CLASSES, Context(ids, step=4, seed=1)


def part_of(given: tuple[Tensor, Tensor, Context], index: Any) -> tuple[Tensor, Tensor, Context]:
    x, y, ctx = given
    return x[index].clone(), y[index], replace(ctx, ids=ctx.ids[index])


def share_of(processes: Processes, n: int = UNEVEN) -> tuple[Tensor, Tensor, Context]:
    return part_of(batch(n), processes.share(n))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step_on(
    model: nn.Module, recipe: Recipe, processes: Processes, given: tuple[Tensor, Tensor, Context], total: int = UNEVEN
) -> None:
    """One step of a recipe, at a rate of zero."""
    optimizer = SGD(model.parameters(), lr=0.0)
    average = partial(GradientAverage(processes, model), len(given[0]), total)
    take_step(model, optimizer, lambda: recipe(model, *given), average=average)


class Frozen(nn.Module):
    """A model whose norms use their running statistics in training too."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Uneven(nn.Module):
    """One layer is used only for batches of 4 images, which the first of two processes gets, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net(classes=CLASSES)
        self.sometimes = nn.Linear(CLASSES, CLASSES)
        self.never = nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return logits + self.sometimes(logits) if len(x) == UNEVEN // 2 else logits


class Stop(Observer):
    def __init__(self, after: int):
        self.after = after

    def step(self, state: TrainingState) -> None:
        state.stop = state.step == self.after


Scenario = Callable[[Processes, Path], dict[str, Any]]


def training_by(name: str, processes: Processes, folder: Path) -> dict[str, Any]:
    """20 steps; the weights, momenta and buffers after each."""
    states: list[Tensor] = []
    module: Any = sys.modules["easybn.train.fit"]
    original = module.take_step

    def watched(model: nn.Module, optimizer: torch.optim.Optimizer, *args: Any, **options: Any) -> Any:
        tally = original(model, optimizer, *args, **options)
        momenta = [s["momentum_buffer"] for s in optimizer.state.values() if s.get("momentum_buffer") is not None]
        values = [*model.state_dict().values(), *momenta]
        states.append(torch.cat([value.detach().double().reshape(-1) for value in values]))
        return tally

    module.take_step = watched
    try:
        training = replace(TRAINING, ema=0.9, clip_norm=1.0) if name == "EBN" else TRAINING
        fitted = fit(small_net(classes=CLASSES), RECIPES[name](), images(), training, val=images(7), device="cpu")
    finally:
        module.take_step = original
    return {"states": torch.stack(states), "deployed": state_of(fitted.model), "rows": json.dumps(fitted.history)}


def frozen_gradients(name: str, processes: Processes, folder: Path) -> dict[str, Any]:
    model = Frozen(convert(small_net(classes=CLASSES), RECIPES[name].branches)).train()
    n = joined(name)[1]
    step_on(model, RECIPES[name](), processes, share_of(processes, n), n)
    return gradients(model)


def joined(name: str) -> tuple[tuple[Tensor, Tensor, Context], int]:
    """The batch that one process gets where two share it, and its number of images.

    The fast recipes perturb the last fifth of what they are given: here the last image of each half of ten.
    """
    if name.startswith("Fast"):
        return part_of(batch(10), torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 4, 9])), 10
    return batch(), UNEVEN


def train_mode_gradients(name: str, processes: Processes, folder: Path) -> dict[str, Any]:
    model = convert(small_net(classes=CLASSES), RECIPES[name].branches).train()
    step_on(model, RECIPES[name](), processes, share_of(processes))
    return {**gradients(model), **{f"state {name}": value for name, value in state_of(model).items()}}


def a_gradient_in_one(processes: Processes, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    fitted = fit(Uneven(), Vanilla(), images(), TRAINING, device="cpu")
    return state_of(fitted.branched)


def other_weights_at_first(processes: Processes, folder: Path) -> dict[str, Any]:
    fitted = fit(small_net(classes=CLASSES, seed=processes.rank), Vanilla(), images(), TRAINING, device="cpu")
    return state_of(fitted.branched)


def resumed(processes: Processes, folder: Path) -> dict[str, Any]:
    """Undisturbed, and stopped after 7 and 13 steps by an observer, which only the first process has."""
    net, recipe = small_net(classes=CLASSES), EBN()
    dropping = nn.Sequential(*net[:4], nn.Dropout(0.3), net[4])
    undisturbed = fit(dropping, recipe, images(), TRAINING, val=images(7), device="cpu")
    path = folder / "resumed.pt"
    rows = []
    for stop in (7, 13, 1000):
        part = fit(
            dropping, recipe, images(), TRAINING, val=images(7), checkpoint=path, observers=[Stop(stop)], device="cpu"
        )
        rows += part.history
    return {
        **state_of(part.branched),
        **{f"undisturbed {name}": value for name, value in state_of(undisturbed.branched).items()},
        "rows": json.dumps(rows),
        "undisturbed rows": json.dumps(undisturbed.history),
    }


def disagreeing(processes: Processes, folder: Path) -> dict[str, Any]:
    told = []
    for model, training in (
        (small_net(classes=CLASSES), replace(TRAINING, lr=0.1 + processes.rank)),
        (small_net(classes=CLASSES, width=6 + processes.rank), TRAINING),
        (small_net(classes=CLASSES), replace(TRAINING, batch_size=1)),
    ):
        try:
            fit(model, Vanilla(), images(), training, device="cpu")
        except ValueError as error:
            told.append(str(error))
    return {"told": json.dumps(told)}


def a_failure_of_the_first(processes: Processes, folder: Path) -> dict[str, Any]:
    path = folder / "damaged.pt"
    if processes.first:
        path.write_bytes(b"no checkpoint")
    try:
        fit(small_net(classes=CLASSES), Vanilla(), images(), TRAINING, checkpoint=path, device="cpu")
    except (ValueError, OSError) as error:
        return {"told": f"{type(error).__name__}: {error}"}
    return {"told": ""}


def messages(processes: Processes, folder: Path) -> dict[str, Any]:
    gathered = processes.gather({"rank": processes.rank, "long": "x" * 100 * processes.rank})
    return {
        "told": json.dumps([gathered, processes.largest(processes.rank, -processes.rank)]),
        "bytes": processes.from_first(lambda: b"").decode() + processes.from_first(lambda: b"abc").decode(),
    }


SCENARIOS: dict[str, Scenario] = {
    **{f"training {name}": partial(training_by, name) for name in RECIPE_NAMES},
    **{f"frozen {name}": partial(frozen_gradients, name) for name in RECIPE_NAMES},
    **{f"train mode {name}": partial(train_mode_gradients, name) for name in RECIPE_NAMES},
    **{
        each.__name__: each
        for each in (
            a_gradient_in_one, other_weights_at_first, resumed, disagreeing, a_failure_of_the_first, messages,
        )
    },
}  # fmt: skip


def play(rank: int, folder: str) -> None:
    """What each of the two processes does."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(  # type: ignore[attr-defined]
        f"{folder}/store", COUNT
    )
    dist.init_process_group("gloo", store=store, rank=rank, world_size=COUNT)
    for name, scenario in SCENARIOS.items():
        torch.save(scenario(Processes.here(), Path(folder)), f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    mp.spawn(play, (str(folder),), nprocs=COUNT)  # type: ignore[attr-defined]
    return folder


def both(played: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (torch.load(played / f"{name}-{rank}.pt", weights_only=True) for rank in range(COUNT))
    return first, second


def alone(recipe: Recipe, model: nn.Module, given: tuple[Tensor, Tensor, Context]) -> dict[str, Tensor]:
    step_on(model, recipe, Processes(), given)
    return gradients(model)


def shares() -> Iterator[tuple[float, tuple[Tensor, Tensor, Context]]]:
    """Each process's part of the batch, and its weight."""
    for rank in range(COUNT):
        given = share_of(Processes(rank, COUNT))
        yield len(given[0]) / UNEVEN, given


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_after_each_of_20_steps_both_processes_have_the_same_to_the_bit(played: Path, name: str):
    first, second = both(played, f"training {name}")
    assert first["states"].shape[0] == STEPS
    assert torch.equal(first["states"], second["states"])
    assert not torch.equal(first["states"][0], first["states"][-1])
    assert first["rows"] == second["rows"]
    assert {row["epoch"] for row in json.loads(first["rows"])} == {1, 2}
    for key, value in first["deployed"].items():
        assert torch.equal(value, second["deployed"][key]), key


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_with_fixed_statistics_the_gradient_is_that_of_one_process(played: Path, name: str):
    model = Frozen(convert(small_net(classes=CLASSES), RECIPES[name].branches)).train()
    expected = alone(RECIPES[name](), model, joined(name)[0])
    for found in both(played, f"frozen {name}"):
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert close(found[key], value), key


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_with_statistics_of_each_batch_it_is_the_weighted_mean_of_two(played: Path, name: str):
    expected: dict[str, Tensor] = {}
    statistics: dict[str, Tensor] = {}
    for weight, given in shares():
        model = convert(small_net(classes=CLASSES), RECIPES[name].branches).train()
        for key, value in alone(RECIPES[name](), model, given).items():
            expected[key] = expected.get(key, 0) + weight * value
        for key, value in state_of(model).items():
            if "running" in key:
                statistics[key] = statistics.get(key, 0) + weight * value
    for found in both(played, f"train mode {name}"):
        assert {key for key in found if not key.startswith("state ")} == set(expected)
        for key, value in expected.items():
            assert close(found[key], value), key
        for key, value in statistics.items():  # running statistics are the mean over processes
            assert close(found[f"state {key}"], value), key
    assert statistics


def test_a_parameter_without_a_gradient_in_one_process_or_in_both(played: Path):
    first, second = both(played, "a_gradient_in_one")
    torch.manual_seed(0)
    before = Uneven().state_dict()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert torch.equal(first["never.weight"], before["never.weight"])  # no weight decay without a gradient
    assert not torch.equal(first["sometimes.weight"], before["sometimes.weight"])


def test_all_start_with_the_weights_of_the_first(played: Path):
    first, second = both(played, "other_weights_at_first")
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_resumed_by_as_many_processes_it_is_the_same_to_the_bit(played: Path):
    for found in both(played, "resumed"):
        names = [name for name in found if f"undisturbed {name}" in found]
        assert len(names) > 10
        for name in names:
            if name != "rows":
                assert torch.equal(found[name], found[f"undisturbed {name}"]), name
        assert found["rows"] == found["undisturbed rows"]
        assert len(json.loads(found["rows"])) == 2


def test_resuming_by_another_number_is_to_be_asked_for(played: Path, tmp_path: Path):
    model = nn.Sequential(*small_net(classes=CLASSES)[:4], nn.Dropout(0.3), small_net(classes=CLASSES)[4])
    path = tmp_path / "checkpoint.pt"
    path.write_bytes((played / "resumed.previous.pt").read_bytes())
    step = load(path).step
    assert 0 < step < STEPS
    with pytest.raises(ValueError, match=r"of 2 processes, and there are 1 now: .*any_processes"):
        fit(model, EBN(), images(), TRAINING, checkpoint=path)
    fitted = fit(model, EBN(), images(), TRAINING, checkpoint=path, any_processes=True)
    assert [row["step"] for row in fitted.history] == [s for s in (10, 20) if s > step]
    with pytest.raises(ValueError, match=r"lr: 0\.05 -> 0\.1"):
        fit(model, EBN(), images(), replace(TRAINING, lr=0.1), checkpoint=path, any_processes=True)


def test_processes_that_disagree_are_told_so_at_once(played: Path):
    for rank, found in enumerate(both(played, "disagreeing")):
        training, model, batch_size = json.loads(found["told"])
        here, there = (0.1, 1.1) if rank == 0 else (1.1, 0.1)
        assert (
            f"process {1 - rank} has another training than process {rank} (lr: {here} here, {there} there)" in training
        )
        assert f"process {1 - rank} has another model than process {rank}" in model
        assert "a batch of 1 images cannot be shared by 2 processes" in batch_size


def test_what_stops_the_first_process_stops_the_others_with_its_words(played: Path):
    first, second = (found["told"] for found in both(played, "a_failure_of_the_first"))
    assert first.startswith("Damaged: ")
    assert "damaged.pt is no checkpoint" in first
    assert second == f"ProcessLost: the first of the 2 processes has stopped: {first.partition(': ')[2]}"


def test_messages_arrive_whole_and_in_order(played: Path):
    for found in both(played, "messages"):
        gathered, largest = json.loads(found["told"])
        assert gathered == [{"rank": 0, "long": ""}, {"rank": 1, "long": "x" * 100}]
        assert largest == [1, 0]
        assert found["bytes"] == "abc"


def batches(processes: Processes) -> Batches:
    return Batches(images(), TRAINING, UNEVEN, torch.device("cpu"), torch.contiguous_format, processes)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_shares_are_disjoint_and_together_the_batch_of_one_process(count: int):
    whole = batches(Processes())
    parts = [batches(Processes(rank, count)) for rank in range(count)]
    for step in (0, 3, 11):
        x, y, ids = whole.at(step)
        found = [each.at(step) for each in parts]
        assert torch.equal(torch.cat([part[2] for part in found]), ids)
        assert torch.equal(torch.cat([part[0] for part in found]), x)
        assert torch.equal(torch.cat([part[1] for part in found]), y)
        sizes = [len(part[0]) for part in found]
        assert max(sizes) - min(sizes) <= 1


def test_processes_draw_different_numbers_for_images_and_for_the_model():
    noise = []
    dropped = []
    for rank in range(COUNT):
        _, _, ids = batches(Processes(rank, COUNT)).at(2)
        noise.append(Context(ids[:4], 2, seed=3).noise("easy").uniform(3, 8, 8))
        with seeded(3, 2, torch.device("cpu"), rank):
            dropped.append(nn.functional.dropout(torch.ones(64), 0.5))
    assert not torch.equal(*noise)
    assert not torch.equal(*dropped)


def test_sync_batchnorm_keeps_weights_names_and_branches():
    net = with_branches(small_net(classes=CLASSES), AdvProp())
    x = small_images(5)
    before = {name: net.state_dict()[name].clone() for name in net.state_dict()}
    with route(net.eval(), "adv"):
        logits = net(x)
    new = synchronised(net)
    kinds = [type(m) for m in new.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert kinds == [nn.SyncBatchNorm] * 2
    assert all(torch.equal(value, before[name]) for name, value in new.state_dict().items())
    with route(new, "adv"):
        assert torch.equal(new(x), logits)
    small_net(classes=CLASSES).load_state_dict(strip(new, "adv").state_dict())


def test_sync_batchnorm_is_for_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Processes, "here", classmethod(lambda cls: Processes(0, 2)))
    monkeypatch.setattr(Processes, "start_alike", lambda self, model: None)
    with pytest.raises(ValueError, match="SyncBatchNorm computes on GPUs only, not on cpu"):
        fit(small_net(), Vanilla(), images(), replace(TRAINING, sync_batchnorm=True), device="cpu")


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "head", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "nowhere-[1-2]", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9", "SLURM_NTASKS": "4",
}  # fmt: skip


def test_what_launchers_say_is_understood():
    found = launched(TORCHRUN)
    assert (found.rank, found.count, found.local_rank, found.address, found.port) == (1, 4, 1, "head", 29500)
    found = launched({**SRUN, "MASTER_ADDR": "here"})
    assert (found.rank, found.count, found.local_rank, found.address) == (3, 4, 1, "here")
    assert 20000 <= found.port < 40000
    assert launched({**SRUN, "MASTER_ADDR": "here", "SLURM_STEP_ID": "3"}).port != found.port
    for single in ({}, {"WORLD_SIZE": "1", "RANK": "0"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}):
        assert launched(single) is None  # the last is a batch script, which no step of tasks runs
    with pytest.raises(ValueError, match="WORLD_SIZE is set and MASTER_ADDR is not"):
        launched({"RANK": "0", "WORLD_SIZE": "2"})


def test_two_processes_on_one_gpu_are_refused():
    check_gpus([["a", "1"], ["a", "2"], ["b", "1"]])
    with pytest.raises(ValueError, match="processes 1 and 3 would share a GPU of a: start one process for each GPU"):
        check_gpus([["a", "1"], ["a", "2"], ["b", "2"], ["a", "2"]])
