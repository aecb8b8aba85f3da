"""Lightning: any recipe trained by a ``Trainer``, with its checkpoints, precision, logging and devices.

The extra is ``easybn[lightning]``.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..modes import evaluating
from ..norm.route import route
from ..recipes.recipe import Context, Recipe
from ..train.prepare import deployable, seeded, with_branches

try:
    from lightning.pytorch import LightningModule
except ModuleNotFoundError as _error:
    if _error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise ModuleNotFoundError(
        "easybn.integrations.lightning needs Lightning: pip install 'easybn[lightning]'", name=_error.name
    ) from None

Optimizer = torch.optim.Optimizer


class RecipeModule(LightningModule):
    """A model trained by a recipe, one term at a time (manual optimisation).

    A batch is (x, y): x float (N, ...) in [0, 1], y int64 (N,); or (x, y, ids) with ids int64 (N,), the images'
    indices, which perturbations are drawn for; by default they are drawn for places in the batch. Noise and dropout
    are functions of (seed, step, process, id) alone. A training resumed from a checkpoint of an epoch's end is
    therefore the undisturbed one, if the loader's order is a function of the epoch too.

    Logged: ``train/TERM_loss`` and ``train/TERM_accuracy`` each step, ``val/BRANCH_loss`` and ``val/BRANCH_accuracy``
    each epoch. ``forward`` is the model, through its first branch unless inside ``route``.

    Args:
        model: from images in [0, 1] to logits (N, K); a copy is trained. Plain, or with the recipe's branches.
        recipe: any.
        optimizer: makes the optimiser of the parameters, such as ``partial(torch.optim.SGD, lr=0.1)``.
        scheduler: makes a schedule of the optimiser, such as ``partial(CosineAnnealingLR, T_max=steps)``.
        interval: how often the schedule moves.
        clip_norm: clip the gradient of all terms to this norm (the Trainer's own option is not for manual
            optimisation).
        seed: of perturbations and dropout.

    Raises:
        ValueError: the model has other branches.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
        *,
        interval: Literal["step", "epoch"] = "step",
        clip_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model: nn.Module = with_branches(model, recipe)
        self.recipe: Recipe = recipe
        self.clip_norm: float | None = clip_norm
        self.seed: int = seed
        self.interval = interval
        self._make_optimizer, self._make_scheduler = optimizer, scheduler

    def forward(self, x: Tensor) -> Any:
        return self.model(x)

    def deployable(self) -> nn.Module:
        """A plain copy of the model in eval mode, of its first branch: what to save and to evaluate."""
        return deployable(self.model, self.recipe)

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer(self.model.parameters())
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer)}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y, *given = batch
        ids = given[0] if given else torch.arange(len(x), device=x.device) * self.trainer.world_size + self.global_rank
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        ctx = Context(ids, self.global_step, self.current_epoch, self.seed)
        with seeded(self.seed, self.global_step, x.device, self.global_rank):
            for term in self.recipe(self.model, x, y, ctx):
                self.manual_backward(term.loss * term.weight)
                self._log(f"train/{term.name}", term.loss, term.logits, term.labels, prog_bar=True)
                del term  # its graph is freed before the next one's is made
        optimizer.step()
        if self.interval == "step":
            self._move_schedule()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.clip_norm is not None:  # here, because a loss scale has been taken out by now
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)

    def on_train_epoch_end(self) -> None:
        if self.interval == "epoch":
            self._move_schedule()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch[:2]
        for branch in self.recipe.branches:
            with evaluating(self.model), route(self.model, branch) if len(self.recipe.branches) > 1 else nullcontext():
                logits = self.model(x)
            loss = nn.functional.cross_entropy(logits.float(), y)
            self._log(f"val/{branch}", loss, logits, y, on_epoch=True, sync_dist=True)

    def _move_schedule(self) -> None:
        schedule: Any = self.lr_schedulers()
        if schedule is not None:
            schedule.step()

    def _log(self, name: str, loss: Tensor, logits: Tensor | None, labels: Tensor | None, **options: Any) -> None:
        values = {f"{name}_loss": loss.detach()}
        if logits is not None and labels is not None:
            values[f"{name}_accuracy"] = (logits.argmax(1) == labels).float().mean()
            options["batch_size"] = len(labels)
        self.log_dict(values, **options)
