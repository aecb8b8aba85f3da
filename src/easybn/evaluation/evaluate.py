"""``evaluate``: clean and robust accuracy of a model, with all that a reader needs to trust them."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attacks.attack import Attack
from ..attacks.attack_mode import attack_mode
from ..attacks.registry import BALLS, UNBOUNDED, changed_attacks, check_gradient, no_gradient
from ..models.outputs import SelectOutput
from ..modes import is_sharded
from ..perturb.ball import L2
from ..perturb.eps import parse_radii
from ..perturb.pgd import check_images
from ..progress import OnProgress, silent
from .audit import Audit
from .auditing import FastRun, broken_by
from .config import FAST, PRECISIONS, PROBE, EvaluateConfig
from .diagnostics import diagnose
from .pgd_robustness import reference_pgd
from .points import Plan, Points, StageDone, attacked_images, run_all
from .record import Record, unanswered_points
from .result import Evaluation, Score
from .resumable import read_findings, run_resumable, write_findings
from .run_audit import AuditBudget, audit_in_memory, audit_in_store
from .verdicts import Verdicts, derive

Radius = float | Fraction | str


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str | None = None,
    eps: Radius | Sequence[Radius] = "own",
    attacks: str | Attack | type[Attack] | Sequence[str | Attack | type[Attack]] = "pgd",
    protocol: str = "strong",
    steps: int = 100,
    step_size: float | None = None,
    random_start: bool = False,
    share: bool = True,
    audit: int | None = None,
    audit_width: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    keep_images: bool = False,
    fold: bool = True,
    compile: bool = False,
    precision: str = "float32",
    ids: Sequence[int] | Tensor | None = None,
    store: Path | str | None = None,
    chunk: int | None = None,
    shard: tuple[int, int] | None = None,
    budget: float | None = None,
    branch: str | None = None,
    output: str | int | None = None,
    diagnosis: bool = True,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Classify images as they are and under attack.

    The model is evaluated in eval mode and left as it was found: modes, statistics, ``requires_grad`` and
    ``.grad``. Images go to its device batch by batch. Whatever counts as misclassified was verified by a
    forward pass of the model itself on the image that is kept.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K), or to several outputs, see ``output``; normalisation is a
            layer of it.
        x: images in [0, 1], floating point, (N, C, H, W) or any other (N, ...).
        y: true classes, integers, (N,).
        norm: "l2" or "linf"; by default that of an attack's own ball, or l2.
        eps: one radius or several, in [0, 1] pixel units: numbers, fractions or strings such as "8/255"; by default
            ("own") that of an attack's own ball, or 0.5.
        attacks: "pgd"; AutoAttack's presets "standard" (also "autoattack"), "plus", "rand"; "fast", which finds nearly
            what "standard" does at a fraction of the cost and is audited by it; one or several of AutoAttack's
            attacks ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"); "clean" for no attack. Or
            attacks of your own, ``MyAttack(Linf(8 / 255))`` or the class, alone or in a sequence with others.
        protocol: of pgd: "strong", or "robustness" for the figure that the library of that name gives.
        steps: of pgd: gradient steps an image, for each loss.
        step_size: of pgd: in [0, 1] pixel units; default 2.5 * eps / steps.
        random_start: of pgd: start from a random point of the ball (strong only) instead of from the image.
        share: at a larger eps, do not attack again what was broken at a smaller one (not under ``robustness``).
        audit: of fast: how many of the points that it left "standard" attacks, drawn at random by the seed, beside
            those that are suspicious; by default 40, 0 for no audit. What it breaks is broken; ``audits`` of the
            result tells what that says of the others.
        audit_width: of fast, instead: as many as make the 95% interval of the audited accuracy on these points no wider
            than this share of them from end to end, if "standard" breaks none.
        seed: of all that is random.
        batch_size: images a batch at most. The verdicts of the ``robustness`` protocol depend on it.
        keep_images: keep the attacked images.
        fold: attack a faster copy of the model, batch norm folded into the convolutions, where that is the same
            function (it is checked); verdicts come from the model itself.
        compile: that copy by ``torch.compile``: up to a minute, for long evaluations.
        precision: of that copy where gradients are taken: "float32", or "bf16" for hardware that is faster with it.
            Losses and verdicts stay in float32. Either is checked like folding, and given up with a note where logits
            or gradients differ; what was done is part of what a store is of.
        ids: the points' names in the keys of random numbers and in the record, integers, each once; by default
            0 .. N - 1. With fixed ids, a part of a data set gets the same random numbers as the whole data set.
        store: a folder for the verdicts. What is there is not computed again, a killed call goes on where it was,
            and several may work side by side. The folder belongs to this very evaluation; another is refused.
        chunk: of the store: points whose attacks are run together, by default 1000 (fewer if images are large).
        shard: of the store: (i, n) for every n-th chunk, from the i-th on, i from 0.
        budget: of the store: seconds. As many points as fit, drawn at random by the seed: a pilot of one chunk
            always counts, and fixes how many follow. Chunks not finished in time do not count.
        branch: of the store: which branch of a converted model this is ("main" is the deployed one); kept in it, so
            that tables never take one for the other.
        output: of a model that returns a dict, a tuple, or an object with fields: the name or index of its logits, see
            :class:`easybn.SelectOutput`. Part of what a store is of. It is never guessed.
        diagnosis: after attacks, look for what makes the figures misleading
            (``easybn.evaluation.diagnostics.diagnose``) and say it in ``findings`` and ``notes``. It takes about 9
            forward passes a point, of 1,000 points at most, and 4 with the gradient of 256; under ``robustness`` in
            l2 also 3,700 and 3,600, and for a model with branches 1,280 and 1,280 a branch: together less than
            AutoAttack takes for a few robust points. In a store it is made once all chunks are done, and kept.
        progress: called as ``progress(done, total, what)`` after every iteration; ``total`` belongs to ``what``.

    Raises:
        TypeError: images that are not floating point, arrays that are no tensors, a model that is no module; a model
            that does not return a tensor (a ValueError too).
        ValueError: anything out of range, an unknown name, labels that do not fit the logits; logits of an image as it
            is that are NaN, +inf or all -inf (of an attacked image they count as misclassified, with a note); a model
            that fails, whose parameters are split over processes, or that has no gradient for attacks that need one; a
            store of another evaluation.
        OSError: the store cannot be written, as on a full disk; what was stored is complete.
    """
    given: Any = (attacks,) if isinstance(attacks, str | Attack | type) else tuple(attacks)
    ball = next((attack.ball for attack in given if isinstance(attack, Attack)), L2(0.5))
    if norm is None:
        norm = next((name for name, kind in BALLS.items() if isinstance(ball, kind)), "l2")
    eps = ball.eps if isinstance(eps, str) and eps == "own" else eps
    config = EvaluateConfig(
        attacks=given, norm=norm, eps=tuple(parse_radii(eps)), protocols=(protocol,), steps=steps, step_size=step_size,
        random_start=random_start, share=share, seed=seed, batch_size=batch_size, keep_images=keep_images, fold=fold,
        compile=compile, precision=precision, chunk=chunk, shard=shard, budget=budget, branch=branch,
        audit=audit, audit_width=audit_width, diagnosis=diagnosis,
    )  # fmt: skip
    if output is not None and isinstance(model, nn.Module):
        model = SelectOutput(model, output)
    return run_evaluation(config, model, x, y, ids=ids, store=store, progress=progress)


