"""The time that runs still need, by the speed of the epochs and evaluations that are done; none is guessed."""

from collections.abc import Sequence
from dataclasses import replace

from ..experiment import Experiment
from .execute import Progress
from .plan import Planned


class Left:
    """Call it with the progress of a study's runs.

    A run's own epochs tell its speed, else those of runs that differ in the seed alone. What an evaluation takes is
    told by the same one of another run of the same network and data.

    Args:
        runs: of the study.
        jobs: how many are done at a time.
    """

    def __init__(self, runs: Sequence[Planned], jobs: int):
        self._runs, self._jobs = runs, max(1, jobs)
        self._kind = {run.name: but_for_seed(run.experiment).digest for run in runs}

    def __call__(self, progress: Progress) -> dict[str, float | None]:
        """Seconds by name of a run, and of all under ""; None where nothing like it was measured."""
        epoch: dict[str, list[float]] = {}
        evaluation: dict[tuple[str, str, str], list[float]] = {}
        for run in self._runs:
            state = progress.states[run.name]
            if state.epoch:
                epoch.setdefault(self._kind[run.name], []).append(state.trained_seconds / state.epoch)
            for digest, seconds in state.evaluation_seconds.items():
                evaluation.setdefault((run.experiment.data, run.experiment.model, digest), []).append(seconds)
        out: dict[str, float | None] = {}
        for run in self._runs:
            state = progress.states[run.name]
            if state.kind in ("done", "failed"):
                out[run.name] = 0.0
                continue
            own = [state.trained_seconds / state.epoch] if state.epoch else epoch.get(self._kind[run.name], [])
            parts = [_mean(own, state.epochs - state.epoch)]
            for wanted in run.wanted:
                if wanted.digest not in state.evaluation_seconds:
                    key = (run.experiment.data, run.experiment.model, wanted.digest)
                    parts.append(_mean(evaluation.get(key, []), 1))
            known = [part for part in parts if part is not None]
            out[run.name] = sum(known) if len(known) == len(parts) else None
        every = [seconds for seconds in out.values() if seconds is not None]
        out[""] = sum(every) / self._jobs if len(every) == len(out) else None
        return out


def _mean(seconds: Sequence[float], times: int) -> float | None:
    if not times:
        return 0.0
    return times * sum(seconds) / len(seconds) if seconds else None


def but_for_seed(experiment: Experiment) -> Experiment:
    """The same whatever the seed."""
    return replace(experiment, training=replace(experiment.training, seed=0))
