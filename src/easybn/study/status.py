"""The status of every run: a live table in a terminal, else a line whenever something changes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console
from rich.live import Live

from ..runs.config import Experiment
from ..tables.table import Cell, Fitted, Line, Table
from .execute import Progress, Watch
from .plan import Planned
from .state import State

# The time that runs still need, by the speed of the epochs and evaluations that are done; none is guessed.


class Left:
    """Call it with the progress of a study's runs.

    A run's own epochs tell its speed, else those of runs that differ in the seed alone. What an evaluation takes is
    told by the same one of another run of the same network and data.

    Args:
        runs: of the study.
        jobs: how many are done at a time.
    """

    def __init__(self, runs: Sequence[Planned], jobs: int):
        self._runs, self._jobs = runs, max(1, jobs)
        self._kind = {run.name: but_for_seed(run.experiment).digest for run in runs}

    def __call__(self, progress: Progress) -> dict[str, float | None]:
        """Seconds by name of a run, and of all under ""; None where nothing like it was measured."""
        epoch: dict[str, list[float]] = {}
        evaluation: dict[tuple[str, str, str], list[float]] = {}
        for run in self._runs:
            state = progress.states[run.name]
            if state.epoch:
                epoch.setdefault(self._kind[run.name], []).append(state.trained_seconds / state.epoch)
            for digest, seconds in state.evaluation_seconds.items():
                evaluation.setdefault((run.experiment.data, run.experiment.model, digest), []).append(seconds)
        out: dict[str, float | None] = {}
        for run in self._runs:
            state = progress.states[run.name]
            if state.kind in ("done", "failed"):
                out[run.name] = 0.0
                continue
            own = [state.trained_seconds / state.epoch] if state.epoch else epoch.get(self._kind[run.name], [])
            parts = [_mean(own, state.epochs - state.epoch)]
            for wanted in run.wanted:
                if wanted.digest not in state.evaluation_seconds:
                    key = (run.experiment.data, run.experiment.model, wanted.digest)
                    parts.append(_mean(evaluation.get(key, []), 1))
            known = [part for part in parts if part is not None]
            out[run.name] = sum(known) if len(known) == len(parts) else None
        every = [seconds for seconds in out.values() if seconds is not None]
        out[""] = sum(every) / self._jobs if len(every) == len(out) else None
        return out


def _mean(seconds: Sequence[float], times: int) -> float | None:
    if not times:
        return 0.0
    return times * sum(seconds) / len(seconds) if seconds else None


def but_for_seed(experiment: Experiment) -> Experiment:
    """The same whatever the seed."""
    return replace(experiment, training=replace(experiment.training, seed=0))


COLOURS = {"done": "green", "failed": "red", "training": "cyan", "evaluating": "cyan", "waiting": "dim"}
DO = {"training": "stopped at ", "evaluating": "stopped at "}


@contextmanager
def watching(console: Console, left: Left) -> Iterator[Watch]:
    """Gives what :func:`~.execute.execute` calls.

    Args:
        left: tells the time that a run still needs.
    """
    if not console.is_terminal:
        yield Lines(console, left)
        return
    with Live(console=console, refresh_per_second=2, vertical_overflow="crop") as live:
        # the runs under way are seen even where the terminal is lower than the table
        yield lambda progress: live.update(table(progress, left, most=max(5, console.height - 6)))


@dataclass
class Lines:
    """Prints what has changed since the last call."""

    console: Console
    left: Left

    def __post_init__(self) -> None:
        self._told: dict[str, str] = {}
        self._began = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        for name, state in progress.states.items():
            text = words(name, state, progress)
            before = self._told.get(name)
            self._told[name] = text
            if text == before or (before is None and state.kind == "waiting" and name not in progress.here):
                continue
            if before is None and state.kind == "done":  # it was done before this session
                continue
            minutes = f", {state.seconds / 60:.1f} min" if state.seconds else ""
            clean = "" if state.clean is None else f", clean {state.clean:.2%}"
            line = f"{time.strftime('%H:%M:%S')} {name}: {text}{minutes}{clean}"
            self.console.print(line + f": {state.error}" * bool(state.error))


def words(name: str, state: State, progress: Progress) -> str:
    """How a run stands, and who is at it."""
    if name in progress.elsewhere:
        return f"busy elsewhere ({state})"
    if state.kind in DO and name not in progress.here:
        return f"{DO[state.kind]}{state}"
    if state.kind == "waiting" and name in progress.here:
        return "begun"
    return str(state)


def table(progress: Progress, left: Left, most: int | None = None) -> Fitted:
    """A row a run, and a line on all of them.

    Args:
        most: rows at most; those under way first, then failures, then what is done last and comes next.
    """
    states = progress.states
    shown = list(states)
    if most is not None and len(shown) > most:
        shown = _foremost(progress, most)
    needed = left(progress)
    lines = []
    for name in shown:
        state = states[name]
        colour = "yellow" if name in progress.elsewhere else COLOURS[state.kind]
        text = words(name, state, progress) + (f", {state.warnings} warnings" if state.warnings else "")
        figures = [
            f"{state.seconds / 60:.1f}" if state.seconds else "",
            "" if state.kind in ("done", "failed") else minutes(needed[name]),
            "" if state.clean is None else f"{100 * state.clean:.2f}",
        ]
        lines.append(Line(name, [Cell(text, style=colour), *map(Cell, figures)]))
    columns = ["status", "minutes", "left", "clean"]
    return Fitted(Table("", "run", columns, lines, summary(progress, needed[""]), [False, True, True, True]))


def _foremost(progress: Progress, most: int) -> list[str]:
    states = progress.states
    order: list[Callable[[str], bool]] = [
        lambda name: name in progress.here,
        lambda name: name in progress.elsewhere,
        lambda name: states[name].kind == "failed",
        lambda name: states[name].kind != "done",
    ]
    rank = {name: next((i for i, holds in enumerate(order) if holds(name)), len(order)) for name in states}
    kept = sorted(states, key=lambda name: rank[name])[:most]
    return [name for name in states if name in set(kept)]


def summary(progress: Progress, seconds: float | None) -> str:
    """``12 of 33 done, 2 under way, 1 failed; 3.2 hours left``."""
    states = progress.states.values()
    done, failed = (sum(state.kind == kind for state in states) for kind in ("done", "failed"))
    parts = [f"{done} of {len(states)} done"]
    parts += [f"{len(progress.here)} under way"] if progress.here else []
    parts += [f"{len(progress.elsewhere)} busy elsewhere"] if progress.elsewhere else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts) + (f"; about {minutes(seconds)} min left" if seconds else "")


def minutes(seconds: float | None) -> str:
    """Of a run's or a study's time left; "?" where nothing like it was measured yet."""
    return "?" if seconds is None else f"{seconds / 60:,.0f}" if seconds >= 600 else f"{seconds / 60:.1f}"
