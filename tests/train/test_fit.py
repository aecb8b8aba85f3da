import copy
import gc
import json
import signal
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easybn.train.fit as loop
from easybn.data.augment import crop_flip
from easybn.data.source import Split
from easybn.interrupt import Interrupted
from easybn.json_files import read_rows
from easybn.keyed_random import Noise, permutation
from easybn.models import resnet_tiny
from easybn.norm.convert import convert, strip
from easybn.perturb.ball import Linf
from easybn.perturb.pgd import PGD
from easybn.recipes import EBN, AdvProp, EBNShared, Recipe, Term, Vanilla
from easybn.train.checkpoint import load
from easybn.train.fit import Diverged, fit
from easybn.train.observers import MetricsFile, Observer
from easybn.train.schedule import Constant, Training
from easybn.train.step import Average

SHORT = Training(epochs=2, batch_size=20, lr=0.05)  # 96 images: 4 steps an epoch, 16 images left out
TIMING = ("images_per_second", "seconds")


@pytest.fixture
def net() -> nn.Module:
    """A convolution, a batch norm and a linear layer: a ResNet's step takes six times as long."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 8, 3, stride=2, padding=1), norm=nn.BatchNorm2d(8), relu=nn.ReLU(),
            flatten=nn.Flatten(), linear=nn.Linear(128, 4),
        )
    )  # fmt: skip


@pytest.fixture
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet_tiny(num_classes=4, in_channels=1)


def assert_same(a: nn.Module, b: nn.Module):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:  # type: ignore[attr-defined]
        assert torch.equal(a[name], b[name]), name


def untimed(rows):
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_vanilla_is_the_plain_loop(augment, resnet, images):
    net = resnet
    training = Training(epochs=2, batch_size=20, lr=0.05, augment=augment, channels_last=False, seed=3)
    x, y = images
    plain = copy.deepcopy(net).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    expected = []
    for epoch in range(2):
        order = permutation(96, 3, "order", epoch)
        losses, right = 0.0, 0
        for i in range(4):
            ids = order[20 * i : 20 * i + 20]
            images_, labels = x[ids].float() / 255, y[ids]
            if augment == "crop_flip":
                images_ = crop_flip(images_, Noise.of(3, "augment", ids, 4 * epoch + i))
            logits = plain(images_)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            # the same number as the schedule of ours, which differs from torch's recursion in the last bits
            optimizer.param_groups[0]["lr"] = training.schedule.rate(0.05, epoch + i / 4, 2)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule.get_last_lr()[0])
            optimizer.step()
            rate = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = schedule.get_last_lr()[0]
            schedule.step()
            losses, right = losses + loss.item(), right + int((logits.argmax(1) == labels).sum())
        scores = {"main": {"loss": pytest.approx(losses / 4), "accuracy": right / 80}}
        expected.append({"epoch": epoch + 1, "step": 4 * epoch + 4, "lr": pytest.approx(rate), "train": scores})
    before = copy.deepcopy(net)
    fitted = fit(net, Vanilla(), images, training)
    assert_same(fitted.model, plain)
    assert fitted.history == expected
    assert_same(net, before)  # the model given is left alone
    assert net.training
    assert not fitted.model.training


@pytest.mark.parametrize("recipe", [EBN(), EBNShared(), AdvProp()], ids=lambda r: type(r).__name__)
def test_twice_the_same_is_the_same(recipe, net, images):
    torch.manual_seed(5)
    first = fit(net, recipe, images, SHORT)
    torch.manual_seed(6)  # the caller's generator has no part in it
    state = torch.get_rng_state()
    second = fit(net, recipe, Split(*images), SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first.branched, second.branched)
    assert first.history == second.history
    assert_same(first.model, strip(first.branched, "main"))
    other = fit(net, recipe, images, Training(epochs=2, batch_size=20, lr=0.05, seed=1))
    assert not torch.equal(other.model.linear.weight, first.model.linear.weight)


def test_a_converted_model_is_taken_as_it_is(net, images):
    assert_same(fit(convert(net, ("main", "easy")), EBN(), images, SHORT).model, fit(net, EBN(), images, SHORT).model)
    with pytest.raises(ValueError, match=r"has branches \('main', 'adv'\), EBN wants \('main', 'easy'\)"):
        fit(convert(net, ("main", "adv")), EBN(), images, SHORT)


def test_the_average_is_that_of_the_weights(net, images):
    weights = []

    class Keep(Observer):
        def step(self, state):
            weights.append(state.model.linear.weight.detach().clone())

    training = Training(epochs=2, batch_size=20, lr=0.05, ema=0.7)
    fitted = fit(net, Vanilla(), images, training, observers=[Keep()])
    average = net.linear.weight.detach().clone()
    for weight in weights:
        average = 0.7 * average + 0.3 * weight
    torch.testing.assert_close(fitted.model.linear.weight, average, rtol=1e-5, atol=1e-7)
    assert_same(fitted.branched, fit(net, Vanilla(), images, SHORT).branched)


def test_weights_that_two_layers_share_are_averaged_once_a_step():
    """A state dict names them twice; timm's average would then forget twice as fast."""
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared, nn.BatchNorm1d(3))
    average = Average(model, 0.9)
    with torch.no_grad():
        shared.weight.fill_(1.0)
        average.model[0].weight.fill_(0.0)
        model[2].running_var.fill_(3.0)
        model[2].num_batches_tracked.fill_(7)
    for _ in range(3):
        average.update(model)
    torch.testing.assert_close(average.model[1].weight, torch.full((3, 3), 1 - 0.9**3))
    torch.testing.assert_close(average.model[2].running_var, torch.full((3,), 3 - 2 * 0.9**3))
    assert int(average.model[2].num_batches_tracked) == 7
    assert average.model[0] is average.model[1]


