"""Reads a study's YAML file into runs and evaluations; error messages name the entry and the field."""

import difflib
import itertools
import json
import re
from argparse import ArgumentError
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..evaluation.corruptions import AnyConfig
from ..recipes.vanilla import Vanilla
from ..runs.config import Experiment
from ..study.plan import CLEAN, Planned, Study
from ..train.schedule import Training
from ..user_code import is_user_code
from . import evaluate, train
from .arguments import Parser, packaged
from .messages import in_plain_words
from .renamed import refuse_old_names
from .user_code import CodeNotRun, read_yaml, resolved

KEYS = ("name", "runs", "grid", "evaluate")


def evaluations(content: Any, path: Path, run_code: bool) -> tuple[tuple[AnyConfig, ...], tuple[str, ...]]:
    """The evaluations of every run, clean accuracy on all test images first; and attacks that were not loaded.

    Args:
        content: the ``evaluate`` entries of a study's file, with the options of ``easybn evaluate``.
        path: of the file.
        run_code: whether attacks in code that it names may be loaded.
    """
    if content is not None and not (isinstance(content, list) and all(isinstance(each, dict) for each in content)):
        raise ValueError("evaluate: a list of entries such as {attacks: [autoattack], norm: linf, eps: 8/255}")
    configs, not_loaded = list[AnyConfig]([CLEAN]), list[str]()
    for number, entry in enumerate(content or [], 1):
        try:
            entry = resolved(entry, str(path), (path.parent,), run_code)
            attacks = entry.get("attacks", [])
            names = map(str, attacks if isinstance(attacks, list) else [attacks])
            code = [name for name in names if is_user_code(name)]
            if code and not run_code:
                not_loaded += code
                continue
            config = _evaluation(entry)
        except (ValueError, ArgumentError, ArithmeticError) as error:
            raise ValueError(f"evaluate, entry {number}: {in_plain_words(str(error))}") from error
        if config not in configs:
            configs.append(config)
        elif config != CLEAN:
            raise ValueError(f"evaluate, entry {number}: is there twice")
    return tuple(configs), tuple(not_loaded)


def _evaluation(entry: dict[str, Any]) -> AnyConfig:
    if entry.get("attacks") in ("clean", ["clean"]):
        if len(entry) > 1:
            raise ValueError("clean accuracy is measured on all test images and has no options")
        return CLEAN
    refuse_old_names("evaluate", entry)
    parser = Parser(prog="easybn evaluate", allow_abbrev=False, exit_on_error=False)
    evaluate.configure(parser)
    known = {evaluate.option_name(each) for each in evaluate.option_fields(study=True)} | {
        "corruptions",
        "corruptions_source",
    }
    options = {action.dest for action in parser._actions}
    if unfit := [key for key in entry if key in options - known]:
        raise ValueError(f"{unfit[0]} is not for a study")
    return evaluate.config_of(parser.read(list(_evaluate_words(entry)), run_code=False))


def _evaluate_words(entry: dict[str, Any]) -> Iterator[str]:
    """The options of an entry as arguments of ``easybn evaluate``."""
    for key, value in entry.items():
        if value is True:
            yield f"--{key}"
        elif isinstance(value, list):
            yield f"--{key}"
            yield from map(str, value)
        elif value is not False and value is not None:
            yield f"--{key}={value}"


