"""What a model is called in RobustBench's table, and what is claimed of it there, from the scores of its run.

A claim is what was measured on all test images of the data set itself; for all else the text
says "not measured", and what was measured instead.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from .. import __version__
from ..data.corruptions import CORRUPTIONS, SEVERITIES
from ..evaluation.result import ROUNDING, Score, headline
from ..json_files import Row
from ..perturb.eps import format_eps
from .measured import is_row

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
"""RobustBench's names of its data sets with small images, and their titles."""
NORMS = {"Linf": "linf", "L2": "l2"}
EPS = {"Linf": 8 / 255, "L2": 0.5}
"""Radii of RobustBench's leaderboards."""
THREAT_MODELS = (*NORMS, "corruptions")
TEST_IMAGES = 10_000
"""A claim is about all test images of either data set."""
NOT_MEASURED = "not measured"
_ARCHITECTURES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}


@dataclass(frozen=True)
class Entry:
    """What a model is called in RobustBench's table.

    Args:
        name: RobustBench's are AuthorYearFirstword, as in Rice2020Overfitting.
        dataset: one of ``DATASETS``.
        threat_model: one of ``THREAT_MODELS``.
        eps: radius in [0, 1] pixel units; None for corruptions.

    Raises:
        ValueError: RobustBench has no such table, a name that is none for a file, or an eps without a norm.
    """

    name: str
    dataset: str
    threat_model: str
    eps: float | None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", self.name):
            raise ValueError(f"--name {self.name}: letters, digits, _ and - only, as in Rice2020Overfitting")
        if self.threat_model not in THREAT_MODELS:
            raise ValueError(f"threat_model must be one of {', '.join(THREAT_MODELS)}, got {self.threat_model!r}")
        if (self.dataset, self.threat_model) == ("cifar100", "L2"):
            raise ValueError("RobustBench has no models for CIFAR-100 and L2: --threat_model Linf or corruptions")
        if (self.eps is None) != (self.threat_model not in NORMS):
            raise ValueError("an eps goes with Linf and L2, and with nothing else")

    @property
    def place(self) -> str:
        """Of its files, below ``models`` and ``model_info``, without a suffix."""
        return f"{self.dataset}/{self.threat_model}/{self.name}"

    @property
    def eps_text(self) -> str | None:
        """As RobustBench writes it: "8/255", "0.5"."""
        return None if self.eps is None else format_eps(self.eps, NORMS[self.threat_model])


@dataclass(frozen=True)
class Figure:
    """An accuracy for RobustBench.

    Args:
        claim: in percent with two digits, on all test images of the data set; None if it was not measured on them.
        words: the same for readers, or what was measured instead.
    """

    claim: str | None
    words: str


def figures(scores: Sequence[Row], entry: Entry, itself: bool) -> tuple[Figure, Figure]:
    """Clean accuracy and accuracy under the threat model, from rows of scores.

    Only the deployed branch counts, and of attacks only AutoAttack's standard preset. Accuracy under corruptions is the
    mean over all kinds and severities of the published files.

    Args:
        scores: of the run.
        itself: whether they are on the data set itself, not on the same images in other files.
    """
    rows = [row for row in scores if row.get("branch", "main") == "main"]
    images = f"the {TEST_IMAGES:,} test images of {DATASETS[entry.dataset]}"
    clean = _figure([row for row in rows if row["attack"] == "clean"], itself, images)
    if entry.eps is None:
        return clean, _corrupted([row for row in rows if row["attack"] == "corruptions"], DATASETS[entry.dataset])
    attack = {"attack": "autoattack", "protocol": "standard", "norm": NORMS[entry.threat_model], "budget": None}
    attacked = [row for row in rows if is_row(row, attack) and abs(row["eps"] - entry.eps) <= ROUNDING]
    return clean, _figure(attacked, itself, images)


def _figure(rows: Sequence[Row], itself: bool, images: str) -> Figure:
    """Of the row with the most points, the last of them."""
    if not rows:
        return Figure(None, NOT_MEASURED)
    row = max(reversed(rows), key=lambda row: row["n"])
    score = Score(**{each.name: row[each.name] for each in fields(Score) if each.name in row})
    if itself and score.n == TEST_IMAGES:
        return _claim(score.accuracy)
    of = "" if itself else f"of {row.get('data')}: "
    return Figure(None, f"{NOT_MEASURED} on {images} ({of}{headline(score, TEST_IMAGES if itself else None)})")


