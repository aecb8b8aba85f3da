"""Which rows of the scores an evaluation gives, and whether a run has them; nothing here needs torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..json_files import Row

if TYPE_CHECKING:
    from ..evaluation.config import EvaluateConfig
    from ..evaluation.corruptions import AnyConfig

EARLIER: Row = {"branch": "main", "compile": False, "precision": "float32"}
"""What rows of earlier versions, which do not have these keys, were made with."""


def request_of(config: "EvaluateConfig") -> Row:
    """What tells the rows of one evaluation (of PGD, under one protocol) from others, but for their radius."""
    shared = {"norm": config.norm, "points_seed": config.seed, "requested_batch_size": config.batch_size}
    shared["branch"] = config.branch or "main"
    if config.is_pgd:
        return {"attack": "pgd", "protocol": config.protocols[0], "steps": config.steps, **shared}
    names = ("share", "budget", "compile", "precision")
    asked = {"requested_audit": [config.audit, config.audit_width]} if config.preset == "fast" else {}
    return {**config.row_attack, **shared, **{name: getattr(config, name) for name in names}, **asked}


def is_row(row: Row, wanted: Row) -> bool:
    """Whether a row has these values; a key that it lacks, being of an earlier version, counts as equal."""
    for name, value in wanted.items():  # noqa: SIM110 (a status compares many rows: this is twice as fast as all())
        if row.get(name, EARLIER.get(name, value)) != value:
            return False
    return True


@dataclass(frozen=True)
class WantedRows:
    """The rows of scores that an evaluation asks for, as plain data.

    Args:
        digest: of the evaluation's config.
        branch: whose accuracy on clean images is asked for.
        rows: what each attack's rows must have, one for each protocol and radius; one of corruptions.
        points: number of test images; None if any number will do, as under a budget.
    """

    digest: str
    branch: str
    rows: tuple[Row, ...]
    points: int | None

    @classmethod
    def of(cls, config: "AnyConfig") -> "WantedRows":
        from ..evaluation.config import POINTS
        from ..evaluation.corruptions import CorruptionConfig

        if isinstance(config, CorruptionConfig):
            row = {"attack": "corruptions", "points_seed": config.seed, "branch": config.branch or "main"}
            row |= {} if config.source == "auto" else {"protocol": config.source}
            return cls(config.digest, config.branch or "main", (row,), config.asked)
        requests = []
        if config.is_pgd:
            requests = [request_of(replace(config, protocols=(protocol,))) for protocol in config.protocols]
        elif config.names != ("clean",):
            requests = [request_of(config)]
        rows = tuple({**request, "eps": float(eps)} for request in requests for eps in config.eps)
        return cls(config.digest, config.branch or "main", rows, None if config.budget else config.points or POINTS)

    def are_in(self, scores: Sequence[Row]) -> bool:
        """Whether all of them are among the scores of a run."""
        return all(self._found_in(scores))

    def latest_in(self, scores: Sequence[Row]) -> list[Row]:
        """The latest row of clean accuracy, and of each of them that is among the scores of a run."""
        return [rows[-1] for rows in self._found_in(scores) if rows]

    def _found_in(self, scores: Sequence[Row]) -> list[list[Row]]:
        """Of clean accuracy and of each of them, the rows that are it."""
        every = max((row["n"] for row in scores if row["attack"] == "clean"), default=0)

        def has_points(row: Row) -> bool:
            images = row.get("test_images", self.points)
            # there may be no more images than that
            return self.points is None or images == self.points or images == every < self.points

        clean = [row for row in scores if is_row(row, {"attack": "clean", "branch": self.branch})]
        return [clean, *([row for row in scores if is_row(row, wanted) and has_points(row)] for wanted in self.rows)]
