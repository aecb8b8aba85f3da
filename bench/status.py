"""How long ``easybn study OUT --status`` takes for a thousand runs: the whole process, median of several.

    python bench/status.py [--runs 1000] [--times 9]

The folders are made up by what writes real ones, so that their formats and sizes are real: 50 experiments with 20 seeds
each, 30 epochs and three evaluations (clean, PGD under two protocols at three radii, AutoAttack). Of 100 runs 70 are
done, 6 are stopped half-way, 2 have failed, 2 are being measured and 20 have not begun; 4 locks are held meanwhile.
Wall time depends on what else the machine does; processor time (user + system) hardly does.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from easybn.evaluation.config import EvaluateConfig
from easybn.json_files import write_rows
from easybn.models import build, weights
from easybn.recipes import EBN
from easybn.runs.config import Experiment
from easybn.runs.measured import WantedRows
from easybn.runs.run import Run
from easybn.study.plan import CLEAN, Planned, Study, record_evaluation, study_lock
from easybn.study.plan_file import plan_of, write_plan
from easybn.study.state import record_failure
from easybn.train.schedule import Training

EVALUATIONS = (CLEAN, EvaluateConfig.of_run(), EvaluateConfig.of_run(["autoattack"], norm="linf", points=1000))
EPOCHS = 30


def made_up_study(runs: int) -> Study:
    """Fifty learning rates, or fewer, and as many seeds as that takes."""
    kinds = min(50, runs)
    planned = []
    for number in range(runs):
        seed, kind = divmod(number, kinds)
        training = Training(epochs=EPOCHS, lr=0.01 + 0.002 * kind, seed=seed)
        experiment = Experiment(recipe=EBN(), training=training)
        planned.append(Planned(f"ebn-lr-{kind}-{seed}", experiment, EVALUATIONS))
    return Study("made-up", tuple(planned))


def epoch_rows(epochs: int) -> list[dict[str, object]]:
    measures = {"loss": 1.2345, "accuracy": 0.81234}
    train, val = {"main": measures, "easy": measures}, {"main": measures}
    shared = {"lr": 0.01, "train": train, "val": val, "images_per_second": 1234.5}
    return [{"epoch": n, "step": 100 * n, **shared, "seconds": 12.3 * n} for n in range(1, epochs + 1)]


def score_rows() -> list[dict[str, object]]:
    """As PGD and AutoAttack write them, with a bit per point."""
    right = "f" * 250  # of 1000 points
    shared = {
        "data": "sample", "n": 1000, "correct": 612, "accuracy": 0.612, "test_images": 1000, "branch": "main",
        "seconds": 12.3, "notes": [], "points": "0" * 16, "right": right, "step_size": 0.01, "max_perturbation": 0.1,
        "non_finite": 0, "batch_size": 100,
    }  # fmt: skip
    wanted = [row for config in EVALUATIONS for row in WantedRows.of(config).rows]
    clean = {**shared, "attack": "clean", "norm": None, "eps": None}
    return [clean, *({**shared, **row} for row in wanted)]


def make(study: Study, out: Path) -> list[Path]:
    """Write the folders; returns those of the runs that are being measured."""
    model = build("resnet_tiny")
    scores, under_way = score_rows(), []
    for number, planned in enumerate(study.runs):
        run, share = Run(out / planned.name), number % 100
        if share >= 80:
            continue
        run.claim(planned.experiment)
        epochs = EPOCHS // 2 if 70 <= share < 76 else EPOCHS
        write_rows(run.folder / "metrics.jsonl", epoch_rows(epochs))
        (run.folder / "checkpoint.pt").write_bytes(b"made up")
        if epochs < EPOCHS:
            continue
        of = {"config": planned.experiment.digest, "epochs": EPOCHS}
        weights.save(model, run.folder / "model.safetensors", {"name": "resnet_tiny"}, None, of)
        done = EVALUATIONS if share < 76 else EVALUATIONS[:1]
        run.add_scores(scores if share < 76 else scores[:1])
        for config in done:
            record_evaluation(run.folder, config, 60.0, [])
        if 76 <= share < 78:
            record_failure(run.folder, f"CUDA out of memory: tried to allocate {number} MiB")
        elif share >= 78:
            under_way.append(run.folder)
    write_plan(out, plan_of(study.name, [run.expected for run in study.runs]))
    return under_way


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--times", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as locks:
        out = Path(folder) / "made-up"
        for each in make(made_up_study(arguments.runs), out)[:4]:
            locks.enter_context(study_lock(each))
        command = [sys.executable, "-m", "easybn", "study", str(out), "--status"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print("\n".join(text.splitlines()[:6]), "...\n")
        walls, used = [], []
        for _ in range(arguments.times):
            began, before = time.perf_counter(), processor_seconds()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            walls.append(time.perf_counter() - began)
            used.append(processor_seconds() - before)
    found = {
        "runs": arguments.runs,
        "wall_seconds": round(statistics.median(walls), 2),
        "least_wall_seconds": round(min(walls), 2),
        "processor_seconds": round(statistics.median(used), 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
