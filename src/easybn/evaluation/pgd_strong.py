"""The ``strong`` protocol of PGD: the best the attack can do, and nothing spent on a point that has fallen.

A point falls at its first misclassified iterate, re-verified by a forward pass of the model on the very
image that is kept. The points still standing share full batches: whoever leaves makes room for the next.
Every update is a function of its own point alone, so that neither the batch size nor the other points
change a verdict (but for the rounding of kernels).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..attacks.objective import Objective
from ..attacks.verdict import Outcome, check_within
from ..perturb.ball import per_sample
from .live import Queue


def fall(
    queue: Queue, objective: Objective, batch_size: int, images: Tensor | None, tick: Callable[[int], None]
) -> Outcome:
    """Attack the points of a queue until they fall or their steps are used up.

    Args:
        queue: the points, the model and the attack.
        objective: what the steps increase.
        batch_size: points under attack at a time, at most.
        images: (N, ...), in which the adversarial image of each point that falls is written; or None.
        tick: told after every iteration the image-steps accounted for, n * (steps + 1) in the end.

    Raises:
        RuntimeError: an image outside the ball or outside [0, 1], which would be a fault of this code.
    """
    model, attack, n = queue.model, queue.attack, len(queue.ids)
    fell = torch.zeros(n, dtype=torch.bool)
    farthest, non_finite, accounted = 0.0, 0, 0
    taken = min(batch_size, n)
    live = queue.take(0, taken)
    while len(live.row):
        point = live.point.requires_grad_()
        logits = model(point)
        # a sum: an image's gradient does not depend on how many others there are
        (gradient,) = torch.autograd.grad(objective(logits, live.label).sum(), point)
        live = live._replace(point=point.detach())
        with torch.no_grad():
            sure, thin = live.verify(model, logits.detach())
            live = live._replace(thin=live.thin | thin)
            if images is not None and (adversarial := sure | thin).any():
                home = queue.ids[live.row[adversarial].cpu()].to(images.device)
                images[home] = live.point[adversarial].to(images.device)
            accounted += len(live.row) + int((attack.steps - live.age[sure]).sum())
            gone = sure | (live.age == attack.steps)
            if gone.any():
                left = live.those(gone)
                fell[left.row.cpu()] = (sure[gone] | left.thin).cpu()
                farthest = max(farthest, float(check_within(attack.ball, left.point, left.centre).max()))
                live, gradient = live.those(~gone), gradient[~gone]
            finite = gradient.flatten(1).isfinite().all(1)
            non_finite += int((~finite).sum())
            gradient = gradient.where(per_sample(finite, gradient), torch.zeros_like(gradient))
            moved = live.point + attack.step_length * attack.ball.steepest(gradient)
            live = live._replace(point=attack.ball.project(moved, live.centre), age=live.age + 1)
            # refilled by quarters of a batch, so that the copies cost little
            if taken < n and len(live.row) <= batch_size * 3 // 4:
                room = batch_size - len(live.row)
                live = live.joined_by(queue.take(taken, taken + room))
                taken = min(taken + room, n)
        tick(accounted)
    return Outcome(fell, farthest, non_finite)
