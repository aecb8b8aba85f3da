"""Runs one attack on many points, refilling the batch as attempts finish, until every point is broken or robust."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import rounding
from .attack import Attack, AttackState, Attempt, check_in_ball, concatenate, misclassified
from .attack_mode import TargetModel
from .draws import vote
from .losses import margin

RunnerState = dict[str, Any]
STATE_VERSION = 2
"""Of what ``save`` is given, kept beside it in a store; raise it if a column or an entry is new, gone or renamed."""
OnStep = Callable[[int, int, int], None]
"""``on_step(done, total, remaining)``: evaluations accounted for and in all, points that are not broken yet."""

COLUMNS = {
    "row": torch.int64,
    "target": torch.int64,
    "restart": torch.int64,
    "finished": torch.bool,
    "iteration": torch.int64,
    "distance": torch.float64,
    "margin": torch.float64,
    "forwards": torch.int64,
    "backwards": torch.int64,
    "non_finite": torch.int64,
    "zero_gradients": torch.int64,
}
"""Of an :class:`AttackResult`."""
KEPT = (
    "row", "attempt", "iteration", "best_distance", "margin", "forwards", "backwards", "finished",
    "non_finite", "zero_gradients",
)  # fmt: skip
"""Columns of :class:`~easybn.attacks.attack.AttackState` that are kept of an attempt that has ended."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack found at n points: one row per attempt, in the order of (point, attempt); all on the CPU.

    Args:
        columns: of R rows each: ``row`` the point, ``target`` the rank of the target class (0 for none),
            ``restart``, ``finished`` (False: given up because another attempt at the point had succeeded),
            ``iteration`` at which it succeeded or ended, ``distance`` of its best adversarial image (infinite if
            there is none), ``margin`` of the original model there (without one: NaN, or of attacks that keep it the
            largest margin seen, not above 0), ``forwards`` and ``backwards`` spent on it, numbers of gradients that
            were ``non_finite`` and of ``zero_gradients``.
        best_distance: float64 (n,), distance of each point's kept adversarial image, infinite if there is none.
        images: (n, ...), the adversarial images; undefined where ``best_distance`` is infinite.
    """

    columns: dict[str, Tensor]
    best_distance: Tensor
    images: Tensor

    def success(self, eps: float) -> Tensor:
        """bool (n,): an adversarial image was found within ``eps``."""
        return self.best_distance <= eps

    @classmethod
    def from_ended(
        cls, ended: dict[str, Tensor], attempts: Sequence[Attempt], best_distance: Tensor, images: Tensor
    ) -> "AttackResult":
        """From the columns :data:`KEPT` of all attempts that were started, in any order."""
        if not ended:
            empty = {name: torch.empty(0, dtype=dtype) for name, dtype in COLUMNS.items()}
            return cls(empty, best_distance, images)
        order = torch.argsort(ended["row"] * len(attempts) + ended["attempt"])
        ended = {name: column[order] for name, column in ended.items()}
        number = ended.pop("attempt")
        columns = {
            **ended,
            "target": torch.tensor([attempt.target for attempt in attempts])[number],
            "restart": torch.tensor([attempt.restart for attempt in attempts])[number],
            "distance": ended["best_distance"],
        }
        return cls({name: columns[name].to(dtype) for name, dtype in COLUMNS.items()}, best_distance, images)


class PendingAttempts:
    """The attempts at n points that have not started yet, in the order (number of the attempt, point).

    Args:
        n: number of points.
        attempts: number of attempts per point.
    """

    def __init__(self, n: int, attempts: int) -> None:
        self.n = n
        self.rows: Tensor = torch.arange(n).repeat(attempts)
        self.numbers: Tensor = torch.arange(attempts).repeat_interleave(n)

    def __len__(self) -> int:
        return len(self.rows)

    def drop(self, unwanted: Tensor) -> None:
        """Remove attempts; ``unwanted`` is bool (n, number of attempts at a point)."""
        kept = ~unwanted[self.rows, self.numbers]
        self.rows, self.numbers = self.rows[kept], self.numbers[kept]

    def take(self, active: Tensor, success: Tensor, most: int, min_active: int) -> tuple[Tensor, Tensor]:
        """Remove and return the attempts to start next: points and numbers, two int64 tensors of the same length.

        A point has one attempt at a time, since a success saves its other ones. Only where fewer than ``min_active``
        rows are active do further attempts join: a pass over a few rows takes no less time than over some more.

        Args:
            active: int64, the points of the attempts that are running.
            success: bool (n,), points whose attempts are dropped.
            most: rows at a time, those that are running included.
            min_active: see above.
        """
        remaining = ~success[self.rows]
        self.rows, self.numbers = self.rows[remaining], self.numbers[remaining]
        position = torch.arange(len(self.rows))
        first = torch.full((self.n,), len(self.rows)).scatter_reduce(0, self.rows, position, "amin")
        occupied = torch.zeros(self.n, dtype=torch.bool)
        occupied[active] = True
        alone = (first[self.rows] == position) & ~occupied[self.rows]
        taken = alone & (alone.cumsum(0) <= most - len(active))
        room = min(min_active, most) - len(active) - int(taken.sum())
        if room > 0:
            taken |= ~taken & ((~taken).cumsum(0) <= room)
        out = self.rows[taken], self.numbers[taken]
        self.rows, self.numbers = self.rows[~taken], self.numbers[~taken]
        return out


def check_success(model: TargetModel, attack: Attack, state: AttackState, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Look for successes among ``state["image"]``; ``best_distance`` and ``margin`` are written.

    Only what the original model gets wrong counts. Images that look adversarial go once more through the original
    model (many times if it is randomised: :mod:`~easybn.attacks.draws`), without the others. If it is wrong by more
    than rounding can explain, the attempt has succeeded; if by less, the image is noted and the attempt continues. What
    an unbounded attack finds outside its ball is only noted (``outside_distance``, ``outside_image``): it is verified
    when the attempt ends.

    Args:
        logits: (B, K), of the images, by the model or its surrogate.

    Returns:
        Two bool tensors (B,): succeeded for good; the image is the attempt's best adversarial image so far.

    Raises:
        RuntimeError: a bounded attack's image outside the ball or outside [0, 1].
    """
    wrong, clearly = misclassified(logits, state["label"])
    success, best = torch.zeros_like(wrong), torch.zeros_like(wrong)
    if not wrong.any():
        return success, best
    inside = wrong
    if attack.leaves_ball or not attack.bounded:
        distance = attack.ball.distance(state["image"], state["original"])
        beyond = rounding(state["image"].shape[1:]) if attack.bounded else 0.0  # it was projected, but for rounding
        inside = wrong & (distance <= float(attack.ball.eps) + beyond)
        if not attack.bounded:
            outside = clearly & ~inside & (distance < state["outside_distance"])
            state.update_rows(outside, outside_distance=distance[outside], outside_image=state["image"][outside])
        if not inside.any():
            return success, best
    image = state["image"][inside]
    verified, for_sure, verified_margin = _verify(model, state, inside, image)
    if attack.bounded:
        reached = check_in_ball(attack.ball, image, state["original"][inside]).clamp(max=float(attack.ball.eps))
    else:
        reached = distance[inside]
    better = verified & (for_sure | (reached < state["best_distance"][inside]))
    success[inside], best[inside] = for_sure, better
    state.update_rows(best, best_distance=reached[better], margin=verified_margin[better])
    return success, best


