"""The training loop, and the checks around it. Everything random in it follows from the seed and the step."""

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

from ..attacks.model_call import ModelFailed, one_line
from ..data.source import Split
from ..interrupt import Interrupted, deferred_signals
from ..modes import copied, evaluating, repeatable_convolutions
from ..norm.route import route
from ..perturb.goal import values_known
from ..recipes.recipe import Context, Recipe
from .checkpoint import Checkpoint, resume, save, settings
from .distributed import GradientAverage, Processes, default_device, from_bytes, synchronised, to_bytes
from .observers import Observer, TrainingState, averages
from .prepare import (
    Batches,
    CopiesInput,
    as_split,
    autocast_for,
    check_labels,
    compile_model,
    deployable,
    find_input_format,
    keep_on_device,
    seeded,
    usable_device,
    with_branches,
)
from .schedule import Training
from .step import SGD, Average, Tally, take_step, total

CHECK_EVERY = 50
"""Steps between checks of values on the device (images and labels in range, weights finite): each one waits for it."""


@dataclass(frozen=True)
class Fitted:
    """The result of :func:`fit`.

    Args:
        model: the plain model to deploy: the recipe's first branch (averaged, if asked for), in eval mode.
        branched: the model as it was trained, with all branches.
        history: one row per epoch of this session, as observers get them.
        notes: what is unusual about the model, one sentence each.
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
    any_processes: bool = False,
) -> Fitted:
    """Train a copy of ``model`` by ``recipe``; if there is a checkpoint, resume from it exactly.

    Inside a process group of torch (``torch.distributed``) that has several processes, all of them call this with the
    same arguments and train together: see :mod:`easybn.train.distributed`. The first one has the observers and the
    checkpoint; the result is the same in all.

    Args:
        model: from images in [0, 1] to logits; plain, or converted with the recipe's branches.
        train: the training images, a Split or a pair (x uint8 (N, C, H, W), y int64 (N,)).
        training: epochs, learning rates, batch size, seed and so on.
        val: images on which every branch is scored after each epoch; never the test split.
        checkpoint: a file that is written every ``checkpoint_seconds``, at the end and on Ctrl-C or SIGTERM.
        observers: see :class:`easybn.train.observers.Observer`.
        device: by default CUDA if available (the current device, if there are several processes), else the CPU.
        data_on_device: keep all images on the device as bytes, so that no step waits for a copy. By default if it is
            a CUDA device and they take at most a quarter of its free memory. The results are the same.
        any_processes: resume even if the checkpoint is of another number of processes. The results are then not those
            of an undisturbed training.

    Raises:
        easybn.train.distributed.ProcessLost: another process has ended; the checkpoint is from before.
        Diverged: a loss or a weight is not finite; the checkpoint is from before.
        Interrupted: Ctrl-C or SIGTERM, after saving (only with a checkpoint).
        ValueError: no images, no such device, a checkpoint of another model or training; a model that fails on these
            images, that returns no logits (a TypeError too) or fewer than there are classes.
    """
    train, val = as_split(train), None if val is None else as_split(val)
    processes = Processes.here()
    device = usable_device(device or default_device())
    batch_size = min(training.batch_size, len(train))
    plain = with_branches(model, recipe).to(device).train()
    processes.start_alike(plain)
    model = _synchronised(plain, device) if training.sync_batchnorm and processes.count > 1 else plain
    autocast = autocast_for(training.precision, device)
    input_format = find_input_format(model, train, batch_size, training.channels_last, device, autocast)
    for split in (train, val):
        if split is not None and input_format.classes is not None:
            check_labels(split, input_format.classes)
    model = model.to(memory_format=input_format.layout)
    called: nn.Module = CopiesInput(model) if input_format.writes_to_input else model
    called = compile_model(called) if training.compile else called

    train = keep_on_device(train, device, data_on_device)
    val = None if val is None else keep_on_device(val, device, data_on_device)
    batches = Batches(train, training, batch_size, device, input_format.layout, processes)
    state = TrainingState(
        model=model,
        recipe=recipe,
        training=training,
        images=len(train),
        batch_size=batch_size,
        steps_per_epoch=batches.per_epoch,
        total_steps=batches.per_epoch * training.epochs,
        optimizer=SGD(
            model.parameters(),
            lr=training.lr,
            momentum=training.momentum,
            nesterov=training.nesterov,
            weight_decay=training.weight_decay,
        ),
        average=Average(model, training.ema) if training.ema else None,
        scaler=torch.amp.GradScaler(device.type) if training.precision == "fp16" else None,
        notes=input_format.notes,
        processes=processes,
    )
    average = GradientAverage(processes, model)
    path = None if checkpoint is None else Path(checkpoint)
    processes.check_same({**settings(state), "checkpoint": "no" if path is None else "yes"})
    if path is not None and (kept := _resumed(path, processes)) is not None:
        kept.restore(state, path, any_processes)
    state.first_step = state.step
    earlier_seconds, started = state.seconds, time.monotonic()
    saved_at = started
    history: list[dict[str, Any]] = []

    with ExitStack() as stack:
        signals = stack.enter_context(deferred_signals()) if path is not None else None
        stack.enter_context(repeatable_convolutions())
        if not processes.first:
            observers = ()
        for observer in observers:
            observer.start(state)
            stack.callback(observer.end, state)
        while state.step < state.total_steps and not state.stop:
            epoch = state.step // state.steps_per_epoch
            x, y, ids = state.batch = batches.at(state.step)
            state.lr = training.schedule.rate(training.lr, state.epoch, training.epochs)
            for group in state.optimizer.param_groups:
                group["lr"] = state.lr
            ctx = Context(ids, state.step, epoch, training.seed)
            check_values = state.step % CHECK_EVERY == 0 or state.step == state.first_step
            with seeded(training.seed, state.step, device, processes.rank), values_known(not check_values):
                tally = take_step(
                    called,
                    state.optimizer,
                    partial(recipe, called, x, y, ctx),
                    average=partial(average, len(x), batch_size),
                    clip_norm=training.clip_norm,
                    autocast=autocast,
                    scaler=state.scaler,
                )
            if state.average:
                state.average.update(model)
            state.step += 1
            state.tally |= {name: sums + state.tally.get(name, 0.0) for name, sums in tally.items()}
            state.seconds = earlier_seconds + time.monotonic() - started
            for observer in observers:
                observer.step(state)
            if state.step % state.steps_per_epoch == 0:
                check_finite(state)
                train_scores = averages(total(_tallies(state)))
                row = {"epoch": epoch + 1, "step": state.step, "lr": state.lr, "train": train_scores}
                if val is not None:
                    row["val"] = validate(state.deployed, recipe.branches, val, 4 * batch_size, processes)
                history.append(row)
                state.tally = {}
                for observer in observers:
                    observer.epoch(state, row)
            elif state.step % CHECK_EVERY == 0:
                check_finite(state)
            # a request to one process, and what the first one's clock and observers say, holds for all
            due = processes.first and time.monotonic() - saved_at > checkpoint_seconds
            signum, stop, save_now = processes.largest((signals and signals.signum) or 0, state.stop, due)
            state.stop = bool(stop)
            if state.step == state.total_steps or state.stop or signum or save_now:
                state.seconds = earlier_seconds + time.monotonic() - started
                check_finite(state)
                tallies = _tallies(state)
                if path is not None and processes.first:
                    save(Checkpoint.of(state, tallies), path)
                saved_at = time.monotonic()
            if signum:
                raise Interrupted(
                    signum,
                    f"stopped after step {state.step} of {state.total_steps}, saved to {path}: run the same command "
                    "again to resume",
                )
    if model is not plain:  # its own batch norms again
        plain.load_state_dict(model.state_dict())
        deployed = copied(plain)
        deployed.load_state_dict(state.deployed.state_dict())
        return Fitted(deployable(deployed, recipe), plain, history, input_format.notes)
    return Fitted(deployable(state.deployed, recipe), model, history, input_format.notes)


def _synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    if device.type != "cuda":
        raise ValueError(f"sync_batchnorm: SyncBatchNorm computes on GPUs only, not on {device}: leave it out")
    return synchronised(copied(model))


def _resumed(path: Path, processes: Processes) -> Checkpoint | None:
    """The first process's checkpoint, in all processes."""
    if processes.count == 1:
        return resume(path)
    data = processes.from_first(lambda: b"" if (kept := resume(path)) is None else to_bytes(vars(kept)))
    return Checkpoint(**from_bytes(data)) if data else None


