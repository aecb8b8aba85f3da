"""What an instrument is: one class that measures what a trained network is like, beside its accuracy.

An instrument says what it is called, how it is drawn and how to read it in class variables; its fields are its
configuration, plain values that go into the rows. :meth:`Instrument.measure` is given a :class:`Subject`, the network
with its test images, and returns values with their intervals. All else is done elsewhere: :mod:`easybn.runs.analyse`
keeps rows, ``easybn analyse`` prints them, the report draws them. A class in a file of this folder is found by
:mod:`.registry`; no other file lists it. tests/metrics/test_contract.py checks all of them.

This module and the files of instruments are imported for ``easybn report``: what is heavy (scipy.stats) is imported
where it is used.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..data.split import Split
from ..norm.convert import branches_of, strip
from ..progress import OnProgress, silent

MAIN = "main"
"""The series of the deployed branch, which is not named where nothing else is shown."""


class Measured(NamedTuple):
    """One value.

    Args:
        measure: what was measured, such as "effective_rank": a key of the instrument's plots.
        series: which of several curves it belongs to: a branch, a kind of images, a direction, a norm; "" for one.
        place: where: a layer, a target, a decile.
        depth: its place along the x axis: 0 for the image, then 1, 2, ... for layers; of others a number that orders.
        n: number of images that it comes from; 0 for what needs none, such as weights.
        value: finite.
        low, high: the ends of its 95% interval, around ``value``; None where it is exact.
        detail: plain values that a reader may want to know, such as how many fits were degenerate.
    """

    measure: str
    series: str
    place: str
    depth: float
    n: int
    value: float
    low: float | None = None
    high: float | None = None
    detail: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Plot:
    """How one measure is drawn and tabulated: value with interval over depth or place, a curve per recipe.

    Args:
        measure: of the values that it shows.
        title: above it, with the unit.
        x, y: names of the axes.
        series: the only series that it shows; None for all.
        together: all series in one panel, each a curve of its own, such as the branches; else each has its panel.
        percent: values are shares, shown times 100.
        log: the y axis is logarithmic.
        from_zero: the y axis begins at 0; else where the values begin.
        joined: values are joined to a curve over depth; else each is a dot with its interval over its place.
        folded: shown under a heading to unfold, and not printed in the terminal: for what is not the main point.
    """

    measure: str
    title: str
    x: str = "layer, from the input on"
    y: str = ""
    series: str | None = None
    together: bool = False
    percent: bool = False
    log: bool = False
    from_zero: bool = True
    joined: bool = True
    folded: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and the test images that it is measured on.

    Args:
        model: the plain network, from images in [0, 1] to logits, in eval mode.
        split: the images.
        ids: (n,) int64, ascending: the images of ``split`` to use.
        classes: number of classes of the labels.
        branch: whose plain network ``model`` is; "main" for the deployed one.
        branched: the converted network with all its branches, in eval mode, if there is one (a checkpoint).
        seed: of all random numbers that an instrument needs: ``Noise.of(subject.seed, "purpose", ids)``.
        batch_size: images per pass; must not change results but for rounding.
    """

    model: nn.Module
    split: Split
    ids: Tensor
    classes: int
    branch: str = "main"
    branched: nn.Module | None = None
    seed: int = 0
    batch_size: int = 100

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @cached_property
    def models(self) -> dict[str, nn.Module]:
        """The plain network of each branch, the deployed one first; ``model`` alone where there is no checkpoint."""
        if self.branched is None:
            return {self.branch: self.model}
        return {name: strip(self.branched, name).eval() for name in branches_of(self.branched)}

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(ids, x, y) of every batch: int64, images in [0, 1], labels; all on the network's device."""
        for index in torch.split(self.ids, self.batch_size):
            x, y = (part.to(self.device) for part in self.split.batch(index))
            yield index.to(self.device), x, y


