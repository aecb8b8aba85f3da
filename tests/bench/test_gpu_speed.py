"""Stage ``speed`` of bench/gpu, in small on the CPU: the same code, and rows that fit together."""

import pytest
import torch

from easybn.keyed_random import Noise
from easybn.models import build
from easybn.recipes import EBN

from ..train.test_batches import Waiting
from .stages import ROOT, run


@pytest.fixture(autouse=True)
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))


@pytest.mark.slow
def test_every_item_has_a_value_and_ratios_are_of_the_steps_timed(tmp_path):
    rows, printed = run("speed", tmp_path)
    assert [row["item"] for row in rows if row["value"] is None] == []
    for row in rows:
        assert {"card", "driver", "torch", "date", "commit"} <= row.keys()
        assert row["item"] in printed
    steps = {row["kind"]: row for row in rows if "kind" in row and "below" not in row}
    assert {"Vanilla", "EBN", "usual AdvProp", "EBNShared", "FastEBN"} == steps.keys()
    for row in steps.values():
        assert row["value"] == pytest.approx(1000 * row["batch"] / row["milliseconds"])
    ratios = [row for row in rows if row["unit"] == "ratio"]
    assert {(row["kind"], row["below"]): row["aim"] for row in ratios} == {
        ("EBN", "Vanilla"): 2.6,
        ("EBN", "usual AdvProp"): 0.75,
        ("EBNShared", "Vanilla"): None,
        ("FastEBN", "Vanilla"): None,
    }
    for row in ratios:
        above, below = (steps[row[name]]["milliseconds"] for name in ("kind", "below"))
        assert row["value"] == pytest.approx(above / below)
    vanilla, ebn = steps["Vanilla"], steps["EBN"]
    operations = [row["tflops"] / row["value"] for row in (vanilla, ebn)]  # an image's, in 1e12
    assert operations[1] / operations[0] == pytest.approx(8 / 3, rel=0.02)
    (rate,) = [row["value"] for row in rows if row["item"].startswith("matmul") and row["precision"] == "bf16"]
    assert vanilla["share"] == pytest.approx(vanilla["tflops"] / rate)
    units = {row["unit"] for row in rows}
    assert {"images/s", "points/s", "TFLOP/s", "share", "a step"} <= units


def test_when_the_time_is_over_nothing_is_begun(tmp_path):
    from gpu.speed import main

    main(tmp_path, 0.0, True, "cpu")
    assert list(tmp_path.iterdir()) == []


def test_what_the_aims_are_about_comes_first_and_nothing_twice():
    from gpu.speed import settings
    from gpu.steps import Setting

    first, rest = list(settings(False, first=True)), list(settings(False, first=False))
    assert len({*first, *rest}) == len(first) + len(rest)
    everything = {
        Setting(model, batch, kind, precision, how)
        for model in ("resnet18", "resnet50")
        for batch in (128, 512)
        for kind in ("Vanilla", "AdvProp", "EBN", "EBNShared", "FastEBN", "usual AdvProp")
        for precision in ("bf16", "32")
        for how in ("eager", "graph")
    }
    assert everything <= {*first, *rest}
    assert {Setting("resnet18", 128, "EBN"), Setting("resnet50", 512, "Vanilla")} <= set(first[:8])
    assert {each.how for each in rest} == {"eager", "graph", "compiled"}


@pytest.mark.parametrize("kind", ["Vanilla", "AdvProp", "EBN", "EBNShared", "FastEBN", "FastAdvProp", "usual AdvProp"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_step_that_is_captured_looks_at_no_value(kind, precision):
    """A CUDA graph cannot hold an operation whose result Python reads."""
    from gpu import steps

    step = steps.make(steps.Setting("resnet_tiny", 10, kind, precision, pixels=8), torch.device("cpu"))
    for _ in range(2):
        step()  # norms to fold are looked for once, on CPUs alone
    with Waiting() as mode:
        step()
    assert mode.operations > 100
    assert not mode.seen


def test_each_replay_of_a_step_draws_other_noise():
    from gpu import steps

    seen = []

    class Watched(EBN):
        def __call__(self, model, x, y, ctx):
            seen.append((ctx.noise("easy").keys.clone(), int(ctx.step)))
            yield from super().__call__(model, x, y, ctx)

    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    step = steps.ours(Watched(), build("resnet_tiny"), x, y)
    for _ in range(2):
        step()
    for keys, at in seen:
        assert torch.equal(keys, Noise.of(0, "easy", torch.arange(4), at).keys)
    assert [at for _, at in seen] == [0, 1]
