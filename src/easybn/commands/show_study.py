"""What a study would do, in the terminal: every run with what is there already, and what it costs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from ..experiments.over_seeds.layout import Cell, Line, Table
from ..experiments.over_seeds.terminal import show
from .train import duration

if TYPE_CHECKING:
    from ..experiments.study.cost import Cost
    from ..experiments.study.plan import Planned, Study

PETA = 1e15


def show_plan(console: Console, study: "Study", runs: "list[Planned]", out: Path, arguments: Namespace) -> None:
    """A row a run, the totals, and what they rest on."""
    import torch

    from ..experiments.study.cost import PEAK, SHARE, Cost, Costs
    from ..experiments.study.state import state

    costs, lines = Costs(), []
    total, left, unknown = Cost(), Cost(), 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more are in each other's way where nothing much is computed
    for run in runs:
        if run.code:
            lines.append(Line(run.name, [Cell(_there(out / run.name)), *(Cell("?") for _ in range(3))]))
            continue
        found, cost = state(run, out / run.name), costs(run)
        if cost is None:
            unknown += 1
            figures = ["?", "?", "?"]
        else:
            total += cost
            left += _left(cost, found.epoch / found.epochs, found.measured / found.evaluations)
            figures = [_figure(cost.training / PETA), _figure(cost.evaluation / PETA), _figure(cost.gpu_hours)]
        there = {"waiting": "nothing"}.get(found.kind, f"failed: {found.error}" if found.error else str(found))
        lines.append(Line(run.name, [Cell(text) for text in (there, *figures)]))
    torch.set_num_threads(threads)
    title, columns = f"{study.name}: {len(runs)} runs in {out}", ["there is", "training", "evaluation", "GPU-hours"]
    numeric = [False, True, True, True]
    show(Table(title, "run", columns, lines, "PFLOP; of the evaluation at most", numeric), console)
    console.print(f"measured of each: {'; '.join(map(str, runs[0].wanted))}")
    _line(console, "all", total)
    if left != total:
        _line(console, "left", left)
    if code := sorted({run.code for run in runs if run.code}):
        console.print(f"not in the sums, as --dry_run runs no code that a file names: {', '.join(code)}")
    if unknown:
        console.print(f"{unknown} runs are not in the sums: their images are not here")
    console.print(
        "Counted by torch (two operations a multiply-add) on a step of each recipe and a move of each attack; "
        "evaluation if no point falls, without the diagnosis."
    )
    console.print(
        f"GPU-hours are assumed, not measured: {SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s (the peak of an NVIDIA A100 in "
        "TF32)."
    )
    if arguments.estimate:
        _time_here(console, runs, arguments)


def _there(folder: Path) -> str:
    """Of a run whose recipe is not imported: what its folder alone says."""
    from ..experiments.run import Run

    return "a model" if Run(folder).finished else "a checkpoint" if Run(folder).begun else "nothing"


def _left(cost: "Cost", trained: float, evaluated: float) -> "Cost":
    return replace(cost, training=cost.training * (1 - trained), evaluation=cost.evaluation * (1 - evaluated))


def _line(console: Console, name: str, cost: "Cost") -> None:
    console.print(
        f"{name}: training {_figure(cost.training / PETA)} PFLOP, evaluation at most "
        f"{_figure(cost.evaluation / PETA)} PFLOP: {_figure(cost.gpu_hours)} GPU-hours"
    )


def _figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time_here(console: Console, runs: "list[Planned]", arguments: Namespace) -> None:
    """Trainings timed on this machine, one of each kind, and their sum."""
    from ..data import DataError
    from ..experiments.estimate import estimate
    from ..experiments.study.left import but_for_seed

    seconds: dict[str, float | None] = {}
    every = 0.0
    for run in (each for each in runs if not each.code):
        kind = but_for_seed(run.experiment).digest
        if kind not in seconds:
            try:
                seconds[kind] = estimate(run.experiment, arguments.device, seconds=3.0, most=20).seconds
                console.print(f"{run.name}: {duration(seconds[kind] or 0.0)} of training, measured")
            except DataError as error:
                seconds[kind] = None
                console.print(f"{run.name}: not timed: {error}")
        every += seconds[kind] or 0.0
    console.print(
        f"all that was timed: {duration(every)} of training on this machine as it is now, one after the other"
    )
