"""Run with the real package: ``python benchmark.py FOLDER IMAGES.npz OUT.npz``, of a folder that easybn exported.

``load_model`` and ``benchmark`` are RobustBench's own, as a user calls them. Around them: the images are put into files
that torchvision takes for CIFAR-10's test images, AutoAttack has a seed, and what it returns is looked at.
"""

import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10

warnings.simplefilter("ignore")


def write_cifar10(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Images (n, 3, 32, 32) of bytes as the only test images of CIFAR-10, with their checksums."""
    batch = {"data": pixels.reshape(len(pixels), -1), "labels": labels.tolist()}
    names = {"label_names": [f"class{number}" for number in range(10)]}
    digests = {}
    for name, content in (("test_batch", batch), ("batches.meta", names)):
        path = folder / CIFAR10.base_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        digests[name] = hashlib.md5(path.read_bytes()).hexdigest()
    CIFAR10.train_list, CIFAR10.test_list = [], [["test_batch", digests["test_batch"]]]
    CIFAR10.meta = {**CIFAR10.meta, "md5": digests["batches.meta"]}


def main(exported: Path, images: Path, out: Path) -> None:
    sys.path.insert(0, str(exported))
    import autoattack
    import register
    import robustbench.eval
    from robustbench import benchmark, load_model
    from robustbench.utils import list_available_models

    seen: list[torch.Tensor] = []

    class Watched(autoattack.AutoAttack):
        def get_seed(self):
            return 0

        def run_standard_evaluation(self, *args, **options):
            seen.append(super().run_standard_evaluation(*args, **options))
            return seen[-1]

    robustbench.eval.AutoAttack = Watched
    given = np.load(images)
    with tempfile.TemporaryDirectory() as data_dir:
        write_cifar10(Path(data_dir), given["pixels"], given["labels"])
        register.register()
        model = load_model(register.NAME, register.MODELS, register.DATASET, register.THREAT_MODEL)
        os.chdir(exported)  # to_disk writes below the working folder
        clean_accuracy, robust_accuracy = benchmark(
            model, n_examples=len(given["labels"]), dataset=register.DATASET, threat_model=register.THREAT_MODEL,
            eps=register.EPS, data_dir=data_dir, batch_size=64, to_disk=True, model_name=register.NAME,
        )  # fmt: skip
    list_available_models(register.DATASET, register.THREAT_MODEL)
    x, y = torch.from_numpy(given["pixels"]).float() / 255, torch.from_numpy(given["labels"])
    attacked = torch.from_numpy(given["attacked"])
    with torch.no_grad():
        answers = [model(each).argmax(1) for each in (x, seen[0], attacked)]
    clean, robust, broken = ((answer == y).numpy() for answer in answers[:3])
    np.savez(
        out, clean_accuracy=clean_accuracy, robust_accuracy=robust_accuracy, clean=clean, robust=robust,
        attacked=seen[0].numpy(), stands_ours=broken,
    )  # fmt: skip


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:]))
