"""What is evaluated: a model, test images whose labels are numbered as its outputs, and the folder of the scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import data, models
from ..attacks.attack_mode import attack_mode
from ..data import DataError, Source
from ..data.source import listed
from ..evaluation.store.manifest import data_digest, model_digest
from ..files import MOST_TEXT, read_bytes
from ..keyed_random import permutation
from ..models import weights
from ..norm.convert import convert, strip
from ..train.checkpoint import load
from .config import DATA_OPTIONS
from .run import Run

_MARK = ".norms."  # part of the names of a BranchedNorm's parameters
SAMPLED = 1000  # test images in the digest of a data set
PROBE_IMAGES = 16  # images for finding out how to call a model
PROBE = 256  # test images that are classified to check labels without names


def branches(run: Run) -> tuple[str, ...]:
    """Names of the branches in the run's checkpoint, the deployed one first; ("main",) for a run without branches.

    Raises:
        FileNotFoundError: the checkpoint was deleted.
        ValueError: it is damaged.
    """
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}, and model.safetensors has only the deployed branch: train again for the others"
        )
    found = [key.partition(_MARK)[2].partition(".")[0] for key in load(path).model if _MARK in f".{key}"]
    return tuple(dict.fromkeys(found)) or ("main",)


def branch_model(run: Run, branch: str | None) -> nn.Module:
    """The plain model of a branch, in eval mode, on the CPU.

    Args:
        run: a finished run.
        branch: name of the branch; None for the deployed one, which needs no checkpoint.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: there is no branch of that name.
    """
    plain = models.load(run.folder)
    if branch is None or branch == (names := branches(run))[0]:
        return plain
    if branch not in names:
        raise ValueError(f"{run.folder} has no branch {branch!r}; it has {', '.join(names)}")
    return strip(_converted(run, names), branch).eval()


def branched_model(run: Run) -> tuple[nn.Module | None, str]:
    """The converted model with all branches of a run's checkpoint, in eval mode, on the CPU; or None, and why.

    Where there never were other branches there is no reason to be told: "".

    Raises:
        ValueError: the checkpoint is damaged.
    """
    if not (run.folder / "config.json").exists():
        return None, ""  # a user's model
    if not (run.folder / "checkpoint.pt").exists():
        return None, "there is no checkpoint.pt, and the deployed model has one branch"
    if len(names := branches(run)) < 2:
        return None, ""
    return _converted(run, names).eval(), ""


def _converted(run: Run, names: tuple[str, ...]) -> nn.Module:
    """The model of the checkpoint, with branches of these names."""
    state = load(run.folder / "checkpoint.pt")
    return with_branches(run, names, state.average or state.model)


def with_branches(run: Run, names: tuple[str, ...], state: Mapping[str, Tensor]) -> nn.Module:
    """The model of a finished run, converted to these branches, with weights of all of them."""
    plain = models.build(**weights.described(run.folder))
    model = convert(plain, names, run.config["norms"], share=run.config.get("share"))
    model.load_state_dict(state)
    return model


@dataclass(frozen=True)
class EvaluationTarget:
    """A model with its test images, both loaded when they are first used.

    Args:
        run: the folder of the scores, of a finished run or of a user's model.
        load_model: returns the model.
        load_data: returns the data set; its labels are numbers of the model's outputs where their names are known.
        branch: name of the branch; "main" for the deployed one.
        claim: marks the folder as this model's; called when the model and the data are known to exist.
        named: whether the names of the model's outputs are known.
    """

    run: Run
    load_model: Callable[[], nn.Module]
    load_data: Callable[[], Source]
    branch: str = "main"
    claim: Callable[[], None] = lambda: None
    named: Callable[[], bool] = lambda: True

    @cached_property
    def model(self) -> nn.Module:
        """The model in eval mode, on the CPU."""
        return self.load_model().eval()

    @cached_property
    def source(self) -> Source:
        """The data set whose test images are attacked."""
        return self.load_data()

    @cached_property
    def notes(self) -> list[str]:
        """What readers of the results should know about the data and the labels; raises as :meth:`check`."""
        return [*self.source.notes, *self._outputs()]

    def digests(self) -> dict[str, str]:
        """Digests that identify the model, and the test images by 1,000 of them and all labels."""
        images = self.source.test
        index = torch.linspace(0, len(images) - 1, min(len(images), SAMPLED)).long()
        x, _ = images.batch(index)
        with attack_mode(self.model, probe=x[:PROBE_IMAGES], fold=False) as ready:
            model = model_digest(ready, tuple(x.shape[1:]))
        return {"weights or code": model, "test images": data_digest(x, images.labels)}

    def check(self) -> None:
        """Raise ValueError if the model's outputs and the classes of the data cannot belong together."""
        _ = self.notes

    def _outputs(self) -> list[str]:
        """Compare the number of the model's outputs with the number of classes."""
        classes = self.source.classes
        outputs = self._logits(self.source.test.batch(torch.arange(1))[0])
        if outputs is None or outputs == (count := len(classes)):
            return []
        if self.named():
            raise ValueError(f"the model has {outputs:,} outputs, and {count:,} classes by name: {listed(classes)}")
        pair = f"the model has {outputs:,} outputs and {self.source.name} has {count:,} classes ({listed(classes)})"
        advice = "name the class of each output by --classes FILE, one per line, to match them by name"
        if outputs < count:
            raise ValueError(f"{pair}: leave out images of classes that the model does not have, or {advice}")
        beyond = self._share_beyond(count)
        if beyond > 0.5:
            raise ValueError(
                f"{pair}, and its answer for {beyond:.0%} of the test images is an output after the first {count:,}, "
                f"so its outputs are not these classes in this order: {advice}"
            )
        return [
            f"{pair}: the first {count:,} outputs are taken for these classes, in this order; its answer for "
            f"{beyond:.0%} of the test images is none of them; if that is wrong, {advice}"
        ]

    def _logits(self, x: Tensor) -> int | None:
        """Number of logits; None if the model returns something else, which the evaluation reports."""
        logits = self._classified(x)
        return None if logits is None or logits.dim() != 2 else logits.shape[1]

    def _share_beyond(self, count: int) -> float:
        """Share of some test images whose largest logit is not among the first ``count``."""
        index = permutation(len(self.source.test), 0, "outputs")[:PROBE].sort().values
        logits = self._classified(self.source.test.batch(index)[0])
        return 0.0 if logits is None else float((logits.argmax(1) >= count).float().mean())

    def _classified(self, x: Tensor) -> Tensor | None:
        parameter = next(self.model.parameters(), None)
        try:
            with torch.no_grad():
                logits = self.model(x if parameter is None else x.to(parameter.device))
        except Exception:  # any kind: the evaluation itself reports what a user's model raises
            return None
        return logits if isinstance(logits, Tensor) else None

    @classmethod
    def of_run(cls, run: Run, branch: str | None = None) -> "EvaluationTarget":
        """A finished run, or one of its branches."""
        return cls(run, lambda: branch_model(run, branch), lambda: data_of(run), branch or "main")


