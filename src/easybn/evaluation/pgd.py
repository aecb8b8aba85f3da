"""PGD (Madry et al., 2018) as an evaluation attack: at several radii, under either protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..attacks.objective import Objective, log_odds, margin
from ..attacks.prepare import Prepared, Progress, silent
from ..perturb.ball import L2, Linf
from ..perturb.pgd import PGD
from .live import Queue
from .pgd_robustness import attack_all
from .pgd_strong import fall
from .score import Score

BALLS: dict[str, type[L2] | type[Linf]] = {"l2": L2, "linf": Linf}
PROTOCOLS = ("strong", "robustness")
OBJECTIVES: dict[str, Objective] = {"cross-entropy": log_odds, "margin": margin}


@dataclass(frozen=True)
class Attacked:
    """What one attack at one radius left.

    Args:
        robust: bool (N,), on the device of the images: classified correctly after the attack.
        images: (N, ...) such that classifying them gives ``robust`` again, or None. Where the strong
            protocol found nothing, or the point was wrong from the start, that is the image itself.
        score: the row of results.
    """

    robust: Tensor
    images: Tensor | None
    score: Score


@dataclass(frozen=True)
class Sweep:
    """PGD at one radius or several of the same norm.

    Args:
        norm: "l2" or "linf".
        eps: radii in [0, 1] pixel units.
        protocol: "strong" (two losses that do not saturate, any misclassified iterate counts) or
            "robustness" (the library's steps; see :mod:`easybn.evaluation.pgd_robustness`).
        steps: gradient steps, for each loss.
        step_size: in [0, 1] pixel units; default 2.5 * eps / steps.
        random_start: start from a random point of the ball, keyed by (seed, index of the image). Strong only.
        share: a point that fell at one radius has fallen at every larger one. Strong only.
        seed: of the random start.
        batch_size: images a batch at most. The verdicts of the ``robustness`` protocol depend on it.
    """

    norm: str
    eps: Sequence[float]
    protocol: str = "strong"
    steps: int = 100
    step_size: float | None = None
    random_start: bool = False
    share: bool = True
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.norm not in BALLS:
            raise ValueError(f"unknown norm {self.norm!r}; known: {', '.join(BALLS)}")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}; known: {', '.join(PROTOCOLS)}")
        if self.protocol == "robustness" and self.random_start:
            raise ValueError("the robustness protocol has no random start; the strong one does")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not self.eps:
            raise ValueError("eps must be one radius or more, got none")
        for eps in self.eps:
            self.at(eps)

    def at(self, eps: float) -> PGD:
        """The attack at one radius; ValueError for a radius, steps or a step size that make no sense."""
        ball = BALLS[self.norm](eps)
        size = 2.5 * eps / max(self.steps, 1) if self.step_size is None else self.step_size
        return PGD(ball, self.steps, size, self.random_start)

    def run(
        self, model: Prepared, x: Tensor, y: Tensor, clean: Tensor, keep_images: bool, progress: Progress = silent
    ) -> dict[float, Attacked]:
        """What is left at every radius, in ascending order.

        Args:
            model: from ``prepared``.
            x: images in [0, 1], (N, ...); y: their classes, int64, (N,), on the same device.
            clean: bool (N,), which of them the model classifies correctly.
            keep_images: also return the attacked images, N of them for each radius.
            progress: told after every iteration, in image-steps; what has fallen counts as done.
        """
        done: dict[float, Attacked] = {}
        start = Attacked(clean, _copy(model, x) if keep_images else None, Score("clean", len(x), int(clean.sum())))
        before = start
        for eps in sorted(set(self.eps)):
            if self.protocol == "robustness":
                done[eps] = self._robustness(eps, model, x, y, keep_images, progress)
            else:
                done[eps] = before = self._strong(eps, model, x, y, before if self.share else start, progress)
        return done

    def _strong(
        self, eps: float, model: Prepared, x: Tensor, y: Tensor, before: Attacked, progress: Progress
    ) -> Attacked:
        robust = before.robust.clone()
        images = None if before.images is None else before.images.clone()
        farthest, non_finite = before.score.max_perturbation, 0
        for name, objective in OBJECTIVES.items():
            ids = robust.nonzero()[:, 0].cpu()
            queue = Queue(model, self.at(eps), x, y, ids, self.seed, f"evaluation/pgd/{name}")
            tick = self._tick(progress, len(ids), f"pgd {self.norm} {eps:.4g} {name}")
            run = fall(queue, objective, self.batch_size, images, tick)
            robust[ids[run.fell].to(robust.device)] = False
            farthest, non_finite = max(farthest, run.farthest), non_finite + run.non_finite
        return Attacked(robust, images, self._score(eps, robust, farthest, non_finite))

    def _robustness(
        self, eps: float, model: Prepared, x: Tensor, y: Tensor, keep_images: bool, progress: Progress
    ) -> Attacked:
        images = _copy(model, x) if keep_images else None
        tick = self._tick(progress, len(x), f"pgd {self.norm} {eps:.4g} robustness")
        run = attack_all(model, self.at(eps), x, y, self.batch_size, images, tick)
        robust = ~run.fell.to(x.device)
        return Attacked(robust, images, self._score(eps, robust, run.farthest, run.non_finite))

    def _tick(self, progress: Progress, points: int, what: str) -> Callable[[int], None]:
        return lambda done: progress(done, points * (self.steps + 1), what)

    def _score(self, eps: float, robust: Tensor, farthest: float, non_finite: int) -> Score:
        return Score(
            attack="pgd",
            n=len(robust),
            correct=int(robust.sum()),
            protocol=self.protocol,
            norm=self.norm,
            eps=eps,
            steps=self.steps,
            step_size=self.at(eps).step_length,
            random_start=self.random_start,
            seed=self.seed if self.random_start else None,
            batch_size=min(self.batch_size, len(robust)),
            max_perturbation=farthest,
            non_finite=non_finite,
        )


def _copy(model: Prepared, x: Tensor) -> Tensor:
    """``x`` where it is, in the type that attacks work in."""
    return x.detach().to(model.image_dtype, copy=True)
