"""Two evaluations of the same points: who withstands what, and pictures of the points on which they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import Source
from ..evaluation.auditing import is_fast
from ..evaluation.record import CLEAN
from ..evaluation.store import Store
from ..evaluation.store.manifest import data_digest
from ..evaluation.verdicts import Verdicts
from ..files import explained
from ..json_files import write_json
from ..perturb.eps import format_eps
from ..stats import Interval, mcnemar, paired_difference_interval
from .run import Run
from .summary import save_sheet
from .target import data_of
from .user_model import NAME, UserModel
from .verdicts import SAME_RADIUS, describe_store, finished_verdicts, home_of

COMPARISON, PICTURES = "comparison.json", "points.png"
SHOWN = 12
"""Pictures at most of the points that only one of the two withstands, at each radius."""


@dataclass(frozen=True, eq=False)
class PairedVerdicts:
    """Which of the same points two models get right.

    Args:
        eps: radius in [0, 1] pixel units; 0 for clean accuracy.
        points: int64 (n,), their ids, ascending.
        first, second: bool (n,), classified correctly by each, under its attacks.
    """

    eps: float
    points: NDArray[np.int64]
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]

    @property
    def both(self) -> int:
        return int((self.first & self.second).sum())

    @property
    def neither(self) -> int:
        return int((~self.first & ~self.second).sum())

    @property
    def only_first(self) -> NDArray[np.int64]:
        """The ids of the points that only the first gets right."""
        return self.points[self.first & ~self.second]

    @property
    def only_second(self) -> NDArray[np.int64]:
        """The ids of the points that only the second gets right."""
        return self.points[self.second & ~self.first]

    @property
    def difference(self) -> float:
        """The first accuracy minus the second, in [-1, 1]."""
        return (len(self.only_first) - len(self.only_second)) / len(self.points)

    @property
    def interval(self) -> Interval:
        """The 95% interval of the difference."""
        return paired_difference_interval(len(self.only_first), len(self.only_second), len(self.points))

    @property
    def p(self) -> float:
        """Of McNemar's exact test."""
        return mcnemar(len(self.only_first), len(self.only_second))

    def to_dict(self) -> dict[str, Any]:
        """All of the above, as values that JSON knows; the ids in ``points_only_first`` and ``points_only_second``."""
        low, high = self.interval
        ids = {"points_only_first": self.only_first.tolist(), "points_only_second": self.only_second.tolist()}
        counts = {"only_first": len(self.only_first), "only_second": len(self.only_second)}
        counts = {"n": len(self.points), "both": self.both, **counts, "neither": self.neither}
        return {"eps": self.eps, **counts, "difference": self.difference, "low": low, "high": high, "p": self.p, **ids}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two stores, and their verdicts on the points that both have.

    Args:
        names: what the user calls them; stores: the two.
        verdicts: of each, on its finished points.
        pairs: clean, then every radius that both attacked, ascending.
        notes: what a reader should know, a sentence each.
    """

    names: tuple[str, str]
    stores: tuple[Store, Store]
    verdicts: tuple[Verdicts, Verdicts]
    pairs: Sequence[PairedVerdicts]
    notes: Sequence[str]

    @property
    def norm(self) -> str:
        return self.stores[0].manifest.norm

    def to_dict(self) -> dict[str, Any]:
        """As values that JSON knows, see :data:`easybn.rows.COMPARISON`."""
        about = [describe_store(store) for store in self.stores]
        pairs = [pair.to_dict() for pair in self.pairs]
        return {"names": list(self.names), "about": about, "norm": self.norm, "pairs": pairs, "notes": [*self.notes]}


def compare_stores(names: tuple[str, str], first: Store, second: Store) -> Comparison:
    """Pair the verdicts of two evaluations.

    Args:
        names: of the two, for messages and tables.

    Raises:
        ValueError: they are the same, or not comparable: other points, other test images, another norm, no radius in
            common, no point that both have done.
        Damaged: a ValueError; a file of a store is damaged.

    Warns:
        UserWarning: chunks that should be there are not.
    """
    one, other = first.manifest, second.manifest
    if first.folder.resolve() == second.folder.resolve():
        raise ValueError(f"{first.folder} is compared with itself: name two evaluations")

    def refuse(why: str) -> ValueError:
        return ValueError(f"{first.folder} and {second.folder} cannot be compared: {why}")

    if one.norm != other.norm:
        raise refuse(f"one is in {one.norm}, the other in {other.norm}")
    if {*one.points} != {*other.points}:
        common = len({*one.points} & {*other.points})
        raise refuse(
            f"they are of other points ({len(one.points):,} and {len(other.points):,}, {common:,} in common): evaluate "
            "both with the same --points and --seed"
        )
    if one.data != other.data:
        raise refuse("the test images or labels of one are not those of the other")
    radii = [eps for eps in one.eps if any(abs(eps - radius) < SAME_RADIUS for radius in other.eps)]
    if not radii or not one.attacks or not other.attacks:
        shown = [" ".join(format_eps(eps, one.norm) for eps in each.eps) for each in (one, other)]
        raise refuse(f"no radius was attacked in both ({shown[0]} in one, {shown[1]} in the other)")
    verdicts = finished_verdicts(first), finished_verdicts(second)
    points = np.intersect1d(verdicts[0].points, verdicts[1].points)
    if not len(points):
        raise refuse("no point has its verdict in both yet")
    pairs = []
    for eps in (CLEAN.eps, *radii):
        theirs = min(other.eps, key=lambda radius, eps=eps: abs(radius - eps)) if eps else eps  # type: ignore[misc]
        right = [_on(each, at, points) for each, at in zip(verdicts, (eps, theirs), strict=True)]
        pairs.append(PairedVerdicts(eps, points, *right))
    notes = []
    if one.attacks != other.attacks:
        notes.append(
            f"{names[0]} was attacked by {', '.join(one.attacks)} and {names[1]} by {', '.join(other.attacks)}: a "
            "difference may be one of the attacks"
        )
    for name, store in zip(names, (first, second), strict=True):
        if is_fast(store):
            notes.append(
                f"{name} was attacked by fast: some of the points that it withstands may fall to AutoAttack standard, "
                "which attacked only some of them (easybn table says how many it would break)"
            )
    if len(points) < len(one.points):
        notes.append(f"of {len(one.points):,} points, these are the {len(points):,} that have a verdict in both")
    if one.model == other.model:
        notes.append("both are evaluations of the same model")
    return Comparison(names, (first, second), verdicts, pairs, notes)


def _on(verdicts: Verdicts, eps: float, points: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (n,): right at ``eps`` on ``points``, which are sorted and among those of ``verdicts``."""
    order = np.argsort(verdicts.points)
    rows = order[np.searchsorted(verdicts.points, points, sorter=order)]
    return verdicts.robust(eps)[rows]


