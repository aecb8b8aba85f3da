"""The kinds of rounds of bench/soak.py: the same work undisturbed and with kills, compared bit for bit.

A round of the soak does one of each kind, with the recipe that is its turn. A kind is a function that takes the
:class:`Round`, reports what differs by ``round.mismatch`` and counts by ``round.count``.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import easybn
from easybn.data import load
from easybn.evaluation.record import Record
from easybn.evaluation.store import Store
from easybn.json_files import digest, read_json, write_json
from easybn.models import build
from easybn.recipes import RECIPES
from easybn.runs.run import Run
from easybn.train import checkpoint
from easybn.train.schedule import Training

TRAIN = (
    "train", "--train_images", "160", "--epochs", "4", "--batch_size", "16", "--lr", "0.05", "--augment", "crop_flip",
    "--clip_norm", "5", "--device", "cpu", "--checkpoint_seconds",
)  # fmt: skip
EVALUATE = (
    "--attacks", "autoattack", "--norm", "linf", "--eps", "8/255", "--points", "6", "--chunk", "3", "--keep_images",
)  # fmt: skip
SLOW = 1800.0  # seconds after which a process counts as hung
CHANGING = {"seconds", "images_per_second"}  # keys of rows that no two runs share


@dataclass
class Round:
    """One round.

    Args:
        number: of the round, from 0.
        root: the folder of the soak; everything lies below it.
        kills: how often a piece of work is killed, at most.
        counts: what happened: kills, of which while something was written, half-written files left, ...
        mismatches: what was not as it is undisturbed, a line each. There must be none.
    """

    number: int
    root: Path
    kills: int
    counts: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> str:
        return list(RECIPES)[self.number % len(RECIPES)]

    @property
    def folder(self) -> Path:
        """Where this round works; removed after it."""
        return self.root / "round"

    def draw(self, purpose: str) -> random.Random:
        """Random numbers that depend on the round and the purpose alone."""
        return random.Random(f"{self.number} {purpose}")

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def mismatch(self, what: str) -> None:
        self.mismatches.append(f"round {self.number}, {self.recipe}: {what}")

    def start(self, command: Sequence[str], log: str) -> "subprocess.Popen[bytes]":
        """A process in a group of its own; what it prints goes to the end of a file."""
        with (self.root / f"{log}.log").open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)

    def run(self, command: Sequence[str], log: str) -> float:
        """Run to the end; the seconds that it took."""
        began = time.perf_counter()
        self.end([self.start(command, log)], log)
        return time.perf_counter() - began

    def end(self, processes: Sequence["subprocess.Popen[bytes]"], log: str, killed: bool = False) -> None:
        """Wait for processes, which must end well, or by our kill where they were killed."""
        for process in processes:
            try:
                status = process.wait(SLOW)
            except subprocess.TimeoutExpired:
                kill(process)
                self.mismatch(f"{log}: a process hung")
                continue
            if status != 0 and not (killed and status == -signal.SIGKILL):
                self.mismatch(f"{log}: status {status}: {tail(self.root / f'{log}.log')}")


def easybn_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "easybn", *words]


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it has started, as ``kill -9`` does."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]


def parts(folder: Path) -> list[Path]:
    """Files and folders that are half written, or were when their process was killed."""
    return list(folder.rglob(".*.easybn-part"))


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def newest(folder: Path) -> int:
    """When something was last written there, in ns."""
    latest = 0
    for path in folder.rglob("*"):
        try:
            latest = max(latest, path.lstat().st_mtime_ns)
        except OSError:  # renamed meanwhile
            continue
    return latest


def wait(reached: Callable[[], bool], processes: Sequence["subprocess.Popen[bytes]"]) -> bool:
    """Whether it was reached before all of the processes had ended."""
    deadline = time.monotonic() + SLOW
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        if reached():
            return True
        time.sleep(0.001)
    return False


def wait_seconds(seconds: float, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    until = time.monotonic() + seconds
    wait(lambda: time.monotonic() >= until, processes)


def wait_writes(number: int, folder: Path, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Until something was written for the ``number``-th time; of writes that follow closely one may be seen."""
    for _ in range(number):
        before = newest(folder)
        wait(lambda before=before: newest(folder) > before, processes)  # type: ignore[misc]


