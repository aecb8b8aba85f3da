"""How far perturbations move the hidden states of a trained model: rows in its folder, each measured once."""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.hidden_states import relative_distances, same_size_noise
from ...analysis.layers import default_layers, named_layers
from ...keyed_random import Noise
from ...modes import evaluating
from ...perturb.goal import easy, untargeted
from ...perturb.pgd import PGD
from ...rows import HIDDEN, read_rows
from ...sealed import write_rows
from ...train.prepare import usable
from ..evaluated import Evaluated
from ..score_run import test_points
from .settings import Hidden

NAME = "hidden.jsonl"
Told = Callable[[int, int, str], None]


def measure(what: Evaluated, wanted: Hidden, told: Told = lambda *_: None, device: str | None = None) -> None:
    """Measure what is ``wanted`` and not yet in the folder's hidden.jsonl.

    A row a layer and perturbation: the request (data, branch, norm, images, seed, layers, perturbation, eps, steps);
    layer, depth (0 for the image, then 1, 2, ...), depths (that of the logits); n, the images whose distance is finite
    (see :func:`relative_distances`), and relative_distance, their mean ||h(x') - h(x)|| / ||h(x)||, with low and
    high, the ends of its 95% interval (normal; of the images drawn, not of trainings). A layer with fewer than two of
    them has no row.

    Args:
        what: a model in the folder of its results.
        told: of images done, images in all, and the perturbation's name.
        device: by default CUDA where there is one, else the CPU.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is at work there.
        ValueError: no such layer or device.
    """
    device = str(usable(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    model = what.model.to(device)
    layers = default_layers(model) if wanted.layers is None else named_layers(model, wanted.layers)
    requests = wanted.requests(what)
    what.check()
    what.claim()
    path = what.run.folder / NAME
    with what.run.locked():
        known = read_rows(path, HIDDEN)
        todo = [each for each in requests if not any(_is_of(row, each) for row in known)]
        if todo:
            found = _found(what, model, layers, wanted, todo, told)
            write_rows(path, [*known, *found])


def rows_of(what: Evaluated, wanted: Hidden) -> list[dict[str, Any]]:
    """The rows that are ``wanted``, in order."""
    rows = read_rows(what.run.folder / NAME, HIDDEN)
    return [row for each in wanted.requests(what) for row in rows if _is_of(row, each)]


def _is_of(row: dict[str, Any], request: dict[str, Any]) -> bool:
    return all(row.get(key) == value for key, value in request.items())


def _found(
    what: Evaluated,
    model: nn.Module,
    layers: dict[str, nn.Module],
    wanted: Hidden,
    todo: list[dict[str, Any]],
    told: Told,
) -> Iterator[dict[str, Any]]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    ids = test_points(what.source, wanted.images, wanted.seed)
    distances: dict[str, dict[int, list[Tensor]]] = {}
    done = 0
    for index in torch.split(ids, wanted.batch_size):
        x, y = (part.to(device) for part in what.source.test.batch(index))
        noise = Noise.of(wanted.seed, "hidden noise", index.to(device))
        with evaluating(model):
            moved = {str(i): _perturbed(model, x, y, noise, wanted, each) for i, each in enumerate(todo)}
        for layer, found in relative_distances(model, x, moved, layers).items():
            for i in range(len(todo)):
                distances.setdefault(layer, {}).setdefault(i, []).append(found[str(i)])
        done += len(index)
        told(done, len(ids), f"{len(todo)} perturbations, {len(distances)} layers")
    for i, request in enumerate(todo):
        for depth, (layer, parts) in enumerate(distances.items()):
            place = {"layer": layer, "depth": depth, "depths": len(distances) - 1}
            every = torch.cat(parts[i])
            if len(finite := every[every.isfinite()]) > 1:
                yield {**request, **place, **_summary(finite)}


def _perturbed(model: nn.Module, x: Tensor, y: Tensor, noise: Noise, wanted: Hidden, request: dict[str, Any]) -> Tensor:
    ball = wanted.ball(request["eps"])
    if request["perturbation"] == "noise":
        return same_size_noise(ball, x, noise)
    goal = easy(y) if request["perturbation"] == "easy" else untargeted(y)
    return PGD(ball, steps=wanted.steps)(model, x, goal)


def _summary(finite: Tensor) -> dict[str, Any]:
    """n, relative_distance, low, high."""
    mean = float(finite.mean())
    half = NormalDist().inv_cdf(0.975) * float(finite.std()) / math.sqrt(len(finite))
    return {"n": len(finite), "relative_distance": mean, "low": max(0.0, mean - half), "high": mean + half}
