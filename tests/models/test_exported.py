"""ONNX files as models: their function, in whatever batches they take, and what can be said of their robustness.

The arithmetic is checked with the real packages where they are installed, and everywhere with stand-ins for them, whose
sessions compute a linear model.
"""

import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import easybn
from easybn.attacks.square import Square
from easybn.models.exported import PACKAGES, OnnxModel, load_exported

from ..small import small_images, small_net

REAL = all(importlib.util.find_spec(name) for name in PACKAGES)
WEIGHT = np.random.default_rng(0).normal(size=(192, 4)).astype(np.float32)


class Session:
    """Of a file that says its inputs, outputs and batch size as JSON: logits, and features beside them if asked."""

    def __init__(self, content, options, providers):
        self.about = {"batch": "n", "type": "tensor(float)", "inputs": ["images"], "outputs": ["logits"]}
        self.about |= json.loads(content)

    def get_inputs(self):
        size = [self.about["batch"], 3, 8, 8]
        return [SimpleNamespace(name=name, type=self.about["type"], shape=size) for name in self.about["inputs"]]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self.about["outputs"]]

    def run(self, _, given):
        x = given["images"]
        assert self.about["batch"] in ("n", len(x))
        assert x.dtype == {"tensor(float)": np.float32, "tensor(double)": np.float64}[self.about["type"]]
        return [x.reshape(len(x), -1) @ WEIGHT.astype(x.dtype), x][: len(self.about["outputs"])]


@pytest.fixture
def stand_ins(monkeypatch):
    onnx, runtime = ModuleType("onnx"), ModuleType("onnxruntime")
    vars(onnx).update(load=lambda path: SimpleNamespace(SerializeToString=Path(path).read_bytes))
    vars(runtime).update(InferenceSession=Session, SessionOptions=SimpleNamespace)
    for module in (onnx, runtime):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def made(stand_ins, tmp_path):
    def make(**about):
        path = tmp_path / "m.onnx"
        path.write_text(json.dumps(about))
        return str(path)

    return make


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT))

    def forward(self, x):
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize("batch", ["n", 1, 4, 9])
@pytest.mark.parametrize("kind", ["tensor(float)", "tensor(double)"])
def test_batches_of_any_size_get_their_logits(made, batch, kind):
    model, x = OnnxModel(made(batch=batch, type=kind)), small_images(9)
    for n in (1, 3, 9):
        torch.testing.assert_close(model(x[:n]), Linear()(x[:n]), check_dtype=False)
    assert model(x).dtype == (torch.float32 if kind == "tensor(float)" else torch.float64)


def test_square_breaks_the_points_that_it_breaks_of_the_model_itself(made):
    x, plain = small_images(12), Linear()
    y, attack = plain(x).argmax(1), Square(easybn.Linf(0.03), 30)
    how = {"attacks": attack, "norm": "linf", "eps": 0.03}
    found, expected = easybn.evaluate(OnnxModel(made()), x, y, **how), easybn.evaluate(plain, x, y, **how)
    assert torch.equal(found.robust, expected.robust)
    assert 0 < found.robust.sum() < 12
    assert (found.record.forwards == expected.record.forwards).all()
    lines = str(found).splitlines()
    assert lines[0].startswith("robust accuracy at linf 0.03: at most ")
    assert lines[0].endswith("12 points, square (gradient-free: not comparable with AutoAttack)")
    assert any("only attacks without one were tried: robust accuracy is an upper bound" in line for line in lines)
    assert not any("could not be made" in line for line in lines)
    with pytest.raises(ValueError, match=r"has no gradient .* apgd-ce cannot do without: choose square"):
        easybn.evaluate(OnnxModel(made()), x, y, attacks="apgd-ce")


