import importlib.util
import io
import json

import pytest
import torch

from easybn import models
from easybn.models.weights import trained_on
from easybn.runs import export as export_module
from easybn.runs.export import ONNX, export, largest_difference

MISSING = [name for name in ONNX if importlib.util.find_spec(name) is None]


def test_safetensors_is_a_copy(finished_run, tmp_path):
    assert export(finished_run.folder, tmp_path / "m.safetensors", "safetensors") == 0
    assert (tmp_path / "m.safetensors").read_bytes() == (finished_run.folder / "model.safetensors").read_bytes()
    assert trained_on(tmp_path / "m.safetensors") == trained_on(finished_run.folder)


def test_torch_export_needs_no_easybn(finished_run, tmp_path):
    assert export(finished_run.folder, tmp_path / "new" / "m.pt2", "torch") < 1e-5
    extra = {"easybn.json": ""}
    content = io.BytesIO((tmp_path / "new" / "m.pt2").read_bytes())
    model = torch.export.load(content, extra_files=extra).module()
    for n in (1, 2, 31):
        x = torch.rand(n, 1, 28, 28)
        torch.testing.assert_close(model(x), models.load(finished_run.folder)(x), atol=1e-5, rtol=1e-5)
    assert json.loads(extra["easybn.json"])["easybn"]["classes"][1] == "Trouser"


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason="the extra onnx is not installed")
def test_onnx(finished_run, tmp_path):
    import onnxruntime

    assert export(finished_run.folder, tmp_path / "m.onnx", "onnx") < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    x = torch.rand(3, 1, 28, 28)
    (logits,) = session.run(None, {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), models.load(finished_run.folder)(x), atol=1e-5, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_what_is_missing_for_onnx_is_told_first(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ONNX needs onnx, onnxscript, onnxruntime: pip install easybn\[onnx\]"):
        export(tmp_path, tmp_path / "m.onnx", "onnx")


def test_a_wrong_file_does_not_take_the_place(finished_run, tmp_path, monkeypatch):
    out = tmp_path / "m.pt2"
    out.write_text("before")
    real = export_module._read_torch
    monkeypatch.setitem(export_module.READERS, "torch", lambda path: lambda x: real(path)(x) + (len(x) == 7) * 0.01)
    with pytest.raises(ValueError, match=r"outputs differ by 0\.0\d+ for 7 images: nothing is written"):
        export(finished_run.folder, out, "torch")
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_differences():
    x = [torch.rand(2, 3), torch.rand(3, 3)]
    assert largest_difference(lambda x: x, lambda x: x.double() + 1e-5, x) == pytest.approx(1e-5, rel=0.1)
    for wrong in (lambda x: x[:, :2], lambda x: x * float("nan"), lambda x: x + 1e-3):
        with pytest.raises(ValueError, match="differ by"):
            largest_difference(lambda x: x, wrong, x)


def test_a_file_that_does_not_say_its_images_size(tmp_path, finished_run):
    description = {"name": "resnet_tiny", "num_classes": 2, "in_channels": 3}
    models.save(models.build(**description), tmp_path / "old.safetensors", description)
    with pytest.raises(ValueError, match="give it, such as --size 32"):
        export(tmp_path / "old.safetensors", tmp_path / "m", "safetensors")
    assert export(tmp_path / "old.safetensors", tmp_path / "m", "safetensors", size=16) == 0
    with pytest.raises(ValueError, match="leave out --size"):
        export(finished_run.folder, tmp_path / "m", "safetensors", size=32)
