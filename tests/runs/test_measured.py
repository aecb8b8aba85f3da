"""Which rows an evaluation asks for."""

from dataclasses import replace

from easybn.evaluation.config import EvaluateConfig
from easybn.runs.measured import WantedRows

CLEAN_ROW = {"attack": "clean", "n": 1000, "correct": 300, "branch": "main", "test_images": 1000}
PGD_ROW = {
    "attack": "pgd", "protocol": "strong", "norm": "l2", "eps": 0.5, "steps": 9, "n": 50, "test_images": 50,
    "points_seed": 0, "requested_batch_size": 100, "branch": "main", "correct": 1,
}  # fmt: skip


def is_measured(config: EvaluateConfig, scores: list) -> bool:
    return WantedRows.of(config).are_in(scores)


def test_an_evaluation_needs_its_own_rows():
    config = EvaluateConfig.of_run(eps=(0.5,), protocols=("strong",), steps=9, points=50)
    assert is_measured(config, [CLEAN_ROW, PGD_ROW])
    for row in (CLEAN_ROW, PGD_ROW):
        assert not is_measured(config, [row])
    assert not is_measured(replace(config, branch="easy"), [CLEAN_ROW, PGD_ROW])
    for name, value in (("eps", (0.5, 1.0)), ("steps", 8), ("norm", "linf"), ("points", 51), ("seed", 1)):
        assert not is_measured(replace(config, **{name: value}), [CLEAN_ROW, PGD_ROW]), name
    fewer = [{**CLEAN_ROW, "n": 50}, PGD_ROW]
    assert is_measured(replace(config, points=51), fewer), "there are no more images"
    old = {name: value for name, value in PGD_ROW.items() if name not in ("branch", "requested_batch_size")}
    assert is_measured(config, [CLEAN_ROW, old])
    assert not is_measured(replace(config, branch="easy"), [{**CLEAN_ROW, "branch": "easy"}, old])
    config = EvaluateConfig.of_run(["autoattack"], norm="linf", eps=(0.1,), points=50)
    row = {**PGD_ROW, "attack": "autoattack", "protocol": "standard", "norm": "linf", "eps": 0.1, "share": True}
    row |= {"requested_batch_size": 256, "budget": None}
    assert is_measured(config, [CLEAN_ROW, row])
    assert not is_measured(config, [CLEAN_ROW, {**row, "protocol": "plus"}])
    assert not is_measured(replace(config, precision="bf16"), [CLEAN_ROW, {**row, "precision": "float32"}])
    assert not is_measured(config, [CLEAN_ROW])
    assert is_measured(replace(config, budget=9.0), [CLEAN_ROW, {**row, "budget": 9.0, "test_images": 3}])
