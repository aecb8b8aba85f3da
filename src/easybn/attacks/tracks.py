"""Tries under way: a row each, whatever its point, its target and its age."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Tracks(dict[str, Tensor]):
    """Columns of B rows by name, one row a *try* (a point, a target class, a restart).

    The columns that every attack finds there:

    ============  ==================  ==========================================================
    ``row``       int64 (B,)          position of the point among those attacked
    ``label``     int64 (B,)          its true class
    ``target``    int64 (B,)          the class to move to; -1 for none
    ``number``    int64 (B,)          which try of its point this is
    ``key``       int64 (B,)          key of its random streams (:class:`~easybn.keyed_random.Noise`)
    ``age``       int64 (B,)          moves made
    ``centre``    (B, ...)            original image
    ``point``     (B, ...)            image that the model sees next
    ``reach``     float64 (B,)        distance of the nearest adversarial image found; infinite if none
    ``margin``    float64 (B,)        by how much the original model is wrong there; NaN if none
    ``forwards``  int64 (B,)          forward passes spent on it
    ``backwards`` int64 (B,)          backward passes spent on it
    ``non_finite`` int64 (B,)         gradients that were NaN or infinite somewhere
    ``zero_gradients`` int64 (B,)     gradients that were zero everywhere
    ============  ==================  ==========================================================

    An attack adds columns of its own; they are kept and dropped with the rows.
    """

    @classmethod
    def begun(cls, row: Tensor, label: Tensor, target: Tensor, number: Tensor, key: Tensor, centre: Tensor) -> "Tracks":
        """Tries about to begin, on the device of ``centre``, with all columns of the table above."""
        device = centre.device
        zeros = torch.zeros(len(row), dtype=torch.int64, device=device)
        far = torch.full((len(row),), torch.inf, dtype=torch.float64, device=device)
        names = {"row": row, "label": label, "target": target, "number": number, "key": key}
        counts = ("age", "forwards", "backwards", "non_finite", "zero_gradients")
        return cls(
            {name: column.to(device) for name, column in names.items()},
            centre=centre, point=centre, reach=far, margin=far * torch.nan, **dict.fromkeys(counts, zeros),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """B; 0 as long as there are no columns."""
        return len(self["row"]) if self else 0

    def those(self, mask: Tensor) -> "Tracks":
        """The rows where ``mask`` (bool, (B,)) is true."""
        return Tracks({name: column[mask] for name, column in self.items()})

    def joined_by(self, others: "Tracks") -> "Tracks":
        """These rows and then the others, which must have the same columns."""
        if not self.count:
            return others
        return Tracks({name: torch.cat((column, others[name])) for name, column in self.items()})

    def put(self, mask: Tensor, **values: Tensor) -> None:
        """In the rows where ``mask`` is true, these values (of as many rows) in the place of the columns' own."""
        every = bool(mask.all())
        for name, value in values.items():
            if every:
                self[name] = value.to(self[name].dtype)
                continue
            self[name] = self[name].clone()
            self[name][mask] = value.to(self[name].dtype)

    def spent(self, mask: Tensor | None = None, *, forwards: int = 0, backwards: int = 0) -> None:
        """Count passes of the model over all rows, or over those of ``mask``."""
        rows = 1 if mask is None else mask.long()
        self["forwards"] = self["forwards"] + forwards * rows
        self["backwards"] = self["backwards"] + backwards * rows


def stacked(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Columns of the parts one after the other; the parts have the same names."""
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
