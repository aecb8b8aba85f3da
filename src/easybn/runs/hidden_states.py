"""How far perturbations move the hidden states of a model, and how far apart its branches are: rows in its folder."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from ..json_files import read_rows, write_rows
from ..keyed_random import Noise
from ..metrics.hidden_states import branch_distances, default_layers, named_layers, relative_distances, same_size_noise
from ..models.weights import trained_on
from ..modes import evaluating
from ..perturb.ball import L2, Ball, Linf
from ..perturb.goal import easy, untargeted
from ..perturb.pgd import PGD
from ..progress import OnProgress, silent
from ..rows import HIDDEN
from ..train.checkpoint import load
from ..train.prepare import usable_device
from .evaluate import draw_test_points
from .run import Run
from .target import EvaluationTarget, branches

HIDDEN_FILE, BRANCHES_FILE = "hidden.jsonl", "branches.jsonl"
PERTURBATIONS = ("easy", "untargeted", "noise")


@dataclass(frozen=True)
class Hidden:
    """What to measure.

    Args:
        perturbations: "easy" (toward the true class) and "untargeted" (away from it), computed for the model itself,
            and "noise" of the same size, the control.
        norm: "linf" or "l2".
        eps: radii in [0, 1] pixel units.
        steps: gradient steps, of length eps if there is one, else 2.5 eps / steps.
        images: number of test images, drawn by ``seed``; at most all.
        seed: seed of the draw and of the noise.
        layers: names of modules; by default the blocks, see :func:`easybn.metrics.hidden_states.default_layers`.
        batch_size: images per pass; does not change results.
    """

    perturbations: tuple[str, ...] = PERTURBATIONS
    norm: str = "linf"
    eps: tuple[float, ...] = (1 / 255, 8 / 255)
    steps: int = 1
    images: int = 1000
    seed: int = 0
    layers: tuple[str, ...] | None = None
    batch_size: int = 100

    def __post_init__(self) -> None:
        for name, low in (("images", 2), ("steps", 1), ("batch_size", 1)):  # one image has no interval
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if unknown := [each for each in self.perturbations if each not in PERTURBATIONS]:
            raise ValueError(f"no perturbation {unknown[0]!r}, there are {', '.join(PERTURBATIONS)}")
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"no norm {self.norm!r}, there are linf and l2")
        for eps in self.eps:
            self.ball(eps)  # raises for a bad radius

    def ball(self, eps: float) -> Ball:
        """The ball of the norm with this radius."""
        return Linf(eps) if self.norm == "linf" else L2(eps)

    def requests(self, target: EvaluationTarget) -> list[dict[str, Any]]:
        """The fields that identify the rows of each perturbation."""
        shared = {
            "data": target.source.name,
            "branch": target.branch,
            "norm": self.norm,
            "images": min(self.images, len(target.source.test)),
            "seed": self.seed,
            "layers": "blocks" if self.layers is None else list(self.layers),
        }
        every = [(each, eps) for eps in self.eps for each in self.perturbations]
        return [
            {**shared, "perturbation": each, "eps": float(eps), "steps": None if each == "noise" else self.steps}
            for each, eps in every
        ]


def write_branch_distances(run: Run) -> str:
    """Write one row per norm layer, pair of branches and measure into branches.jsonl, replacing what was there.

    Fields: data, model, recipe, step (of the checkpoint), averaged (whether weights are the moving average), and those
    of :class:`easybn.metrics.hidden_states.BranchDistance`.

    Args:
        run: a finished run.

    Returns:
        What was done, or why nothing was, in words.

    Raises:
        ValueError: the checkpoint is damaged.
        BusyError: another process is working there.
    """
    if not (run.folder / "config.json").exists():
        return f"{run.folder}: not a training run, so there are no branches to compare"
    if not (run.folder / "checkpoint.pt").exists():
        return (
            f"{run.folder}: branches are not compared: there is no checkpoint.pt, and the deployed model has one branch"
        )
    if len(names := branches(run)) < 2:
        return f"{run.folder}: trained with one branch, so there are none to compare"
    config, state = run.config, load(run.folder / "checkpoint.pt")
    about = {
        "data": trained.name if (trained := trained_on(run.folder)) else config["data"],
        "model": config["model"],
        "recipe": config["recipe"]["class"],
        "step": state.step,
        "averaged": state.average is not None,
    }
    rows = [{**about, **found._asdict()} for found in branch_distances(state.average or state.model)]
    with run.locked():
        write_rows(run.folder / BRANCHES_FILE, rows)
    return f"{run.folder}: branches {', '.join(names)} compared in {run.folder / BRANCHES_FILE}"


def measure(
    target: EvaluationTarget, settings: Hidden, on_progress: OnProgress = silent, device: str | None = None
) -> None:
    """Measure what is not in the folder's hidden.jsonl yet.

    There is one row per layer and perturbation: the request (data, branch, norm, images, seed, layers, perturbation,
    eps, steps); layer, depth (0 for the image, then 1, 2, ...), depths (that of the logits); n, the number of images
    with a finite distance (see :func:`relative_distances`), and relative_distance, their mean
    ||h(x') - h(x)|| / ||h(x)||, with low and high, the ends of its 95% interval (normal, over images). A layer with
    fewer than two such images has no row.

    Args:
        target: the model, its images and the folder of its results.
        settings: what to measure.
        on_progress: called after every batch of images.
        device: by default CUDA where there is one, else the CPU.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is working there.
        ValueError: no such layer or device.
    """
    device = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    model = target.model.to(device)
    layers = default_layers(model) if settings.layers is None else named_layers(model, settings.layers)
    requests = settings.requests(target)
    target.check()
    target.claim()
    path = target.run.folder / HIDDEN_FILE
    with target.run.locked():
        known = read_rows(path, HIDDEN)
        todo = [each for each in requests if not any(_is_of(row, each) for row in known)]
        if todo:
            new = _measured_rows(target, model, layers, settings, todo, on_progress)
            write_rows(path, [*known, *new])


def rows_of(target: EvaluationTarget, settings: Hidden) -> list[dict[str, Any]]:
    """The rows of these settings, in order."""
    rows = read_rows(target.run.folder / HIDDEN_FILE, HIDDEN)
    return [row for each in settings.requests(target) for row in rows if _is_of(row, each)]


def _is_of(row: dict[str, Any], request: dict[str, Any]) -> bool:
    return all(row.get(key) == value for key, value in request.items())


def _measured_rows(
    target: EvaluationTarget,
    model: nn.Module,
    layers: dict[str, nn.Module],
    settings: Hidden,
    todo: list[dict[str, Any]],
    on_progress: OnProgress,
) -> Iterator[dict[str, Any]]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    ids = draw_test_points(target.source, settings.images, settings.seed)
    distances: dict[str, dict[int, list[Tensor]]] = {}
    done = 0
    for index in torch.split(ids, settings.batch_size):
        x, y = (part.to(device) for part in target.source.test.batch(index))
        noise = Noise.of(settings.seed, "hidden noise", index.to(device))
        with evaluating(model):
            moved = {str(i): _perturbed(model, x, y, noise, settings, each) for i, each in enumerate(todo)}
        for layer, found in relative_distances(model, x, moved, layers).items():
            for i in range(len(todo)):
                distances.setdefault(layer, {}).setdefault(i, []).append(found[str(i)])
        done += len(index)
        on_progress(done, len(ids), f"{len(todo)} perturbations, {len(distances)} layers")
    for i, request in enumerate(todo):
        for depth, (layer, parts) in enumerate(distances.items()):
            place = {"layer": layer, "depth": depth, "depths": len(distances) - 1}
            every = torch.cat(parts[i])
            if len(finite := every[every.isfinite()]) > 1:
                yield {**request, **place, **_summary(finite)}


def _perturbed(
    model: nn.Module, x: Tensor, y: Tensor, noise: Noise, settings: Hidden, request: dict[str, Any]
) -> Tensor:
    ball = settings.ball(request["eps"])
    if request["perturbation"] == "noise":
        return same_size_noise(ball, x, noise)
    goal = easy(y) if request["perturbation"] == "easy" else untargeted(y)
    return PGD(ball, steps=settings.steps)(model, x, goal)


def _summary(finite: Tensor) -> dict[str, Any]:
    """The fields n, relative_distance, low and high."""
    mean = float(finite.mean())
    half = NormalDist().inv_cdf(0.975) * float(finite.std()) / math.sqrt(len(finite))
    return {"n": len(finite), "relative_distance": mean, "low": max(0.0, mean - half), "high": mean + half}
