"""Checkpoints as people have them: the right tensors in the right places, or a line that names what does not fit."""

import argparse
import io
import os
import pathlib
import tempfile
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from fractions import Fraction

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import easybn
from easybn.models import Normalise
from easybn.models.state_dicts import load_weights


class AttributeDict(dict):
    """As Lightning keeps hyper-parameters in."""


class Mode(Enum):
    A = 1


@dataclass
class Settings:
    lr: float = 0.1


class Net(nn.Module):
    """Two parts with batch norms, for names of several depths."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def given(seed: int = 1) -> dict[str, Tensor]:
    """Weights that no fresh net has."""
    net, draw = Net(), torch.Generator().manual_seed(seed)
    fill = {k: torch.rand(v.shape, generator=draw) + seed for k, v in net.state_dict().items() if v.is_floating_point()}
    return net.state_dict() | fill | {"features.1.num_batches_tracked": torch.tensor(7 + seed)}


def prefixed(prefix: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in (state or given()).items()}


def same(net: nn.Module, state: dict[str, Tensor]) -> bool:
    own = net.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def saved(tmp_path, content, name: str = "w.pth", **options) -> pathlib.Path:
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


ONE_SET = {
    "bare": given(),
    "parameters": {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in given().items()},
    "state_dict": {"state_dict": given(), "epoch": 3, "best_acc1": torch.tensor(93.0)},
    "net": {"net": given(), "acc": 93.1, "epoch": 4},
    "model_state_dict": {"model_state_dict": given(), "optimizer_state_dict": {"state": {}, "param_groups": [{}]}},
    "network": {"network": given()},
    "ema alone": {"ema": given(), "step": 5},
    "nested twice": {"checkpoint": {"model": {"state_dict": given()}}},
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled data parallel": {"model": prefixed("_orig_mod.module.")},
    "module.model": {"model": prefixed("module.model.")},
    "repeated": prefixed("module.module.model.model."),
    "another attribute": {"state_dict": prefixed("student.")},
    "backbone": {"state_dict": prefixed("backbone.")},
    "parallel features": {k.replace("features.", "features.module."): v for k, v in given().items()},
    "mixed": {("module." if i % 2 else "") + k: v for i, (k, v) in enumerate(given().items())},
    "swa": {"n_averaged": torch.tensor(5), **prefixed("module.")},
    "flat with numbers": {**given(), "epoch": 3, "acc": 91.5},
    "a Namespace": {"state_dict": given(), "args": argparse.Namespace(lr=0.1, out=pathlib.Path("x"))},
    "numpy": {"model": given(), "acc": np.float64(0.9), "history": np.arange(3), "seed": np.int64(3)},
    "Lightning": {"state_dict": prefixed("model."), "hyper_parameters": AttributeDict(lr=1), "loops": {"fit": {}}},
    "someone's class": {"model": given(), "config": Settings(), "names": types.SimpleNamespace(a=1)},
    "collections": {"net": given(), "a": Counter("ab"), "q": deque([1, 2]), "d": defaultdict(list, a=[1]), "s": {1}},
    "enums and dates": {"net": given(), "mode": Mode.A, "made": datetime(2020, 1, 1), "lr": Fraction(1, 3)},
    "ordered": {"state_dict": OrderedDict(given()), "optimizer": torch.optim.SGD(Net().parameters(), 0.1).state_dict()},
    "trained optimiser": {
        "net": given(), "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}
    },
    "a critic of other layers": {"generator": given(), "discriminator": nn.Linear(3, 2).state_dict()},
}  # fmt: skip


@pytest.mark.parametrize("content", ONE_SET.values(), ids=ONE_SET.keys())
def test_weights_are_found_wherever_they_lie(content, tmp_path):
    net = Net()
    load_weights(net, saved(tmp_path, content))
    assert same(net, given())


@pytest.mark.parametrize("name", ["a.pth.tar", "a.pt", "a.ckpt", "a.bin", "a.tar", "a", "a.model", "a b é.th"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_any_suffix_and_either_format_of_torch(name, new, tmp_path):
    net = Net()
    content = {"state_dict": prefixed("module."), "args": argparse.Namespace(lr=0.1)}
    load_weights(net, saved(tmp_path, content, name, _use_new_zipfile_serialization=new))
    assert same(net, given())


def test_safetensors_under_any_suffix(tmp_path):
    for name in ("a.safetensors", "pytorch_model.bin"):
        safetensors.torch.save_file(prefixed("module."), tmp_path / name)
        net = Net()
        load_weights(net, tmp_path / name)
        assert same(net, given())


def test_a_file_from_before_batch_norms_counted_their_batches(tmp_path):
    net = Net()
    net.features[1].num_batches_tracked.fill_(5)
    old = {name: value for name, value in given().items() if "num_batches" not in name}
    load_weights(net, saved(tmp_path, prefixed("module.", old)))
    assert same(net, old | {"features.1.num_batches_tracked": torch.tensor(0)})


def test_weights_in_half_precision_fill_a_model_in_float32(tmp_path):
    net, state = Net(), {name: value.half() if value.is_floating_point() else value for name, value in given().items()}
    load_weights(net, saved(tmp_path, state))
    assert net.fc.weight.dtype == torch.float32
    assert torch.equal(net.fc.weight, state["fc.weight"].float())


def test_a_model_that_normalises_first_keeps_its_own_mean(tmp_path):
    wrapped = nn.Sequential(Normalise([0.3], [0.2]), Net())
    load_weights(wrapped, saved(tmp_path, prefixed("module.")))
    assert same(wrapped[1], given())
    assert wrapped[0].mean.item() == pytest.approx(0.3)


def test_a_model_that_is_wrapped_itself_takes_plain_names(tmp_path):
    net = nn.DataParallel(Net())
    load_weights(net, saved(tmp_path, given()))
    assert same(net.module, given())


def test_averaged_weights_are_left_aside_and_named(tmp_path):
    path = saved(tmp_path, {"state_dict": given(1), "state_dict_ema": given(2)})
    net = Net()
    with pytest.warns(UserWarning, match="under state_dict are used; .* choose --weights_key state_dict_ema"):
        load_weights(net, path)
    assert same(net, given(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once chosen, there is nothing to say
        assert same(easybn.load(path, Net(), weights_key="state_dict_ema"), given(2))
        assert same(easybn.load(path, Net(), weights_key="state_dict"), given(1))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"a": {"model": given(2)}, "ema": {"model": given(1)}}, "ema.model"),
        ({"model": given(2), "model_ema": {"module": given(1)}}, "model_ema"),
        ({"model": {**prefixed("teacher.", given(2)), **prefixed("student.")}}, "model.student"),
        ({"state.dict": given(1), "state": {"dict": given(2)}}, "state.dict"),
        ({**prefixed("G.module."), "D.weight": torch.ones(1)}, "G"),
    ],
)
def test_a_key_chooses(content, key, tmp_path):
    net = Net()
    load_weights(net, saved(tmp_path, content), key)
    assert same(net, given(1))


def test_several_sets_are_for_the_user_to_choose_from(tmp_path):
    for content in ({"best": given(1), "last": given(2)}, {"student": {"net": given(1)}, "teacher": {"net": given(2)}}):
        net, places = Net(), [".".join([name, *(["net"] if "net" in v else [])]) for name, v in content.items()]
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with pytest.raises(ValueError, match=" or ".join(f"--weights_key {place}" for place in places)):
            load_weights(net, saved(tmp_path, content))
        assert same(net, before)
    net = Net()
    load_weights(net, saved(tmp_path, {"net": given(), "model": given()}))  # the same twice: nothing to choose
    assert same(net, given())


def test_an_attacker_beside_the_model_is_named_and_left_out_only_by_a_key(tmp_path):
    """As MadryLab's robustness writes them."""
    model = {**prefixed("module.model."), **prefixed("module.attacker.model.")}
    model |= {
        f"module.{of}.new_{what}": torch.ones(1) for of in ("normalizer", "attacker.normalize") for what in ("mean",)
    }
    path = saved(tmp_path, {"model": model, "epoch": 150})
    with pytest.raises(
        ValueError, match=r"unexpected, such as module.attacker.* --weights_key model\.module\.model or"
    ):
        load_weights(Net(), path)
    net = Net()
    load_weights(net, path, "model.module.model")
    assert same(net, given())


