"""Networks that are kept while they are trained, so that instruments can follow a training.

``RUN/epochs/0003.safetensors`` has all branches after epoch 3 (of the moving average, if there is one), and says
of which run and epoch it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
from torch import nn

from .. import models
from ..files import sweep
from ..json_files import Damaged
from ..models import weights
from ..models.checkpoint_files import read_safetensors
from ..norm.convert import strip
from ..train.observers import Observer, TrainingState
from .run import Run
from .target import with_branches

FOLDER = "epochs"


def check(epochs: Sequence[int], total: int) -> None:
    """Raise ValueError unless a training of ``total`` epochs has them."""
    if wrong := [epoch for epoch in epochs if not 1 <= epoch <= total]:
        raise ValueError(f"keep_epochs: the training has epochs 1 to {total}, got {wrong[0]}")


class KeepEpochs(Observer):
    """Keeps the network after each of some epochs.

    Args:
        folder: of the run.
        epochs: 1 is the first.
        config: the digest of the run's config.
    """

    def __init__(self, folder: Path, epochs: Sequence[int], config: str):
        self._folder, self._epochs, self._config = folder / FOLDER, set(epochs), config

    def start(self, state: TrainingState) -> None:
        self._folder.mkdir(exist_ok=True)
        sweep(self._folder, lambda name: name.endswith(".safetensors"))

    def epoch(self, state: TrainingState, row: dict[str, Any]) -> None:
        if (epoch := row["epoch"]) in self._epochs:
            of = {"config": self._config, "epochs": epoch, "branches": state.recipe.branches}
            weights.save(state.deployed, self._folder / f"{epoch:04d}.safetensors", run=of)


def kept_epochs(run: Run) -> list[int]:
    """The epochs whose networks are there, in order."""
    return sorted(int(path.stem) for path in (run.folder / FOLDER).glob("[0-9]*.safetensors") if path.stem.isdecimal())


def network_after(run: Run, epoch: int) -> tuple[nn.Module, nn.Module | None]:
    """The plain network of the main branch after an epoch, and the one with all branches if it has several.

    Both in eval mode, on the CPU.

    Args:
        run: a finished run.
        epoch: one of :func:`kept_epochs`.

    Raises:
        Damaged: a ValueError; the file is not what was written, or of another run.
    """
    path = run.folder / FOLDER / f"{epoch:04d}.safetensors"
    try:
        about, state = read_safetensors(path)
    except safetensors.SafetensorError as error:
        raise Damaged(f"{path} is no safetensors file, or damaged ({error}): delete it") from error
    of = about.get("run") or {}
    if (of.get("config"), of.get("epochs")) != (run.digest, epoch):
        raise Damaged(f"{path} is not of epoch {epoch} of the run beside it: delete it")
    if len(names := tuple(of["branches"])) > 1:  # the file has its tensors in the order of their names
        branched = with_branches(run, names, state).eval()
        return strip(branched, names[0]).eval(), branched
    plain = models.build(**weights.described(run.folder))
    plain.load_state_dict(state)
    return plain.eval(), None