def wait_moment(
    draw: random.Random, folder: Path, seconds: float, processes: Sequence["subprocess.Popen[bytes]"]
) -> None:
    """Wait for a moment to kill at: anywhere in the time that the work takes; or soon after something was written for
    the n-th time; or the next one after that at which a file is half written.

    Args:
        folder: where they write.
        seconds: what they take undisturbed.
    """
    kind, share, writes = draw.choice(("any", "working", "writing")), draw.random(), draw.randint(1, 5)
    if kind == "any":
        wait_seconds(0.6 * seconds * share, processes)
    else:
        wait_writes(writes, folder, processes)
        wait_seconds(0.5 * share, processes)
    if kind == "writing":
        wait(lambda: bool(parts(folder)), processes)


def disturb(round: Round, commands: Sequence[Sequence[str]], log: str, folder: Path, seconds: float) -> None:
    """Start ``commands`` together and kill them, again and again, see :func:`wait_moment`."""
    draw = round.draw(log)
    for _ in range(round.kills):
        processes = [round.start(command, log) for command in commands]
        draw.shuffle(processes)
        wait_moment(draw, folder, seconds, processes)
        for process in processes:  # one of several goes first, and the others go on without it for a while
            if process.poll() is None:
                kill(process)
                round.count(f"kills of {log}")
                wait_seconds(draw.choice((0.0, 0.3 * seconds * draw.random())), processes)
        round.end(processes, log, killed=True)
        if left := len(parts(folder)):
            round.count("half-written files found after kills", left)
        if any(process.returncode == 0 for process in processes):
            return  # it was faster than the kills


def made_once(round: Round, name: str, make: Callable[[Path], dict[str, float]]) -> tuple[Path, dict[str, float]]:
    """A folder of work that nothing disturbed, made once, and the seconds that its parts took."""
    folder = round.root / "undisturbed" / name
    done = folder.with_name(f"{name}.json")
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_json(done, make(folder))
    return folder, read_json(done)


def trained(round: Round) -> tuple[Path, dict[str, float]]:
    """An undisturbed run of the round's recipe, and its evaluation."""

    def make(folder: Path) -> dict[str, float]:
        log = "undisturbed"
        training = round.run(easybn_command(*TRAIN, "1e9", "--recipe", round.recipe, "--out", str(folder)), log)
        return {
            "training": training,
            "evaluation": round.run(easybn_command("evaluate", str(folder), *EVALUATE), log),
        }

    return made_once(round, round.recipe, make)


def training(round: Round) -> None:
    """A training is killed, then run to its end."""
    whole, seconds = trained(round)
    run = round.folder / "training"
    command = easybn_command(*TRAIN, "0", "--recipe", round.recipe, "--out", str(run))
    disturb(round, [command], "training", run, seconds["training"])
    round.run(command, "training")
    compare_runs(round, whole, run)


def compare_runs(round: Round, whole: Path, run: Path) -> None:
    try:
        Run(run).check_complete()
        a, b = checkpoint.load(whole / "checkpoint.pt"), checkpoint.load(run / "checkpoint.pt")
    except (OSError, ValueError) as error:
        round.mismatch(f"training: {error}")
        return
    if (whole / "model.safetensors").read_bytes() != (run / "model.safetensors").read_bytes():
        round.mismatch("training: model.safetensors differs")
    if a.step != b.step or any(not torch.equal(tensor, b.model[name]) for name, tensor in a.model.items()):
        round.mismatch("training: weights of the checkpoint differ")
    if rows(Run(whole).metrics) != rows(Run(run).metrics):
        round.mismatch("training: metrics.jsonl differs")
    names = [
        {name for name in files(folder) if not name.startswith(("verdicts/", "scores"))} for folder in (whole, run)
    ]
    if names[0] != names[1]:
        round.mismatch(f"training: other files: {sorted(names[0] ^ names[1])}")


def evaluation(round: Round) -> None:
    """An evaluation is killed, then finished; every other round by two processes on one store."""
    whole, seconds = trained(round)
    run, processes = round.folder / "evaluation", 1 + round.number % 2
    log = "evaluation" if processes == 1 else "evaluation by two"
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("verdicts", "scores.jsonl"))
    commands = [easybn_command("evaluate", str(run), *EVALUATE)] * processes
    disturb(round, commands, log, run, seconds["evaluation"])
    round.end([round.start(command, log) for command in commands], log)
    (store,) = (run / "verdicts").iterdir()
    round.run(easybn_command("verify", str(store)), log)
    there = whole / "verdicts" / store.name
    alone, resumed = Store.existing(there), Store.existing(store)
    if not same_record(alone.record, resumed.record):
        round.mismatch(f"{log}: attempts differ")
    if broken(alone) != broken(resumed):
        round.mismatch(f"{log}: verdicts differ")
    a, b = files(whole), files(run)
    if a.keys() != b.keys():
        round.mismatch(f"{log}: other files: {sorted(a.keys() ^ b.keys())}")
    for name in a.keys() & b.keys():
        if name.startswith("verdicts/") and "/images/" in name and a[name].read_bytes() != b[name].read_bytes():
            round.mismatch(f"{log}: {name} differs")
    if rows(Run(whole).scores) != rows(Run(run).scores):
        round.mismatch(f"{log}: scores.jsonl differs")