def run_evaluation(
    config: EvaluateConfig,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    ids: Sequence[int] | Tensor | None = None,
    store: Path | str | None = None,
    progress: OnProgress | None = None,
) -> Evaluation:
    """:func:`evaluate` by a config; arguments, result and errors are its."""
    config.check_store(store)
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, got {type(model).__name__}: wrap it in one")
    if is_sharded(model):
        raise ValueError("the model's parameters are split over processes: gather them, and evaluate a plain model")
    check_images(x, y)
    for eps in config.eps:
        config.pgd(eps).ball.check_fits(x.shape[1:])
    x, y, report = x.detach(), y.detach().to(x.device).long(), progress or silent
    precision = PRECISIONS[config.precision]
    with attack_mode(model, probe=x[:PROBE], fold=config.fold, compile=config.compile, precision=precision) as ready:
        points = Points(ready, x, y, _ids(ids, len(x)), Plan.of(config))
        _check_model(points, config)
        if config.uses_reference_protocol:
            result = _by_reference_protocol(points, config, report)
        else:
            result = _by_attacks(points, config, store, report)
    if not config.diagnosis or not result.robust_at or not (result.complete or config.budget):
        return result
    audited = sum(audit.audited for audit in result.audits.values())
    findings = read_findings(store, len(result.points), audited) if store else None
    if findings is None:
        rows = torch.as_tensor(points.rows_of(result.points.numpy())).to(x.device)
        findings = diagnose(
            model, x[rows], y[rows], norm=config.norm, eps=config.eps, evaluation=result, seed=config.seed,
            batch_size=config.batch_size, progress=report,
        )  # fmt: skip
        if store:
            write_findings(store, len(result.points), findings, audited)
    return result.diagnosed(findings)