def _tallies(state: TrainingState) -> list[Tally]:
    """The sums of the epoch in every process, in the order of their ranks."""
    if state.processes.count == 1:
        return [state.tally]
    mine = {name: sums.tolist() for name, sums in state.tally.items()}
    device = next(state.model.parameters()).device
    return [
        {name: torch.tensor(sums, dtype=torch.float64, device=device) for name, sums in tally.items()}
        for tally in state.processes.gather(mine)
    ]


def validate(
    model: nn.Module,
    branches: tuple[str, ...],
    split: Split,
    batch_size: int,
    processes: Processes = Processes(),
) -> dict[str, dict[str, float]]:
    """Score every branch on the validation images, in eval mode; no running statistic moves.

    Args:
        model: with these branches; with a single one it may be plain.
        split: at least one image.
        processes: which share the images.

    Returns:
        {branch: {"loss": mean cross-entropy, "accuracy": share}}.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluating(model):
        if len(branches) == 1:
            return {branches[0]: _score(model, split, batch_size, device, processes)}
        scores = {}
        for branch in branches:
            with route(model, branch):
                scores[branch] = _score(model, split, batch_size, device, processes)
        return scores


def _score(
    model: nn.Module, split: Split, batch_size: int, device: torch.device, processes: Processes
) -> dict[str, float]:
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    share = torch.arange(len(split), device=split.device)[processes.share(len(split))]
    for index in torch.split(share, batch_size) if len(share) else ():
        x, y = (part.to(device) for part in split.batch(index))
        try:
            logits = model(x).float()
        except Exception as error:
            shape = tuple(x.shape)
            raise ModelFailed(f"the model fails in validation on images of shape {shape}: {one_line(error)}") from error
        loss = F.cross_entropy(logits, y, reduction="sum").double()
        sums += torch.stack((loss, (logits.argmax(1) == y).sum().double()))
    loss_sum, correct = processes.sum(sums).tolist()
    return {"loss": loss_sum / len(split), "accuracy": correct / len(split)}


class Diverged(ArithmeticError):
    """A loss, a weight or a running statistic is not finite any more; the last checkpoint is from before."""


def check_finite(state: TrainingState) -> None:
    """Diverged unless losses, parameters and buffers are finite; called before each checkpoint is overwritten."""
    if _all_finite([*state.tally.values(), *state.model.parameters(), *state.model.buffers()]):
        return
    name = next((f"the loss {name!r}" for name, sums in state.tally.items() if not sums.isfinite().all()), None)
    raise Diverged(
        f"{name or 'a weight or statistic'} is not finite any more at step {state.step} (learning rate {state.lr:g}): "
        "try a lower lr, a warm-up or clip_norm"
    )


def _all_finite(tensors: list[Tensor]) -> bool:
    """Waits for each device once, however many tensors there are."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor.detach().isfinite().all())
    return all(bool(torch.stack(finite).all()) for finite in by_device.values())
