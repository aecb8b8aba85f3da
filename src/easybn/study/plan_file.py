"""What a study is to do, in a file of its folder, so that its status can be shown without reading the study anew.

``OUT/study.json`` is written when a study is started, from the command line or from Python. It holds each experiment
once, though many runs may differ only in the seed. Nothing here needs torch.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import explained, read_bytes
from ..json_files import Damaged, Field, read_json, write_json
from ..rows import TEXT, needed, optional
from ..runs.measured import WantedRows
from .state import Expected

PLAN = "study.json"


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


_OBJECTS = needed(Field("a list of objects", _are_objects))
_FIELDS = {
    "name": needed(TEXT), "file": optional(TEXT), "file_digest": optional(TEXT), "experiments": _OBJECTS,
    "evaluations": _OBJECTS, "runs": _OBJECTS,
}  # fmt: skip


@dataclass(frozen=True)
class StudyPlan:
    """A study that was started.

    Args:
        name: of the study.
        runs: what is expected of each run, in order.
        file: the YAML file that describes it, as an absolute path; None of a study in Python.
        file_digest: of what the file held.
    """

    name: str
    runs: tuple[Expected, ...]
    file: str | None = None
    file_digest: str | None = None

    def has_changed(self) -> bool:
        """Whether the file, if it is still there, holds something else now."""
        return self.file is not None and _digest(Path(self.file)) not in (None, self.file_digest)


def plan_of(name: str, runs: Sequence[Expected], file: Path | None = None) -> StudyPlan:
    """The plan of a study; ``file`` is the YAML file that describes it."""
    described = (None, None) if file is None else (str(file.absolute()), _digest(file))
    return StudyPlan(name, tuple(runs), *described)


def write_plan(out: Path, plan: StudyPlan) -> None:
    """Write ``OUT/study.json``, unless it holds the same."""
    experiments: dict[str, dict[str, Any]] = {}
    evaluations: dict[str, dict[str, Any]] = {}
    numbers: dict[str, int] = {}
    runs = []
    for run in plan.runs:
        training = run.experiment["training"]
        experiments.setdefault(run.kind, {**run.experiment, "training": {**training, "seed": 0}})
        for wanted in run.evaluations:
            evaluations.setdefault(wanted.digest, {**asdict(wanted), "rows": list(wanted.rows)})
        kind = numbers.setdefault(run.kind, len(numbers))
        wanted_digests = [wanted.digest for wanted in run.evaluations]
        runs.append({"name": run.name, "experiment": kind, "seed": training["seed"], "evaluate": wanted_digests})
    content = {
        "name": plan.name, "file": plan.file, "file_digest": plan.file_digest,
        "experiments": [{"kind": kind, **experiment} for kind, experiment in experiments.items()],
        "evaluations": list(evaluations.values()), "runs": runs,
    }  # fmt: skip
    with explained(out / PLAN):
        with suppress(ValueError):
            if read_json(out / PLAN, {}) == content:
                return
        write_json(out / PLAN, content, indent=None)


def read_plan(out: Path) -> StudyPlan | None:
    """The plan of the study that was last started in ``out``; None if none was.

    Raises:
        ValueError: the file is damaged.
    """
    path = out / PLAN
    if not path.exists():
        return None
    content = read_json(path, {}, _FIELDS)
    try:
        wanted = {}
        for each in content["evaluations"]:
            wanted[each["digest"]] = WantedRows(each["digest"], each["branch"], tuple(each["rows"]), each["points"])
        kinds = [(each["kind"], {k: v for k, v in each.items() if k != "kind"}) for each in content["experiments"]]
        runs = []
        for run in content["runs"]:
            kind, experiment = kinds[run["experiment"]]
            experiment = {**experiment, "training": {**experiment["training"], "seed": run["seed"]}}
            evaluations = tuple(wanted[digest] for digest in run["evaluate"])
            runs.append(Expected(str(run["name"]), experiment, kind, evaluations))
        return StudyPlan(content["name"], tuple(runs), content.get("file"), content.get("file_digest"))
    except (KeyError, TypeError, IndexError) as error:
        raise Damaged(f"{path} is damaged: it holds no study; start the study again, and it is written anew") from error


def _digest(path: Path) -> str | None:
    try:
        return hashlib.blake2b(read_bytes(path), digest_size=8).hexdigest()
    except (OSError, ValueError):
        return None
