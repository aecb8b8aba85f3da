"""What may have given the EBN paper its robust columns: hypotheses put to small networks trained to saturation.

    python bench/paper_figures.py train        the networks
    python bench/paper_figures.py measure      margins, and what PGD and AutoAttack leave, also where they are misused
    python bench/paper_figures.py collect      the scores of examples/paper_readings.yaml, once it is done
    python bench/paper_tables.py               the tables of docs/paper.md, from the rows

Rows lie in ``--out``; what has its row is left out, so that a killed call goes on. The networks lie in ``--runs``.

The paper trains for 1,000 epochs, and the lower the loss, the slower it falls. Here plain epochs, until all images are
right, are followed by steps of all images at once whose rate grows as long as the loss falls (:class:`Pace`). Gradient
flow takes the same path at any speed, so that this is about a plain training's path, whose end comes after minutes.
``steps`` of a row are those that a rate of 0.1 would need for as much (the sum of the rates over 0.1); the paper has
234,000 of them if its batches were of 128 images and its schedule the cosine.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easybn import L2, Linf, convert, data, evaluate, strip
from easybn.attacks.losses import margin
from easybn.attacks.square import Square
from easybn.evaluation import pgd_robustness
from easybn.evaluation.pgd_robustness import GRADIENT_STABILISER
from easybn.keyed_random import permutation
from easybn.models import build, load
from easybn.recipes import EBN, AdvProp, Context, Recipe, Vanilla
from easybn.runs.run import Run, environment
from easybn.train.step import SGD

Row = dict[str, Any]
TRAINED, END = "paper", "end"
CONTROL, BUNDLED = "vanilla-0-0-1e-02", "fashion-mnist-vanilla"
IMAGES, BATCH, RATE, PLAIN_EPOCHS = 1000, 125, 0.1, 40
PAPER_STEPS = 234_000
LEVELS = (1e-2, 1e-4, 1e-6, 1e-8)
BATCHES = (32, 128, 1000)
RADII = (0.1, 0.5, 1.0)
POINTS, QUERIES, FACTORS = 100, (10, 100), (3, 10)
PAPER = {"linf": 8 / 255, "l2": 0.5}
RECIPES: dict[str, Recipe] = {"vanilla": Vanilla(), "advprop": AdvProp(), "ebn": EBN()}


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        recipe: a key of ``RECIPES``.
        decay: weight decay.
        steps: of the second phase.
    """

    recipe: str
    decay: float
    steps: int = 110
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.recipe}-{self.decay:g}-{self.seed}"


CELLS = [Cell(recipe, decay, steps) for decay, steps in ((0.0, 110), (1e-4, 80)) for recipe in RECIPES]


def network(source: data.Source, seed: int) -> nn.Module:
    """An untrained ``resnet_tiny``."""
    torch.manual_seed(seed)
    return build("resnet_tiny", in_channels=source.train.images.shape[1], mean=source.mean, std=source.std)


class Pace:
    """The learning rate of the second phase: as high as the loss goes on falling.

    It grows by a fifth with every step that lowers the loss and is halved by one that does not.
    """

    def __init__(self) -> None:
        self.rate, self.loss = RATE, float("inf")

    def fell(self, loss: float) -> bool:
        """Whether a loss is below the one before; ``rate`` is then that of the step from here."""
        fell, self.loss = loss < self.loss, loss
        self.rate *= 1.2 if fell else 0.5
        return fell


def train(cell: Cell, source: data.Source) -> Iterator[tuple[Row, nn.Module]]:
    """A row and the deployed model at each of ``LEVELS`` of the clean loss, at ``PAPER_STEPS`` and at the end."""
    recipe, pace = RECIPES[cell.recipe], Pace()
    model = network(source, cell.seed)
    if len(recipe.branches) > 1:
        model = convert(model, branches=recipe.branches)
    chosen = permutation(len(source.train), cell.seed, "paper figures")[:IMAGES]
    optimizer = SGD(model.train().parameters(), lr=RATE, momentum=0.9, weight_decay=cell.decay)
    levels, steps, step = list(LEVELS), 0.0, 0
    for epoch in range(1, PLAIN_EPOCHS + cell.steps + 1):
        sums, before = dict[str, float](), steps
        plain = epoch <= PLAIN_EPOCHS
        for rows in permutation(IMAGES, cell.seed, "order", epoch).split(BATCH if plain else IMAGES):
            x, y = source.train.batch(chosen[rows])
            optimizer.zero_grad()
            total = 0.0
            for term in recipe(model, x, y, Context(chosen[rows], step, epoch - 1, cell.seed)):
                (term.weight * term.loss).backward()
                assert term.logits is not None
                wide = float(F.cross_entropy(term.logits.double(), y))  # in float32 it would be 0 from 1e-8 on
                sums[term.name] = sums.get(term.name, 0.0) + wide * len(y) / IMAGES
                total += term.weight * wide
            if not plain and not pace.fell(total):
                optimizer.state.clear()  # the momentum, which went too far
            for group in optimizer.param_groups:
                group["lr"] = RATE if plain else pace.rate
            optimizer.step()
            steps += 1 if plain else pace.rate / RATE
            step += 1
        reached = [f"{level:.0e}" for level in levels if sums["main"] < level][-1:]
        levels = [level for level in levels if sums["main"] >= level]
        if before < PAPER_STEPS <= steps:
            reached.append(TRAINED)
        if epoch == PLAIN_EPOCHS + cell.steps:
            reached.append(END)
        for name in reached:
            row = {"reached": name, "epoch": epoch, "steps": round(steps), "losses": sums}
            yield row, strip(model) if len(recipe.branches) > 1 else model


