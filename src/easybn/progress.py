"""How far a long piece of work has come: one callback for data, attacks and whatever else takes its time, and its bars.

What takes long accepts a function ``on_progress(done, total, what)``. The commands give it :class:`ProgressBars` on one
live display of the terminal, :func:`progress_display`. rich is imported only where something is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID


class OnProgress(Protocol):
    """A function that long work calls now and then."""

    def __call__(self, done: int, total: int, what: str, /) -> object:
        """Take note of progress.

        Args:
            done, total: amount of work; total is 0 where it is not known.
            what: name of the work, such as ``fab-t linf 8/255``; after a comma, details that change while it is done,
                such as ``fab-t linf 8/255, 12 of 100 stand``.
        """
        ...


def silent(done: int, total: int, what: str, /) -> None:
    """Show nothing."""


def progress_display(*, stderr: bool = False, percent: bool = False) -> "Display":
    """A rich display with the columns that :class:`ProgressBars` fills; live inside a ``with`` block.

    On a narrow terminal words continue on the next line; nothing is cut off.

    Args:
        stderr: draw on stderr rather than stdout.
        percent: show the share that is done rather than the numbers.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    from .terminal import Terminal

    amount = TaskProgressColumn if percent else MofNCompleteColumn
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(bar_width=20),
        amount(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[info]}", markup=False, table_column=Column(overflow="fold")),
        console=Terminal(stderr=stderr),
    )


class ProgressBars:
    """An :class:`OnProgress` that draws bars; a bar appears with the first call about its work.

    Args:
        display: of :func:`progress_display`, already live.
        title: written before the name of each work.
        work: draw one bar of this name for all calls; by default one bar per name.
    """

    def __init__(self, display: "Display", title: str = "", work: str | None = None):
        self._display, self._title, self._work = display, title, work
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}

    def __call__(self, done: int, total: int, what: str, /) -> None:
        name, _, info = what.partition(", ") if self._work is None else (self._work, "", what)
        if name not in self._tasks:
            title = ": ".join(filter(None, (self._title, name)))
            self._tasks[name] = self._display.add_task(title, total=total or None, info="")
        elif done < self._done[name]:  # begun again, such as an attack on the next chunk of points
            self._display.reset(self._tasks[name])  # the time that remains is of this part
        self._done[name] = done
        self._display.update(self._tasks[name], completed=done, total=total or None, info=info)


@contextmanager
def shown(on_progress: OnProgress | None) -> Iterator[OnProgress]:
    """``on_progress`` itself; for None bars on stderr, or nothing where that is no terminal."""
    if on_progress is not None:
        yield on_progress
        return
    display = progress_display(stderr=True, percent=True)
    if not display.console.is_terminal:
        yield silent
        return
    with display:
        yield ProgressBars(display)
