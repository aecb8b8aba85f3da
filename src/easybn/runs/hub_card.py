"""The model card of a run on the Hugging Face Hub: its own README.md with the scores on test images, and a header."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..data.registry import PUBLISHED
from ..evaluation.audit import Audit
from ..evaluation.result import Score, headline
from ..json_files import Row
from ..models.hub import hub_library
from ..models.weights import trained_on
from .run import Run

DATASETS = {
    "sample": "zalando-datasets/fashion_mnist", "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "mnist": "ylecun/mnist",
}  # fmt: skip
"""What the Hub calls data sets that easybn knows by name; the sample is part of Fashion-MNIST."""

USE = """\
```python
import easybn

model = easybn.from_hub("{repo}")  # in eval mode, on the CPU
logits = model(x)  # x: float32 of shape (N, {c}, {h}, {w}) in [0, 1]; the model normalises inside
```

`easybn evaluate --model hub:{repo} --attacks fast` measures its robustness again. The weights are safetensors: loading
them runs no code."""

MAIN = "main"


def hub_card(run: Run, repo: str, licence: str | None = None) -> str:
    """The card as Markdown with a header of YAML.

    Args:
        run: a finished run with its README.md, which may have been written on.
        repo: USER/NAME, where it goes.
        licence: what the Hub calls it, such as "mit".
    """
    config, about = run.config, trained_on(run.folder)
    title, parts = _parts(run)
    shape = about.shape if about else ("C", "H", "W")
    parts.pop("Use", None)
    use = USE.format(repo=repo, **dict(zip("chw", shape, strict=True)))
    parts = {"Use": use, "Scores on test images": scores_table(run.scores), **parts}
    text = "\n\n".join([title, *(f"## {name}\n\n{part}" for name, part in parts.items())])
    data = about.name if about else ""
    return f"---\n{_metadata(run, config, data, repo, licence)}---\n\n{_without_paths(text, config)}\n"


def _parts(run: Run) -> tuple[str, dict[str, str]]:
    """What the run's README.md has before its first heading of the second level, and below each of them."""
    path = run.folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {run.config['model']}"
    title, *sections = re.split(r"^## ", re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    named = (section.partition("\n") for section in sections)
    return title.strip(), {name.strip(): body.strip() for name, _, body in named}


def main_rows(scores: Sequence[Row]) -> list[Row]:
    """Rows about the deployed branch."""
    return [row for row in scores if row.get("branch", MAIN) == MAIN]


def scores_table(scores: Sequence[Row]) -> str:
    """Each score of the deployed branch with its interval, then what the diagnosis warns of."""
    rows = main_rows(scores)
    if not rows:
        return "Not measured: `easybn evaluate` has not run before it was uploaded."
    total = max((row["n"] for row in rows if row["attack"] == "clean"), default=None)
    lines = ["| measured | result (95% interval) |", "| --- | --- |"]
    for row in rows:
        what, _, result = _line(row, total).partition(": ")
        lines.append(f"| {what} | {result} |".replace("\n", " "))
    warned = [
        f"- {finding['what']}" + (f": {finding['how_much']}" if finding.get("how_much") else "")
        for row in rows
        for finding in row.get("findings", [])
        if finding["severity"] == "warning"
    ]
    warnings = ["", "The diagnosis warns:", "", *dict.fromkeys(warned)] if warned else []
    return "\n".join([*dict.fromkeys(lines), *warnings])


def _line(row: Row, total: int | None) -> str:
    if row["attack"] == "corruptions":
        low, high = (f"{100 * row[end]:.1f}" if end in row else "?" for end in ("low", "high"))
        figure = f"{100 * row['accuracy']:.1f}% (95%: {low} to {high})" if "accuracy" in row else "not known"
        images = f", {row['test_images']:,} points" if "test_images" in row else ""
        return f"mean accuracy under common corruptions: {figure}{images}, {row.get('protocol') or 'published'}"
    given = {each.name: row[each.name] for each in fields(Score) if each.name in row and each.name != "audit"}
    return headline(Score(**given, audit=Audit.of_row(row)), total)


def _metadata(run: Run, config: dict[str, Any], data: str, repo: str, licence: str | None) -> str:
    """What the Hub reads of the card: library, tags, data set, and clean accuracy if it is that of the test split."""
    hub = hub_library()
    recipe = str(config["recipe"]["class"]).rpartition(".")[2]
    dataset = DATASETS.get(data)
    results = []
    for row in main_rows(run.scores):
        # a model index has no place for an interval or a number of points: only what was measured on all test images
        of_split = data in PUBLISHED and row["n"] == PUBLISHED[data].test and row.get("data", data) == data
        if row["attack"] == "clean" and of_split and dataset:
            results = [
                hub.EvalResult(
                    task_type="image-classification",
                    dataset_type=dataset,
                    dataset_name=PUBLISHED[data].title,
                    dataset_split="test",
                    metric_type="accuracy",
                    metric_value=row["correct"] / row["n"],
                )
            ]
    metadata = hub.ModelCardData(
        license=licence,
        library_name="easybn",
        pipeline_tag="image-classification",
        tags=["easybn", recipe, "adversarial-robustness"],
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"],
        model_name=repo.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return f"{metadata.to_yaml()}\n"


def _without_paths(text: str, config: dict[str, Any]) -> str:
    """The text without folders of this machine, of which it names that of the images left out."""
    for value in (config.get("leave_out"), config.get("data_folder"), config.get("data")):
        if isinstance(value, str) and ("/" in value or "\\" in value):
            text = text.replace(value, last_part(value))
    return text


def last_part(path: str) -> str:
    """The name of a file or folder without those it lies in; ``folder/my.py:make`` becomes ``my.py:make``."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
