"""Folders of runs with all the rows there can be, made up: what they say is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from easybn.data.corruptions import CORRUPTIONS, SEVERITIES
from easybn.evaluation.verdicts import pack_bits, points_digest

N, POINTS = 10_000, 200
RECIPES: dict[str, dict[str, Any]] = {
    "vanilla": {"class": "Vanilla", "weight": 1.0},
    "advprop": {"class": "AdvProp", "attack": {"class": "PGD", "ball": {"class": "Linf", "eps": 8 / 255}, "steps": 1}},
    "ebn": {"class": "EBN", "attack": {"class": "PGD", "ball": {"class": "Linf", "eps": 8 / 255}, "steps": 1}},
    "both": {"class": "AdvPropEBN", "attack": {"class": "PGD", "ball": {"class": "Linf", "eps": 8 / 255}}},
    "hostile": {"class": "mine.<script>alert(1)</script>", "weight": 1.0},
}
CLEAN = {"vanilla": 9200, "advprop": 9250, "ebn": 9130, "both": 9215, "hostile": 8000}
LEFT = {"vanilla": 0.12, "advprop": 0.26, "ebn": 0.02, "both": 0.14, "hostile": 0.1}
BRANCHES = {"advprop": ["adv"], "ebn": ["easy"], "both": ["adv", "easy"]}
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(
    folder: Path, recipe: str, seed: int, data: str = "fashion-mnist", lr: float = 0.1, colour: bool = False
) -> None:
    """A run with every file."""
    folder.mkdir(parents=True)
    training = {"class": "Training", "epochs": 6, "batch_size": 128, "lr": lr, "seed": seed}
    experiment = {"recipe": RECIPES[recipe], "data": data, "model": "resnet_tiny", "validation": 0.1}
    experiment["training"] = training
    (folder / "config.json").write_text(json.dumps({"digest": "0", "experiment": experiment}))
    session = {"commit": "0123456789ab+", "cpus": 2, "processor": "made up", "packages": {"torch": "2.14.1"}}
    session["command"] = ["easybn", "train", "--config", f"{data}-{recipe}", "--seed", str(seed)]
    (folder / "environment.json").write_text(json.dumps([session]))
    finding = {"name": "saturation", "severity": "warning", "what": "logits are large", "how_much": "9 of 200 points"}
    finding |= {"why": "gradients vanish", "remedy": "use the strong protocol"}
    (folder / "evaluated.json").write_text(json.dumps([{"digest": "0", "seconds": 1.5, "findings": [finding]}]))
    lines(folder / "metrics.jsonl", metrics(recipe, seed))
    lines(folder / "scores.jsonl", scores(recipe, seed, data))
    lines(folder / "verdicts.jsonl", verdicts(recipe, seed))
    lines(folder / "corruptions.jsonl", corruptions(recipe, seed, data))
    lines(folder / "hidden.jsonl", hidden(recipe, seed))
    lines(folder / "branches.jsonl", branches(recipe))
    lines(folder / "analysis.jsonl", analysis(recipe, seed))
    summary(folder, colour)


def metrics(recipe: str, seed: int) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, 7):
        main = {"loss": 0.5 / epoch + 0.005 * seed, "accuracy": 0.8 + 0.02 * epoch}
        losses = {"easy": 0.4 / epoch**3, "adv": 0.5 / epoch}  # easy's collapses
        of = {name: {"loss": losses[name], "accuracy": 0.9} for name in BRANCHES.get(recipe, [])}
        parts = {"train": {"main": main, **of}, "val": {"main": main, **of}}
        rows.append({"epoch": epoch, "step": 421 * epoch, **parts, "images_per_second": 900.0, "seconds": 60.0 * epoch})
    return rows


def clean_correct(recipe: str, seed: int) -> int:
    """The recipe's own number, and a spread of 5 from seed to seed that differs a little between recipes."""
    return CLEAN[recipe] + 5 * seed + (2 * seed if recipe == "ebn" else 0)


def robust_correct(recipe: str, seed: int, eps: float) -> int:
    """Of 200 points; nothing is left at 1."""
    share = LEFT[recipe]
    return round(POINTS * {0.1: 0.6 + share, 0.5: share, 1.0: 0.0}.get(eps, share / 2)) + (seed if eps < 1 else 0) * 2


def scores(recipe: str, seed: int, data: str) -> list[dict[str, Any]]:
    shared = {"data": data, "branch": "main", "notes": []}
    rows = [{**shared, "attack": "clean", "n": N, "correct": clean_correct(recipe, seed), "norm": None, "eps": None}]
    for protocol in ("robustness", "strong"):
        for eps in (0.1, 0.5, 1.0):
            row = {"attack": "pgd", "protocol": protocol, "norm": "l2", "eps": eps, "steps": 100, "n": POINTS}
            rows.append({**shared, **row, "correct": robust_correct(recipe, seed, eps)})
    for norm, eps in (("linf", 8 / 255), ("l2", 0.5)):
        left = robust_correct(recipe, seed, 0.3)
        broke = {"clean": 16, "apgd-ce": 160 - left, "apgd-t": 20, "fab-t": 0, "square": 4}
        row = {"attack": "autoattack", "protocol": "standard", "norm": norm, "eps": eps, "n": POINTS, "correct": left}
        rows.append({**shared, **row, "steps": 0, "broke": broke})
    correct = 15 * sum(corrupted_correct(recipe, seed, severity) for severity in SEVERITIES)
    row = {"attack": "corruptions", "protocol": "generated", "norm": None, "eps": None, "test_images": POINTS}
    rows.append({**shared, **row, "n": 75 * POINTS, "correct": correct, "low": 0.2, "high": 0.9})
    return rows


