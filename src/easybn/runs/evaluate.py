"""Evaluate a run on its test images, and verify what was stored: what its folder holds is not measured again.

PGD is measured under its protocols and keeps the verdicts in its rows of scores.jsonl. All other attacks have a store
in the run's folder, below ``verdicts/``; their rows follow once all points are done.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import data
from ..attacks.attack_mode import TargetModel, attack_mode
from ..evaluation import Evaluation
from ..evaluation.auditing import (
    FastRun,
    audit_stores,
    finished_audits,
    is_fast,
    read_sample,
    seconds_with_audits,
    stored_audit,
)
from ..evaluation.config import POINTS, PROBE, EvaluateConfig
from ..evaluation.diagnostics import Finding
from ..evaluation.estimate import Estimate, estimate
from ..evaluation.evaluate import run_evaluation
from ..evaluation.record import CLEAN
from ..evaluation.store import Store
from ..evaluation.store.manifest import data_digest, model_digest
from ..evaluation.verdicts import pack_bits, points_digest
from ..evaluation.verify import Problem, verify
from ..json_files import Row
from ..keyed_random import permutation
from ..progress import OnProgress, silent
from .measured import EARLIER, is_row, request_of
from .target import EvaluationTarget, branch_model, branches
from .user_model import NAME, UserModel, target_in
from .verdicts import home_of

# Verification of a store of verdicts: finds its model and images by their digests, and tests them again.


@dataclass(frozen=True)
class Verified:
    """Result of a verification.

    Args:
        images: number of adversarial images that were tested.
        clean: number of clean points that were tested.
        kept: whether the evaluation keeps its images; without them only clean verdicts can be tested.
        problems: what is wrong.
    """

    images: int
    clean: int
    kept: bool
    problems: list[Problem]

    def __str__(self) -> str:
        if self.problems:
            many = "s" * (len(self.problems) != 1)
            return f"{self.images:,} adversarial images tested again: {len(self.problems):,} problem{many}"
        if not self.kept:
            return (
                "no images were kept (--keep_images), so no adversarial image can be tested again; "
                f"the record is complete and consistent, and the {self.clean:,} clean verdicts are the same again"
            )
        return f"{self.images:,} adversarial images and {self.clean:,} clean ones tested again: everything holds"


def verify_store(
    folder: Path,
    own: UserModel | None,
    device: str | None,
    batch_size: int,
    progress: OnProgress = silent,
    repeated: UserModel | None = None,
) -> Verified:
    """Test every stored adversarial image again, and whether the record is complete and consistent.

    Args:
        folder: the store, whose audits are tested too.
        own: the model and its data; None to use those of the run in whose folder the store is.
        device: where to compute; by default the CPU.
        batch_size: images per pass.
        progress: called after every stage.
        repeated: the model of the folder in which the store is, named again, see :meth:`.user_model.UserModel.of`.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: its manifest is damaged; the model or the images are not those that were evaluated.
    """
    stores = _with_audits(Store.existing(folder))
    source = own.load_data() if own else _owner(folder, repeated).source
    for store in stores:
        points = torch.tensor(store.manifest.points)
        if int(points.max()) >= len(source.test) or int(points.min()) < 0:
            raise ValueError(f"{source.name} has {len(source.test):,} test images, and the verdicts are of others")
        # their digest is of points in ascending order, in whatever order they were attacked
        if data_digest(*source.test.batch(points.sort().values)) != store.manifest.data:
            told = "are not those that were evaluated: their digest differs"
            raise ValueError(f"the test images of {source.name} {told}")
    manifest = stores[0].manifest
    x = source.test.batch(torch.tensor(manifest.points[:PROBE]))[0]
    for model in _candidates(folder, own, repeated):
        with attack_mode(model.to(device or "cpu"), probe=x, fold=False) as ready:
            if model_digest(ready, tuple(x.shape[1:])) != manifest.model:
                continue
            parts = [_verified(store, ready, source, batch_size, progress) for store in stores]
            problems = [problem for part in parts for problem in part.problems]
            images, clean = sum(part.images for part in parts), sum(part.clean for part in parts)
            return Verified(images, clean, manifest.keep_images, problems)
    raise ValueError(f"the model is not the one that was evaluated: none has the digest {manifest.model}")


def _with_audits(store: Store) -> list[Store]:
    """A store and those of its audits: the ones that count, or all if the audit that it tells of is not all there."""
    if not is_fast(store):
        return [store]
    store = replace(store, report=lambda line: None)  # damaged files are found below
    run = FastRun.of_store(store, store.record, store.verdicts().points)
    lacks = bool(read_sample(store, run)) and stored_audit(store, run).audits is None
    return [store, *(audit_stores(store) if lacks else finished_audits(store))]


def _verified(store: Store, ready: TargetModel, source: data.Source, batch_size: int, progress: OnProgress) -> Verified:
    x, y = source.test.batch(torch.tensor(store.manifest.points))
    problems = verify(
        store, lambda image: ready.original(ready.load(image)), x, y, batch_size=batch_size, progress=progress,
        randomised=ready.randomised,
    )  # fmt: skip
    # damaged files are among the problems
    found = list(Store(store.folder, store.manifest, lambda line: None).read())
    count = sum(len(images[0]) for _, _, images in found if images is not None)
    clean = sum(len(record) for file, record, _ in found if store.manifest.stages[file.stage] == CLEAN)
    return Verified(count, clean, store.manifest.keep_images, problems)


def is_of_user_model(folder: Path) -> bool:
    """Whether the store is in the folder of a user's model."""
    home = home_of(folder)
    return (home / NAME).exists() and not (home / "config.json").exists()


