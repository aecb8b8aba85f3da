"""Export a trained model to a file that other programs read.

safetensors: the weights with a description of the model, for easybn.load. torch: a .pt2 file for
torch.export.load(FILE).module(), without easybn. onnx: for any ONNX runtime. Each takes batches of any size of images
in [0, 1]; the file is written only if its outputs agree with the model's.
"""

from jsonargparse import Namespace

from ..escapes import say
from .arguments import Parser


def configure(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="a run's folder, or a weights file (.safetensors)")
    parser.add_argument("--format", choices=["safetensors", "torch", "onnx"], required=True)
    parser.add_argument("--out", type=str, required=True, help="the file to write")
    parser.add_argument("--size", type=int, default=None, help="size of the images, if the weights file lacks it")


def run(arguments: Namespace) -> None:
    from ..runs.export import BATCHES, export

    difference = export(arguments.run, arguments.out, arguments.format, arguments.size)
    batches = " and ".join(map(str, BATCHES))
    say(f"written: {arguments.out}; largest difference of a logit, batches of {batches} images: {difference:.1e}")