def _check_model(points: Points, config: EvaluateConfig) -> None:
    """ValueError before any work if the model cannot be attacked so, or fails on a batch of another size."""
    attacks, n = config.attacks_at(config.eps[0]), len(points.x)
    check_gradient(attacks, points.model)
    if config.uses_reference_protocol and points.model.call.no_gradient:
        raise ValueError(no_gradient(points.model, ["pgd"]))
    size = 1 if attacks else n % config.batch_size or min(n, config.batch_size)  # batches of attacks shrink
    with torch.no_grad():
        points.model.original(points.model.load(points.x[:size]))


def _by_attacks(points: Points, config: EvaluateConfig, store: Path | str | None, report: OnProgress) -> Evaluation:
    """Clean accuracy and attacks of the common runner, each point until it is broken."""
    x, notes, fast = points.x, list(points.model.notes), config.preset == FAST
    done: Iterable[StageDone]
    if store is not None:
        follow_up = AuditBudget(points, config) if fast and config.audit != 0 else None
        stored = run_resumable(points, config, Path(store), report, follow_up)
        ids, record, done = stored.points, stored.record, stored.stages_done()
        notes += stored.missing(config)
    else:
        stages = run_all(points, report, config.keep_images)
        ids, record, done = points.ids, Record.joined(stage.record for stage in stages), stages
    unbounded, audits = points.plan.unbounded, dict[float, Audit]()
    if fast and (len(ids) == len(x) or config.budget):
        run = FastRun(record, ids, points.plan.stages, config.seed, config.share)
        if store is None:
            known, more = audit_in_memory(points, config, run, report)
        else:
            known, more = audit_in_store(points, config, stored.store, run, report)
        record, verdicts, audits = known.record, known.verdicts, known.audits or {}
        done, unbounded = chain(done, more), unbounded | {*UNBOUNDED}
    else:
        verdicts = derive(record, ids, points.plan.stages, config.share, unbounded)
    notes += _notes(points, config)
    radii = [eps for eps in config.eps if points.plan.attacks[eps]]
    robust = {eps: torch.as_tensor(verdicts.robust(eps)).to(x.device) for eps in radii}
    images: dict[float, Tensor] = {}
    if config.keep_images and radii:
        originals = x[torch.as_tensor(points.rows_of(ids)).to(x.device)].to(points.model.image_dtype)
        images = attacked_images(originals, ids, done, radii, config.share, unbounded)
    clean = torch.as_tensor(verdicts.clean).to(x.device)
    scores = [_clean_score(clean, config), *(_score(config, eps, verdicts, record, audits.get(eps)) for eps in radii)]
    notes += _trouble(scores, unanswered_points(record))
    return Evaluation(clean, robust, scores, notes, images, record, torch.as_tensor(ids), len(x))


