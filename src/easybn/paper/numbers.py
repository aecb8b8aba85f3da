"""The robust accuracies that the Easy Batch Normalization paper reports: its tables 1 and 2, row by row."""

from dataclasses import dataclass, replace

from ..evaluation.result import Score
from ..tables.rows import CLEAN, Column

METHODS = {"AdvProp": "advprop", "EBN": "ebn"}
"""Our recipe classes and the paper's methods."""
TWINS = {"cifar10-jpeg": "cifar10", "sample": "fashion-mnist"}
"""Data sets with other pixels, or fewer of them, that may still be compared with the paper's."""

TEST_IMAGES = 10_000
"""Test images of either data set; the paper attacks all of them, as far as it says."""


COLUMNS = (
    CLEAN,
    Column("l2 0.1", "pgd", "robustness", "l2", 0.1),
    Column("l2 0.5", "pgd", "robustness", "l2", 0.5),
    Column("l2 1.0", "pgd", "robustness", "l2", 1.0),
    Column("AA linf 8/255", "autoattack", "standard", "linf", 8 / 255),
    Column("AA l2 0.5", "autoattack", "standard", "l2", 0.5),
)
"""Section 4, Settings: 100-step l2 PGD of the ``robustness`` library, and AutoAttack's standard version."""

LIBRARY = tuple(each for each in COLUMNS if each.attack == "pgd")
STRONG = tuple(replace(each, name=f"{each.name} strong", protocol="strong") for each in LIBRARY)
AUTO_ATTACK = tuple(each for each in COLUMNS if each.attack == "autoattack")
OURS = (CLEAN, *LIBRARY, *STRONG, *AUTO_ATTACK)
"""The columns of our tables: the paper's, and beside its PGD the same under the strong protocol."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a table, the mean over three seeds.

    Args:
        table: 1 or 2; row: as printed there.
        data, model, method: what it is about, in this package's names.
        percent: a number for each of ``COLUMNS``.
    """

    table: int
    row: str
    data: str
    model: str
    method: str
    percent: tuple[float, ...]

    @property
    def scores(self) -> list[Score]:
        """The numbers as scores of ``TEST_IMAGES`` points, a row for each of ``COLUMNS``."""
        return [
            Score(
                each.attack, TEST_IMAGES, round(percent / 100 * TEST_IMAGES),
                protocol=each.protocol, norm=each.norm, eps=each.eps, steps=100 if each.attack == "pgd" else 0,
            )
            for each, percent in zip(COLUMNS, self.percent, strict=True)
        ]  # fmt: skip


ROWS = (
    PaperRow(1, "RN-18 (AP)", "fashion-mnist", "resnet18", "advprop", (94.23, 82.82, 79.42, 76.20, 86.87, 90.90)),
    PaperRow(1, "RN-18 (EBN)", "fashion-mnist", "resnet18", "ebn", (94.28, 86.39, 83.27, 80.31, 86.93, 90.89)),
    PaperRow(1, "RN-50 (AP)", "fashion-mnist", "resnet50", "advprop", (94.40, 62.03, 60.05, 57.46, 85.28, 90.27)),
    PaperRow(1, "RN-50 (EBN)", "fashion-mnist", "resnet50", "ebn", (94.45, 63.02, 60.65, 58.63, 85.38, 90.20)),
    PaperRow(2, "RN-18 (AP)", "cifar10", "resnet18", "advprop", (93.62, 36.74, 29.17, 22.82, 43.12, 77.85)),
    PaperRow(2, "RN-18 (EBN)", "cifar10", "resnet18", "ebn", (93.81, 37.49, 30.08, 24.39, 43.75, 77.19)),
    PaperRow(2, "RN-50 (AP)", "cifar10", "resnet50", "advprop", (94.55, 38.43, 29.39, 21.96, 45.65, 78.34)),
    PaperRow(2, "RN-50 (EBN)", "cifar10", "resnet50", "ebn", (94.62, 38.01, 30.76, 23.54, 46.47, 78.05)),
)


def paper_row(data: str, model: str, method: str) -> PaperRow:
    """The row of that data set, model and method.

    Raises:
        KeyError: the paper has none.
    """
    for row in ROWS:
        if (row.data, row.model, row.method) == (data, model, method):
            return row
    raise KeyError(f"the paper has no row for {method} with {model} on {data}")


def nearest_row(data: str, model: str, method: str) -> PaperRow:
    """The row of that data set and method: that of the model, or else that of the smaller network.

    Raises:
        KeyError: the paper has none.
    """
    rows = [row for row in ROWS if (row.data, row.method) == (data, method)]
    if not rows:
        raise KeyError(f"the paper has no row for {method} on {data}")
    return next((row for row in rows if row.model == model), rows[0])
