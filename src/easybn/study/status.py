"""The status of a study on the terminal: a live table, or, where stdout is no terminal, a line for every change."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .state import LOG, Expected, State, StudyStatus, at_work, read_state

if TYPE_CHECKING:
    from rich.console import Console

    from ..tables.formats import Fitted

OnStatus = Callable[[StudyStatus], object]

COLOURS = {"done": "green", "failed": "red", "training": "cyan", "evaluating": "cyan", "waiting": "dim"}
COLUMNS = ["status", "minutes", "remaining", "clean"]


class RemainingTime:
    """Estimates the time that runs still need from epochs and evaluations that are done; nothing is guessed.

    The speed of a run is that of its own epochs, else the mean of runs that differ only in the seed. An evaluation
    takes as long as the same evaluation of other runs with the same network and data.

    Args:
        runs: all runs of the study.
        jobs: number of runs at a time.
    """

    def __init__(self, runs: Sequence[Expected], jobs: int):
        self._runs, self._jobs = runs, max(1, jobs)

    def __call__(self, status: StudyStatus) -> dict[str, float | None]:
        """Seconds by name of a run, and for the whole study under ""; None where nothing comparable was measured."""
        epoch: dict[str, list[float]] = {}
        evaluation: dict[tuple[str, str, str], list[float]] = {}
        for run in self._runs:
            state = status.states[run.name]
            if state.epoch:
                epoch.setdefault(run.kind, []).append(state.trained_seconds / state.epoch)
            for digest, seconds in state.evaluation_seconds.items():
                evaluation.setdefault((run.experiment["data"], run.experiment["model"], digest), []).append(seconds)
        eta: dict[str, float | None] = {}
        for run in self._runs:
            state = status.states[run.name]
            if state.ended:
                eta[run.name] = 0.0
                continue
            own = [state.trained_seconds / state.epoch] if state.epoch else epoch.get(run.kind, [])
            parts = [_mean(own, state.epochs - state.epoch)]
            for config in run.evaluations:
                if config.digest not in state.evaluation_seconds:
                    key = (run.experiment["data"], run.experiment["model"], config.digest)
                    parts.append(_mean(evaluation.get(key, []), 1))
            known = [part for part in parts if part is not None]
            eta[run.name] = sum(known) if len(known) == len(parts) else None
        known = [seconds for seconds in eta.values() if seconds is not None]
        eta[""] = sum(known) / self._jobs if len(known) == len(eta) else None
        return eta


def _mean(seconds: Sequence[float], times: int) -> float | None:
    if not times:
        return 0.0
    return times * sum(seconds) / len(seconds) if seconds else None


@contextmanager
def live_status(console: "Console", remaining: RemainingTime) -> Iterator[OnStatus]:
    """What :func:`.execute.parallel` calls to show the status on ``console``."""
    if not console.is_terminal:
        yield StatusLines(console)
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=2, vertical_overflow="crop") as live:
        # a terminal lower than the table still shows the runs under way
        yield lambda status: live.update(status_table(status, remaining(status), most=max(5, console.height - 6)))


@dataclass
class StatusLines:
    """Prints a line for each run whose status has changed since the last call."""

    console: "Console"
    _shown: dict[str, str] = field(default_factory=dict)

    def __call__(self, status: StudyStatus) -> None:
        for name, state in status.states.items():
            text = describe(name, state, status)
            before = self._shown.get(name)
            self._shown[name] = text
            if text == before or (before is None and state.kind == "waiting" and name not in status.here):
                continue
            if before is None and state.kind == "done":  # done before this command began
                continue
            time_spent = f", {state.seconds / 60:.1f} min" if state.seconds else ""
            clean = "" if state.clean is None else f", clean {state.clean:.2%}"
            line = f"{time.strftime('%H:%M:%S')} {name}: {text}{time_spent}{clean}"
            self.console.print(line + f": {state.error}" * bool(state.error))


def describe(name: str, state: State, status: StudyStatus) -> str:
    """The state of a run in words, and whether another process is working on it."""
    text = str(state)
    if name in status.elsewhere:
        text = f"busy elsewhere ({state})"
    elif state.kind in ("training", "evaluating") and name not in status.here:
        text = f"stopped at {state}"
    elif state.kind == "waiting" and name in status.here:
        text = "started"
    if not state.retried:
        return text
    return f"{text}, again and alone, because it ran out of memory beside others"


def status_table(status: StudyStatus, eta: dict[str, float | None], most: int | None = None) -> "Fitted":
    """A table with one row per run, and a summary line below it.

    Args:
        eta: of :class:`RemainingTime`.
        most: rows at most: first runs under way, then failures, then the latest that are done and the next ones.
    """
    from ..tables.formats import Fitted
    from ..tables.table import Cell, Table, TableRow

    lines = []
    for name in _foremost(status, most):
        state = status.states[name]
        colour = "yellow" if name in status.elsewhere else COLOURS[state.kind]
        text = describe(name, state, status) + (f", {state.warnings} warnings" if state.warnings else "")
        figures = [
            f"{state.seconds / 60:.1f}" if state.seconds else "",
            "" if state.ended else minutes(eta[name]),
            "" if state.clean is None else f"{100 * state.clean:.2f}",
        ]
        lines.append(TableRow(name, [Cell(text, style=colour), *map(Cell, figures)]))
    return Fitted(Table("", "run", COLUMNS, lines, summary(status, eta[""]), [False, True, True, True]))


def _foremost(status: StudyStatus, most: int | None) -> list[str]:
    """Names of the ``most`` runs of most interest, in the order of the study."""
    states = status.states
    if most is None or len(states) <= most:
        return list(states)
    order: list[Callable[[str], bool]] = [
        lambda name: name in status.here,
        lambda name: name in status.elsewhere,
        lambda name: states[name].kind == "failed",
        lambda name: states[name].kind != "done",
    ]
    rank = {name: next((i for i, holds in enumerate(order) if holds(name)), len(order)) for name in states}
    kept = set(sorted(states, key=lambda name: rank[name])[:most])
    return [name for name in states if name in kept]


def overview(runs: Sequence[Expected], out: Path) -> list[str]:
    """How a study stands, in lines: a summary, then what is under way and where, what failed and why, what is stopped.

    Weights are not read for it, see :func:`.state.read_state`.

    Args:
        runs: of the study.
        out: folder of their folders.
    """
    states = {run.name: read_state(run, out / run.name) for run in runs}
    workers = {name: worker for name, state in states.items() if (worker := at_work(out / name))}
    status = StudyStatus(states, here=set(workers))
    eta = RemainingTime(runs, len(workers))(status)
    unknown = any(not state.ended for state in states.values()) and eta[""] is None
    lines = [f"{out}: {summary(status, eta[''])}" + "; time remaining not known yet" * unknown]
    lines += ["under way:"] * bool(workers)
    for name, worker in workers.items():
        remaining = f", about {minutes(eta[name])} min remaining" if eta[name] else ""
        lines.append(f"  {name}: {describe(name, states[name], status)}{remaining}: {worker}")
    reasons: dict[str, list[str]] = {}
    for name, state in states.items():
        if state.kind == "failed" and name not in workers:
            reasons.setdefault(state.error, []).append(name)
    lines += ["failed:"] * bool(reasons)
    lines += [f"  {_some(names)}: {error}" for error, names in reasons.items()]
    if reasons:
        lines.append(f"  (the log of a run is its {LOG}; --retry tries failed runs again)")
    stopped: dict[str, list[str]] = {}
    for name, state in states.items():
        if name not in workers and not state.ended and (state.kind != "waiting" or state.retried):
            stopped.setdefault(describe(name, state, status), []).append(name)
    lines += ["not under way:"] * bool(stopped)
    lines += [f"  {_some(names)}: {text}" for text, names in stopped.items()]
    if any(state.kind == "done" for state in states.values()):
        lines.append("Weights were not read for this, and no checksums tested: --dry_run verifies what is done.")
    return lines


def _some(names: Sequence[str], most: int = 8) -> str:
    """``a, b and 12 more``."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def summary(status: StudyStatus, seconds: float | None) -> str:
    """``12 of 33 done, 2 under way, 1 failed; about 190 min remaining``."""
    states = status.states.values()
    done, failed = (sum(state.kind == kind for state in states) for kind in ("done", "failed"))
    parts = [f"{done} of {len(states)} done"]
    parts += [f"{len(status.here)} under way"] if status.here else []
    parts += [f"{len(status.elsewhere)} busy elsewhere"] if status.elsewhere else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts) + (f"; about {minutes(seconds)} min remaining" if seconds else "")


def minutes(seconds: float | None) -> str:
    """Seconds as minutes; "?" where nothing comparable was measured yet."""
    return "?" if seconds is None else f"{seconds / 60:,.0f}" if seconds >= 600 else f"{seconds / 60:.1f}"
