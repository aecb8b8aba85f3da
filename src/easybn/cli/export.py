"""Write a trained model as a file that other programs take.

safetensors: the weights with the model's description, for easybn.load. torch: torch.export's .pt2, for
torch.export.load(FILE).module() without easybn. onnx: for any ONNX runtime. All take any number of images in
[0, 1]; the file takes its place only after its outputs were compared with the model's.
"""

from jsonargparse import Namespace

from ..escapes import say
from .arguments import Parser


def configure(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="a run's folder, or a weights file (.safetensors)")
    parser.add_argument("--format", choices=["safetensors", "torch", "onnx"], required=True)
    parser.add_argument("--out", type=str, required=True, help="the file to write")
    parser.add_argument("--size", type=int, default=None, help="of the images, if the weights file does not say it")


def run(arguments: Namespace) -> None:
    from ..runs.export import BATCHES, export

    difference = export(arguments.run, arguments.out, arguments.format, arguments.size)
    batches = " and ".join(map(str, BATCHES))
    say(f"written: {arguments.out}; largest difference of a logit, batches of {batches} images: {difference:.1e}")