class StopAt(Observer):
    """Sends this process a signal at a step."""

    def __init__(self, step, signum=signal.SIGINT):
        self.at, self.signum = step, signum

    def step(self, state):
        if state.step == self.at:
            signal.raise_signal(self.signum)


def session(net, recipe, images, training, folder, *observers, **more):
    watch = [MetricsFile(folder / "metrics.jsonl"), *observers]
    return fit(net, recipe, images, training, checkpoint=folder / "c.pt", observers=watch, **more)


RESUMED = {
    "EBN with a random start, crops, clipping and an average": (
        EBN(attack=PGD(Linf(2 / 255), random_start=0.8)),
        Training(epochs=2, batch_size=20, lr=0.05, augment="crop_flip", clip_norm=1.0, ema=0.9),
    ),
    "EBNShared under bf16": (EBNShared(), Training(epochs=2, batch_size=20, lr=0.05, precision="bf16")),
    "AdvProp, nesterov": (AdvProp(), Training(epochs=2, batch_size=20, lr=0.05, nesterov=True, schedule=Constant())),
}


@pytest.mark.parametrize("model", ["net", pytest.param("resnet", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RESUMED)
def test_going_on_after_every_step_is_exact(name, model, request, images, tmp_path):
    net, (recipe, training) = request.getfixturevalue(model), RESUMED[name]
    train, val = (images[0][:80], images[1][:80]), (images[0][80:], images[1][80:])
    whole = fit(net, recipe, train, training, val=val)
    for step in range(1, 8):
        with pytest.raises(
            Interrupted, match=rf"stopped after step {step} of 8, saved to .*: run the same command again"
        ):
            session(net, recipe, train, training, tmp_path, StopAt(step), val=val)
    assert load(tmp_path / "c.pt").step == 7
    torch.manual_seed(99)
    last = session(net, recipe, train, training, tmp_path, val=val)
    assert_same(last.branched, whole.branched)
    assert_same(last.model, whole.model)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert untimed(rows) == whole.history
    assert all(set(TIMING) <= set(row) for row in rows)
    again = session(net, recipe, train, training, tmp_path, val=val)  # nothing left to do
    assert again.history == []
    assert_same(again.model, whole.model)


def test_going_on_from_an_older_checkpoint_cuts_the_metrics_back(net, images, tmp_path):
    whole = fit(net, EBN(), images, SHORT)
    with pytest.raises(Interrupted):
        session(net, EBN(), images, SHORT, tmp_path, StopAt(3))
    old = (tmp_path / "c.pt").read_bytes()
    with pytest.raises(Interrupted):
        session(net, EBN(), images, SHORT, tmp_path, StopAt(7))
    (tmp_path / "c.pt").write_bytes(old)  # as after a kill: the metrics are ahead of the checkpoint
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # cut off
    assert_same(session(net, EBN(), images, SHORT, tmp_path).model, whole.model)
    assert untimed(read_rows(tmp_path / "metrics.jsonl")) == whole.history


def test_no_tensor_of_a_training_stays(net, images, tmp_path):
    """So that a process which trains for days does not grow."""

    def tensors_after(number: int) -> int:
        session(net, EBN(), images, SHORT, tmp_path / str(number), checkpoint_seconds=0)
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    tensors_after(0)  # what is made once and kept
    assert tensors_after(1) == tensors_after(2)


def test_dropout_is_exact_too(images, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4))
    whole = fit(model, Vanilla(), images, SHORT)
    with pytest.raises(Interrupted):
        session(model, Vanilla(), images, SHORT, tmp_path, StopAt(3))
    torch.manual_seed(1)
    assert_same(session(model, Vanilla(), images, SHORT, tmp_path).model, whole.model)


def test_dropout_is_exact_in_several_threads(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.Dropout(0.5), nn.Linear(256, 4))
    trainings = [Training(epochs=8, batch_size=8, lr=0.05, seed=seed) for seed in range(4)]
    alone = [fit(model, Vanilla(), images, training).model for training in trainings]
    start = threading.Barrier(4)

    def together(training):
        start.wait()
        return fit(model, Vanilla(), images, training).model

    torch.manual_seed(5)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        for expected, found in zip(alone, threads.map(together, trainings), strict=True):
            assert_same(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_restored(signum, net, images, tmp_path):
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as stopped:
        session(net, Vanilla(), images, SHORT, tmp_path, StopAt(8, signum))  # at the very last step too
    assert stopped.value.signum == signum
    assert signal.getsignal(signum) is before

    class Crash(Observer):
        ended = False

        def step(self, state):
            assert signal.getsignal(signum) is not before
            raise ZeroDivisionError

        def end(self, state):
            Crash.ended = True

    (tmp_path / "c.pt").unlink()
    with pytest.raises(ZeroDivisionError):
        session(net, Vanilla(), images, SHORT, tmp_path, Crash())
    assert signal.getsignal(signum) is before
    assert Crash.ended


def test_a_second_signal_acts_as_usual(net, images, tmp_path):
    class Twice(Observer):
        def step(self, state):
            signal.raise_signal(signal.SIGINT)  # to this very thread: os.kill may hand it to another one, later
            signal.raise_signal(signal.SIGINT)

    # a process that a shell has started in the background ignores Ctrl-C, and so would its tests
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            session(net, Vanilla(), images, SHORT, tmp_path, Twice())
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_observer_may_end_the_training(net, images, tmp_path):
    class Enough(Observer):
        def step(self, state):
            state.stop = state.step == 5

    fitted = session(net, Vanilla(), images, SHORT, tmp_path, Enough())
    assert len(fitted.history) == 1
    assert load(tmp_path / "c.pt").step == 5
    with pytest.raises(Interrupted):
        session(net, Vanilla(), images, SHORT, tmp_path / "b", StopAt(5))
    assert torch.equal(load(tmp_path / "b" / "c.pt").model["linear.weight"], fitted.branched.linear.weight)


def test_checkpoints_are_written_by_the_clock(net, images, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "save", lambda state, path: saved.append(state.step))
    session(net, Vanilla(), images, SHORT, tmp_path, checkpoint_seconds=0.0)
    assert saved == [1, 2, 3, 4, 5, 6, 7, 8]
    saved.clear()
    session(net, Vanilla(), images, SHORT, tmp_path, checkpoint_seconds=1e9)
    assert saved == [8]


@pytest.mark.parametrize("lr", [1e9, 1e30])
def test_a_divergence_is_told_and_the_checkpoint_stays_good(lr, net, images, tmp_path):
    training = Training(epochs=60, batch_size=16, lr=lr, schedule=Constant())
    with pytest.raises(Diverged, match=r"not finite any more at step \d+ .*try a lower lr, a warm-up or clip_norm"):
        session(net, EBN(), images, training, tmp_path, checkpoint_seconds=0.0)
    path = tmp_path / "c.pt"
    if path.exists():  # the first step may be the fatal one
        state = load(path)
        assert all(tensor.isfinite().all() for tensor in state.model.values())


def test_a_checkpoint_of_another_training_is_refused(net, small, images, tmp_path):
    with pytest.raises(Interrupted):
        session(net, Vanilla(), images, SHORT, tmp_path, StopAt(2))
    with pytest.raises(ValueError, match=r"c\.pt is a checkpoint of another model"):
        session(small, Vanilla(), images, SHORT, tmp_path)
    with pytest.raises(ValueError, match=r"another training \(recipe: Vanilla.* -> EBN"):
        session(net, EBN(), images, SHORT, tmp_path)
    other = Training(epochs=2, batch_size=20, lr=0.05, momentum=0.5)
    with pytest.raises(ValueError, match=r"another training \(momentum: 0\.9 -> 0\.5\)"):
        session(net, Vanilla(), images, other, tmp_path)
    with pytest.raises(ValueError, match=r"\(images: 96 -> 90\)"):
        session(net, Vanilla(), (images[0][:90], images[1][:90]), SHORT, tmp_path)


def test_validation_is_what_each_branch_scores(net, images):
    train, val = (images[0][:60], images[1][:60]), (images[0][60:], images[1][60:])
    training = Training(epochs=1, batch_size=20, lr=0.05)
    fitted = fit(net, EBN(), train, training, val=val)
    x = val[0].float() / 255
    for branch in ("main", "easy"):
        with torch.no_grad():
            logits = strip(fitted.branched, branch).eval()(x)
        found = fitted.history[0]["val"][branch]
        assert found["loss"] == pytest.approx(F.cross_entropy(logits, val[1]).item(), rel=1e-5)
        assert found["accuracy"] == int((logits.argmax(1) == val[1]).sum()) / 36
    assert fitted.history[0]["val"]["main"] != fitted.history[0]["val"]["easy"]
    assert_same(fitted.branched, fit(net, EBN(), train, training).branched)  # watching changes nothing
    assert all(module.training for module in fitted.branched.modules())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_trains_near_to_float32_with_float32_losses(precision, net, images):
    kinds = []

    class Spy(Recipe):
        branches = ("main",)

        def __call__(self, model, x, y, ctx=None):
            logits = model(x)
            kinds.append((logits.dtype, model.linear.weight.dtype))
            term = Term.cross_entropy("main", logits, y, 1.0)
            assert term.loss.dtype == torch.float32
            yield term

    training = Training(epochs=1, batch_size=20, lr=0.05, precision=precision)
    fitted = fit(net, Spy(), images, training)
    assert set(kinds) == {({"bf16": torch.bfloat16, "fp16": torch.float16}[precision], torch.float32)}
    exact = fit(net, Vanilla(), images, Training(epochs=1, batch_size=20, lr=0.05))
    assert fitted.history[0]["train"]["main"]["loss"] == pytest.approx(
        exact.history[0]["train"]["main"]["loss"], rel=0.02
    )
    assert not torch.equal(fitted.model.linear.weight, exact.model.linear.weight)


def test_terms_that_come_now_and_then_are_all_counted(net, images):
    class Sometimes(Recipe):
        branches = ("main",)

        def __call__(self, model, x, y, ctx=None):
            yield Term.cross_entropy("odd" if ctx.step % 2 else "even", model(x), y, 1.0)

    losses = {}

    class Sums(Observer):
        def step(self, state):
            losses.update({name: row[2].item() for name, row in state.tally.items()})

    fit(net, Sometimes(), images, Training(epochs=1, batch_size=20, lr=0.05), observers=[Sums()])
    assert losses == {"even": 40, "odd": 40}


def test_speed_counts_the_images_there_are(net, images, tmp_path):
    seen = []

    class Look(Observer):
        def start(self, state):
            seen.append((state.batch_size, state.total_steps))

    fit(net, Vanilla(), images, Training(epochs=3, batch_size=1000, lr=0.05), observers=[Look()])
    assert seen == [(96, 3)]  # fewer images than a batch: one step an epoch with all of them


def test_mistakes_are_told(net, images):
    with pytest.raises(ValueError, match="no images to train on"):
        fit(net, Vanilla(), (images[0][:0], images[1][:0]))
    with pytest.raises(ValueError, match="no device 'nonsense' here"):
        fit(net, Vanilla(), images, SHORT, device="nonsense")
    for wrong in (
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"clip_norm": 0.0},
        {"ema": 1.0},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            Training(**wrong)


def test_rows_are_json(net, images, tmp_path):
    fitted = session(net, Vanilla(), images, SHORT, tmp_path, val=images)
    assert json.loads(json.dumps(fitted.history)) == fitted.history
