"""One branch of a finished run as a plain model: of the checkpoint, which keeps them all."""

from torch import nn

from .. import models
from ..models import weights
from ..norm.convert import convert, strip
from ..train.checkpoint import load
from .run import Run

_MARK = ".norms."  # where a BranchedNorm keeps its branches


def branches(run: Run) -> tuple[str, ...]:
    """The branches that the run's checkpoint has, the deployed one first; of a run without branches ("main",).

    Raises:
        FileNotFoundError: the checkpoint was deleted.
        ValueError: it is damaged.
    """
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there, and model.safetensors holds the deployed branch alone: train again for the others"
        )
    found = [key.partition(_MARK)[2].partition(".")[0] for key in load(path).model if _MARK in f".{key}"]
    return tuple(dict.fromkeys(found)) or ("main",)


def branch_model(run: Run, branch: str | None) -> nn.Module:
    """The plain model of a branch, in eval mode, on the CPU.

    Args:
        run: finished.
        branch: its name; None for the deployed one, which needs no checkpoint.

    Raises:
        FileNotFoundError: no weights.
        ValueError: no branch of that name.
    """
    plain = models.load(run.folder)
    if branch is None or branch == (names := branches(run))[0]:
        return plain
    if branch not in names:
        raise ValueError(f"{run.folder} has no branch {branch!r}; it has {', '.join(names)}")
    state = load(run.folder / "checkpoint.pt")
    model = convert(models.build(**weights.described(run.folder)), names, run.config["norms"])
    model.load_state_dict(state.average or state.model)
    return strip(model, branch).eval()
