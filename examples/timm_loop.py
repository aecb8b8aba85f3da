"""EBN in timm's training: its network, optimiser, schedule, mixup, moving average and checkpoints.

At the end a folder that timm reads, on disk or on the Hugging Face Hub, without easybn.

python examples/timm_loop.py
"""

from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import Mixup  # type: ignore[attr-defined]
from timm.loss import SoftTargetCrossEntropy  # type: ignore[attr-defined]
from timm.models._hub import save_for_hf  # before 1.0.17 only there
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from timm.utils import CheckpointSaver, ModelEmaV3  # type: ignore[attr-defined]

from easybn import PGD, Linf, convert, easy, evaluating, route, strip
from easybn.data import load
from easybn.models import build


def train(folder: Path, epochs: int = 3, images: int = 5000, batch_size: int = 50) -> torch.nn.Module:
    """Train, or go on from the last checkpoint in ``folder``; returns timm's network, averaged and plain."""
    torch.manual_seed(0)
    source = load("sample")
    model = build("timm:resnet10t", in_channels=1, mean=source.mean, std=source.std)  # normalises, for images in [0, 1]
    model = convert(model, branches=("main", "easy"))
    attack, criterion = PGD(Linf(1 / 255)), SoftTargetCrossEntropy()
    mixup = Mixup(mixup_alpha=0.2, num_classes=10)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    schedule, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    first, last = 0, folder / "last.pth.tar"
    if last.exists():
        first = timm.models.resume_checkpoint(model, str(last), optimizer) or 0
        schedule.step(first)
    average = ModelEmaV3(model, decay=0.99)
    if last.exists():
        timm.models.load_checkpoint(average.module, str(last), use_ema=True)
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(folder))
    for epoch in range(first, epochs):
        torch.manual_seed(epoch)  # order and noise follow from the epoch, also after an interruption
        np.random.seed(epoch)  # noqa: NPY002  of which timm's mixup draws
        model.train()
        for index in torch.randperm(images).split(batch_size):
            x, y = mixup(*source.train.batch(index))  # y (N, 10): shares of the classes
            optimizer.zero_grad()
            criterion(model(x), y).mul(0.5).backward()
            with route(model, "easy"):
                with evaluating(model):
                    x_easy = attack(model, x, easy(y.argmax(1)))  # easier for the class with the larger share
                criterion(model(x_easy), y).mul(0.5).backward()
            optimizer.step()
            average.update(model)
        schedule.step(epoch + 1)
        saver.save_checkpoint(epoch, metric=epoch)  # timm before 1.0.13 needs one; the newest are kept
        print(f"epoch {epoch + 1} done")
    network = strip(average.module).network.eval()  # its keys are those of timm.create_model
    preprocessing = {"mean": source.mean, "std": source.std, "input_size": (1, 28, 28), "crop_pct": 1.0}
    about = {"pretrained_cfg": preprocessing, "label_names": list(source.classes)}
    # timm.models.push_to_hf_hub(network, "you/repository", model_config=about, ...) uploads the same
    save_for_hf(network, str(folder / "timm"), about, model_args={"in_chans": 1}, safe_serialization=True)
    return network


def accuracy(folder: Path) -> float:
    """Of the network in timm's folder, built and loaded by timm alone, on the sample's test images.

    From timm 1.0.17 on ``timm.create_model(f"local-dir:{folder}", pretrained=True)`` is enough.
    """
    source = load("sample")
    weights = str(folder / "model.safetensors")
    network = timm.create_model("resnet10t", checkpoint_path=weights, num_classes=10, in_chans=1).eval()
    x, y = source.test.batch(torch.arange(len(source.test)))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (source.mean, source.std))
    with torch.no_grad():
        return float((network((x - mean) / std).argmax(1) == y).double().mean())


if __name__ == "__main__":
    folder = Path("runs/timm")
    folder.mkdir(parents=True, exist_ok=True)
    train(folder)
    print(f"test accuracy {accuracy(folder / 'timm'):.1%}; timm reads {folder / 'timm'}")
