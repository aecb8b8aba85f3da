"""Stage ``study``: RN-18 by vanilla, AdvProp and EBN side by side on one card, then clean, PGD and AutoAttack.

One (data set, seed) a time: the next of which ``results/gpu`` lacks a run. Epochs are as many as fit, by the time of
some steps with all three trainings on the card; where results/gpu has runs of that data set, at most theirs, so that
seeds can be averaged. What is finished when the time is over is kept: ``OUT/<data set>-<seed>.tar.gz`` holds the rows
of the run folders, and ``bench/gpu/collect OUT`` puts them below ``results/gpu``. Weights do not come back.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

from gpu.rows import ROOT, Clock, Rows, commit

RESULTS = ROOT / "results" / "gpu"
RECIPES = ("vanilla", "advprop", "ebn")
DATA = {"fashion-mnist": "fashion-mnist", "cifar10-jpeg": "cifar10-images.zip"}
SEEDS = (0, 1, 2)
EPOCHS = 60
KEPT = ("config.json", "environment.json", "metrics.jsonl", "scores.jsonl", "evaluated.json")
EVALUATION, START, PACKING = 170.0, 15.0, 12.0  # seconds that are kept for each
EVALUATE = [
    {"attacks": ["autoattack"], "norm": "linf", "eps": "8/255", "points": 1000},
    {"attacks": ["autoattack"], "norm": "l2", "eps": 0.5, "points": 1000},
    {"points": 1000, "batch_size": 500},  # PGD-l2 at 0.1, 0.5 and 1 under either protocol
]
EVALUATE_SMALL = [
    {"attacks": ["apgd-ce"], "norm": "linf", "eps": "8/255", "points": 4},
    {"points": 4, "batch_size": 4, "steps": 2},
]


def main(out: Path, seconds: float, small: bool, device: str) -> None:
    clock, rows = Clock(seconds), Rows(out, "study", device)
    found = ("sample", 0) if small else following(RESULTS)
    if found is None:
        rows.write(item="study", value=None, unit="", note="results/gpu has every data set and seed")
        return
    data, seed = found
    known = {"dataset": data, "seed": seed}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place, planned = Path(folder), Path(folder, "study.yaml")
        write_study(planned, data, seed, 1, small)
        _decoded(data)
        each = [seconds for seconds in _epoch_seconds(planned, data, seed, small, device) if seconds]
        if not each:
            rows.write(item="seconds an epoch", value=None, unit="s", note="not measured: see above", **known)
            return
        slowest = max(each)
        # the three begin at once, and the slowest says how long it takes; timed one step at a time, it is rather less
        left = clock.left() - (0 if small else EVALUATION + START + PACKING)
        most = 1 if small else min(EPOCHS, *(committed_epochs(RESULTS, data) or [EPOCHS]))
        epochs = max(1, min(most, int(left / slowest)))
        told = {"epochs": epochs, "most": most, **known}
        rows.write(item=f"{data}, seed {seed}: an epoch, three side by side", value=slowest, unit="s", **told)
        write_study(planned, data, seed, epochs, small)
        _run(planned, place / "runs", clock.left() - (0 if small else PACKING), small, device)
        finished = [run for run in sorted((place / "runs").glob("*-*")) if write_rows(run, rows, known)]
        if finished:
            pack(finished, out / f"{data}-{seed}.tar.gz")
        complete = sum(len(_evaluated(run)) == len(EVALUATE_SMALL if small else EVALUATE) + 1 for run in finished)
        rows.write(item=f"{data}, seed {seed}: runs measured whole", value=complete, unit=f"of {len(RECIPES)}", **known)


def following(results: Path) -> tuple[str, int] | None:
    """The first (data set, seed) of which a run is missing; seed by seed, so that both data sets have one first."""
    for seed, data in itertools.product(SEEDS, DATA):
        if not all((results / f"{data}-{recipe}-{seed}" / "scores.jsonl").exists() for recipe in RECIPES):
            return data, seed
    return None


def committed_epochs(results: Path, data: str) -> list[int]:
    """Of the runs on that data set."""
    configs = [json.loads(path.read_text()) for path in sorted(results.glob(f"{data}-*/config.json"))]
    return [config["experiment"]["training"]["epochs"] for config in configs]


def write_study(path: Path, data: str, seed: int, epochs: int, small: bool) -> None:
    """The file for ``easybn study``: the paper's rows, in fewer epochs and in bf16."""
    fields: dict[str, Any] = {"epochs": epochs}
    if small:
        fields |= {"data": data, "model": "resnet_tiny", "train_images": 256, "batch_size": 32}
    else:
        fields |= {"data": DATA[data], "precision": "bf16"}
    base = "cifar10" if data.startswith("cifar10") else "fashion-mnist"
    runs = [{"name": f"{data}-{recipe}", "config": f"paper-{base}-resnet18-{recipe}", **fields} for recipe in RECIPES]
    study = {"name": "gpu", "runs": runs, "grid": {"seed": [seed]}, "evaluate": EVALUATE_SMALL if small else EVALUATE}
    path.write_text(yaml.safe_dump(study, sort_keys=False))