def data_of(run: Run) -> Source:
    """The data set of a finished run, its labels matched by name with the classes it was trained on.

    Raises:
        easybn.data.DataError: it is missing, or has changed.
    """
    config, about = run.config, weights.trained_on(run.folder)
    options: dict[str, Any] = {name: config.get(name) for name in DATA_OPTIONS}  # older runs lack them
    source = data.load(config["data"], folder=config.get("data_folder"), **options)
    if about is None:
        return source
    advice = "rename the class folders as they were when it was trained, or leave out the others"
    source = source.matched(about.classes, f"the model of {run.folder}", advice)
    if source.test.shape != about.shape:
        there, here = (" x ".join(map(str, shape)) for shape in (about.shape, source.test.shape))
        raise DataError(
            f"{source.name}: its images are {here} (channels, height, width), and the model of {run.folder} was "
            f"trained on {there}: has the data set changed?"
        )
    return source


def read_classes(path: Path | str) -> tuple[str, ...]:
    """The names of a model's outputs, in order, from a file with one name per line.

    Raises:
        ValueError: there is no such file, it is not UTF-8, or a line is empty.
    """
    try:
        lines = read_bytes(path, MOST_TEXT).decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"--classes {path}: cannot be read: {reason}") from None
    names = [line.strip() for line in lines]
    if "" in names:
        raise ValueError(
            f"--classes {path}: line {names.index('') + 1} is empty: name the class of each output, one per line"
        )
    return tuple(names)


def sized_for(source: Source, about: weights.TrainedOn, model: str, resized: bool, of_folder: bool) -> Source:
    """``source``, with a note if its images are not of the size that a model was trained on.

    Args:
        resized: whether the size was asked for.
        of_folder: whether the data set is an image folder, so that another size can be asked for.

    Raises:
        easybn.data.DataError: another number of channels; or another size, which could be asked for and was not.
    """
    (channels, *size), (wanted, *trained) = source.test.shape, about.shape
    if channels != wanted:
        advice = f": --channels {wanted}" if of_folder and wanted in (1, 3) else ""
        raise DataError(f"{source.name}: its images have {channels} channels, {model} takes {wanted}{advice}")
    if size == trained:
        return source
    here, there = (" x ".join(map(str, each)) for each in (size, trained))
    note = f"images of {here} pixels, and {model} was trained on {there}"
    if of_folder and not resized and trained[0] == trained[1]:
        raise DataError(f"{source.name}: {note}: --resize {trained[0]} (or --resize {min(size)} to keep their size)")
    return source.noted(note)