def corrupted_correct(recipe: str, seed: int, severity: int) -> int:
    """Of 200 points, under every kind: 120 of 200 in the mean for advprop at seed 0."""
    return {"advprop": 180, "both": 172, "vanilla": 160}.get(recipe, 140) + 2 * seed - 20 * severity


def corruptions(recipe: str, seed: int, data: str) -> list[dict[str, Any]]:
    """The points that are right are the first ones, so that of two severities the milder has all of the other's."""
    shared = {"data": data, "branch": "main", "source": "generated", "points_seed": 0, "test_images": POINTS}
    shared |= {"points": points_digest(range(POINTS)), "n": POINTS}
    rows = []
    for kind in CORRUPTIONS:
        for severity in SEVERITIES:
            correct = corrupted_correct(recipe, seed, severity)
            row = {"corruption": kind, "severity": severity, "correct": correct, "accuracy": correct / POINTS}
            rows.append({**shared, **row, "right": pack_bits(np.arange(POINTS) < correct)})
    return rows


def verdicts(recipe: str, seed: int) -> list[dict[str, Any]]:
    """The points that a model gets right are the first ones: of two models one is right wherever the other is."""
    right = np.arange(N) < clean_correct(recipe, seed)
    clean = {"attack": "clean", "n": N, "points": points_digest(range(N)), "right": pack_bits(right)}
    attacked = {"attack": "autoattack", "protocol": "standard", "norm": "linf", "eps": 8 / 255, "n": POINTS}
    left = robust_correct(recipe, seed, 0.3)
    attacked |= {"points": points_digest(range(POINTS)), "right": pack_bits(np.arange(POINTS) < left)}
    eps = [i / 255 for i in range(9)]
    most = [190, 186, 180, 170, 150, 120, 110, left + 4, left]
    least = [190, 150, 150, 150, 150, left, left, left, left]
    return [
        clean,
        attacked | {"curve": {"n": POINTS, "attacked": [eps[4], eps[8]], "eps": eps, "most": most, "least": least}},
    ]


def hidden(recipe: str, seed: int) -> list[dict[str, Any]]:
    far = {"ebn": 0.5, "advprop": 0.3}.get(recipe, 0.4) + 0.01 * seed * (1 + (recipe == "ebn"))
    rows = []
    for kind in ("easy", "untargeted", "noise"):
        for depth, layer in enumerate(("image", "stages.0", "stages.1", "logits")):
            value = 0.05 if depth == 0 else far * depth / 3
            row = {"branch": "main", "norm": "linf", "eps": 8 / 255, "steps": None if kind == "noise" else 1, "n": 500}
            row |= {"perturbation": kind, "layer": layer, "depth": depth, "depths": 3, "relative_distance": value}
            rows.append({**row, "low": value - 0.01, "high": value + 0.01})
    return rows


def branches(recipe: str) -> list[dict[str, Any]]:
    return [
        {
            "layer": f"bn{depth}",
            "depth": depth,
            "branch_a": "main",
            "branch_b": name,
            "measure": measure,
            "value": value,
        }
        for name in BRANCHES.get(recipe, [])
        for depth in (1, 2, 3)
        for measure, value in (("symmetric_kl", 10.0**-depth), ("relative_weight", 0.1 * depth))
    ]


def analysis(recipe: str, seed: int) -> list[dict[str, Any]]:
    """Ranks that rise with depth, through the branches too, and those of two weights; and of an unknown instrument."""
    shared = {"branch": "main", "data": "x", "images": 500, "seed": 0, "low": None, "high": None, "detail": {}}
    names = ["main", *BRANCHES.get(recipe, [])]
    rank = {**shared, "instrument": "rank", "settings": {}, "branches": names}
    rows = []
    for name in names:
        for depth, place in enumerate(("stages.0", "stages.1", "logits"), 1):
            value = 10.0 * depth + (2 * seed if name == "main" else 0) + {"ebn": 3, "advprop": 20}.get(recipe, 0)
            place_of = {"measure": "effective_rank_of_channels", "series": name, "place": place, "depth": depth}
            rows.append({**rank, **place_of, "n": 500, "value": value, "low": value - 1, "high": value + 1})
    for depth in (1, 2):
        of = {"measure": "effective_rank_of_weights", "series": "", "place": f"conv{depth}", "depth": depth, "n": 0}
        rows.append({**rank, **of, "value": 4.0 * depth})
    own = {**shared, "instrument": "mine <i>", "settings": {"eps": 8 / 255}, "measure": "far <b>", "series": HOSTILE}
    return [*rows, {**own, "place": HOSTILE, "depth": 1, "n": 9, "value": -0.5, "low": -1.0, "high": 0.0}]


