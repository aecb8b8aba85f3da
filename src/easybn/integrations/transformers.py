"""Hugging Face transformers: image classifiers trained by a recipe in its ``Trainer``.

The extra is ``easybn[transformers]``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.outputs import SelectOutput
from ..recipes.recipe import Context, Recipe
from ..train.prepare import deployable, with_branches

try:
    from transformers import Trainer, TrainingArguments
except ModuleNotFoundError as _error:
    if _error.name != "transformers":
        raise
    raise ModuleNotFoundError(
        "easybn.integrations.transformers needs transformers: pip install 'easybn[transformers]'", name=_error.name
    ) from None


class RecipeTrainer(Trainer):
    """A Trainer whose loss is that of a recipe: all terms together, since the Trainer calls ``backward()`` itself.

    A batch has pixel_values, float (N, ...) in [0, 1], and labels, int64 (N,). Noise is a function of the seed of
    ``args``, the optimiser's step, the process, and an image's place among those between two steps, so that the batches
    whose gradients are accumulated draw different noise, and a training resumed from a checkpoint is the undisturbed
    one.

    ``evaluate`` and ``predict`` use the first branch. Checkpoints have all branches, to resume from; ``save_model`` and
    ``push_to_hub`` write the plain model, which ``from_pretrained`` loads.

    Args:
        model: from pixel_values in [0, 1] to an output with logits (N, K), such as ``ResNetForImageClassification``; a
            copy is trained. Plain, or with the recipe's branches.
        args: the Trainer's. Its label_smoothing_factor must be 0: smoothing is the recipe's. Several processes (DDP)
            need that ddp_find_unused_parameters is not True.
        recipe: any that :meth:`easybn.recipes.recipe.Recipe.total` makes one loss of.
        model_init: makes the model anew for each trial of a search; then ``model`` is None.
        options: the other arguments of a Trainer.

    Raises:
        ValueError: the model has other branches, or an option would train something else than the recipe says.
    """

    model: Any

    def __init__(
        self,
        model: nn.Module | None,
        args: TrainingArguments,
        *,
        recipe: Recipe,
        model_init: Callable[..., nn.Module] | None = None,
        **options: Any,
    ) -> None:
        if args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is not for recipes: EBN(label_smoothing=0.1) smooths every term")
        if args.push_to_hub:
            raise ValueError(
                "push_to_hub would upload checkpoints with branches: call push_to_hub() after the training"
            )
        if options.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would replace the recipe's loss: leave it out, or the recipe")
        if args.ddp_find_unused_parameters is None:  # torch's search looks at one pass, and each passes one branch
            args.ddp_find_unused_parameters = False
        if args.ddp_broadcast_buffers is None:  # statistics would change between the passes of one loss
            args.ddp_broadcast_buffers = False
        self.recipe = recipe
        self._step, self._images = -1, 0  # that have been seen since that step
        converted = None if model is None else with_branches(model, recipe)
        super().__init__(converted, args, model_init=model_init, **options)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"{self.args.n_gpu} GPUs in one process would be torch's DataParallel, whose copies of the model have "
                "no branches to route: start one process per GPU by torchrun, or set CUDA_VISIBLE_DEVICES=0"
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("FSDP and DeepSpeed split the model that a recipe routes: use DDP (torchrun)")
        # a recipe's loss is the mean over its batch, whatever the model would do with num_items_in_batch: the Trainer
        # divides by the number of batches that it accumulates
        self.model_accepts_loss_kwargs = False

    def call_model_init(self, trial: Any = None) -> nn.Module:
        return with_branches(super().call_model_init(trial), self.recipe)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The recipe's loss in training; in evaluation the cross-entropy of the first branch."""
        if missing := [name for name in ("pixel_values", "labels") if name not in inputs]:
            raise ValueError(f"a batch lacks {' and '.join(missing)}; it has {', '.join(inputs)}")
        x, y = inputs["pixel_values"], inputs["labels"]
        if return_outputs or not model.training:
            outputs = model(pixel_values=x)
            loss = F.cross_entropy(outputs["logits"].float(), y)
            return (loss, outputs) if return_outputs else loss
        if self.state.global_step != self._step:
            self._step, self._images = self.state.global_step, 0
        places = torch.arange(self._images, self._images + len(x), device=x.device)
        self._images += len(x)
        ids = places * self.args.world_size + self.args.process_index
        ctx = Context(ids, self._step, int(self.state.epoch or 0), self.args.seed)
        return self.recipe.total(SelectOutput(model, "logits"), x, y, ctx)

    def deployable(self) -> Any:
        """A plain copy of the model in eval mode, of its first branch, without autocast: what to save and evaluate."""
        plain = deployable(self.accelerator.unwrap_model(self.model), self.recipe)
        return self.accelerator.unwrap_model(plain, keep_fp32_wrapper=False)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the plain model into ``output_dir``; the Trainer's own calls write checkpoints, with all branches."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
        else:
            with self._plain():
                super().save_model(output_dir)

    def push_to_hub(self, *args: Any, **options: Any) -> Any:
        """Upload the plain model, see the Trainer's."""
        with self._plain():
            return super().push_to_hub(*args, **options)

    @contextmanager
    def _plain(self) -> Iterator[None]:
        """Inside the block, the Trainer's model is the plain one."""
        plain = self.deployable()
        self.model, trained = plain, self.model
        try:
            yield
        finally:
            self.model = trained
