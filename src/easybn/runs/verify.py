"""Verification of a store of verdicts: finds its model and images by their digests, and tests them again."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..attacks.attack_mode import attack_mode
from ..evaluation.record import CLEAN
from ..evaluation.store import Store
from ..evaluation.store.manifest import data_digest, model_digest
from ..evaluation.verify import Problem, verify
from ..progress import OnProgress, silent
from .target import EvaluationTarget, branch_model, branches
from .user_model import NAME, UserModel, target_in


@dataclass(frozen=True)
class Verified:
    """Result of a verification.

    Args:
        images: number of adversarial images that were tested.
        clean: number of clean points that were tested.
        kept: whether the evaluation keeps its images; without them only clean verdicts can be tested.
        problems: what is wrong.
    """

    images: int
    clean: int
    kept: bool
    problems: list[Problem]

    def __str__(self) -> str:
        if self.problems:
            many = "s" * (len(self.problems) != 1)
            return f"{self.images:,} adversarial images tested again: {len(self.problems):,} problem{many}"
        if not self.kept:
            return (
                "no images were kept (--keep_images), so no adversarial image can be tested again; "
                f"the record is complete and consistent, and the {self.clean:,} clean verdicts are the same again"
            )
        return f"{self.images:,} adversarial images and {self.clean:,} clean ones tested again: everything holds"


def verify_store(
    folder: Path,
    own: UserModel | None,
    device: str | None,
    batch_size: int,
    progress: OnProgress = silent,
    repeated: UserModel | None = None,
) -> Verified:
    """Test every stored adversarial image again, and whether the record is complete and consistent.

    Args:
        folder: the store.
        own: the model and its data; None to use those of the run in whose folder the store is.
        device: where to compute; by default the CPU.
        batch_size: images per pass.
        progress: called after every stage.
        repeated: the model of the folder in which the store is, named again, see :meth:`.user_model.UserModel.of`.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: its manifest is damaged; the model or the images are not those that were evaluated.
    """
    store = Store.existing(folder)
    points = torch.tensor(store.manifest.points)
    source = own.load_data() if own else _owner(folder, repeated).source
    if int(points.max()) >= len(source.test) or int(points.min()) < 0:
        raise ValueError(f"{source.name} has {len(source.test):,} test images, and the verdicts are of others")
    # their digest is of points in ascending order, in whatever order they were attacked
    if data_digest(*source.test.batch(points.sort().values)) != store.manifest.data:
        raise ValueError(f"the test images of {source.name} are not those that were evaluated: their digest differs")
    x, y = source.test.batch(points)
    for model in _candidates(folder, own, repeated):
        with attack_mode(model.to(device or "cpu"), probe=x, fold=False) as ready:
            if model_digest(ready, tuple(x.shape[1:])) != store.manifest.model:
                continue
            problems = verify(
                store, lambda image: ready.original(ready.load(image)), x, y, batch_size=batch_size, progress=progress
            )  # fmt: skip
            # damaged files are among the problems
            found = list(Store(folder, store.manifest, lambda line: None).read())
            count = sum(len(images[0]) for _, _, images in found if images is not None)
            clean = sum(len(record) for file, record, _ in found if store.manifest.stages[file.stage] == CLEAN)
            return Verified(count, clean, store.manifest.keep_images, problems)
    raise ValueError(f"the model is not the one that was evaluated: none has the digest {store.manifest.model}")


def is_of_user_model(folder: Path) -> bool:
    """Whether the store is in the folder of a user's model."""
    home = folder.resolve().parent.parent
    return (home / NAME).exists() and not (home / "config.json").exists()


def _owner(folder: Path, repeated: UserModel | None) -> EvaluationTarget:
    home = folder.resolve().parent.parent
    if not (home / "config.json").exists() and not (home / NAME).exists():
        raise ValueError(f"{folder} is not in a run's folder: name its model and data (--model, --weights, --data)")
    return target_in(home, repeated=repeated)


def _candidates(folder: Path, own: UserModel | None, repeated: UserModel | None) -> Iterator[nn.Module]:
    """The model, then the other branches of the run."""
    if own:
        yield own.load_model().eval()
        return
    owner = _owner(folder, repeated)
    yield owner.model
    if (owner.run.folder / "config.json").exists():
        with suppress(FileNotFoundError):  # without a checkpoint there is only the deployed branch
            for name in branches(owner.run)[1:]:
                yield branch_model(owner.run, name)
