"""A study without a YAML file: three recipes, two seeds each, two runs at a time.

    python examples/study_in_python.py
    easybn study runs/study-in-python --status     (meanwhile, from another terminal)
    easybn table runs/study-in-python

Each run is a process of its own, for which a thread waits. The same call with ``client.get_executor()`` of
dask.distributed does the runs on the machines of a cluster, and without an executor here, one after the other. Stopped
and started again it continues; what is done is not done again.
"""

from concurrent.futures import ThreadPoolExecutor

from easybn import EvaluateConfig, Experiment, Planned, Study, Training, run_study
from easybn.recipes import EBN, AdvProp, Vanilla


def study(seeds: int = 2, epochs: int = 2, images: int | None = 2000, points: int = 100) -> Study:
    """Every recipe with every seed; each run is measured by clean accuracy and PGD."""
    pgd = EvaluateConfig.of_run(["pgd"], eps=(0.5,), steps=10, points=points, protocols=("strong",))
    runs = []
    for seed in range(seeds):
        for recipe in (Vanilla(), AdvProp(), EBN()):
            training = Training(epochs=epochs, batch_size=50, seed=seed)
            experiment = Experiment(recipe=recipe, train_images=images, training=training)
            runs.append(Planned(f"{type(recipe).__name__.lower()}-{seed}", experiment, (pgd,)))
    return Study("study-in-python", tuple(runs))


if __name__ == "__main__":
    with ThreadPoolExecutor(2) as executor:
        states = run_study(study(), "runs/study-in-python", executor, threads=1)
    for name, state in states.items():
        print(name, state.kind, state.error or f"{state.clean:.1%} on clean images, {state.seconds:.0f} s")