def without(name: str) -> dict[str, Tensor]:
    return {other: value for other, value in given().items() if other != name}


WRONG = [
    (given() | {"fc.weight": torch.ones(3, 9)}, r"1 of another shape, such as fc.weight \(3, 9\) for \(3, 8\)"),
    (given() | {"fc.weight": torch.ones(8, 3)}, r"of another shape, such as fc.weight \(8, 3\)"),
    (without("features.1.running_mean"), "1 missing, such as features.1.running_mean"),
    (given() | {"extra": torch.ones(1)}, "1 unexpected, such as extra"),
    (
        given() | {"fc.weight": torch.ones(3, 8, dtype=torch.int8)},
        "of another kind, such as fc.weight torch.int8 for torch.float32",
    ),
    (given() | {"fc.weight": torch.ones(3, 8, dtype=torch.complex64)}, "of another kind, such as fc.weight"),
    (given() | {"fc.weight": torch.ones(3, 8, device="meta")}, "without values, such as fc.weight"),
    (
        {"state_dict": without("features.1.running_mean"), "state_dict_ema": given()},
        "missing, .*features.1.running_mean; what fits: .*_ema",
    ),
    (prefixed("module.", without("fc.weight")), "1 missing, such as fc.weight"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_filled(content, message, tmp_path):
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(net, saved(tmp_path, content))
    assert same(net, before)


class Runs:
    """A pickle that would leave a file behind."""

    def __init__(self, function, *words):
        self.call = (function, words)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("new", [True, False])
def test_nothing_in_a_checkpoint_is_run(new, tmp_path):
    mark = tmp_path / "ran"
    for function, *words in (os.mkdir, str(mark)), (eval, f"__import__('os').mkdir({str(mark)!r})"):
        content = {"state_dict": given(), "args": Runs(function, *words)}
        path = saved(tmp_path, content, _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match="cannot be read as weights"):
            load_weights(Net(), path)
    # of other modules nothing is imported or called either: such an object is left out
    content = {"state_dict": given(), "args": Runs(tempfile.mkdtemp, "", "ran", str(tmp_path))}
    load_weights(net := Net(), saved(tmp_path, content, _use_new_zipfile_serialization=new))
    assert same(net, given())
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_files_that_are_no_weights_are_refused_in_words(tmp_path):
    net = Net()

    def refused(content: bytes, message: str, key: str | None = None) -> None:
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_weights(net, tmp_path / "f", key)

    def bytes_of(content) -> bytes:
        torch.save(content, buffer := io.BytesIO())
        return buffer.getvalue()

    refused(bytes_of(net), "holds a complete model or object, .*save model.state_dict")
    refused(bytes_of({"model": net, "epoch": 3}), r"no weights \(its keys: model, epoch\): save model.state_dict")
    refused(bytes_of({"epoch": 3}), "holds no weights")
    refused(bytes_of([1, 2]), "a complete model or object")
    refused(bytes_of({"net": given()}), "nothing under the weights_key ema .its keys: net", "ema")
    refused(bytes_of({"net": given(), "ema": {}}), "no weights under the weights_key ema", "ema")
    refused(b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull")
    refused(b"\n<!DOCTYPE html><html>", "web page")
    refused(b"", "cannot be read as weights")
    refused(b"hello", "cannot be read as weights")
    refused(bytes_of(given())[:-200], "cannot be read as weights")
    np.savez(tmp_path / "f.npz", a=np.ones(2))
    refused((tmp_path / "f.npz").read_bytes(), "cannot be read as weights")
    with pytest.raises(ValueError, match="is a folder"):
        load_weights(net, tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights(net, tmp_path / "none")
