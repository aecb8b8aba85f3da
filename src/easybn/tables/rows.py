"""What a folder of runs holds as rows: nothing here, and nothing that is made from it, opens a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..json_files import Field, Row, check, read_json, read_rows
from ..recipes import RECIPES
from ..recipes.recipe import Recipe, is_colour_pair
from ..rows import (
    BRANCHES,
    ENVIRONMENT,
    HIDDEN,
    METRICS,
    NAMED,
    SCORES,
    SUMMARY,
    TEXT,
    VERDICTS,
    optional,
)
from ..rows import STACKED as STACKED_FIELDS
from ..runs.config import read_description
from ..runs.verdicts import findings_in

DEEP = 3  # folders below the one asked for: FOLDER/STUDY/RUN and what lies one deeper
RUN, STACKED = "config.json", "stacked.json"

LINES = {"metrics": METRICS, "scores": SCORES, "hidden": HIDDEN, "branches": BRANCHES, "verdicts": VERDICTS}


@dataclass(frozen=True)
class Column:
    """A column of a table of scores.

    Args:
        name: its heading, in plain letters.
        attack, protocol, norm, eps: as in a :class:`~easybn.evaluation.result.Score`; of clean accuracy "clean".
    """

    name: str
    attack: str
    protocol: str | None = None
    norm: str | None = None
    eps: float | None = None

    def shows(self, row: Row) -> bool:
        """Whether a score or verdict row belongs in this column."""
        if row.get("attack") != self.attack:
            return False
        if self.norm is None or self.eps is None:
            return True
        same = (row.get("protocol"), row.get("norm")) == (self.protocol, self.norm)
        return same and abs(float(row.get("eps") or 0.0) - self.eps) < 1e-9


CLEAN = Column("Basic", "clean")
"""Clean accuracy, under the heading that the paper gives it."""


@dataclass(frozen=True, eq=False)
class RunRows:
    """The rows of one run; every list but that of the scores may be empty for want of a file.

    Args:
        name: its folder, from the folder that was asked for.
        folder: where that is.
        experiment: as of :func:`easybn.runs.config.describe`.
        sessions: environment.json, an entry a start.
        metrics: metrics.jsonl, a row an epoch.
        scores: scores.jsonl, of the deployed branch.
        findings: of the diagnosis, see :func:`easybn.runs.verdicts.findings_in`; else from summary.json.
        hidden: hidden.jsonl: how far perturbed images' hidden states lie from those of clean ones, layer by layer.
        branches: branches.jsonl: how far the branches' statistics have moved apart, layer by layer.
        verdicts: verdicts.jsonl, see :mod:`easybn.runs.verdicts`.
        summary: summary.json, see :mod:`easybn.runs.summary`.
        stored_appearance: of a recipe of the user's, as :meth:`easybn.recipes.Recipe.appearance` said in training.
    """

    name: str
    folder: Path
    experiment: Mapping[str, Any]
    sessions: Sequence[Row] = ()
    metrics: Sequence[Row] = ()
    scores: Sequence[Row] = ()
    findings: Sequence[Row] = ()
    hidden: Sequence[Row] = ()
    branches: Sequence[Row] = ()
    verdicts: Sequence[Row] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    stored_appearance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def appearance(self) -> dict[str, Any]:
        """The recipe's label, colour and order: of the package's recipes today's, of others what was stored."""
        if known := RECIPES.get(str(self.experiment["recipe"]["class"])):
            found: Mapping[str, Any] = known.appearance()
        else:
            found = {"label": self.method, "colour": None, "order": Recipe.order, **self.stored_appearance}
        return {**found, "colour": tuple(found["colour"]) if found["colour"] else None}

    @property
    def seed(self) -> int:
        return int(self.experiment.get("training", {}).get("seed", 0))

    @property
    def method(self) -> str:
        """The recipe's class, without its module."""
        return str(self.experiment["recipe"]["class"]).rpartition(".")[2]

    @property
    def data(self) -> str:
        """The data set as the scores call it, which know what a path stands for; else as the config does."""
        named = next((row["data"] for row in self.scores if row.get("data")), None)
        return str(named or Path(str(self.experiment["data"])).stem)


@dataclass(frozen=True, eq=False)
class StackedRows:
    """A folder of ``easybn stacked``: its rows, and where its pictures lie."""

    name: str
    folder: Path
    rows: Sequence[Row]


@dataclass(frozen=True, eq=False)
class Rows:
    """All that was found below a folder.

    Args:
        folder, runs, stacked: where, and what.
        across: fields of :data:`.aggregate.ACROSS` that do not keep recipes from being compared.
    """

    folder: Path
    runs: Sequence[RunRows]
    stacked: Sequence[StackedRows] = ()
    across: Sequence[str] = ()


def read(folder: Path | str, across: Sequence[str] = ()) -> Rows:
    """The runs and stacked experiments in and below ``folder``, by name; ``across`` is :class:`Rows`'s.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is damaged; the message names it.
    """
    folder = Path(folder)
    found = sorted(_folders(folder, DEEP))
    names = {path: str(path.relative_to(folder)) if path != folder else folder.resolve().name for path in found}
    runs = [_run(path, names[path]) for path in found if (path / RUN).exists()]
    stacked = [_stacked(path, names[path]) for path in found if not (path / RUN).exists()]
    if not runs and not stacked:
        raise FileNotFoundError(f"no run in {folder}: a run's folder has a {RUN}")
    return Rows(folder, runs, [each for each in stacked if each.rows], across)


def _folders(folder: Path, deep: int) -> Iterator[Path]:
    if (folder / RUN).exists() or (folder / STACKED).exists():
        yield folder
    elif deep and folder.is_dir():
        for each in folder.iterdir():
            if each.is_dir() and not each.name.startswith("."):
                yield from _folders(each, deep - 1)


def _deployed_blocks(row: Row) -> bool:
    """Of the branch that is deployed, at the model's blocks: layers of one's choice have depths of their own."""
    return bool(row.get("branch", "main") == "main" and row.get("layers", "blocks") == "blocks")


def _run(folder: Path, name: str) -> RunRows:
    experiment = read_description(folder / RUN)
    summary = read_json(folder / "summary.json", {}, SUMMARY)
    lines = {
        name: read_rows(folder / f"{name}.jsonl", fields, cut="legacy" if name == "metrics" else "error")
        for name, fields in LINES.items()
    }
    scores = lines.pop("scores")
    lines["hidden"] = [row for row in lines["hidden"] if _deployed_blocks(row)]
    return RunRows(
        name=name,
        folder=folder,
        experiment=experiment,
        sessions=read_json(folder / "environment.json", [], ENVIRONMENT),
        scores=[row for row in scores if row.get("branch", "main") == "main"],
        findings=findings_in(folder, scores) or summary.get("findings", []),
        summary=summary,
        stored_appearance=_appearance(folder / RUN),
        **lines,
    )


_APPEARANCE = {
    "label": TEXT,
    "colour": optional(Field("two colours such as #0069a8", is_colour_pair)),
    "order": Field("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
}


def _appearance(config: Path) -> Row:
    stored = read_json(config, {}, {"appearance": NAMED}).get("appearance", {})
    check(stored, _APPEARANCE, str(config))
    return {name: stored[name] for name in _APPEARANCE if name in stored}


def _stacked(folder: Path, name: str) -> StackedRows:
    return StackedRows(name, folder, read_rows(folder / "rows.jsonl", STACKED_FIELDS))
