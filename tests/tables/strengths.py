"""Made-up runs of recipes at several strengths, of which only the clean and two robust accuracies are known."""

import json
from pathlib import Path
from typing import Any

CLEAN_POINTS, POINTS = 1000, 200


def run(folder: Path, recipe: dict[str, Any], seed: int, clean: int, robust: dict[str, int], **training: Any) -> None:
    """A run with a config and scores: ``clean`` of 1000 points right, ``robust`` of 200 under each protocol."""
    folder.mkdir(parents=True)
    trained = {"class": "Training", "epochs": 3, "batch_size": 128, "lr": 0.1, "seed": seed, **training}
    experiment = {"recipe": recipe, "data": "fashion-mnist", "model": "resnet_tiny", "validation": 0.1}
    config = {"digest": "0", "experiment": {**experiment, "training": trained}}
    (folder / "config.json").write_text(json.dumps(config))
    rows: list[dict[str, Any]] = [{"attack": "clean", "n": CLEAN_POINTS, "correct": clean}]
    for protocol, correct in robust.items():
        attacked = {"attack": "pgd", "protocol": protocol, "norm": "l2", "eps": 0.5, "steps": 100}
        rows.append({**attacked, "n": POINTS, "correct": correct})
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def perturbing(name: str, eps: int, **fields: Any) -> dict[str, Any]:
    """A recipe's stored fields; eps in 255ths."""
    ball = {"class": "Linf", "eps": eps / 255}
    return {"class": name, "attack": {"class": "PGD", "ball": ball, "steps": 1, "random_start": 0.8}, **fields}


def study(folder: Path, seeds: int = 3) -> Path:
    """AdvProp at three radii, EBN at two, one Vanilla and one AdversarialTraining.

    AdvProp's frontier goes from 0.90 clean and 0.60 robust through 0.91, 0.50 to 0.92, 0.20 at seed 0, EBN's from
    0.905, 0.40 to 0.925, 0.20. Each seed adds 0.01 to EBN's robust accuracy.
    """
    for seed in range(seeds):
        for eps, clean, robust in ((8, 900, 120), (4, 910, 100), (1, 920, 40)):
            recipe = perturbing("AdvProp", eps, target="random")
            run(folder / f"advprop-{eps}-{seed}", recipe, seed, clean, {"strong": robust, "robustness": 190})
        for eps, clean, robust in ((8, 905, 80), (1, 925, 40)):
            more = {"strong": robust + 2 * seed, "robustness": 190}
            run(folder / f"ebn-{eps}-{seed}", perturbing("EBN", eps, through="easy"), seed, clean, more)
        run(folder / f"vanilla-{seed}", {"class": "Vanilla", "weight": 1.0}, seed, 928, {"strong": 10})
        run(folder / f"adversarial-{seed}", perturbing("AdversarialTraining", 8), seed, 850, {"strong": 150})
    return folder
