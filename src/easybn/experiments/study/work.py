"""One run of a study: trained, stripped and evaluated, as far as that is missing."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ...escapes import say
from ...train.interrupt import Interrupted
from ...train.prepare import usable
from ...train.progress import ProgressBar, training_progress
from ..attack_bars import AttackBars
from ..evaluated import Evaluated
from ..run import BusyError, Run, train
from ..score_attacks import Attacks, measure
from ..score_run import score
from .plan import Planned, Wanted
from .record import add_evaluated, at_work, fail, missing


def work(planned: Planned, folder: Path, device: str | None = None, checkpoint_seconds: float = 60.0) -> None:
    """Do what is missing of a run.

    Args:
        folder: of the run.
        device: where to compute; by default CUDA where there is one, else the CPU.

    Raises:
        BusyError: another process is at work there.
        easybn.train.interrupt.Interrupted, KeyboardInterrupt: it was asked to stop; what is done is saved.
        Exception: anything else; it is noted in the folder, unless that is of another experiment (ValueError).
    """
    run = Run(folder)
    run.check(planned.experiment)
    with at_work(folder):
        try:
            device = str(usable(device or ("cuda" if torch.cuda.is_available() else "cpu")))
            train(
                planned.experiment,
                folder,
                observers=[ProgressBar("training")],
                device=device,
                checkpoint_seconds=checkpoint_seconds,
                on_note=lambda note: say(f"note: {note}"),
            )
            subjects: dict[str | None, Evaluated] = {}  # the images are read and the model is loaded once
            for each in missing(folder, planned.wanted):
                subject = subjects.setdefault(each.branch, Evaluated.of_run(run, each.branch))
                began = time.monotonic()
                findings = _measured(subject, each, device)
                add_evaluated(folder, each, time.monotonic() - began, findings)
        except (Interrupted, BusyError):
            raise
        except Exception as error:
            fail(folder, str(error) or type(error).__name__)
            raise


def _measured(subject: Evaluated, wanted: Wanted, device: str) -> list[dict[str, Any]]:
    """Have the rows of an evaluation among the scores; returns what the diagnosis found."""
    what = replace(wanted.what, device=device)
    with training_progress() as display:
        if not isinstance(what, Attacks):
            score(subject.run, display, what, subject)
            return []
        found = measure(subject, what, AttackBars(display, subject.run.folder.name))
    if not found.evaluation.complete and not what.budget:
        raise BusyError(f"another process has a part of the verdicts in {found.store}")
    for finding in found.findings:
        say(str(finding))
    return [asdict(finding) for finding in found.findings]
