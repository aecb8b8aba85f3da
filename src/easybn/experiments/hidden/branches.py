"""How far the branches of a run have moved apart, from its checkpoint: branches.jsonl."""

from ...analysis.branch_distance import branch_distances
from ...models.weights import trained_on
from ...sealed import write_rows
from ...train.checkpoint import load
from ..branch import branches
from ..run import Run

NAME = "branches.jsonl"


def write_branch_distances(run: Run) -> str:
    """Write a row a norm layer, pair of branches and measure; what was there is replaced.

    The keys: data, model, recipe, step (of the checkpoint), averaged (whether of the moving average of the weights),
    and the fields of :class:`easybn.analysis.branch_distance.BranchDistance`.

    Args:
        run: finished.

    Returns:
        What was done, or why nothing was, in words.

    Raises:
        ValueError: a damaged checkpoint.
        BusyError: another process is at work there.
    """
    if not (run.folder / "config.json").exists():
        return f"{run.folder}: no run of a training, so that no branches can be compared"
    if not (run.folder / "checkpoint.pt").exists():
        return f"{run.folder}: no checkpoint.pt, and the deployed model has one branch: the branches are not compared"
    if len(names := branches(run)) < 2:
        return f"{run.folder}: trained with one branch, there are none to compare"
    config, state = run.config, load(run.folder / "checkpoint.pt")
    about = {
        "data": trained.name if (trained := trained_on(run.folder)) else config["data"],
        "model": config["model"],
        "recipe": config["recipe"]["class"],
        "step": state.step,
        "averaged": state.average is not None,
    }
    rows = [{**about, **found._asdict()} for found in branch_distances(state.average or state.model)]
    with run.locked():
        write_rows(run.folder / NAME, rows)
    return f"{run.folder}: branches {', '.join(names)} compared in {run.folder / NAME}"