def test_a_store_knows_the_file(made, tmp_path):
    x = small_images(4)
    how = {"attacks": Square(easybn.Linf(0.03), 3), "norm": "linf", "eps": 0.03, "diagnosis": False}
    y, store = Linear()(x).argmax(1), tmp_path / "store"
    for _ in range(2):
        easybn.evaluate(OnnxModel(made()), x, y, store=store, **how)
    with pytest.raises(ValueError, match=r"another evaluation.*\s.*model: '\w+' here, '\w+' asked"):
        easybn.evaluate(OnnxModel(made(other=1)), x, y, store=store, **how)


def test_one_of_several_outputs_and_a_first_layer_that_normalises(made):
    model, x = OnnxModel(made(outputs=["logits", "features"])), small_images(4)
    assert torch.equal(easybn.SelectOutput(model, "features")(x), x)
    normalised = load_exported(made(), [0.5, 0.4, 0.3], [0.25, 0.5, 1.0])(x)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ([0.5, 0.4, 0.3], [0.25, 0.5, 1.0]))
    torch.testing.assert_close(normalised, Linear()((x - mean) / std))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"type": "tensor(uint8)"}, r"m\.onnx must take one batch of floating-point images, .* images tensor\(uint8\)"),
        ({"inputs": ["a", "b"]}, r"and it takes: a tensor\(float\), b tensor\(float\)"),
        ({"inputs": []}, "and it takes: nothing"),
    ],
)
def test_files_that_do_not_take_images(made, about, said):
    with pytest.raises(ValueError, match=said):
        OnnxModel(made(**about))


def test_files_that_cannot_be_read(stand_ins, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file none\.onnx"):
        OnnxModel("none.onnx")
    (tmp_path / "m.onnx").write_text("{")
    with pytest.raises(ValueError, match=r"m\.onnx cannot be run by ONNX Runtime: JSONDecodeError"):
        OnnxModel(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="mean and std go together"):
        load_exported("m.onnx", mean=[0.5])


def test_archives_of_torch_export_are_not_read(tmp_path):
    with pytest.raises(ValueError, match=r"m\.pt2: torch\.export\.load unpickles .*convert it to ONNX, or"):
        load_exported(str(tmp_path / "m.pt2"))


def test_what_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ONNX needs onnx, onnxruntime: pip install easybn\[onnx\]"):
        OnnxModel("m.onnx")


@pytest.mark.slow  # torch.export takes some seconds
def test_an_exported_program_that_the_caller_loaded_has_the_gradients_of_the_model():
    net, x = small_net(), small_images(8)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False).module()
    gradients = []
    for model in (net, program):
        point = x.clone().requires_grad_()
        gradients += torch.autograd.grad(model(point).logsumexp(1).sum(), point)
    torch.testing.assert_close(gradients[1], gradients[0])
    y, how = net(x).argmax(1), {"attacks": "apgd-ce", "norm": "linf", "eps": 0.03, "diagnosis": False}
    found, expected = (easybn.evaluate(model, x, y, **how).robust for model in (program, net))
    assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="the extra onnx is not installed")
def test_real_files_with_weights_inside_and_beside_them(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    ends = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])]
    ends += [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(WEIGHT, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "m.onnx"))
    beside = tmp_path / "beside"
    beside.mkdir()
    how = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save_model(model, str(beside / "m.onnx"), **how)
    x, loaded = small_images(5), [OnnxModel(folder / "m.onnx") for folder in (tmp_path, beside)]
    for each in loaded:
        torch.testing.assert_close(each(x), Linear()(x))
    # weights outside of the file's folder are nobody's business
    outside = onnx.load(str(beside / "m.onnx"), load_external_data=False)
    for entry in outside.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../beside/w.bin"
    (tmp_path / "beside" / "out.onnx").write_bytes(outside.SerializeToString())
    with pytest.raises(ValueError, match=r"out\.onnx cannot be read as ONNX: .*outside the directory"):
        OnnxModel(beside / "out.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ValueError, match=r"bad\.onnx cannot be read as ONNX"):
        OnnxModel(tmp_path / "bad.onnx")