def _corrupted(rows: Sequence[Row], title: str) -> Figure:
    """The mean over all kinds and severities; a claim is about the published files."""
    if not rows:
        return Figure(None, NOT_MEASURED)
    row = max(reversed(rows), key=lambda row: (row["protocol"] == "published", row["n"]))
    kinds = len(CORRUPTIONS) * len(SEVERITIES)
    if row["protocol"] == "published" and row["n"] == kinds * TEST_IMAGES:
        return _claim(row["accuracy"])
    points = f"{row['n'] // kinds:,} points, {row['protocol']} corruptions"
    return Figure(None, f"{NOT_MEASURED} on all of {title}-C (mean accuracy: {100 * row['accuracy']:.1f}%, {points})")


def _claim(accuracy: float) -> Figure:
    percent = f"{100 * accuracy:.2f}"
    return Figure(percent, f"{percent}%")


def model_info(entry: Entry, network: str, itself: bool, clean: Figure, robust: Figure) -> dict[str, Any]:
    """The fields of RobustBench's JSON file of a model; None for what was not measured or is not known.

    Link, title, authors and venue are left to the authors; of an image folder it is not known whether it has other
    training images than the data set.
    """
    fields_of_accuracy = {"autoattack_acc": robust.claim}
    if entry.threat_model not in NORMS:
        fields_of_accuracy = {"corruptions_acc": robust.claim, "corruptions_mce": None}
    return {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": False if itself else None,
        "number_forward_passes": 1,
        "dataset": entry.dataset,
        "venue": "N/A",
        "architecture": _ARCHITECTURES.get(network, network),
        "eps": entry.eps_text,
        "clean_acc": clean.claim,
        "reported": robust.claim,
        **fields_of_accuracy,
        "footnote": None,
    }


_ISSUE = """\
Title: [New Model] {name}

# Paper Information

- **Paper Title**: (fill in)
- **Paper URL**: (fill in)
- **Paper authors**: (fill in)

# Leaderboard Claim(s)

## Model 1

- **Architecture**: {architecture}
- **Threat Model**: {threat_model}
- **eps**: {eps}
- **Clean accuracy**: {clean}
- **Robust accuracy**: {robust}
- **Additional data**: {additional}
- **Evaluation method**: {method}
- **Checkpoint and code**: (insert the URLs of models/{place}.pt, SHA-256 {sha256}, and of architecture.py)

# Model Zoo:

- [ ] I want to add my models to the Model Zoo (check if true)
- [ ] I use an architecture that is included among those of RobustBench or in `timm`. If not, I added the link to the \
architecture implementation so that it can be added. (It is architecture.py, which needs torch only.)
- [ ] I agree to release my model(s) under MIT license (check if true) **OR** under a custom license, located here: \
(custom license URL)
"""


def issue(
    entry: Entry,
    network: str,
    model: nn.Module,
    itself: bool,
    data: str,
    clean: Figure,
    robust: Figure,
    sha256: str,
) -> str:
    """RobustBench's form for a new model, filled in as far as the run knows.

    Args:
        data: the name of the data that the model was trained on.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    additional = "false" if itself else f"true/false (it was trained on the image folder {data})"
    method = NOT_MEASURED
    if robust.words != NOT_MEASURED:
        what = f"mean over the kinds and severities of {DATASETS[entry.dataset]}-C"
        if entry.threat_model in NORMS:
            what = "AutoAttack, standard version"
        method = f"{what}, by easybn {__version__} (RobustBench's benchmark() repeats it)"
    return _ISSUE.format(
        name=entry.name,
        architecture=f"{_ARCHITECTURES.get(network, network)} ({parameters:,} parameters)",
        threat_model=entry.threat_model if entry.threat_model in NORMS else "Common Corruptions",
        eps=entry.eps_text or "N/A",
        clean=clean.words,
        robust=robust.words,
        additional=additional,
        method=method,
        place=entry.place,
        sha256=sha256,
    )