# What is measured on a trained network: each a generator of rows.


def margins(model: nn.Module, source: data.Source) -> Iterator[Row]:
    """On all test images: accuracy and margins; on the first 1,000: how small gradients in float32 are.

    ``stalled`` is the share, of the points that are right, whose first step in the library's PGD is at most half its
    length because the gradient of the mean loss over B images is no larger than the library's 1e-10; ``zero`` where it
    is 0 in every pixel; ``flat`` where the cross-entropy itself is 0 in float32.
    """
    x, y = source.test.batch(torch.arange(len(source.test)))
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x.split(500)])
    right = logits.argmax(1) == y
    quantiles = (-margin(logits[right], y[right])).quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double())
    norms = []
    for part, labels in zip(x[:1000].split(250), y[:1000].split(250), strict=True):
        point = part.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), labels, reduction="sum"), point)
        norms.append(gradient.double().flatten(1).norm(dim=1))
    norm, kept = torch.cat(norms)[right[:1000]], logits[right]
    yield {
        "n": len(y), "clean": int(right.sum()), "margins": [round(float(q), 2) for q in quantiles],
        "flat": _share(F.cross_entropy(kept, y[right], reduction="none") == 0),
        "zero": _share(norm == 0), "stalled": {str(b): _share(norm / b <= GRADIENT_STABILISER) for b in BATCHES},
    }  # fmt: skip


def library(model: nn.Module, x: Tensor, y: Tensor, batch: int, eps: float) -> int:
    """How many points the library's PGD leaves in batches of ``batch``, computed with these points alone.

    A step is g / B / (|g| / B + 1e-10) = g / (|g| + 1e-10 B), so that a batch of B is one of n images whose stabiliser
    is 1e-10 B / n (a test compares the two).
    """
    with patch.object(pgd_robustness, "GRADIENT_STABILISER", GRADIENT_STABILISER * batch / len(x)):
        found = evaluate(
            model, x, y, norm="l2", eps=eps, protocol="robustness", batch_size=len(x), fold=False, diagnosis=False
        )
    return int(found.robust.sum())


def columns(model: nn.Module, x: Tensor, y: Tensor, batches: Sequence[int]) -> Iterator[Row]:
    """PGD's columns of the paper's tables: by the library's protocol in batches of some sizes, and the strong one."""
    for batch in batches:
        yield from ({"attack": f"library {batch}", "eps": e, "robust": library(model, x, y, batch, e)} for e in RADII)
    found = evaluate(model, x, y, norm="l2", eps=RADII, attacks="pgd", batch_size=len(x), diagnosis=False)
    yield from ({"attack": "strong", "eps": e, "robust": int(found.robust_at[e].sum())} for e in RADII)


def autoattack(model: nn.Module, x: Tensor, y: Tensor, images: Path) -> Iterator[Row]:
    """AutoAttack's columns, and what smaller ones leave; the adversarial images are kept in the file ``images``."""
    kept = {}
    for norm, eps in PAPER.items():
        found = evaluate(model, x, y, norm=norm, eps=eps, attacks="standard", keep_images=True, diagnosis=False)
        kept[norm] = found.images_at[eps]
        yield {"attack": "autoattack", "norm": norm, "eps": eps, "robust": int(found.robust.sum())}
        found = evaluate(model, x, y, norm=norm, eps=eps / 10, attacks="fast", audit=0, diagnosis=False)
        yield {"attack": "a tenth of eps", "norm": norm, "eps": eps / 10, "robust": int(found.robust.sum())}
        ball = Linf(eps) if norm == "linf" else L2(eps)
        for queries in QUERIES:
            found = evaluate(model, x, y, attacks=Square(ball, queries=queries), diagnosis=False)
            yield {"attack": f"square {queries}", "norm": norm, "eps": eps, "robust": int(found.robust.sum())}
    safetensors.torch.save_file(kept, images)


def transferred(model: nn.Module, y: Tensor, images: Path) -> Iterator[Row]:
    """What is left on the adversarial images in the file ``images``, made for another network."""
    for norm, x in safetensors.torch.load_file(images).items():
        with torch.no_grad():
            robust = int((model(x).argmax(1) == y).sum())
        yield {"attack": "transfer", "norm": norm, "eps": PAPER[norm], "robust": robust}


