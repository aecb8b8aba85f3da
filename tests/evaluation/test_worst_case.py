"""The worst case over several stores, against a loop over points."""

import numpy as np
import pytest

from easybn.evaluation import evaluate
from easybn.evaluation.result import worst_case
from easybn.evaluation.store import Store

from ..small import small_images, small_net

EPS = 0.03


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    model, x = small_net(), small_images(40)
    y = model(x).argmax(1)
    folder, found = tmp_path_factory.mktemp("stores"), []
    for name, points, how in (
        ("weak", 40, {"norm": "linf", "eps": EPS, "attacks": "pgd", "steps": 1, "step_size": 0.01}),
        ("strong", 20, {"norm": "linf", "eps": EPS, "attacks": "apgd-ce"}),
        ("nearer", 30, {"norm": "linf", "eps": EPS / 2, "attacks": "apgd-t"}),
        ("farther", 25, {"norm": "linf", "eps": 0.2, "attacks": ["pgd-ce", "fab-t"]}),
        ("other norm", 40, {"norm": "l2", "eps": 5.0, "attacks": "apgd-ce"}),
    ):
        evaluate(model, x[:points], y[:points], store=folder / name, chunk=10, **how)
        found.append(Store.existing(folder / name))
    return found


def fooled(store: Store, point: int, eps: float) -> bool:
    """Whether a row of the store has an image within ``eps`` that fools the model at the point."""
    rows = store.record.columns
    within = (rows["distance"] <= eps) & (rows["point"] == point)
    return bool((within & (rows["success"] | np.char.startswith(rows["attack"], "fab"))).any())


def test_a_point_has_fallen_if_any_store_has_felled_it(stores):
    together = worst_case(stores, "linf", EPS)
    alike = [store for store in stores if store.manifest.norm == "linf" and max(store.manifest.eps) <= EPS]
    standing = [not any(fooled(store, point, EPS) for store in alike) for point in range(40)]
    by_fab = [fooled(stores[3], point, EPS) for point in range(40)]  # which looks wherever it is near
    expected = sum(stands and not near for stands, near in zip(standing, by_fab, strict=True))
    assert (together.correct, together.n) == (expected, 40)
    alone = [worst_case([store], "linf", EPS) for store in stores[:2]]
    assert [score.n for score in alone] == [40, 20]
    assert together.correct < alone[0].correct  # none of them knew it all
    assert (together.attack, together.norm, together.eps) == ("all attacks", "linf", EPS)


def test_an_attack_at_a_larger_radius_says_nothing_of_a_smaller_one(stores):
    without_fab = worst_case([stores[0]], "linf", EPS)
    assert worst_case([stores[0], stores[4]], "linf", EPS) == without_fab
    far = worst_case(stores, "linf", 0.2)
    assert far.n == 25
    assert far.correct <= stores[3].verdicts().robust(0.2).sum()


def test_nothing_at_that_radius(stores):
    assert worst_case(stores, "linf", 0.1) is None
    assert worst_case(stores, "l2", EPS) is None
    assert worst_case([], "l2", EPS) is None
