"""How far a long preparation has come."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


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
    from ..terminal import Terminal

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