@dataclass(frozen=True)
class Instrument(ABC):
    """Measures one property of a network; fields are its configuration.

    Class variables of an instrument:
        name: on the command line and in rows, such as "rank".
        title: of its figure: "Rank of representations".
        reads: in one or two sentences what is measured, from whom it is, and how to read it.
        order: its place in lists, smaller first.
        images: number of test images by default.
        branches: whether it says more of a network whose branches are there.
        plots: how its measures are drawn; those without one are in the rows only.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reads: ClassVar[str]
    order: ClassVar[int] = 100
    images: ClassVar[int] = 1000
    branches: ClassVar[bool] = False
    plots: ClassVar[Sequence[Plot]] = ()

    @abstractmethod
    def measure(self, subject: Subject, on_progress: OnProgress = silent) -> list[Measured]:
        """Measure the subject; its modes, statistics and gradients are afterwards as they were.

        The values depend on the subject and the fields alone: not on torch's global generator, nor, beyond rounding,
        on ``subject.batch_size``.

        Args:
            subject: the network and its images.
            on_progress: called now and then with the work that is done, of how much, and what.

        Raises:
            ValueError: the network or the number of images is not fit for it; one line that says why.
        """

    @classmethod
    def sentence(cls, measured: Mapping[str, Sequence[Measured]]) -> str:
        """One sentence that the values support, for a reader in a hurry; "" if there is nothing to say.

        Args:
            measured: the values by label, of a run or of a recipe over its seeds.
        """
        return compared(cls.plots[0], measured) if cls.plots else ""


def compared(plot: Plot, measured: Mapping[str, Sequence[Measured]]) -> str:
    """The highest and the lowest value of a plot's first series at the last place that all labels have."""
    curves = {
        label: {(each.series, each.place): each for each in values if shown_in(plot, each)}
        for label, values in measured.items()
    }
    curves = {label: curve for label, curve in curves.items() if curve}
    if not curves:
        return ""
    series = next(iter(next(iter(curves.values()))))[0]
    common = set.intersection(*map(set, curves.values()))
    places = [key for key in next(iter(curves.values())) if key in common and key[0] == series]
    if not places:
        return ""
    last = {label: curve[places[-1]] for label, curve in curves.items()}
    title = plot.title[0].upper() + plot.title[1:]
    named = series and plot.series is None and series != MAIN
    where = f"{title} at {places[-1][1]}" + (f" ({series})" if named else "")
    order = sorted(last, key=lambda label: last[label].value)
    if len(order) == 1:
        return f"{where}: {told(plot, last[order[0]])}."
    lowest, highest = last[order[0]], last[order[-1]]
    first, second = f"{order[-1]} {told(plot, highest)}", f"{order[0]} {told(plot, lowest)}"
    apart = None not in (lowest.high, highest.low) and (highest.low or 0.0) > (lowest.high or 0.0)
    exact = lowest.high is None and highest.low is None
    how = "" if exact else "; their intervals do not overlap" if apart else "; their intervals overlap"
    return f"{where}: highest {first}, lowest {second}{how}."


def shown_in(plot: Plot, each: Measured) -> bool:
    """Whether a plot shows a value."""
    return each.measure == plot.measure and plot.series in (None, each.series)


def told(plot: Plot, each: Measured) -> str:
    """A value with its interval as text: ``12.3 (11.8 .. 12.9)``."""
    factor, unit = (100, "%") if plot.percent else (1, "")
    if each.low is None or each.high is None:
        return f"{figure(factor * each.value)}{unit}"
    return f"{figure(factor * each.value)}{unit} ({figure(factor * each.low)} .. {figure(factor * each.high)})"


def figure(value: float) -> str:
    """A number with about three digits, and no power of ten where it can be avoided."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(0, min(4, 2 - _magnitude(value)))}f}"
    return f"{value:.2e}"


def with_half_width(value: float, half: float) -> str:
    """``12.34 ±0.56``: a value and half the width of its interval, to two digits of the latter."""
    if not 1e-4 <= half < 1e5:
        return f"{figure(value)} ±{figure(half)}"
    digits = max(0, 1 - _magnitude(half))
    return f"{value:.{digits}f} ±{half:.{digits}f}"


def _magnitude(value: float) -> int:
    """The power of ten of the first digit; 0 of 0."""
    return int(f"{value:e}".partition("e")[2])