def _decoded(data: str) -> None:
    """Images in the cache, before three processes ask for them at once."""
    from easybn.data import load

    load(DATA.get(data, data))


def _epoch_seconds(study: Path, data: str, seed: int, small: bool, device: str) -> list[float]:
    """Of each recipe, all three on the card at once; 0 for one that failed."""
    names = [f"{data}-{recipe}-{seed}" for recipe in RECIPES]
    timing = ("0.2", "3") if small else ("8", "1000000")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "gpu.study", str(study), name, device, *timing],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=_environment(small),
        )
        for name in names
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    return [float(text.split()[-1]) if text.split() else 0.0 for text in told]


def estimate(study: str, name: str, device: str, seconds: str, most: str) -> float:
    """Seconds an epoch of one run of a study's file, from some steps of its very training."""
    from easybn.cli import study_file
    from easybn.runs.prepare import estimate as timed

    (planned,) = [run for run in study_file.read(Path(study)).runs if run.name == name]
    found = timed(planned.experiment, device, seconds=float(seconds), most=int(most))
    return found.step_seconds * found.steps  # of one epoch, as the file is written for this


def _run(study: Path, runs: Path, seconds: float, small: bool, device: str) -> None:
    """``easybn study``, stopped when the time is over; it says what it does in ``study.log`` of each run."""
    command = [sys.executable, "-m", "easybn", "study", str(study), "--out", str(runs), "--jobs", "3"]
    command += ["--device", device, "--checkpoint_seconds", "1000"]
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(small), start_new_session=True)
    try:
        process.wait(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # what was measured is among the scores; the rest is given up
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
    finally:
        if process.poll() is None:
            process.kill()


def _environment(small: bool) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    return os.environ | {"OMP_NUM_THREADS": "1" if small else str(max(1, cores // len(RECIPES)))}


def write_rows(run: Path, rows: Rows, known: dict[str, Any]) -> bool:
    """Write what was measured of a run; False, and why, if that is nothing."""
    from easybn.runs.run import Run

    made = Run(run)
    if not made.finished or not made.scores:
        failed = run / "failed.json"
        why = (
            json.loads(failed.read_text())["error"] if failed.exists() else f"stopped after {len(made.metrics)} epochs"
        )
        rows.write(item=f"{run.name}", value=None, unit="", note=f"not finished: {why}"[:300], run=run.name, **known)
        return False
    rate = sorted(row["images_per_second"] for row in made.metrics)[len(made.metrics) // 2]
    shared = {"run": run.name, "epochs": made.config["training"]["epochs"], **known}
    rows.write(item=f"{run.name}: training beside the two others", value=rate, unit="images/s", **shared)
    for score in made.scores:
        words = [score["attack"], score["protocol"], score["norm"]]
        eps = [] if score["eps"] is None else [f"{score['eps']:.4g}"]
        item = f"{run.name}: {' '.join([*filter(None, words), *eps])}"
        rows.write(item=item, value=100 * score["accuracy"], unit="%", points=score["n"], **shared)
    return True


def _evaluated(run: Path) -> list[Any]:
    path = run / "evaluated.json"
    return json.loads(path.read_text()) if path.exists() else []


def pack(runs: list[Path], target: Path) -> None:
    """The rows of finished runs as one archive; each says the commit it was made at, which git may not know there."""
    from easybn.json_files import read_json, write_json

    for run in runs:
        sessions = read_json(run / "environment.json")
        at = (commit() or "")[:12]
        write_json(run / "environment.json", [{**each, "commit": each["commit"] or at or None} for each in sessions])
    part = target.with_name(target.name + ".part")
    with tarfile.open(part, "w:gz") as archive:
        for run in runs:
            for name in KEPT:
                if (run / name).exists():
                    archive.add(run / name, f"{run.name}/{name}")
    part.replace(target)


if __name__ == "__main__":
    print(estimate(*sys.argv[1:]))
