"""An attack of your own in one file: the momentum iterative method, MI-FGSM (Dong et al., 2018).

easybn evaluate --model fashion-mnist-vanilla --attacks examples/my_attack.py:MIFGSM --eps 4/255 --points 100
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from easybn import Attack
from easybn.attacks.attack import AttackState, evaluate_with_gradient, finite_gradient
from easybn.attacks.attack_mode import TargetModel
from easybn.attacks.losses import log_odds
from easybn.perturb.ball import Ball, per_sample


@dataclass(frozen=True)
class MIFGSM(Attack):
    """Steepest ascent along a running sum of normalised gradients, which carries it over small local maxima.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        iterations: steps of length eps / iterations.
        decay: factor of the running sum at every step.
    """

    ball: Ball
    iterations: int = 10
    decay: float = 1.0
    name: ClassVar[str] = "mi-fgsm"  # in stored rows
    label: ClassVar[str] = "MI-FGSM"  # in the report
    colour: ClassVar[tuple[str, str] | None] = ("#0b6e4f", "#7ee0ba")  # there, on light and on dark pages

    @property
    def steps(self) -> int:
        return self.iterations

    def init(self, state: AttackState) -> None:
        state["gradient"] = state["momentum"] = torch.zeros_like(state["original"])

    def evaluate(self, model: TargetModel, state: AttackState) -> Tensor:
        def differentiate(rows: Tensor) -> Tensor:
            image = state["image"][rows].detach().requires_grad_()
            logits = model(image)
            # the direction of the cross-entropy's gradient, which does not vanish where the model is confident
            (gradient,) = torch.autograd.grad(log_odds(logits, state["label"][rows]).sum(), image)
            state.count_passes(rows, forwards=1, backwards=1)
            state.update_rows(rows, gradient=finite_gradient(state, rows, gradient))
            return logits.detach()

        return evaluate_with_gradient(model, state, self.steps, differentiate)

    def step(self, model: TargetModel, state: AttackState) -> None:
        size = state["gradient"].flatten(1).abs().sum(1).clamp(min=1e-30)
        state["momentum"] = self.decay * state["momentum"] + state["gradient"] / per_sample(size, state["gradient"])
        ascent = float(self.ball.eps) / self.iterations * self.ball.steepest(state["momentum"])
        state["image"] = self.ball.project(state["image"] + ascent, state["original"])
