"""The rows that a folder of runs holds, and the columns that show them. Nothing here opens a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..json_files import Field, Row, check, read_json, read_rows
from ..recipes import RECIPES
from ..recipes.recipe import Recipe
from ..rows import (
    ANALYSIS,
    BRANCHES,
    COMPARISON,
    CORRUPTED,
    DECILES,
    ENVIRONMENT,
    HIDDEN,
    METRICS,
    NAMED,
    SCORES,
    SUMMARY,
    TEXT,
    VERDICTS,
    is_colour_pair,
    optional,
)
from ..rows import STACKED as STACKED_FIELDS
from ..runs.description import is_of_another_program, read_description
from ..runs.verdicts import findings_in

DEPTH = 3  # levels of folders that are searched for runs: FOLDER/STUDY/RUN and one deeper
RUN, STACKED, COMPARED, CENSUS = "config.json", "stacked.json", "comparison.json", "deciles.jsonl"

LINES = {
    "metrics": METRICS, "scores": SCORES, "hidden": HIDDEN, "branches": BRANCHES, "verdicts": VERDICTS,
    "corruptions": CORRUPTED, "analysis": ANALYSIS,
}  # fmt: skip


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
            return self.protocol in (None, row.get("protocol"))
        same = (row.get("protocol"), row.get("norm")) == (self.protocol, self.norm)
        return same and abs(float(row.get("eps") or 0.0) - self.eps) < 1e-9


CLEAN = Column("Basic", "clean")
"""Clean accuracy, under the heading that the paper gives it."""
MCA = (Column("mCA", "corruptions", "generated"), Column("mCA published", "corruptions", "published"))
"""Mean accuracy under common corruptions, by source; protocol: the source."""


@dataclass(frozen=True, eq=False)
class RunRows:
    """The rows of one run; a list is empty where its file is missing.

    Args:
        name: the path of its folder, relative to the folder that was read.
        folder: its folder.
        experiment: as of :func:`easybn.runs.description.describe`.
        sessions: environment.json, an entry per start.
        metrics: metrics.jsonl, a row per epoch.
        scores: scores.jsonl, of the deployed branch.
        findings: of the diagnosis, see :func:`easybn.runs.verdicts.findings_in`; else from summary.json.
        hidden: hidden.jsonl: how far perturbed images' hidden states lie from those of clean ones, layer by layer.
        branches: branches.jsonl: how far the branches' statistics have moved apart, layer by layer.
        analysis: analysis.jsonl, of the deployed branch: what instruments measured, see :mod:`easybn.runs.analyse`.
        verdicts: verdicts.jsonl, see :mod:`easybn.runs.verdicts`.
        corruptions: corruptions.jsonl, of the deployed branch: verdicts by kind and severity.
        summary: summary.json, see :mod:`easybn.runs.summary`.
        stored_appearance: of a user's recipe, as :meth:`easybn.recipes.Recipe.appearance` gave it in training.
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
    analysis: Sequence[Row] = ()
    verdicts: Sequence[Row] = ()
    corruptions: Sequence[Row] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    stored_appearance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def appearance(self) -> dict[str, Any]:
        """The recipe's label, colour and order: for the package's recipes today's, for others those stored."""
        if known := RECIPES.get(str(self.experiment["recipe"]["class"])):
            fields: Mapping[str, Any] = known.appearance()
        else:
            fields = {"label": self.method, "colour": None, "order": Recipe.order, **self.stored_appearance}
        return {**fields, "colour": tuple(fields["colour"]) if fields["colour"] else None}

    @property
    def seed(self) -> int:
        return int(self.experiment.get("training", {}).get("seed", 0))

    @property
    def method(self) -> str:
        """The recipe's class, without its module."""
        return str(self.experiment["recipe"]["class"]).rpartition(".")[2]

    @property
    def data(self) -> str:
        """The name of the data set: as in the scores, which name what a path contains; else as in the config."""
        named = next((row["data"] for row in self.scores if row.get("data")), None)
        return str(named or Path(str(self.experiment["data"])).stem)


@dataclass(frozen=True, eq=False)
class StackedRows:
    """The rows of a folder of ``easybn stacked``; its pictures are in ``folder``."""

    name: str
    folder: Path
    rows: Sequence[Row]


@dataclass(frozen=True, eq=False)
class ComparedRows:
    """Two evaluations of the same points, of ``easybn compare --out``; pictures of points are in ``folder``.

    Args:
        row: see :data:`easybn.rows.COMPARISON`.
    """

    name: str
    folder: Path
    row: Row


@dataclass(frozen=True, eq=False)
class Rows:
    """All runs, stacked experiments and comparisons in and below a folder.

    Args:
        across: fields of :data:`.aggregate.ACROSS` in which compared recipes may differ.
        deciles: how easy the test images are, of every ``easybn census --split test``, see :mod:`.deciles`.
    """

    folder: Path
    runs: Sequence[RunRows]
    stacked: Sequence[StackedRows] = ()
    across: Sequence[str] = ()
    compared: Sequence[ComparedRows] = ()
    deciles: Sequence[Row] = ()


def read(folder: Path | str, across: Sequence[str] = ()) -> Rows:
    """Read the runs, stacked experiments and comparisons in and below ``folder``, in the order of their names.

    Args:
        across: see :class:`Rows`.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is damaged; the message names it.
    """
    folder = Path(folder)
    paths = sorted(_folders(folder, DEPTH))
    names = {path: str(path.relative_to(folder)) if path != folder else folder.resolve().name for path in paths}
    runs = [_run(path, names[path]) for path in paths if (path / RUN).exists()]
    others = [path for path in paths if not (path / RUN).exists()]
    stacked = [_stacked(path, names[path]) for path in others if (path / STACKED).exists()]
    compared = [
        ComparedRows(names[path], path, read_json(path / COMPARED, {}, COMPARISON))
        for path in others
        if (path / COMPARED).exists()
    ]
    deciles = [row for path in others for row in read_rows(path / CENSUS, DECILES)]
    if not paths:
        raise FileNotFoundError(f"no run in {folder}: a run's folder has a {RUN}")
    return Rows(folder, runs, [each for each in stacked if each.rows], across, compared, deciles)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    there = [folder / name for name in (RUN, STACKED, COMPARED, CENSUS) if (folder / name).exists()]
    if any(path.name != RUN or depth == DEPTH or not is_of_another_program(path) for path in there):
        yield folder
    elif depth and folder.is_dir():
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _folders(inner, depth - 1)


def _deployed_blocks(row: Row) -> bool:
    """Whether a row is of the deployed branch, at the model's blocks: layers that were chosen have other depths."""
    return bool(row.get("branch", "main") == "main" and row.get("layers", "blocks") == "blocks")


def _run(folder: Path, name: str) -> RunRows:
    experiment = read_description(folder / RUN)
    summary = read_json(folder / "summary.json", {}, SUMMARY)
    lines = {
        name: read_rows(folder / f"{name}.jsonl", fields, cut="legacy" if name == "metrics" else "error")
        for name, fields in LINES.items()
    }
    scores = lines.pop("scores")
    for kind in ("corruptions", "analysis"):
        lines[kind] = [row for row in lines[kind] if row.get("branch", "main") == "main"]
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