def _owner(folder: Path, repeated: UserModel | None) -> EvaluationTarget:
    home = home_of(folder)
    if not (home / "config.json").exists() and not (home / NAME).exists():
        raise ValueError(f"{folder} is not in a run's folder: name its model and data (--model, --weights, --data)")
    return target_in(home, repeated=repeated)


def _candidates(folder: Path, own: UserModel | None, repeated: UserModel | None) -> Iterator[nn.Module]:
    """The model, then the other branches of the run."""
    if own:
        yield own.load_model().eval()
        return
    owner = _owner(folder, repeated)
    yield owner.model
    if (owner.run.folder / "config.json").exists():
        with suppress(FileNotFoundError):  # without a checkpoint there is only the deployed branch
            for name in branches(owner.run)[1:]:
                yield branch_model(owner.run, name)


CLEAN_BATCH = 500


@dataclass(frozen=True)
class Result:
    """What was measured of one model.

    Args:
        evaluation: on the points that are done; None of PGD, whose rows are among the scores.
        store: the folder of the verdicts; None of PGD.
        seconds: of this session.
    """

    evaluation: Evaluation | None
    store: Path | None
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether all points that were asked for have their verdicts."""
        return self.evaluation is None or self.evaluation.complete

    @property
    def findings(self) -> Sequence[Finding]:
        """Of the diagnosis."""
        return () if self.evaluation is None else self.evaluation.findings


def evaluate_run(target: EvaluationTarget, config: EvaluateConfig, progress: OnProgress = silent) -> Result:
    """Measure what ``config`` asks for and the run does not have yet, and add its rows to the scores.

    Args:
        target: the model, its test images, and the folder of the scores; its branch is the one that counts.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is at work there.
        ValueError: anything out of range; verdicts of another model in the folder.
        OSError: something cannot be written; what was stored is complete.
    """
    config = replace(config, branch=target.branch)
    target.check()  # a mistake in the model, the data or the labels leaves no folder behind
    target.claim()
    began = time.monotonic()
    if config.is_pgd:
        with target.run.locked():
            measure_clean(target, config.device, progress)
            for protocol in config.protocols:
                _measure_pgd(target, replace(config, protocols=(protocol,)), progress)
        return Result(None, None, time.monotonic() - began)
    model, folder, index = target.model.to(config.device or "cpu"), store_folder(target, config), _index(target, config)
    x, y = target.source.test.batch(index)
    evaluation = run_evaluation(config, model, x, y, ids=index, store=folder, progress=progress)
    seconds = time.monotonic() - began
    if evaluation.complete or config.budget:
        _add_rows_of_store(target, config, evaluation, seconds_with_audits(Store.existing(folder)))
    return Result(evaluation, folder, seconds)


def estimate_run(target: EvaluationTarget, config: EvaluateConfig, rows: int | None = None) -> Estimate:
    """How long :func:`evaluate_run` would take if nothing was there yet, for attacks with a store.

    Args:
        rows: images of a timed step at most, see :func:`~easybn.evaluation.estimate.estimate`.
    """
    target.check()
    index = _index(target, config)
    x, y = target.source.test.batch(index[: rows or config.batch_size])
    return estimate(config, target.model.to(config.device or "cpu"), x, y, len(index), rows)


def draw_test_points(source: data.Source, points: int, seed: int) -> torch.Tensor:
    """The numbers of ``points`` test images drawn by ``seed``, ascending; all of them if there are no more."""
    return drawn_points(len(source.test), points, seed)


def drawn_points(count: int, points: int, seed: int) -> torch.Tensor:
    """The same of ``count`` test images, whichever they are."""
    return permutation(count, seed, "test points")[: min(points, count)].sort().values


def store_folder(target: EvaluationTarget, config: EvaluateConfig) -> Path:
    """The folder of the verdicts: a readable name, and a digest of all that was asked."""
    names = ("norm", "eps", "points", "seed", "batch_size", "chunk", "keep_images", "share")
    asked: dict[str, Any] = {name: getattr(config, name) for name in names} | {"attacks": config.names}
    asked |= {"in random order": bool(config.budget), "branch": target.branch}
    changed = {name: getattr(config, name) for name in ("compile", "precision")}
    asked |= {name: value for name, value in changed.items() if value != EARLIER[name]}
    digest = hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=4).hexdigest()
    words = [*([] if target.branch == "main" else [target.branch]), "+".join(config.names), config.norm]
    return target.run.folder / "verdicts" / "-".join([*words, *(f"{eps:.4g}" for eps in config.eps), digest])


def _index(target: EvaluationTarget, config: EvaluateConfig) -> torch.Tensor:
    """int64 (n,), the numbers of the test images, ascending."""
    default = len(target.source.test) if config.budget else POINTS
    return draw_test_points(target.source, config.points or default, config.seed)


def measure_clean(target: EvaluationTarget, device: str | None, progress: OnProgress) -> None:
    """Add a row of accuracy on all test images as they are, unless there is one."""
    count = len(target.source.test)
    request = {"branch": target.branch, "attack": "clean", "test_images": count}
    if not any(is_row(row, {**request, "n": count}) for row in target.run.scores):
        clean = EvaluateConfig(("clean",), batch_size=CLEAN_BATCH, device=device)
        _measure(target, clean, torch.arange(count), request, progress)


def _measure_pgd(target: EvaluationTarget, config: EvaluateConfig, progress: OnProgress) -> None:
    """Measure the radii that are missing; under the strong protocol all, as one radius counts for larger ones."""
    index = _index(target, config)
    request = {**request_of(config), "test_images": len(index)}
    scores = target.run.scores
    missing = tuple(eps for eps in config.eps if not any(is_row(row, {**request, "eps": float(eps)}) for row in scores))
    if missing:
        eps = config.eps if config.protocols == ("strong",) else missing
        _measure(target, replace(config, eps=tuple(sorted({*eps}))), index, request, progress)


def _measure(
    target: EvaluationTarget, config: EvaluateConfig, index: torch.Tensor, request: Row, progress: OnProgress
) -> None:
    """Add a row for each radius (or for clean accuracy), with its verdicts, which are kept nowhere else."""
    model = target.model.to(config.device or "cpu")
    x, y = target.source.test.batch(index)
    began = time.monotonic()
    result = run_evaluation(replace(config, branch=None), model, x, y, progress=progress)
    seconds = round(time.monotonic() - began, 1)
    shared = {"data": target.source.name, **request, "seconds": seconds, "notes": [*target.notes, *result.remarks]}
    shared["points"] = points_digest(index.tolist())
    rows = []
    for score in result.scores:
        if score.attack == request["attack"]:
            right = pack_bits(result.clean if score.eps is None else result.robust_at[score.eps])
            rows.append({**shared, **score.to_dict(), "accuracy": score.accuracy, "right": right})
    if result.findings:  # once, though they are of all these rows
        rows[0]["findings"] = [asdict(finding) for finding in result.findings]
    target.run.add_scores(rows)


def _add_rows_of_store(
    target: EvaluationTarget, config: EvaluateConfig, evaluation: Evaluation, seconds: float
) -> None:
    """Add the rows that the scores do not have yet; their verdicts are in the store."""
    clean, *attacked = evaluation.scores
    request, record, images = request_of(config), evaluation.record, {"test_images": len(evaluation.clean)}
    shared = {
        "data": target.source.name, **request, **images, "seconds": round(seconds, 1),
        "forwards": int(record.forwards.sum()), "backwards": int(record.backwards.sum()),
        "notes": [*target.notes, *evaluation.remarks],
    }  # fmt: skip
    with target.run.locked(timeout=60):
        rows = target.run.scores
        wanted = request if config.budget else {**request, **images}
        new = [] if any(is_row(row, {"attack": "clean", "branch": target.branch}) for row in rows) else [clean]
        new += [score for score in attacked if not any(is_row(row, {**wanted, "eps": score.eps}) for row in rows)]
        if new:
            made = [{**shared, **score.to_dict(), "accuracy": score.accuracy} for score in new]
            if appearance := config.appearance:
                made = [row if row["attack"] == "clean" else {**row, "appearance": appearance} for row in made]
            target.run.add_scores(made)
