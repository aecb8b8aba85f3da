"""What an evaluation on the verdict store is, and which part of it is to be done here."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..keyed_random import permutation
from .budget import PILOT, Budget
from .choice import Choice
from .digests import data_digest, model_digest
from .plan import Plan
from .points import Points
from .store import Manifest

VERSION = "1"
"""Of the attacks; :mod:`easybn.attacks.attack` says when it is to be raised."""
CHUNK = 1000
_CHUNK_BYTES = 64 * 2**20  # of images: the state of a stage holds some of each, and is written every minute


@dataclass(frozen=True)
class Storing:
    """How a store is filled.

    Args:
        folder: new, empty, or with the same evaluation in it.
        chunk: points whose stages are done together; part of what the evaluation is. By default 1000, fewer if
            images are large; 32 under a budget.
        shard: (i, n), 0 <= i < n: only every n-th chunk, from the i-th on.
        budget: take points in random order, as many as fit into this time.
        branch: of the model, kept with the verdicts.

    Raises:
        ValueError: a shard that does not exist, a chunk below 1, a shard of a budget.
    """

    folder: Path
    chunk: int | None = None
    shard: tuple[int, int] | None = None
    budget: Budget | None = None
    branch: str | None = None

    def __post_init__(self) -> None:
        part, parts = self.shard or (0, 1)
        if not 0 <= part < parts:
            raise ValueError(f"there is no shard {part} of {parts}: a shard is i of n with i from 0 to n - 1")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.shard and self.budget:
            raise ValueError("a budget cannot be split into shards: start it once, or take shards of --points")

    @classmethod
    def of(
        cls,
        store: Path | str | None,
        chunk: int | None,
        shard: tuple[int, int] | None,
        budget: float | None,
        branch: str | None = None,
    ) -> "Storing | None":
        """From the arguments of :func:`easybn.evaluate`; None without a store."""
        if store is not None:
            return cls(Path(store), chunk, shard, None if budget is None else Budget(budget), branch)
        given = {"chunk": chunk, "shard": shard, "budget": budget, "branch": branch}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{wrong[0]} is about a store: give store=FOLDER too")
        return None

    def points_a_chunk(self, points: Points) -> int:
        """The default resolved."""
        if self.chunk is not None:
            return self.chunk
        return PILOT if self.budget else max(32, min(CHUNK, _CHUNK_BYTES // (4 * points.x[0].numel())))


def manifest(points: Points, choice: Choice, storing: Storing, keep_images: bool) -> Manifest:
    """What the evaluation is. Under a budget its points are in an order drawn by the seed."""
    plan, ids = points.plan, points.ids
    if storing.budget:
        ids = ids[permutation(len(ids), plan.seed, "budget").numpy()]
    return Manifest(
        model=model_digest(points.model, tuple(points.x.shape[1:])),
        data=data_digest(points.x, points.y),
        points=tuple(ids.tolist()),
        norm=choice.norm,
        eps=tuple(sorted(plan.attacks)),
        attacks=tuple(attack.name for attack in next(iter(plan.attacks.values()))),
        seed=plan.seed,
        batch_size=plan.batch_size,
        chunk=storing.points_a_chunk(points),
        share=plan.share,
        keep_images=keep_images,
        preparation=points.model.preparation,
        version=VERSION,
        settings=_settings(plan),
        branch=storing.branch,
    )


def _settings(plan: Plan) -> dict[str, Any]:
    """The fields of every attack."""
    of = {f"{attack.name} {eps!r}": attack for eps, attacks in plan.attacks.items() for attack in attacks}
    ours: dict[str, Any] = {"beside": plan.beside}
    for name, attack in of.items():
        ours[name] = {f.name: getattr(attack, f.name) for f in fields(attack) if f.init and f.name != "ball"}  # type: ignore[arg-type]
    return ours