def summary(folder: Path, colour: bool) -> None:
    """Noise, which no PNG makes smaller: 28 x 28 in grey, or 32 x 32 in colours."""
    said = {"original": ("boot", 0.9), "easy": ("boot", 0.999), "adversarial": ("bag", 0.8)}
    image = {"label": "boot", **{name: {"class": c, "confidence": p} for name, (c, p) in said.items()}}
    tile = 32 if colour else 28
    noise = np.random.default_rng(0).integers(0, 255, (6 * tile, 3 * tile, 3)[: 3 if colour else 2], np.uint8)
    Image.fromarray(noise).save(folder / "gallery.png")
    gallery = {
        "size": [tile, tile],
        "how": "10 steps within l-infinity 8/255",
        "images": [image] * 6,
    }
    bins = {"right": [0] * 10 + [100] * 9 + [8300], "wrong": [0] * 5 + [50] * 15}
    (folder / "summary.json").write_text(json.dumps({"n": N, "confidence": bins, "gallery": gallery, "findings": []}))


def study(folder: Path, recipes: tuple[str, ...] = ("vanilla", "advprop", "ebn", "both"), seeds: int = 3) -> Path:
    """Runs of every recipe at every seed, and a stacked experiment."""
    for recipe in recipes:
        for seed in range(seeds):
            run(folder / f"{recipe}-{seed}", recipe, seed)
    stacked(folder / "stacked-fashion-mnist", seeds)
    return folder


def census(folder: Path, data: str = "fashion-mnist") -> Path:
    """Of the test images: the first ones, which every model gets right, are the easiest."""
    folder.mkdir(parents=True)
    deciles = "".join(str(9 - 10 * i // N) for i in range(N))
    row = {"data": data, "model": "resnet_tiny", "recipe": "Vanilla", "epoch": 1, "seeds": [1000, 1001], "n": N}
    lines(folder / "deciles.jsonl", [{**row, "deciles": deciles, "split": "test"}])
    return folder


def comparison(folder: Path) -> None:
    """A withstands 10 points alone, B 3, and pictures of 3 and 3 of them: tiles of one grey each."""
    folder.mkdir()
    clean = {"eps": 0.0, "n": 200, "both": 180, "only_first": 4, "only_second": 6, "neither": 10, "difference": -0.01}
    pair = {
        "eps": 8 / 255,
        "n": 200,
        "both": 17,
        "only_first": 10,
        "only_second": 3,
        "neither": 170,
        "difference": 0.035,
    }
    pairs = [clean | {"low": -0.04, "high": 0.02, "p": 0.75}, pair | {"low": 0.005, "high": 0.071, "p": 0.035}]
    tiles = [
        {"eps": 8 / 255, "point": 1000 + i, "class": "boot", "only": "first", "broken_by": "fab-t"} for i in (3, 17, 20)
    ]
    tiles += [
        {"eps": 8 / 255, "point": i, "class": "shirt", "only": "second", "broken_by": "clean"} for i in (12, 13, 14)
    ]
    greys = np.repeat(np.arange(30, 240, 30, np.uint8)[: len(tiles)], 28)
    Image.fromarray(np.tile(greys, (28, 1))).save(folder / "points.png")
    row = {
        "names": ["runs/a", "runs/b"],
        "about": ["AutoAttack standard"] * 2,
        "norm": "linf",
        "pairs": pairs,
        "notes": [],
    }
    (folder / "comparison.json").write_text(json.dumps(row | {"pictures": {"size": [28, 28], "tiles": tiles}}))


def stacked(folder: Path, seeds: int) -> None:
    """The network reads the easy half at 8/255, neither half at 1/255."""
    (folder / "pictures").mkdir(parents=True)
    Image.fromarray(np.full((40, 60), 128, np.uint8)).save(folder / "pictures" / "easy.png")
    (folder / "stacked.json").write_text("{}")
    left = {(8 / 255, "copy"): 0.5, (8 / 255, "original"): 0.98, (1 / 255, "copy"): 0.9, (1 / 255, "original"): 0.9}
    rows = []
    for seed in range(seeds):
        for eps in (1 / 255, 8 / 255):
            row = {"data": "fashion-mnist", "classes": ["T-shirt/top", "Shirt"], "model": "resnet_tiny", "seed": seed}
            row |= {"copy": "easy", "eps": eps, "steps": 1, "picture": "pictures/easy.png", "n": 2000}
            rows.append({**row, "half": None, "how": None, "accuracy": 0.99})
            for half in ("copy", "original"):
                for how in ("noise", "swap", "blank"):
                    accuracy = left[eps, half] + 0.002 * seed * (1 if half == "copy" else -1)
                    rows.append({**row, "half": half, "how": how, "accuracy": accuracy})
    lines(folder / "rows.jsonl", rows)


def change(folder: Path, **fields: object) -> None:
    """Other training fields in a run's config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["experiment"]["training"] |= fields
    path.write_text(json.dumps(config))