def _by_reference_protocol(points: Points, config: EvaluateConfig, report: OnProgress) -> Evaluation:
    """Clean accuracy, and PGD as the library ``robustness`` does it: every point to the end, batch by batch."""
    (stage,) = run_all(points, report)
    verdicts = derive(stage.record, points.ids, points.plan.stages)
    notes = [*points.model.notes, *_notes(points, config)]
    results = {
        eps: reference_pgd(
            points.model, config.pgd(eps), points.x, points.y, config.batch_size, config.keep_images, report
        )
        for eps in config.eps
    }
    clean = torch.as_tensor(verdicts.clean).to(points.x.device)
    scores = [_clean_score(clean, config), *(each.score for each in results.values())]
    unanswered = torch.stack([each.invalid_logits for each in results.values()]).any(0)
    notes += _trouble(scores, int(unanswered.sum()))
    robust = {eps: each.robust for eps, each in results.items()}
    images = {eps: each.images for eps, each in results.items() if each.images is not None}
    ids = torch.as_tensor(points.ids)
    return Evaluation(clean, robust, scores, notes, images, stage.record, ids, len(points.x))


def _notes(points: Points, config: EvaluateConfig) -> list[str]:
    """What a reader should know of the verdicts, classes and shapes, a sentence each."""
    attacks, unmasked = config.attacks_at(config.eps[0]), points.open_classes
    about, masked = [], points.classes - unmasked
    if attacks and points.model.call.no_gradient:
        about += [
            "the model has no gradient here, so that only attacks without one were tried: robust accuracy is an upper "
            "bound, and not comparable with figures of AutoAttack or PGD"
        ]
    if attacks and points.model.randomised:
        about += [
            "the model draws random numbers: an attacked image counts as misclassified if most passes over it are"
        ]
    if masked:
        but = "" if unmasked > 1 else ", but for the first of each point: without it they would have nothing to aim at"
        about += [f"{masked} of {points.classes} logits are masked: attacks leave these classes out{but}"]
    return [*about, *changed_attacks(attacks, max(unmasked, 2), points.x.shape[1:])]


def _trouble(scores: Sequence[Score], unanswered: int) -> list[str]:
    """What went wrong with gradients and logits, a sentence each."""
    notes = []
    if lost := sum(score.non_finite for score in scores):
        notes.append(f"{lost} gradient steps were not taken because the gradient was not finite")
    if unanswered:
        count = "1 point counts" if unanswered == 1 else f"{unanswered} points count"
        notes.append(f"{count} as misclassified: the logits of an attacked image are NaN or infinite")
    return notes


def _clean_score(clean: Tensor, config: EvaluateConfig) -> Score:
    return Score("clean", len(clean), int(clean.sum()), batch_size=min(config.batch_size, len(clean)))


def _score(config: EvaluateConfig, eps: float, verdicts: Verdicts, record: Record, audit: Audit | None = None) -> Score:
    """The row of results at one radius."""
    found = record.distance[(record.distance <= eps) & (record.attack != "clean")]
    name, pgd = config.row_attack, config.is_pgd
    return Score(
        attack=str(name["attack"]),
        n=len(verdicts.points),
        correct=int(verdicts.robust(eps).sum()),
        protocol="strong" if pgd else name["protocol"],
        norm=config.norm,
        eps=eps,
        steps=config.steps if pgd else 0,
        step_size=config.pgd(eps).step_length if pgd else None,
        random_start=config.random_start,
        seed=config.seed if not pgd or config.random_start else None,
        batch_size=min(config.batch_size, len(verdicts.points)),
        max_perturbation=float(found.max(initial=0.0)),
        non_finite=int(record.non_finite[record.eps == eps].sum()),
        broke=broken_by(verdicts, eps) if config.preset == FAST else verdicts.broken_by(eps),
        audit=audit,
    )


def _ids(ids: Sequence[int] | Tensor | None, n: int) -> NDArray[np.int64]:
    """int64 (n,), the names of the points."""
    if ids is None:
        return np.arange(n)
    given = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if given.shape != (n,) or given.dtype.kind not in "iu" or len(np.unique(given)) < n:
        raise ValueError(f"ids must be {n} integers, each once, got {given.dtype} {given.shape}")
    return given.astype(np.int64)
