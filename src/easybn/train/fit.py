"""The training loop, top to bottom. Everything random in it follows from the seed and the step."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks.calling import ModelFailed, sentence
from ..data.source import Split
from ..interrupt import Interrupted, deferred_signals
from ..modes import evaluating, repeatable_convolutions
from ..norm.route import route
from ..perturb.goal import values_known
from ..recipes.recipe import Context, Recipe
from .batches import Batches, placed
from .checkpoint import Average, Parts, resume, save
from .observers import Moment, Observer, averages
from .prepare import (
    OnCopies,
    as_split,
    autocasting,
    check_labels,
    compiled,
    deployed,
    seeded,
    taken_in_training,
    usable,
    with_branches,
)
from .schedule import Training
from .step import SGD, take_step

# A training that has left the numbers stops, before it overwrites its last good checkpoint.

LOOKS = 50
"""Steps between two looks at values on the device (of images and labels, whether weights are finite): each waits."""


class Diverged(ArithmeticError):
    """A loss, a weight or a running statistic is not finite any more; the last checkpoint is from before."""


def check_finite(moment: Moment) -> None:
    if _all_finite([*moment.tally.values(), *moment.model.parameters(), *moment.model.buffers()]):
        return
    for name, row in moment.tally.items():
        if not row.isfinite().all():
            raise Diverged(
                f"the loss {name!r} is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
                "try a lower lr, a warm-up or clip_norm"
            )
    raise Diverged(
        f"a weight or statistic is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
        "try a lower lr, a warm-up or clip_norm"
    )


def _all_finite(tensors: list[Tensor]) -> bool:
    """Waits for each device once, however many tensors there are."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor.detach().isfinite().all())
    return all(bool(torch.stack(each).all()) for each in by_device.values())


# Loss and accuracy of every branch on the validation split: what choices are made by.


