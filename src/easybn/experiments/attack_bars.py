"""Live lines in the terminal: one for each attack, with the points that still stand and the time left."""

from rich.progress import Progress, TaskID


class AttackBars:
    """A progress callback; call it as :func:`easybn.evaluate` does.

    Args:
        display: a live rich display with :func:`easybn.train.progress.training_progress`'s columns.
        title: what stands before every line.
    """

    def __init__(self, display: Progress, title: str):
        self._display, self._title = display, title
        self._tasks: dict[str, TaskID] = {}
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
