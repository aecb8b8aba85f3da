"""An ordinary PyTorch loop with easy batch normalisation in three lines: convert, route, strip.

python examples/own_loop.py
"""

import torch
import torch.nn.functional as F

from easybn import PGD, Linf, convert, easy, evaluating, route, strip
from easybn.data import load
from easybn.models import build


def train(epochs: int = 2, images: int = 5000, batch_size: int = 64) -> tuple[torch.nn.Module, float]:
    """The stripped model and its accuracy on the test images of the bundled sample."""
    source = load("sample")
    model = build("resnet_tiny", in_channels=1, mean=source.mean, std=source.std)
    model = convert(model, branches=("main", "easy"))  # 1: every batch norm gets a copy for easy examples
    attack = PGD(Linf(1 / 255))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        for index in torch.randperm(images).split(batch_size):
            x, y = source.train.batch(index)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).mul(0.5).backward()
            with route(model, "easy"):  # 2: inside, the model uses that copy
                with evaluating(model):
                    x_easy = attack(model, x, easy(y))
                F.cross_entropy(model(x_easy), y).mul(0.5).backward()
            optimizer.step()
        print(f"epoch {epoch + 1} done")
    plain = strip(model)  # 3: a plain model again, to deploy
    x, y = source.test.batch(torch.arange(len(source.test)))
    with torch.no_grad(), evaluating(plain):
        return plain, float((plain(x).argmax(1) == y).double().mean())


if __name__ == "__main__":
    _, accuracy = train()
    print(f"test accuracy {accuracy:.1%}")
