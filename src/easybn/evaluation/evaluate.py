"""``evaluate``: clean and robust accuracy of a model, with all that a reader needs to trust them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attacks.attack_mode import attack_mode
from ..attacks.registry import changed_attacks, check_gradient, no_gradient
from ..perturb.eps import parse_radii
from ..perturb.pgd import check_images
from ..progress import OnProgress, silent
from .config import Choice
from .diagnostics import diagnose
from .pgd_robustness import as_the_library
from .points import Plan, Points, attacked, run_all
from .record import Record, unanswered_points
from .result import Evaluation, Score
from .resumable import Storing, read_findings, run_stored, write_findings
from .verdicts import derive

PROBE = 16  # images on which the preparation of the model is checked
PRECISIONS = {"float32": "32", "bf16": "bf16"}
Radius = float | Fraction | str


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "l2",
    eps: Radius | Sequence[Radius] = 0.5,
    attacks: str | Sequence[str] = "pgd",
    protocol: str = "strong",
    steps: int = 100,
    step_size: float | None = None,
    random_start: bool = False,
    share: bool = True,
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
    diagnosis: bool = True,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Classify images as they are and under attack.

    The model is evaluated in eval mode and left as it was found: modes, statistics, ``requires_grad`` and
    ``.grad``. Images go to its device batch by batch. Whatever counts as misclassified was verified by a
    forward pass of the model itself on the image that is kept.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K); normalisation is a layer of it.
        x: images in [0, 1], floating point, (N, C, H, W) or any other (N, ...).
        y: true classes, integers, (N,).
        norm: "l2" or "linf".
        eps: one radius or several, in [0, 1] pixel units: numbers, fractions or strings such as "8/255".
        attacks: "pgd"; AutoAttack's presets "standard" (also "autoattack"), "plus", "rand"; one or several of its
            attacks ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"); "clean" for no attack.
        protocol: of pgd: "strong", or "robustness" for the figure that the library of that name gives.
        steps: of pgd: gradient steps an image, for each loss.
        step_size: of pgd: in [0, 1] pixel units; default 2.5 * eps / steps.
        random_start: of pgd: start from a random point of the ball (strong only) instead of from the image.
        share: at a larger eps, do not attack again what fell at a smaller one (not under ``robustness``).
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
            0 .. N - 1. With names that stay, parts of a data set get the numbers that the whole would.
        store: a folder for the verdicts. What is there is not computed again, a killed call goes on where it was,
            and several may work side by side. The folder belongs to this very evaluation; another is refused.
        chunk: of the store: points whose attacks are run together, by default 1000 (fewer if images are large).
        shard: of the store: (i, n) for every n-th chunk, from the i-th on, i from 0.
        budget: of the store: seconds. As many points as fit, drawn at random by the seed: a pilot of one chunk
            always counts, and fixes how many follow. Chunks not finished in time do not count.
        branch: of the store: which branch of a converted model this is ("main" is the deployed one); kept in it, so
            that tables never take one for the other.
        diagnosis: after attacks, look for what makes the figures misleading
            (``easybn.evaluation.diagnostics.diagnose``) and say it in ``findings`` and ``notes``. It takes about 9
            forward passes a point, of 1,000 points at most, and 4 with the gradient of 256; under ``robustness`` in
            l2 also 3,700 and 3,600, and for a model with branches 1,280 and 1,280 a branch: together less than
            AutoAttack takes for a few robust points. In a store it is made once all chunks are done, and kept.
        progress: called as ``progress(done, total, what)`` after every iteration; ``total`` belongs to ``what``.

    Raises:
        TypeError: images that are not floating point; a model that does not return a tensor (a ValueError too).
        ValueError: anything out of range, an unknown name, labels that do not fit the logits; logits of an image as it
            is that are NaN, +inf or all -inf (of an attacked image they count as misclassified, with a note); a model
            that fails, or that has no gradient for attacks that need one; a store of another evaluation.
        OSError: the store cannot be written, as on a full disk; what was stored is whole.
    """
    radii = parse_radii(eps)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    names = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    choice = Choice(names, norm, protocol, steps, step_size, random_start)
    at = {e: choice.at(e) for e in radii}
    storing = Storing.of(store, chunk, shard, budget, branch)
    if choice.literal and storing:
        raise ValueError("the robustness protocol belongs to its batches and has no verdicts to store: leave store out")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if choice.literal and (compile or precision != "float32"):
        raise ValueError("the robustness protocol attacks the model as it is: leave compile and precision out")
    check_images(x, y)
    for e in radii:
        choice.pgd(e).ball.check_fits(x.shape[1:])
    x, y = x.detach(), y.detach().to(x.device).long()
    report = progress or silent
    with attack_mode(model, probe=x[:PROBE], fold=fold, compile=compile, precision=PRECISIONS[precision]) as ready:
        points = Points(ready, x, y, _named(ids, len(x)), Plan(at, seed, batch_size, share=share))
        notes = list(ready.notes)
        check_gradient(at[radii[0]], ready)
        with torch.no_grad():  # batches become small where attacks succeed: a model that fails on them does so now
            ready.original(ready.load(x[: 1 if at[radii[0]] else len(x) % batch_size or min(len(x), batch_size)]))
        if choice.literal and ready.call.no_gradient:
            raise ValueError(no_gradient(ready, ["pgd"]))
        if storing:
            stored = run_stored(points, choice, storing, keep_images, report)
            known, record, found = stored.points, stored.record, stored.found()
            notes += stored.missing(storing)
        else:
            every = run_all(points, report, keep_images)
            known, record, found = points.ids, Record.joined(done.record for done in every), iter(every)
        verdicts = derive(record, known, points.plan.stages, share)
        classes = points.open_classes
        if masked := points.classes - classes:
            notes.append(f"{masked} of {points.classes} logits are masked: attacks leave these classes out")
        notes += changed_attacks(at[radii[0]], classes, x.shape[1:])
        robust = {e: torch.as_tensor(verdicts.robust(e)).to(x.device) for e in at if at[e]}
        scores = [Score("clean", len(known), int(verdicts.clean.sum()), batch_size=min(batch_size, len(known)))]
        scores += [choice.score(e, verdicts, record, seed, batch_size) for e in robust]
        images: dict[float, Tensor] = {}
        if keep_images and robust:
            originals = x[torch.as_tensor(points.rows_of(known)).to(x.device)].to(ready.image_dtype)
            images = attacked(originals, known, found, list(robust), share)
        if choice.literal:
            results = [as_the_library(ready, choice.pgd(e), x, y, batch_size, keep_images, report) for e in radii]
            robust = {e: each.robust for e, each in zip(radii, results, strict=True)}
            images = {e: each.images for e, each in zip(radii, results, strict=True) if each.images is not None}
            scores += [each.score for each in results]
            broken = int(torch.stack([each.invalid_logits for each in results]).any(0).sum())
        else:
            broken = unanswered_points(record)
    if lost := sum(score.non_finite for score in scores):
        notes.append(f"{lost} gradient steps were not taken because the gradient was not finite")
    if broken:
        notes.append(f"{broken} points count as misclassified: the logits of an attacked image are NaN or infinite")
    clean = torch.as_tensor(verdicts.clean).to(x.device)
    result = Evaluation(clean, robust, scores, notes, images, record, torch.as_tensor(known), len(x))
    if not diagnosis or not robust or not (result.complete or budget):
        return result
    findings = read_findings(stored.store, len(known)) if storing else None
    if findings is None:
        rows = torch.as_tensor(points.rows_of(known)).to(x.device)
        findings = diagnose(
            model, x[rows], y[rows], norm=norm, eps=radii, evaluation=result, seed=seed, batch_size=batch_size,
            progress=report,
        )  # fmt: skip
        if storing:
            write_findings(stored.store, len(known), findings)
    return result.diagnosed(findings)


def _named(ids: Sequence[int] | Tensor | None, n: int) -> NDArray[np.int64]:
    """int64 (n,), the names of the points."""
    if ids is None:
        return np.arange(n)
    given = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if given.shape != (n,) or given.dtype.kind not in "iu" or len(np.unique(given)) < n:
        raise ValueError(f"ids must be {n} integers, each once, got {given.dtype} {given.shape}")
    return given.astype(np.int64)
