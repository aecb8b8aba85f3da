"""Data parallel training in one's own loop, as the README says: two processes, gloo."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from easybn import convert
from easybn.recipes import EBN, FastEBN, Recipe

from ..small import small_images, small_net

RANKS, STEPS = 2, 3


def _train(rank: int, folder: str, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    torch.manual_seed(rank)  # other weights on each rank at first: rank 0's are sent to all
    model = convert(small_net().train(), recipe.branches)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = small_images(16, seed=rank), torch.arange(16) % 4
    for _ in range(STEPS):
        optimizer.zero_grad()
        for term in recipe(parallel, x, y):
            (term.weight * term.loss).backward()
        optimizer.step()
    torch.save(dict(model.named_parameters()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [EBN(), FastEBN()], ids=lambda recipe: type(recipe).__name__)
def test_two_processes_train_one_model(tmp_path: Path, recipe: Recipe) -> None:
    mp.spawn(_train, (str(tmp_path), recipe), nprocs=RANKS)  # type: ignore[attr-defined]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    start = convert(small_net(), recipe.branches)
    for name, value in first.items():
        assert value.isfinite().all()
        assert torch.equal(value, second[name]), name
        assert not torch.equal(value, start.get_parameter(name)), name
