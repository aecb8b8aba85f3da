"""The loop of own_loop.py in several processes, each with a share of every batch, under torch's own data parallel.

torchrun --nproc_per_node 2 examples/own_loop_data_parallel.py
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from easybn import PGD, Linf, convert, easy, evaluating, route, strip
from easybn.data import load
from easybn.models import build


def train(epochs: int = 2, images: int = 5000, batch_size: int = 32) -> nn.Module:
    """The converted model, the same in every process; ``batch_size`` is one process's."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    source = load("sample")
    model = build("resnet_tiny", in_channels=1, mean=source.mean, std=source.std)
    model = convert(model, branches=("main", "easy")).to(device).to(memory_format=torch.channels_last)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)  # a pass uses one branch's parameters only
    parallel.broadcast_buffers = False  # running statistics are averaged in the end instead
    attack = PGD(Linf(1 / 255))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    order = torch.Generator().manual_seed(0)  # the same in every process, which then takes its own share
    torch.manual_seed(rank)  # from here on, so that noise and dropout differ
    whole = images - images % (
        batch_size * processes
    )  # shares of equal size: torch takes the plain mean over processes
    for epoch in range(epochs):
        for index in torch.randperm(images, generator=order)[:whole].split(batch_size * processes):
            x, y = (tensor.to(device) for tensor in source.train.batch(index[rank::processes]))
            optimizer.zero_grad()
            with parallel.no_sync():  # these gradients stay here and ...
                F.cross_entropy(parallel(x), y).mul(0.5).backward()
            with route(model, "easy"):
                with evaluating(model):
                    x_easy = attack(model, x, easy(y))  # through the model itself, not through its wrapper
                F.cross_entropy(parallel(x_easy), y).mul(0.5).backward()  # ... are averaged here with the others
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1} done", flush=True)
    average_statistics(model)
    return model


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Running means and variances, of which every process has its own, become their mean over processes."""
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def main() -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    model = train()
    if dist.get_rank() == 0:  # all have the same model: one of them deploys it
        plain = strip(model).cpu()
        test = load("sample").test
        x, y = test.batch(torch.arange(len(test)))
        with torch.no_grad(), evaluating(plain):
            accuracy = float((plain(x).argmax(1) == y).double().mean())
        torch.save(plain.state_dict(), "own_loop.pt")
        print(f"test accuracy {accuracy:.1%}; weights in own_loop.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