def scaled(model: nn.Module, x: Tensor, y: Tensor, factor: float) -> Iterator[Row]:
    """The control: PGD's columns where the logits are multiplied by ``factor``, which changes no answer."""
    yield from ({**row, "factor": factor} for row in columns(nn.Sequential(model, Times(factor)).eval(), x, y, (128,)))


class Times(nn.Module):
    """Logits times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def _share(of: Tensor) -> float:
    return round(float(of.double().mean()), 4)


class Rows:
    """The rows of one part, in a file that is appended to once all rows of a measurement are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self.rows: list[Row] = [json.loads(line) for line in text.splitlines()]

    def missing(self, **key: Any) -> bool:
        """Whether there is no row of these values."""
        return not any(key.items() <= row.items() for row in self.rows)

    def append(self, rows: Sequence[Row], began: float, **key: Any) -> None:
        """Rows of a measurement that began at ``began`` of ``time.process_time``, and on what it was made."""
        around, spent = environment(), time.process_time() - began
        where = {name: around[name] for name in ("time", "commit", "processor", "threads")}
        rows = [{**key, **row, "processor_seconds": round(spent / len(rows), 1), **where} for row in rows]
        self.rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(*key.values(), f"{spent:.0f} s", flush=True)


def train_all(out: Path, runs: Path, source: data.Source, cells: Sequence[Cell] = CELLS) -> None:
    """The missing trainings; networks in ``runs``, named by cell and level."""
    rows = Rows(out / "trainings.jsonl")
    for cell in (cell for cell in cells if rows.missing(cell=str(cell))):
        began, kept = time.process_time(), []
        for row, model in train(cell, source):
            runs.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file(model.state_dict(), runs / f"{cell}-{row['reached']}.safetensors")
            kept.append(row)
        rows.append(kept, began, cell=str(cell))


def measure_all(out: Path, runs: Path, source: data.Source, cifar: Path | None = None) -> None:
    """The missing measurements of every network in ``runs``; those that take long of the final ones only.

    Args:
        cifar: a run on CIFAR-10, for AutoAttack's misuses there; rows are named after its data.
    """
    rows = Rows(out / "measured.jsonl")
    ids = permutation(len(source.test), 0, "paper figures")[:POINTS]
    x, y = source.test.batch(ids)

    def add(what: str, network: str, found: Iterator[Row]) -> None:
        if rows.missing(network=network, what=what):
            began = time.process_time()
            rows.append(list(found), began, network=network, what=what)

    networks = {}
    for path in sorted(runs.glob("*.safetensors")):
        model = network(source, 0)
        model.load_state_dict(safetensors.torch.load_file(path))
        networks[path.stem] = model.eval().requires_grad_(False)
    for name, model in networks.items():
        add("margins", name, margins(model, source))
    final = [name for name in networks if name.endswith(f"-{TRAINED}")]
    others = [name for name in networks if name not in final]
    networks[BUNDLED] = load(BUNDLED).requires_grad_(False)
    (runs / "images").mkdir(exist_ok=True)
    for name in final:
        add("columns", name, columns(networks[name], x, y, BATCHES))
    for name in (*final, BUNDLED):
        add("autoattack", name, autoattack(networks[name], x, y, runs / "images" / f"{name}.safetensors"))
    for name in final:
        add("transfer", name, transferred(networks[name], y, runs / "images" / f"{BUNDLED}.safetensors"))
    for name in others:
        add("columns", name, columns(networks[name], x, y, (128,)))
    for factor in FACTORS:
        add(f"scaled {factor}", CONTROL, scaled(networks[CONTROL], x, y, factor))
    if cifar is not None:
        config = Run(cifar).config
        other, name = data.load(config["data"], folder=config["data_folder"]), str(config["data"]["name"])
        batch = other.test.batch(permutation(len(other.test), 0, "paper figures")[:POINTS])
        model = load(cifar).requires_grad_(False)
        add("autoattack", name, autoattack(model, *batch, runs / "images" / f"{name}.safetensors"))


def collect(out: Path, study: Path) -> None:
    """The scores of ``examples/paper_readings.yaml`` as rows of their own, without the verdicts."""
    names = ("attack", "protocol", "norm", "eps", "n", "correct", "seconds")
    lines = []
    for path in sorted(study.glob("*/scores.jsonl")):
        scores = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines += [json.dumps({"run": path.parent.name, **{name: row[name] for name in names}}) for row in scores]
    (out / "readings.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "measure", "collect"))
    parser.add_argument("--out", type=Path, default=Path("results/paper-figures"), help="rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper-figures"), help="networks")
    parser.add_argument("--study", type=Path, default=Path("runs/paper-readings"), help="of collect: a finished study")
    parser.add_argument("--cifar", type=Path, help="of measure: a run on CIFAR-10, for the attacks that were misused")
    arguments = parser.parse_args()
    if arguments.part == "collect":
        collect(arguments.out, arguments.study)
        return
    source = data.load("fashion-mnist")
    if arguments.part == "train":
        train_all(arguments.out, arguments.runs, source)
    else:
        measure_all(arguments.out, arguments.runs, source, arguments.cifar)


if __name__ == "__main__":
    main()
