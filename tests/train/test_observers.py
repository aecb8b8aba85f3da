import pytest
import torch

from easybn.train.fit import fit
from easybn.train.observers import Tracking, flat
from easybn.train.schedule import Training

CONFIG = {"recipe": {"class": "Vanilla", "weight": 1.0}, "model": "tiny", "widths": [1, 2], "ema": None}


def test_flat():
    found = {"recipe/class": "Vanilla", "recipe/weight": 1.0, "model": "tiny", "widths": "[1, 2]", "ema": "None"}
    assert flat(CONFIG) == found


@pytest.mark.filterwarnings("ignore")  # tensorboard's own
def test_tensorboard_reads_what_the_history_says(tmp_path):
    pytest.importorskip("accelerate")
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    torch.manual_seed(0)
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(32) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    from easybn.recipes import Vanilla

    tracking = Tracking(["tensorboard"], "run", tmp_path, CONFIG)
    training = Training(epochs=3, batch_size=8, lr=0.01)
    fitted = fit(model, Vanilla(), (images, labels), training, val=(images, labels), observers=[tracking])
    events = reading.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    losses = events.Scalars("val/main/loss")
    assert [e.step for e in losses] == [4, 8, 12]
    assert [e.value for e in losses] == pytest.approx([row["val"]["main"]["loss"] for row in fitted.history])
    assert [e.value for e in events.Scalars("lr")] == pytest.approx([row["lr"] for row in fitted.history])


@pytest.mark.parametrize(
    ("name", "says"),
    [("tensorbord", "unknown tracker 'tensorbord'; known: tensorboard"), ("mlflow", "pip install mlflow")],
)
def test_clear_errors(name, says, tmp_path):
    pytest.importorskip("accelerate")
    with pytest.raises(ValueError, match=says):
        Tracking([name], "run", tmp_path, {})
