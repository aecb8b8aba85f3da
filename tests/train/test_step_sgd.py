"""torch's SGD, by other names for the same methods."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from easybn.train.step import SGD


def trained(kind, options, steps, state=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = kind(model.parameters(), **options)
    if state is not None:
        optimizer.load_state_dict(state)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.rand(8, 5)).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach() for p in model.parameters()], copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True},
        {"lr": 1e-2, "foreach": True},
    ],
)
def test_it_is_torchs_step_for_step(options):
    ours, theirs = trained(SGD, options, 5), trained(torch.optim.SGD, options, 5)
    assert ours[0] == theirs[0]
    assert all(map(torch.equal, ours[1], theirs[1]))
    assert ours[2]["param_groups"] == theirs[2]["param_groups"]
    # either goes on from the other's state
    assert trained(SGD, options, 2, theirs[2])[0] == trained(torch.optim.SGD, options, 2, ours[2])[0]


def test_its_step_is_no_part_of_a_graph_and_leaves_gradients_on():
    weight = nn.Parameter(torch.ones(1))
    optimizer = SGD([weight], lr=0.5)
    (weight * 3).backward()
    optimizer.step()
    assert torch.is_grad_enabled()
    assert weight.item() == -0.5
    assert weight.is_leaf


def test_hooks_of_its_steps_run():
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    calls = []
    optimizer.register_step_post_hook(lambda *args: calls.append(args[0]))
    optimizer.step()
    assert calls == [optimizer]


def test_a_training_never_loads_torchs_compiler():
    code = """
import sys, torch, easybn
from easybn.recipes import EBN
x, y = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 2
layers = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 2)
net = torch.nn.Sequential(*layers)
fitted = easybn.fit(net, EBN(), (x, y), easybn.Training(epochs=1, batch_size=4))
print("torch._dynamo" in sys.modules, fitted is not None)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split()[-2:] == ["False", "True"]