def distributed(round: Round) -> None:
    """A training by two processes under torchrun: one of them is killed, or all, then it is run to its end."""

    def make(folder: Path) -> dict[str, float]:
        return {
            "training": round.run(two(*TRAIN, "1e9", "--recipe", round.recipe, "--out", str(folder)), "undisturbed")
        }

    whole, seconds = made_once(round, f"{round.recipe}-two", make)
    run, log = round.folder / "distributed", "training by two"
    command, draw = two(*TRAIN, "0", "--recipe", round.recipe, "--out", str(run)), round.draw(log)
    for _ in range(round.kills):
        launcher = round.start(command, log)
        wait_moment(draw, run, seconds["training"], [launcher])
        ranks = descendants(launcher.pid)
        if launcher.poll() is not None or len(ranks) < 2:
            kill_all([launcher.pid, *descendants(launcher.pid)])
            round.count("kills of the launcher before its processes" if launcher.wait(SLOW) else "too late to kill")
        elif draw.random() < 0.5:
            kill_all([launcher.pid, *ranks])
            round.count(f"kills of {log}, both")
        else:
            kill_all([draw.choice(ranks)])
            round.count(f"kills of {log}, one of them")
            began = time.perf_counter()
            if launcher.wait(SLOW) == 0:
                round.mismatch(f"{log}: one process was killed and the launcher ended well")
            round.counts["seconds until the others had stopped, at most"] = max(
                round.counts["seconds until the others had stopped, at most"], math.ceil(time.perf_counter() - began)
            )
        launcher.wait(SLOW)
        if not wait_until(lambda ranks=ranks: not alive(ranks), 60):  # type: ignore[misc]
            round.mismatch(f"{log}: processes are left: {alive(ranks)}")
            kill_all(ranks)
        if left := len(parts(run)):
            round.count("half-written files found after kills", left)
    round.run(command, log)
    compare_runs(round, whole, run)
    for folder in Path(tempfile.gettempdir()).glob("torchelastic_*"):  # torchrun's own, which it leaves there
        shutil.rmtree(folder)
        round.count("temporary folders of torchrun's own, removed")


def two(*words: str) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "easybn", *words,
    ]  # fmt: skip


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs; Linux's /proc."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in path.read_text().split()]
        except OSError:  # ended meanwhile
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def kill_all(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def alive(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def wait_until(reached: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def here(round: Round) -> None:
    """The same in this process, which lives as long as the soak: what it does not give back adds up."""
    split, test = images()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        fitted = easybn.fit(
            build("resnet_tiny", 10, 1), RECIPES[round.recipe](), split, Training(epochs=2, batch_size=16, lr=0.05),
            checkpoint=folder / "checkpoint.pt", checkpoint_seconds=0, device="cpu",
        )  # fmt: skip
        result = easybn.evaluate(
            fitted.model, *test, norm="linf", eps="8/255", attacks="autoattack", store=folder / "store", chunk=2,
            keep_images=True,
        )  # fmt: skip
        weights = digest(*(tensor.numpy().tobytes() for tensor in fitted.model.state_dict().values()))
        verdicts = digest(*(json.dumps(column.tolist()).encode() for column in result.record.columns.values()))
    now = {"weights": weights, "verdicts": verdicts}
    first = round.root / "undisturbed" / f"{round.recipe}.here.json"
    if not first.exists():
        write_json(first, now)
    elif read_json(first) != now:
        round.mismatch(f"in one process: {read_json(first)} at first, {now} now")


def images() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """160 training images as bytes, and 4 test images in [0, 1]."""
    source = load("sample")
    train, test = source.train, source.test
    return (train.images[:160], train.labels[:160]), (test.images[:4].float() / 255, test.labels[:4])


def rows(found: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key not in CHANGING} for row in found]


def broken(store: Store) -> dict[float, list[int]]:
    return {eps: stages.tolist() for eps, stages in store.verdicts().broken_at.items()}


def same_record(a: Record, b: Record) -> bool:
    return all(np.array_equal(a.columns[name], b.columns[name], equal_nan=name == "margin") for name in a.columns)


KINDS: dict[str, Callable[[Round], None]] = {
    "training": training, "evaluation": evaluation, "distributed": distributed, "here": here,
}  # fmt: skip
