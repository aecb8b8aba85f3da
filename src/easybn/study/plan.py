"""What a study is asked to do: runs by name, and what is measured of every one."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from ..perturb.eps import format_eps
from ..runs.config import Experiment, describe
from ..runs.evaluate import Attacks, Measurement


@dataclass(frozen=True)
class Wanted:
    """One evaluation of a finished run.

    Args:
        what: clean accuracy and PGD, or attacks with stored verdicts.
        branch: of the run; the deployed one by default.
    """

    what: Measurement | Attacks
    branch: str | None = None

    @property
    def description(self) -> dict[str, Any]:
        """All that changes the rows it gives, as JSON can hold it: the fields that are not at their defaults.

        So a field that is added one day does not make every evaluation another one.
        """
        what = replace(self.what, device=None)
        said = {f.name: describe(getattr(what, f.name)) for f in fields(what) if getattr(what, f.name) != f.default}
        return {"class": type(what).__name__, **said} | ({} if self.branch is None else {"branch": self.branch})

    @cached_property
    def digest(self) -> str:
        """Eight hexadecimal digits of the description."""
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def __str__(self) -> str:
        what = self.what
        names = what.attacks if isinstance(what, Attacks) else ("pgd",) if what.protocols else ("clean",)
        radii = [format_eps(eps, what.norm) for eps in what.eps] if names != ("clean",) else []
        branch = [] if self.branch is None else [f"branch {self.branch}"]
        return " ".join(["+".join(names), *([what.norm, *radii] if radii else []), *branch])


CLEAN = Wanted(Measurement(protocols=()))
"""Accuracy on the whole test split."""


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Args:
        name: of its folder, the seed included.
        experiment: what is trained.
        wanted: what is measured of it, in order.
        code: FILE.py:CLASS of its recipe if that was not imported: it can be listed, and not be trained.
    """

    name: str
    experiment: Experiment
    wanted: tuple[Wanted, ...] = (CLEAN,)
    code: str | None = None


@dataclass(frozen=True)
class Study:
    """Runs that are made, measured and compared together.

    Args:
        name: of the folder of their folders.
        runs: in the order in which they are begun.

    Raises:
        ValueError: no run, or two of one name.
    """

    name: str
    runs: tuple[Planned, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError(f"the study {self.name} has no runs")
        counts = Counter(run.name for run in self.runs)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{counts[twice[0]]} runs of the study {self.name} are called {twice[0]}: name them apart")
