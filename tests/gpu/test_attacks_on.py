"""Attacks, verdicts and the store on the device, beside the CPU and the reference implementation."""

import copy
import warnings
from dataclasses import fields

import pytest
import torch

from easybn.attacks import registry
from easybn.attacks.apgd import APGD
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.fab import FAB
from easybn.attacks.pgd import PGDSweep
from easybn.attacks.square import Square
from easybn.evaluation import evaluate
from easybn.models import build

POINTS = 100
EPS = {"linf": 0.03, "l2": 0.6}
SHORT = {
    "pgd-margin": lambda ball: PGDSweep(ball, "margin", steps=30),
    "apgd-ce": lambda ball: APGD(ball, "ce", iterations=30),
    "apgd-t": lambda ball: APGD(ball, "t", iterations=20, target_classes=3),
    "fab-t": lambda ball: FAB(ball, iterations=20, target_classes=3),
    "square": lambda ball: Square(ball, queries=800),
}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ATTACKS", {**registry.ATTACKS, **SHORT})


@pytest.fixture
def points(trained):
    model, x, y = trained
    return copy.deepcopy(model), x[:POINTS], y[:POINTS]


def on(device: str, problem, **how):
    """The evaluation with model and images on the device, in batches of its own."""
    model, x, y = problem
    return evaluate(model.to(device), x.to(device), y.to(device), batch_size=64, **how)


def same_share(one, other) -> float:
    return float((one.robust.cpu() == other.robust.cpu()).double().mean())


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("attack", SHORT)
def test_an_attack_on_the_device(device, attack, norm, points):
    """Its images are adversarial for the model, inside the ball; verdicts are the CPU's but for two points in 100."""
    how = {"norm": norm, "eps": EPS[norm], "attacks": attack, "diagnosis": False, "keep_images": True}
    expected = evaluate(*points, **how)
    found = on(device, points, **how)
    assert found.robust.device.type == found.images.device.type == device
    assert expected.clean.sum() - 10 > expected.robust.sum() > 10, "a radius at which there is something to compare"
    assert same_share(found, expected) >= 0.98
    model, x, y = points
    assert torch.equal(model(found.images).argmax(1) == y.to(device), found.robust)
    away = (found.images.cpu() - x).double().flatten(1)
    assert (away.abs().amax(1) if norm == "linf" else away.norm(dim=1)).max() <= EPS[norm] + 1e-6


@pytest.mark.parametrize("norm", EPS)
def test_verdicts_are_those_of_the_cpu(device, norm, points):
    """Of all attacks together, at least 99% of the same 100 points."""
    how = {"norm": norm, "eps": EPS[norm], "attacks": list(SHORT)}
    expected = evaluate(*points, **how)
    found = on(device, points, **how)
    assert same_share(found, expected) >= 0.99
    assert found.clean.tolist() == expected.clean.tolist()


@pytest.mark.parametrize("norm", EPS)
def test_the_reference_on_the_device(device, norm, points):
    """APGD-CE of the reference implementation, on the device too: as far apart as on the CPU (test_oracle.py)."""
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    found = on(device, points, norm=norm, eps=EPS[norm], attacks="apgd-ce", diagnosis=False)
    model, x, y = points[0], points[1].to(device), points[2].to(device)
    name = {"linf": "Linf", "l2": "L2"}[norm]
    reference = autopgd.APGDAttack(model, n_iter=30, norm=name, eps=EPS[norm], seed=0, loss="ce", device=device)
    theirs, alive = found.clean.clone(), found.clean.nonzero()[:, 0]
    result = reference.perturb(x[alive], y[alive])
    with torch.no_grad():
        theirs[alive] = model(result[1] if isinstance(result, tuple) else result).argmax(1) == y[alive]
    assert int((found.robust != theirs).sum()) <= 4
    assert abs(int(found.robust.sum()) - int(theirs.sum())) <= 2


def test_a_store_on_the_device_has_the_same_bits(device, points, tmp_path):
    """Half of it done by one call, the rest by another: the record of one call without a store."""
    how = {"norm": "linf", "eps": EPS["linf"], "attacks": ["apgd-ce", "square"], "diagnosis": False, "chunk": 50}
    store = tmp_path / "store"
    half = on(device, points, **how, store=store, shard=(0, 2))
    assert 0 < len(half.points) < POINTS
    whole, again = (on(device, points, **how, store=folder) for folder in (store, tmp_path / "other"))
    for column in fields(whole.record):
        one, other = (getattr(each.record, column.name).tolist() for each in (whole, again))
        assert repr(one) == repr(other), column.name  # NaN is equal to NaN there
    assert whole.robust.device.type == device


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"compile": True}], ids=["bf16", "compiled"])
def test_surrogates_on_the_device(device, options, points):
    how = {"norm": "linf", "eps": EPS["linf"], "attacks": "apgd-ce", "diagnosis": False}
    expected = evaluate(*points, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own warnings are not ours
        found = on(device, points, **how, **options)
    assert not [note for note in found.notes if "given up" in note]
    assert same_share(found, expected) >= 0.98


def test_evaluation_is_in_full_float32(device):
    """Not in TF32, torch's default for convolutions on CUDA: that is off by 1e-3 here, and a surrogate is given up."""
    model = build("resnet18", num_classes=10).eval()
    x = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.double())
        with attack_mode(model.to(device), probe=x.to(device)) as ready:
            found = ready.original(ready.load(x))
    assert (found.cpu() - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert "batch norms folded" in ready.preparation
