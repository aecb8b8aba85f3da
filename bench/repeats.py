"""What changes a result, and by how much: the same training and evaluation again, with one thing otherwise each time.

    python bench/repeats.py [--points 100] [--only NAME ...]

A training (EBN, resnet_tiny, 320 images of the sample, 40 steps of 32) and an evaluation (apgd-ce and apgd-t at 8/255
on ``fashion-mnist-adversarial``), each in a process of its own with one thread. What is compared with the first of all:
weights after one step and in the end, the predictions of the trained model on 1,000 test images, and verdicts and
margins of every attempt. 0 means the same bits.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import easybn
from easybn import models
from easybn.data import load
from easybn.recipes import EBN
from easybn.runs.run import environment
from easybn.train.observers import Observer
from easybn.train.schedule import Training

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(frozen=True)
class Other:
    """What is otherwise.

    Args:
        environment: of the process.
        fit, training: arguments of :func:`easybn.fit` and of its ``Training``; None: not a thing of trainings.
        evaluate: arguments of :func:`easybn.evaluate`; None: not a thing of evaluations.
    """

    environment: dict[str, str] = field(default_factory=dict)
    fit: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] | None = None


EVERY = {
    "nothing": Other({}, {}, {}, {}),
    "the same again, other hashes": Other({"PYTHONHASHSEED": "7"}, {}, {}, {}),
    "2 threads": Other({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}, {}, {}, {}),
    "AVX2 instead of AVX-512": Other(AVX2, {}, {}, {}),
    "stopped and resumed": Other(fit={"stops": [1, 13, 27]}),
    "data_on_device": Other(fit={"data_on_device": True}),
    "channels_last off": Other(fit={}, training={"channels_last": False}),
    "compiled": Other(fit={}, training={"compile": True}, evaluate={"compile": True}),
    "bf16": Other(fit={}, training={"precision": "bf16"}, evaluate={"precision": "bf16"}),
    "batch of 16 (256)": Other(evaluate={"batch_size": 16}),
    "chunks of 7": Other(evaluate={"chunk": 7}),
    "chunks of 7 in 2 shards": Other(evaluate={"chunk": 7, "shards": 2}),
}


class StopAfter(Observer):
    def __init__(self, step: int) -> None:
        self.last = step

    def step(self, state: Any) -> None:
        if state.step == self.last:
            state.stop = True


def one(name: str, points: int, file: Path) -> None:
    """What ``name`` comes to, into a file."""
    other, found, source = EVERY[name], {}, load("sample")
    if other.fit is not None:
        for steps, images in ((1, 32), (40, 320)):
            found |= trained_for(other, source.train.images[:images], source.train.labels[:images], steps)
    if other.evaluate is not None:
        model = models.load(models.trained()["fashion-mnist-adversarial"])
        x, y = source.test.images[:points].float() / 255, source.test.labels[:points]
        with tempfile.TemporaryDirectory() as folder:
            how = dict(other.evaluate)
            for shard in range(how.pop("shards", 0)):
                easybn.evaluate(model, x, y, **HOW, **how, store=folder + "/s", shard=(shard, 2))
            result = easybn.evaluate(model, x, y, **HOW, **how, store=folder + "/s")
        order = np.lexsort((result.record.restart, result.record.target, result.record.attack, result.record.point))
        found["margins"] = torch.tensor(result.record.margin[order])
        (found["robust"],) = result.robust_at.values()
    torch.save(found, file)


HOW: dict[str, Any] = {"norm": "linf", "eps": "8/255", "attacks": ["apgd-ce", "apgd-t"], "diagnosis": False}


def trained_for(other: Other, x: torch.Tensor, y: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    how = dict(other.fit or {})
    stops = [step for step in how.pop("stops", []) if step < steps]
    torch.manual_seed(0)
    model = models.build("resnet_tiny", 10, 1)
    training = Training(**{"epochs": steps * 32 // len(x), "batch_size": 32, "lr": 0.05, **other.training})
    with tempfile.TemporaryDirectory() as folder:
        how |= {"device": "cpu", "checkpoint": Path(folder) / "checkpoint.pt"}
        for step in stops:
            easybn.fit(model, EBN(), (x, y), training, observers=[StopAfter(step)], **how)
        fitted = easybn.fit(model, EBN(), (x, y), training, **how)
    test = load("sample").test.images[:1000].float() / 255
    weights = [tensor.flatten() for tensor in fitted.model.state_dict().values() if tensor.is_floating_point()]
    with torch.no_grad():
        answers = torch.cat([fitted.model(part).argmax(1) for part in test.split(250)])
    return {f"weights {steps}": torch.cat(weights), f"answers {steps}": answers}


def compared(first: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    def largest(key: str) -> str:
        if key not in other:
            return ""
        if first[key].shape != other[key].shape:
            return "other attempts"
        a, b = first[key].nan_to_num(0), other[key].nan_to_num(0)
        difference = torch.where(a == b, 0, (a - b).abs()).max()  # the same infinities
        return f"{float(difference):.1e}" if difference else "0"

    def share(key: str) -> str:
        return f"{float((first[key] == other[key]).double().mean()):.1%}" if key in other else ""

    return [largest("weights 1"), largest("weights 40"), share("answers 40"), share("robust"), largest("margins")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=list(EVERY), default=list(EVERY))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], arguments.points, Path(arguments.one[1]))
        return
    about = environment()
    print(f"{about['processor']}, torch {torch.__version__}, {platform.system()}, {arguments.points} points\n")
    print("| otherwise | weights after 1 step | after 40 | same answers | same verdicts | margins |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    results: dict[str, dict[str, torch.Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(["nothing", *arguments.only]):
            file = Path(folder) / "found.pt"
            words = [sys.executable, __file__, "--points", str(arguments.points), "--one", name, str(file)]
            variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", **EVERY[name].environment}
            subprocess.run(words, env=variables, check=True)
            results[name] = torch.load(file, weights_only=True)
            if name != "nothing":
                print(f"| {name} | {' | '.join(compared(results['nothing'], results[name]))} |", flush=True)
    print(json.dumps({name: int(found["robust"].sum()) for name, found in results.items() if "robust" in found}))


if __name__ == "__main__":
    main()
