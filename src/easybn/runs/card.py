"""The model card: a README.md beside the weights that says what the model is and how it was trained."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..data import licence
from ..models.weights import TrainedOn
from .config import Experiment, describe

LOAD = """\
```python
import easybn

model = easybn.load("model.safetensors")  # or the folder; in eval mode, on the CPU
logits = model(x)  # x: float32 of shape (N, {c}, {h}, {w}) in [0, 1]; the model normalises inside
```
"""


def card(
    experiment: Experiment,
    data: TrainedOn,
    model: nn.Module,
    metrics: Sequence[dict[str, Any]],
    sessions: Sequence[dict[str, Any]],
) -> str:
    """The card as Markdown.

    Args:
        data: what the model was trained on.
        model: the plain model to deploy.
        metrics: rows of metrics.jsonl.
        sessions: the environments it was trained in, the last one last.
    """
    recipe = type(experiment.recipe).__name__
    last = metrics[-1] if metrics else {}
    parameters = sum(p.numel() for p in model.parameters())
    about = {
        "model": f"{experiment.model}, {parameters:,} parameters",
        "input": f"{' x '.join(map(str, data.shape))} (channels, height, width) in [0, 1]",
        "data": data.name + (f", {n:,} of its training images" if (n := experiment.train_images) else ""),
        **({"left out": f"the images in `{experiment.leave_out}`"} if experiment.leave_out else {}),
        "classes": f"{len(data.classes)}: {', '.join(data.classes)}",
        "recipe": recipe,
        "branches": f"{', '.join(experiment.recipe.branches)}; deployed: {experiment.recipe.branches[0]}",
        "digest": f"`{experiment.digest}` over all settings",
    }
    parts = [
        f"# {experiment.model} on {data.name} by {recipe}",
        "An image classifier trained with easybn.",
        _table(about),
        "## Use",
        LOAD.format(**dict(zip("chw", data.shape, strict=True))).strip(),
        "## Scores on held-out training images",
        _scores(last, experiment.validation),
        "## Recipe",
        _table(_flat(describe(experiment.recipe))),
        "## Training",
        _table(_flat(describe(experiment.training) | {"validation": experiment.validation})),
        "## Environment",
        _table(_environment(sessions, last)),
        "## Licence",
        "The code that trained this model is under the MIT licence; the data set has its own terms. "
        + (licence(data.name) or "Check them before you share the weights."),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(last: dict[str, Any], validation: float) -> str:
    if not last.get("val"):
        return "No image was held out."
    rows = {name: f"accuracy {s['accuracy']:.2%}, loss {s['loss']:.4f}" for name, s in last["val"].items()}
    note = f"A share of {validation:g} of the training images, after epoch {last['epoch']}. "
    note += "Scores on the test split are in scores.jsonl once `easybn evaluate` has run."
    return f"{_table(rows)}\n\n{note}"


def _environment(sessions: Sequence[dict[str, Any]], last: dict[str, Any]) -> dict[str, Any]:
    here = sessions[-1] if sessions else {}
    packages = {name: version for name, version in here.get("packages", {}).items() if version}
    return {
        "GPU": here.get("cuda") or "none",
        "processor": here.get("processor") or "unknown",
        "threads": here.get("threads"),
        "platform": here.get("platform"),
        "python": here.get("python"),
        **packages,
        "commit": here.get("commit") or "none (installed package)",
        "finished in a session begun": here.get("time"),
        "sessions": len(sessions),
        "minutes": f"{last['seconds'] / 60:.2f}" if "seconds" in last else "unknown",
    }


def _flat(value: dict[str, Any], below: str = "") -> dict[str, Any]:
    """Nested fields by dotted names; a class goes under the name of its field."""
    rows: dict[str, Any] = {}
    for name, item in value.items():
        key = below.rstrip(".") if name == "class" and below else below + name
        rows |= _flat(item, f"{key}.") if isinstance(item, dict) else {key: item}
    return rows


def _table(rows: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    return "\n".join(["| | |", "| --- | --- |", *(f"| {cell(name)} | {cell(value)} |" for name, value in rows.items())])
