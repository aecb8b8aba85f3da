"""Clean and robust accuracy on test images; what was measured already is shown again, not measured again.

Without --attacks, PGD under two protocols: "robustness", the paper's columns, faithful to the library of that
name, and "strong", which no saturated loss can mislead. Where the two disagree, believe the second.

--attacks autoattack is the standard AutoAttack (apgd-ce, apgd-t, fab-t, square): the number to report. --attacks fast
finds nearly what it does at a fraction of the cost: an upper bound, and an audit that lets AutoAttack standard attack
some of the points that are left and says how many it would break (--audit 40, or --audit_width 1%). Every
verdict is stored in the run's folder below verdicts/. Kill it, stop it with Ctrl-C or lose the machine: the same
command resumes and ends with the verdicts of an undisturbed run. How long it will take: --estimate. No time for
all points: --budget 10m. Several processes on one machine: the same command in each. Several machines: --shard 0/3 on
one, 1/3 and 2/3 on the others. A Slurm cluster: --executor slurm --slurm.shards 8 submits a job array, waits and shows
the result; Ctrl-C leaves the jobs to themselves, and the same command shows them again.

--corruptions measures accuracy under the 15 common corruptions of Hendrycks and Dietterich (2019) at five severities,
and their mean, mCA: on the published files of CIFAR-10-C or CIFAR-100-C where they are found (nothing is downloaded),
else made of the test images. Finished kinds are kept and not measured again.

easybn evaluate --model fashion-mnist-vanilla --attacks autoattack --points 20
easybn evaluate --model fashion-mnist-adversarial --attacks fast --norm linf --eps 8/255 --points 200
easybn evaluate runs/ebn --attacks autoattack --norm linf --eps 8/255
easybn evaluate runs/ebn --attacks autoattack --norm linf --eps 2/255 4/255 8/255 --plot curve.pdf
easybn evaluate runs/ebn --corruptions
easybn evaluate runs/ebn --attacks autoattack --executor slurm --slurm.shards 8 --slurm.partition gpu --slurm.gpus 1
easybn evaluate --model my_module:make_model --weights mine.safetensors --data cifar10 --attacks autoattack
easybn evaluate --model model.onnx --data cifar10 --attacks square
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ..escapes import say
from ..evaluation.config import FAST, POINTS, EvaluateConfig
from ..evaluation.corruptions import AnyConfig, CorruptionConfig
from ..interrupt import CHILD, stop_with_the_parent
from ..terminal import Terminal
from ..user_code import is_user_code, load_object
from . import corruptions
from .arguments import Parser, add_executor_options, easybn, number, share, slurm_options_of, time_span
from .plotting import add_plot_options, check_plot_options, write
from .show_evaluation import show_estimate, show_notes_of_rows, show_result, show_tracked
from .targets import MODEL_OPTIONS, add_model_options, check_one_target, show_notes, targets_of
from .train import duration

if TYPE_CHECKING:
    from ..evaluation.estimate import Estimate
    from ..runs.target import EvaluationTarget
    from ..study.slurm import SlurmOptions


# Before it begins: whether fast would do.

LONG = 600.0
"""Seconds that ``standard`` may take before fast is suggested."""
QUICK_ROWS = 16
"""Images of a step that is timed to see whether it may take so long: costs a hundredth of a point that survives."""


def suggestion(target: "EvaluationTarget", config: EvaluateConfig, estimate: "Estimate | None" = None) -> str | None:
    """Fast with its cost beside that of ``standard``, in one line; None where ``standard`` takes no ten minutes.

    Args:
        estimate: of the evaluation, if it was made.
    """
    from ..runs.evaluate import estimate_run

    if config.preset != "standard":
        return None
    if estimate is None and estimate_run(target, config, QUICK_ROWS).most <= LONG:
        return None
    standard = estimate or estimate_run(target, config)
    if standard.most <= LONG:
        return None
    fast = estimate_run(target, replace(config, attacks=(FAST,)))
    return (
        f"standard takes up to {duration(standard.most)} here, if no image falls early; --attacks fast takes up to "
        f"{duration(fast.most)}, and says how many points it may have missed (standard on {fast.audited:,} of those "
        "that it leaves)"
    )


def is_new(target: "EvaluationTarget", config: EvaluateConfig) -> bool:
    """Whether an evaluation of all points begins here."""
    from ..runs.evaluate import store_folder

    return not (config.budget or config.shard or store_folder(target, config).exists())


# The options.


def configure(parser: Parser) -> None:
    add = parser.add_argument
    add("runs", nargs="*", type=str, default=[], help="folders of finished runs, or of folders of runs; or --model")
    groups = {"all": parser, "pgd": parser.add_argument_group("pgd")}
    groups["store"] = parser.add_argument_group("all other attacks")
    for each in option_fields():
        _add_option(groups[each.metadata["scope"]], each)
    corruptions.add_options(parser)
    add_plot_options(parser, "accuracy over eps with its 95% intervals")
    help = "time a few steps on these images and say how long it will take here"
    groups["store"].add_argument("--estimate", action="store_true", help=help)
    add = add_model_options(parser)
    add("--out", type=str, default=None, help="folder of its results; by default runs/evaluations/NAME")
    shards = "elements for each run: the chunks of its points are divided among them"
    add_executor_options(parser, "each run, or each shard of one,")("--slurm.shards", type=int, default=1, help=shards)


def option_fields(study: bool = False) -> list[Field[Any]]:
    """The fields of :class:`EvaluateConfig` that are options; for a study those that say something about results."""
    return [
        each for each in fields(EvaluateConfig) if each.metadata and (each.metadata.get("of_study", True) or not study)
    ]


def option_name(each: Field[Any]) -> str:
    """NAME, or no_NAME of what is done by default."""
    return f"no_{each.name}" if each.default is True else each.name


PARSERS: dict[str, Callable[[str], Any]] = {
    "eps": number, "budget": time_span, "shard": str, "norm": str, "audit_width": share,
}  # fmt: skip
"""Of options whose values are more than their type says."""


def _add_option(group: Any, each: Field[Any]) -> None:
    """The option of a field; what is not given is None, since defaults depend on the attacks."""
    name, about = f"--{option_name(each)}", {"help": each.metadata["help"]}
    if isinstance(each.default, bool):
        group.add_argument(name, action="store_true", **about)
        return
    example = each.default[0] if isinstance(each.default, tuple) else each.default
    if each.name == "shard":
        about["metavar"] = "I/N"
    if choices := each.metadata.get("choices"):
        about["choices"] = list(choices)
    else:
        numbers = each.name in ("points", "chunk", "audit") or isinstance(example, int)
        about["type"] = PARSERS.get(each.name, int if numbers else str)
    group.add_argument(name, default=None, **about, **({"nargs": "+"} if isinstance(each.default, tuple) else {}))


def config_of(arguments: Namespace) -> AnyConfig:
    """The evaluation that the arguments describe; attacks of the form ``my.py:MyAttack`` are loaded.

    Raises:
        ValueError: an option that does not go with the attacks or with corruptions; code that is not an attack.
    """
    if corruptions.are_asked_for(arguments):
        others = {option_name(each): each.name for each in option_fields()}
        return corruptions.config_of(arguments, others, _device(arguments))
    given: dict[str, Any] = {}
    for each in option_fields():
        value = getattr(arguments, option_name(each))
        if isinstance(each.default, bool):
            value = each.default != value  # the option is --NAME or --no_NAME
        given[each.name] = tuple(value) if isinstance(value, list) else value
    given["shard"], given["device"] = _shard(arguments.shard), _device(arguments)
    attacks = [_attack(name) for name in given.pop("attacks") or ("pgd",)]
    config = EvaluateConfig.of_run(attacks, **given)
    of_store = [each for each in option_fields() if each.metadata["scope"] == "store"]
    unfit = [option_name(each) for each in of_store if getattr(config, each.name) != each.default]
    if config.is_pgd and (unfit := [*unfit, *(["estimate"] if arguments.estimate else [])]):
        raise ValueError(
            f"--{unfit[0]} is for attacks with stored verdicts: --attacks autoattack, or pgd-ce pgd-margin"
        )
    return config


def _attack(name: str) -> Any:
    """A name, or the attack that ``file.py:Name`` is."""
    if not is_user_code(name):
        return name
    return load_object(name, "--attacks", EvaluateConfig.is_attack, "attack")


def _check_gradient(arguments: Namespace, config: AnyConfig) -> None:
    """ValueError, before anything is loaded, for attacks that need the gradient that an ONNX model does not have."""
    if not str(arguments.model).lower().endswith(".onnx") or isinstance(config, CorruptionConfig):
        return
    if config.uses_reference_protocol or any(attack.uses_gradient for attack in config.attacks_at(config.eps[0])):
        raise ValueError(
            f"--model {arguments.model} has no gradient, and {', '.join(config.names)} cannot do without: --attacks "
            "square can, and gives an upper bound that is not comparable with figures of AutoAttack or PGD"
        )


def run(arguments: Namespace) -> None:
    check_one_target(arguments)
    config = config_of(arguments)
    _check_gradient(arguments, config)
    _check_plot(arguments, config)
    if arguments.slurm.shards > 1 and isinstance(config, EvaluateConfig) and config.chunk is None and not config.is_pgd:
        points = config.points or POINTS
        config = replace(config, chunk=-(-points // arguments.slurm.shards))  # every shard has something to do
    if os.environ.get(CHILD):
        stop_with_the_parent()
    if (slurm := slurm_options_of(arguments)) is not None and not _in_jobs(arguments, config, slurm):
        return
    if isinstance(config, CorruptionConfig):
        corruptions.run(arguments, config)
    elif config.is_pgd:
        _run_pgd(arguments, config)
    else:
        _run_attacks(arguments, config)


def _run_pgd(arguments: Namespace, config: EvaluateConfig) -> None:
    from ..progress import ProgressBars, progress_display
    from ..runs.evaluate import evaluate_run
    from .table import show

    targets = targets_of(arguments)
    with progress_display() as display:
        for target in targets:
            evaluate_run(target, config, ProgressBars(display, target.run.folder.name, "evaluation"))
    console = Terminal(soft_wrap=True)
    show(Terminal(), [target.run for target in targets])
    show_notes(console, targets)
    for target in targets:
        show_notes_of_rows(console, target)
    show_tracked(console, targets)
    _draw(arguments, config, targets)


def _run_attacks(arguments: Namespace, config: EvaluateConfig) -> None:
    from ..progress import ProgressBars, progress_display
    from ..runs.evaluate import estimate_run, evaluate_run

    console = Terminal(soft_wrap=True)
    targets = targets_of(arguments)
    for target in targets:
        if arguments.estimate:
            estimate = estimate_run(target, config)
            show_estimate(console, target, estimate)
            if line := suggestion(target, config, estimate):
                console.print(line)
        else:
            if is_new(target, config) and (line := suggestion(target, config)):
                console.print(line)
            with progress_display() as display:
                result = evaluate_run(target, config, ProgressBars(display, target.run.folder.name))
            show_result(console, target, config, result, named=len(targets) > 1)
            show_tracked(console, [target])
        show_notes(console, [target])
    _draw(arguments, config, targets)


def _check_plot(arguments: Namespace, config: AnyConfig) -> None:
    """ValueError, before anything is loaded, for a figure that could not be drawn at the end."""
    check_plot_options(arguments)
    if arguments.plot is None:
        return
    if isinstance(config, CorruptionConfig) or config.names == ("clean",):
        raise ValueError("--plot draws accuracy over eps, and without an attack there is no eps")
    for option, given in (
        ("estimate", arguments.estimate),
        ("shard", arguments.shard),
        ("slurm.detach", arguments.executor == "slurm" and arguments.slurm.detach),
    ):
        if given:
            raise ValueError(f"--plot draws what is measured: give it without --{option}, once all points are done")


def _draw(arguments: Namespace, config: EvaluateConfig, targets: "Sequence[EvaluationTarget]") -> None:
    """The figure of ``--plot``, from the rows of the scores; a line instead where some of them are not there yet."""
    if arguments.plot is None:
        return
    from ..report.plots import evaluation_plot
    from ..runs.measured import WantedRows

    rows = {}
    for target in targets:
        wanted, scores = WantedRows.of(replace(config, branch=target.branch)), target.run.scores
        if not wanted.are_in(scores):
            say(f"no figure is drawn: {target.run.folder} has not all of its scores yet")
            return
        rows[str(target.run.folder)] = wanted.latest_in(scores)
    write(evaluation_plot(rows), arguments)


def _in_jobs(arguments: Namespace, config: AnyConfig, slurm: "SlurmOptions") -> bool:
    """Evaluate in Slurm jobs what was not measured yet; whether all of it is there now.

    Raises:
        SystemExit: status 1, after saying which jobs left their part undone, and why.
    """
    from ..runs.measured import WantedRows
    from ..study.in_jobs import evaluate_on_slurm
    from ..study.slurm import FOLDER, Queue, Task

    shards, name = arguments.slurm.shards, "corruptions"
    if shards < 1:
        raise ValueError(f"--slurm.shards must be at least 1, got {shards}")
    for option in ("shard", "estimate", "budget"):
        if getattr(arguments, option):
            raise ValueError(f"--{option} does not go with --executor slurm")
    if shards > 1 and (isinstance(config, CorruptionConfig) or config.is_pgd):
        raise ValueError("--slurm.shards is for attacks with stored verdicts: --attacks autoattack")
    if isinstance(config, EvaluateConfig):
        name, points = "+".join(config.names), config.points or POINTS
        shards = min(shards, -(-points // (config.chunk or 1)))  # a chunk is one job's
    queues, tasks = {}, []
    for target in targets_of(arguments):
        run = target.run.folder
        if WantedRows.of(replace(config, branch=target.branch)).are_in(target.run.scores):
            continue
        queues[run] = Queue(run / FOLDER, f"{run.name}-{name}")
        for shard in range(shards):
            part = [] if shards == 1 else ["--shard", f"{shard}/{shards}"]
            words = [*easybn(), "evaluate", *_repeated(arguments, config, run), *part]
            task, key = f"{run} {' '.join(part).lstrip('-')}".strip(), " ".join([config.digest, *part])
            tasks.append(Task(task, key, words, queues[run]))
    failed = evaluate_on_slurm(tasks, slurm, not arguments.slurm.detach)
    for task, why in failed.items():
        say(f"failed: {task}: {why}")
    if failed:
        say("what is done is kept: the same command submits the others again")
        raise SystemExit(1)
    return not (tasks and arguments.slurm.detach)


def _repeated(arguments: Namespace, config: AnyConfig, run: Path) -> list[str]:
    """The words that ask for the same evaluation of one run, or of a user's model with its results in ``run``."""
    given = {option_name(each): getattr(arguments, option_name(each)) for each in option_fields()}
    given |= {name: getattr(arguments, name) for name in (*MODEL_OPTIONS, *corruptions.OPTIONS)}
    given |= {"shard": None, "chunk": getattr(config, "chunk", None), "out": None if arguments.runs else run}
    words = [str(run)] if arguments.runs else []
    for name, value in given.items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list | tuple):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict):
            words += [f"--{name}", json.dumps(value)] if value else []
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return words


def _shard(text: str | None) -> tuple[int, int] | None:
    part, _, parts = (text or "").partition("/")
    if text is None:
        return None
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        last = f" .. {int(parts) - 1}/{parts}" if parts.isdigit() and int(parts) > 1 else ""
        raise ValueError(f"--shard {text}: a shard is i/n with i from 0 to n - 1, such as 0/{parts or 3}{last}")
    return int(part), int(parts)


def _device(arguments: Namespace) -> str | None:
    from ..train.prepare import usable_device

    if arguments.device is None or arguments.executor == "slurm":  # the jobs' device; here, results are only shown
        return None
    return str(usable_device(arguments.device))