def verify_outside_ball(model: TargetModel, state: AttackState, ended: Tensor) -> Tensor:
    """Verify what an unbounded attack noted outside its ball, for the attempts ``ended`` (bool (B,)).

    Returns:
        bool (B,): ``outside_image`` is adversarial, and ``best_distance`` its distance.
    """
    rows = ended & (state["outside_distance"] < state["best_distance"])
    best = torch.zeros_like(rows)
    if rows.any():
        verified, _, verified_margin = _verify(model, state, rows, state["outside_image"][rows])
        best[rows] = verified
        state.update_rows(best, best_distance=state["outside_distance"][best], margin=verified_margin[verified])
    return best


def _verify(model: TargetModel, state: AttackState, rows: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Wrong, wrong beyond rounding and chance (bool), and the margin (float64), by the original model."""
    label = state["label"][rows]
    if model.randomised:
        said = vote(model.original, images, label)
        state.update_rows(rows, forwards=state["forwards"][rows] + said.passes)
        return said.wrong, said.clearly, said.margin
    logits = model.original(images)
    state.count_passes(rows, forwards=1)
    return *misclassified(logits, label), margin(logits, label)


@dataclass
class AttackRunner:
    """Runs an attack; call :meth:`run` once.

    Which rows share a batch follows from the points, the sizes and the successes, and from nothing else: the same call
    gives the same bits, also when it continues from a saved state.

    Args:
        model: from ``attack_mode``.
        attack: what to run.
        x: images in [0, 1], (n, ...), on any device.
        y: true classes, int64 (n,).
        ids: int64 (n,), the names of the points in the keys of their random numbers.
        ranking: int64 (n, K - 1), the other classes, the one of largest clean logit first; -1 in the place of those
            that are masked by -inf and no target. The first one is a target in any case: a point at which nothing is
            tried would count as robust.
        seed: of all that is random.
        batch_size: rows at a time, at most.
        min_active: where fewer rows than that are active, further attempts at the same points join them.
        on_step: called after every step.
        save: called with a state about every ``save_seconds``. It must write or copy the state before it returns: the
            run continues in the same memory.
        save_due: asked after every step whether to save, instead of ``save_seconds``.
    """

    model: TargetModel
    attack: Attack
    x: Tensor
    y: Tensor
    ids: Tensor
    ranking: Tensor
    seed: int = 0
    batch_size: int = 256
    min_active: int = 32
    on_step: OnStep | None = None
    save: Callable[[RunnerState], None] | None = None
    save_seconds: float = 60.0
    save_due: Callable[[], bool] | None = None
    active: AttackState = field(default_factory=AttackState, init=False)
    ended: list[dict[str, Tensor]] = field(default_factory=list, init=False)

    def run(self, resume: RunnerState | None = None) -> AttackResult:
        """Every attempt that was started, in the order of (point, attempt), and the adversarial images.

        Args:
            resume: a state that ``save`` was given by a run with the same arguments.
        """
        n = len(self.ids)
        self.attempts: list[Attempt] = self.attack.attempts(self.ranking.shape[1] + 1)
        if not self.attempts:
            raise ValueError(f"the attack {self.attack.name} makes no attempt: its attempts() must name one or more")
        self.pending: PendingAttempts = PendingAttempts(n, len(self.attempts))
        self.success: Tensor = torch.zeros(n, dtype=torch.bool)
        self.images: Tensor = torch.zeros(n, *self.x.shape[1:], dtype=self.model.image_dtype)
        self.best_distance: Tensor = torch.full((n,), torch.inf, dtype=torch.float64)
        if resume is not None:
            self._restore(resume)
        else:
            rank = torch.tensor([attempt.target for attempt in self.attempts])
            targets = self.ranking.cpu()[:, (rank - 1).clamp(min=0)]  # (n, attempts)
            self.pending.drop((rank > 0) & (targets < 0))
        last_save = time.monotonic()
        while self._refill() or self.active.count:
            logits = self.attack.evaluate(self.model, self.active)
            with torch.no_grad():
                success, best = check_success(self.model, self.attack, self.active, logits)
                self._keep_images(best, self.active["image"], success)
                self._remove_ended(success)
                if self.active.count:
                    self.attack.step(self.model, self.active)
                    self.active["iteration"] = self.active["iteration"] + 1
            self._report()
            due = time.monotonic() - last_save > self.save_seconds if self.save_due is None else self.save_due()
            if self.save is not None and due:
                self.save(self._state())
                last_save = time.monotonic()
        return AttackResult.from_ended(concatenate(self.ended), self.attempts, self.best_distance, self.images)

    def _refill(self) -> bool:
        """Start further attempts once a quarter of the batch is free; returns whether any was started."""
        count = self.active.count
        if not len(self.pending) or count > self.batch_size * 3 // 4:
            return False
        rows, numbers = self.pending.take(
            self.active["row"].cpu() if count else torch.empty(0, dtype=torch.int64),
            self.success, self.batch_size, self.min_active,
        )  # fmt: skip
        if len(rows):
            self.active = self.active.append(self._started(rows, numbers))
        return bool(len(rows))

    def _started(self, rows: Tensor, numbers: Tensor) -> AttackState:
        original = self.model.load(self.x[rows.to(self.x.device)])
        rank = torch.tensor([attempt.target for attempt in self.attempts])[numbers]
        target = self.ranking.cpu()[rows, (rank - 1).clamp(min=0)].where(rank > 0, torch.tensor(-1))
        noise = Noise.of(self.seed, f"attacks/{self.attack.name}", self.ids.cpu()[rows]).numbered(numbers)
        state = AttackState.create(rows, self.y.cpu()[rows], target, numbers, noise.keys, original)
        self.attack.init(state)
        return state

    def _keep_images(self, best: Tensor, images: Tensor, for_sure: Tensor) -> None:
        """Keep the images of the rows ``best`` where they are surer or nearer than what their point has."""
        if not best.any():
            return
        distance, points = self.active["best_distance"].cpu(), self.active["row"].cpu()
        # two attempts may succeed at a point in one step: the sure one goes last, and is kept
        for i in torch.cat([rows.nonzero()[:, 0] for rows in (best & ~for_sure, best & for_sure)]).tolist():
            point = int(points[i])
            if distance[i] < self.best_distance[point] or (self.attack.bounded and for_sure[i]):
                self.best_distance[point], self.images[point] = distance[i], images[i].to(self.images)

    def _remove_ended(self, success: Tensor) -> None:
        """Remove the attempts that succeeded or are at their last step, and the other attempts at broken points."""
        ended = success | self.attack.ended(self.active)
        if not ended.any():
            return
        if not self.attack.bounded:
            outside = verify_outside_ball(self.model, self.active, ended)
            self._keep_images(outside, self.active["outside_image"], success)
        broke = ended & (self.active["best_distance"] <= float(self.attack.ball.eps))
        self.success[self.active["row"][broke].cpu()] = True
        removed = ended | self.success.to(ended.device)[self.active["row"]]
        rows = self.active.select(removed)
        rows["finished"] = ended[removed]
        self.ended.append({name: rows[name].cpu() for name in KEPT})
        self.active = self.active.select(~removed)

    def _report(self) -> None:
        if self.on_step is None:
            return
        evaluations = self.attack.steps + 1
        pending = int((~self.success[self.pending.rows]).sum())
        ahead = pending * evaluations + int((evaluations - self.active["iteration"]).sum())
        total = len(self.success) * len(self.attempts) * evaluations
        self.on_step(total - ahead, total, int((~self.success).sum()))

    def _state(self) -> RunnerState:
        return {
            "active": dict(self.active),
            "pending_rows": self.pending.rows,
            "pending_attempts": self.pending.numbers,
            "success": self.success,
            "images": self.images,
            "best_distance": self.best_distance,
            "ended": concatenate(self.ended),
        }

    def _restore(self, state: RunnerState) -> None:
        device = self.model.device or self.x.device  # a state from a file is on the CPU
        self.active = AttackState({name: column.to(device) for name, column in state["active"].items()})
        self.success, self.images = state["success"], state["images"]
        self.best_distance, self.ended = state["best_distance"], [state["ended"]] if state["ended"] else []
        self.pending.rows, self.pending.numbers = state["pending_rows"], state["pending_attempts"]