def read(path: Path, run_code: bool = True) -> Study:
    """Read the study in a file.

    Args:
        run_code: whether code that it names may be loaded; if not, runs and attacks that need it are only named.

    Raises:
        ValueError: a mistake in the file; the message has the entry and the field.
    """
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a study has {', '.join(KEYS)}")
    if unknown := [key for key in content if key not in KEYS]:
        near = difflib.get_close_matches(str(unknown[0]), KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
        raise ValueError(f"{path}: unknown {unknown[0]!r} ({hint})")
    try:
        configs, not_loaded = evaluations(content.get("evaluate"), path, run_code)
        name = content.get("name", path.stem)
        runs = _runs(content, path, configs, run_code)
        # seed by seed, so that a study that is stopped halfway has compared everything once
        in_order = sorted(runs, key=lambda run: run.experiment.training.seed)
        return Study(_plain_name(str(name)), tuple(in_order), not_loaded)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _runs(content: dict[str, Any], path: Path, configs: tuple[AnyConfig, ...], run_code: bool) -> Iterator[Planned]:
    grid = content.get("grid") or {}
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError("grid: a list of values for each field, such as seed: [0, 1, 2]")
    entries = content.get("runs") or ([{}] if grid else [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("runs: a list of entries such as {config: fashion-mnist-ebn, lr: 0.05}")
    parser = Parser(prog="easybn train", allow_abbrev=False, exit_on_error=False)
    train.configure_train(parser)
    fields = {name for names in (Experiment, Training) for name in names.__dataclass_fields__} - {"training"}
    known: dict[tuple[str, ...], Experiment] = {}  # without seeds: runs that differ only in the seed are read once
    for number, entry in enumerate(entries, 1):
        where = f"runs, entry {number}" + (f" ({entry['name']})" if "name" in entry else "")
        if both := [key for key in entry if key in grid]:
            raise ValueError(f"{where}: {both[0]} is in the grid too")
        for values in itertools.product(*grid.values()):
            given = {**entry, **dict(zip(grid, values, strict=True))}
            try:
                refuse_old_names("train", given)
                for key in given:
                    if key != "config" and key != "name" and str(key).partition(".")[0] not in fields:
                        near = difflib.get_close_matches(str(key), fields, n=1)
                        raise ValueError(f"unknown field {key!r}" + (f" (did you mean {near[0]}?)" if near else ""))
                words, code = tuple(_train_words(given, path.parent)), None
                try:
                    if words not in known:
                        known[words] = _experiment(parser, given, path, run_code)
                    experiment = known[words]
                except CodeNotRun as error:
                    code = error.code
                    experiment = _without_code(parser, given, path.parent, code)
                if "seed" in given:
                    seed = given["seed"]
                    if not isinstance(seed, int) or isinstance(seed, bool):
                        raise ValueError(f"seed must be a whole number, got {seed!r}")
                    experiment = replace(experiment, training=replace(experiment.training, seed=seed))
                yield Planned(_name(entry, given, grid, experiment), experiment, configs, code)
            except (ValueError, ArgumentError, ArithmeticError) as error:
                raise ValueError(f"{where}: {in_plain_words(str(error))}") from error


def _experiment(parser: Parser, given: dict[str, Any], path: Path, run_code: bool) -> Experiment:
    fields = {key: value for key, value in given.items() if key not in ("config", "name")}
    fields = {**given, **resolved(fields, str(path), (path.parent,), run_code)}
    return train.experiment_of(parser.read(list(_train_words(fields, path.parent)), run_code))


def _without_code(parser: Parser, given: dict[str, Any], folder: Path, code: str) -> Experiment:
    """The experiment of an entry with a stand-in for its recipe, of which only the name is known."""
    words = list(_train_words(given, folder))
    unread = type(code.rpartition(":")[2], (Vanilla,), {})()
    return replace(train.experiment_of(parser.read(words, run_code=False, without_classes=True)), recipe=unread)


def _train_words(given: dict[str, Any], folder: Path) -> Iterator[str]:
    """The fields of an entry, but for its seed and name, as arguments of ``easybn train``."""
    if "config" in given:
        beside = folder / str(given["config"])
        own = beside.is_file() and given["config"] not in packaged()
        yield f"--config={beside if own else given['config']}"
    for key, value in given.items():
        if key not in ("config", "name", "seed"):
            yield f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def _name(entry: dict[str, Any], given: dict[str, Any], grid: dict[str, Any], experiment: Experiment) -> str:
    """NAME-SEED: NAME is the entry's with the grid's fields, or its config's with all fields that the entry sets."""
    in_base = {"config", "name", "seed"}
    if "config" not in given:
        in_base |= {"data", "model", "recipe"}
    if "name" in entry:
        base, changed = str(entry["name"]), [key for key in grid if key != "seed"]
    else:
        base = Path(str(given["config"])).stem if "config" in given else _default_name(experiment)
        changed = [key for key in given if key not in in_base]
    words = [base, *(f"{key.rpartition('.')[2]}-{_in_a_name(given[key])}" for key in changed)]
    return _plain_name("-".join([*words, str(experiment.training.seed)]))


def _default_name(experiment: Experiment) -> str:
    """DATA-MODEL-RECIPE, the name of an entry without name and config."""
    return Path(train.default_folder(experiment)).name.removesuffix(f"-{experiment.training.seed}")


def _in_a_name(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+]+", "-", text).strip("-.")


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"the name {name!r} must do as a folder's: letters, digits and _ . + -")
    return name