def validate(model: nn.Module, branches: tuple[str, ...], split: Split, batch_size: int) -> dict[str, dict[str, float]]:
    """{branch: {"loss": mean cross-entropy, "accuracy": share}} in eval mode; no statistic moves.

    Args:
        model: with these branches; with a single one it may be plain.
        split: at least one image.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluating(model):
        if len(branches) == 1:
            return {branches[0]: _score(model, split, batch_size, device)}
        scores = {}
        for branch in branches:
            with route(model, branch):
                scores[branch] = _score(model, split, batch_size, device)
        return scores


def _score(model: nn.Module, split: Split, batch_size: int, device: torch.device) -> dict[str, float]:
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for index in torch.split(torch.arange(len(split), device=split.device), batch_size):
        x, y = (part.to(device) for part in split.batch(index))
        try:
            logits = model(x).float()
        except Exception as error:
            shape = tuple(x.shape)
            raise ModelFailed(f"the model fails in validation on images of shape {shape}: {sentence(error)}") from error
        loss = F.cross_entropy(logits, y, reduction="sum").double()
        total += torch.stack((loss, (logits.argmax(1) == y).sum().double()))
    loss_sum, right = total.tolist()
    return {"loss": loss_sum / len(split), "accuracy": right / len(split)}


@dataclass(frozen=True)
class Fitted:
    """What a training made.

    Args:
        model: the plain model to deploy: the recipe's first branch (averaged, if asked), in eval mode.
        branched: the model as it was trained, with all branches.
        history: a row an epoch of this sitting, as observers are shown.
        notes: what is unusual about the model, a sentence each.
    """

    model: nn.Module
    branched: nn.Module
    history: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def fit(
    model: nn.Module,
    recipe: Recipe,
    train: Split | tuple[Tensor, Tensor],
    training: Training = Training(),
    *,
    val: Split | tuple[Tensor, Tensor] | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_seconds: float = 60.0,
    observers: Sequence[Observer] = (),
    device: torch.device | str | None = None,
    data_on_device: bool | None = None,
) -> Fitted:
    """Train a copy of ``model`` by ``recipe``; with a checkpoint, go on exactly where it stands.

    Args:
        model: from images in [0, 1] to logits; plain, or converted with the recipe's branches.
        train: the training images, a Split or a pair (x uint8 (N, C, H, W), y int64 (N,)).
        training: epochs, rates, batch size, seed and so on.
        val: images on which every branch is scored after each epoch; never the test split.
        checkpoint: a file that is written every ``checkpoint_seconds``, at the end and on Ctrl-C or SIGTERM.
        observers: see :class:`easybn.train.observers.Observer`.
        device: by default CUDA where there is one, else the CPU.
        data_on_device: keep all images on the device as bytes, so that no step waits for a copy; by default if it is
            a CUDA device and they take at most a quarter of its free memory. The figures are the same.

    Raises:
        Diverged: a loss or a weight is not finite; the checkpoint is from before.
        Interrupted: Ctrl-C or SIGTERM, after saving (only with a checkpoint).
        ValueError: no images, no such device, a checkpoint of another model or training; a model that fails on these
            images, that returns no logits (a TypeError too) or fewer than there are classes.
    """
    train, val = as_split(train), None if val is None else as_split(val)
    device = usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    batch_size = min(training.batch_size, len(train))
    model = with_branches(model, recipe).to(device).train()
    autocast = autocasting(training.precision, device)
    taken = taken_in_training(model, train, batch_size, training.channels_last, device, autocast)
    for split in (train, val):
        if split is not None and taken.classes is not None:
            check_labels(split, taken.classes)
    layout = taken.layout
    model = model.to(memory_format=layout)
    stepped: nn.Module = OnCopies(model) if taken.writes else model
    stepped = compiled(stepped) if training.compile else stepped
    optimizer = SGD(
        model.parameters(),
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
    )
    average = Average(model, training.ema) if training.ema else None
    scaler = torch.amp.GradScaler(device.type) if training.precision == "fp16" else None

    train, val = placed(train, device, data_on_device), None if val is None else placed(val, device, data_on_device)
    batches = Batches(train, training, batch_size, device, layout)
    per_epoch = batches.per_epoch
    moment = Moment(model, recipe, training, per_epoch, per_epoch * training.epochs, batch_size, notes=taken.notes)
    path = None if checkpoint is None else Path(checkpoint)
    parts = Parts(moment, len(train), optimizer, average, scaler)
    if path is not None and (kept := resume(path)) is not None:
        parts.restore(kept, path)
    moment.first_step = moment.step
    history: list[dict[str, Any]] = []
    saved_at = started = time.monotonic()
    before = moment.seconds

    def keep() -> None:
        moment.seconds = before + time.monotonic() - started
        check_finite(moment)
        if path is not None:
            save(parts.state(), path)

    with ExitStack() as stack:
        requests = stack.enter_context(deferred_signals()) if path is not None else None
        stack.enter_context(repeatable_convolutions())
        for observer in observers:
            observer.start(moment)
            stack.callback(observer.end, moment)
        while moment.step < moment.total_steps and not moment.stop:
            epoch = moment.step // per_epoch
            x, y, ids = batches.at(moment.step)
            moment.lr = training.schedule.rate(training.lr, moment.epoch, training.epochs)
            for group in optimizer.param_groups:
                group["lr"] = moment.lr
            ctx = Context(ids, moment.step, epoch, training.seed)
            looks = moment.step % LOOKS == 0 or moment.step == moment.first_step
            with seeded(training.seed, moment.step, device), values_known(not looks):
                tally = take_step(
                    stepped,
                    optimizer,
                    partial(recipe, stepped, x, y, ctx),
                    clip_norm=training.clip_norm,
                    autocast=autocast,
                    scaler=scaler,
                )
            if average:
                average.update(model)
            moment.step += 1
            moment.tally |= {name: row + moment.tally.get(name, 0.0) for name, row in tally.items()}
            moment.seconds = before + time.monotonic() - started
            for observer in observers:
                observer.step(moment)
            if moment.step % per_epoch == 0:
                check_finite(moment)
                row = {"epoch": epoch + 1, "step": moment.step, "lr": moment.lr, "train": averages(moment.tally)}
                if val is not None:
                    judged = model if average is None else average.model
                    row["val"] = validate(judged, recipe.branches, val, 4 * batch_size)
                history.append(row)
                moment.tally = {}
                for observer in observers:
                    observer.epoch(moment, row)
            elif moment.step % LOOKS == 0:
                check_finite(moment)
            signum = None if requests is None else requests.signum
            ended = moment.step == moment.total_steps or moment.stop
            if ended or signum or time.monotonic() - saved_at > checkpoint_seconds:
                keep()
                saved_at = time.monotonic()
            if signum:
                done = f"stopped after step {moment.step} of {moment.total_steps}, saved to {path}"
                raise Interrupted(signum, f"{done}: the same command goes on from there")
    return Fitted(deployed(model if average is None else average.model, recipe), model, history, taken.notes)