# What a report shows of it: the comparison with pictures, since a report opens no data set.


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write comparison.json, and points.png with the first ``SHOWN`` points that only one withstands at each radius.

    The row is :meth:`Comparison.to_dict` with ``pictures``: size (height and width of a tile) and tiles, one for each
    tile of the sheet from the left to the right: eps, point, class, which of the two ("first" or "second") withstands,
    and what broke the other.

    Raises:
        ValueError: the folder holds other things, or the data set of the two is not there or has changed.
        OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(path.name[0] != "." and path.name not in (COMPARISON, PICTURES)
                                                       for path in folder.iterdir())):  # fmt: skip
        raise ValueError(f"{folder} holds other things: give another --out")
    source = _images_of(comparison)
    tiles, index = [], []
    for pair in comparison.pairs[1:]:
        for which, ids, loser in (("first", pair.only_first, 1), ("second", pair.only_second, 0)):
            verdicts = comparison.verdicts[loser]
            for point in ids[:SHOWN].tolist():
                tile = {"eps": pair.eps, "point": point, "class": source.classes[int(source.test.labels[point])]}
                tiles.append({**tile, "only": which, "broken_by": _broken_by(verdicts, pair.eps, point)})
                index.append(point)
    images = source.test.batch(torch.tensor(index, dtype=torch.int64))[0]
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    size = save_sheet(folder / PICTURES, [list(images)])
    write_json(folder / COMPARISON, {**comparison.to_dict(), "pictures": {"size": size, "tiles": tiles}}, indent=None)


def _broken_by(verdicts: Verdicts, eps: float, point: int) -> str:
    """The attack that was the first to break a point; "clean" if it is wrong as it is."""
    radius = min(verdicts.broken_at, key=lambda known: abs(known - eps))
    stage = verdicts.broken_at[radius][int(np.flatnonzero(verdicts.points == point)[0])]
    return verdicts.stages[stage].attack


def _images_of(comparison: Comparison) -> Source:
    """The data set whose test images were attacked, found by the folder of one of the two stores."""
    homes = [home_of(store.folder) for store in comparison.stores]
    runs = [home for home in homes if (home / "config.json").exists()]
    users = [home for home in homes if (home / NAME).exists() and home not in runs]
    if runs:
        source = data_of(Run(runs[0]))
    elif users:
        source = UserModel.described(users[0]).load_data()
    else:
        raise ValueError(
            f"the data set is found by a run's folder, and neither {comparison.stores[0].folder} nor "
            f"{comparison.stores[1].folder} is in one: leave --out away"
        )
    manifest = comparison.stores[0].manifest
    points = torch.tensor(manifest.points).sort().values
    if int(points[-1]) >= len(source.test) or data_digest(*source.test.batch(points)) != manifest.data:
        raise ValueError(f"the test images of {source.name} are not those that were evaluated: their digest differs")
    return source
