"""Live lines in the terminal: one for each attack, with the points that still stand and the time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich import progress as bars


# How far a long preparation has come.


class Progress(Protocol):
    """What is called now and then while something is decoded or downloaded."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` images or bytes of ``what`` are through; total is None if unknown."""
        ...


def silent(what: str, done: int, total: int | None) -> None:
    """Show nothing."""


@contextmanager
def showing(progress: Progress | None) -> Iterator[Progress]:
    """``progress`` itself, or for None a bar on the terminal (nothing where stderr is no terminal)."""
    if progress is not None:
        yield progress
        return
    from .terminal import Terminal

    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield silent
        return
    from rich import progress as bars

    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), bars.TaskProgressColumn())
    with bars.Progress(*columns, bars.TimeRemainingColumn(), console=console) as display:
        tasks: dict[str, bars.TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = display.add_task(what, total=total)
            display.update(tasks[what], completed=done, total=total)

        yield show


class AttackBars:
    """A progress callback; call it as :func:`easybn.evaluate` does.

    Args:
        display: a live rich display with :func:`easybn.train.observers.training_progress`'s columns.
        title: what stands before every line.
    """

    def __init__(self, display: "bars.Progress", title: str):
        self._display, self._title = display, title
        self._tasks: dict[str, bars.TaskID] = {}
        self._now = ("", "")

    def __call__(self, done: int, total: int, what: str) -> None:
        attack, _, left = what.partition(", ")
        chunk = what.partition(", chunk ")[2]
        line = attack.partition(":")[0]  # of the diagnosis, whose checks share one
        if line not in self._tasks:
            self._tasks[line] = self._display.add_task(f"{self._title}: {line}", info="")
        elif (line, chunk) != self._now:
            self._display.reset(self._tasks[line])  # the time left is of this chunk
        self._now = (line, chunk)
        self._display.update(self._tasks[line], completed=done, total=total, info=left or attack[len(line) + 2 :])
