"""Every reader of files and texts from elsewhere, on damaged and made-up inputs: an answer, or one clear error.

``tests/test_fuzzing.py`` runs a few hundred inputs of each with hypothesis. This file, run as a program, gives one of
them to atheris (libFuzzer), which looks for inputs that reach new lines of code:

    python tests/fuzzing.py pictures --runs 100000

An input that takes more than 2 seconds, or 500 MB beyond what the process has at its start, fails too.
"""

import argparse
import io
import json
import random
import resource
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SECONDS, MEGABYTES = 2, 500
NASTY = [b"\x00", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80", b"1e999", b"-1", b"NaN", b"null", b"[" * 200]
NASTY += [b'"', b"}", b"\n", b"\xed\xa0\x80", b"99999999999999999999", b"../../x", b"&a [*a, *a]", b"\x1b[2J"]


@dataclass(frozen=True)
class Reader:
    """One way in.

    Args:
        read: reads the content; ``file`` is a free name below which it may be put for those that read files.
        seeds: whole inputs from which others are made.
        raises: what may be raised.
    """

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]
    raises: tuple[type[Exception], ...] = (ValueError,)


def check(reader: Reader, content: bytes, file: Path) -> None:
    """AssertionError unless ``content`` is read or refused by one line of text."""
    try:
        with warnings.catch_warnings(action="ignore"):
            reader.read(content, file)
    except reader.raises as error:
        message = str(error)
    else:
        return
    assert message.strip(), "an error without a word"
    assert len(message) < 2000, f"a message of {len(message)} characters"


def changed(content: bytes, draw: random.Random) -> bytes:
    """``content`` with one to four edits: bits, bytes, parts cut, repeated, moved or replaced by something nasty."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 4, 8, 64))
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + length] = draw.randbytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))
        elif kind == 4:
            data[at : at + draw.choice((0, length))] = draw.choice(NASTY)
        else:
            del data[at:]
    return bytes(data)


def _as_file(read: Callable[[Path], object], suffix: str = "") -> Callable[[bytes, Path], object]:
    def of_content(content: bytes, file: Path) -> object:
        path = file.with_name(file.name + suffix)
        path.write_bytes(content)
        return read(path)

    return of_content


def _packed() -> Reader:
    import gzip

    from easybn.data.datasets import _unpacked  # all that reads a published file before its checksum is known

    return Reader(_as_file(_unpacked, ".gz"), lambda: [gzip.compress(b"content" * 9, mtime=0), b"not packed"])


def _parquet() -> Reader:
    from easybn.evaluation.record import CLEAN, Record
    from easybn.evaluation.store.stage_file import from_parquet, seconds_in, to_parquet

    def seeds() -> list[bytes]:
        record = Record.of(CLEAN, np.arange(5), success=np.array([True, False] * 2 + [True]), distance=np.zeros(5))
        return [to_parquet(record, {"job": "x", "stage": 0}, 3.5)]

    def read(content: bytes, _: Path) -> object:
        return seconds_in(content), from_parquet(content)

    return Reader(read, seeds)


def _manifest() -> Reader:
    from easybn.evaluation.store import Manifest

    job = Manifest(model="m", data="d", points=(3, 1), norm="linf", eps=(0.1,), attacks=("apgd-ce",))
    return Reader(lambda content, _: Manifest.from_json(content.decode("utf-8")), lambda: [job.to_json().encode()])


def _published() -> Reader:
    from easybn.data.published_corruptions import mapped

    def seeds() -> list[bytes]:
        found = []
        for version in ((1, 0), (2, 0), (3, 0)):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), version)
            found.append(buffer.getvalue())
        return found

    return Reader(_as_file(lambda path: np.array(mapped(path)), ".npy"), seeds)


def _rows() -> Reader:
    from easybn.data.corruptions import CORRUPTIONS
    from easybn.tables.corruptions import evaluations
    from easybn.tables.rows import read

    names = ("config.json", "scores.jsonl", "metrics.jsonl", "verdicts.jsonl", "summary.json", "environment.json")
    names += ("corruptions.jsonl",)
    config = {"experiment": {"data": "x", "model": "m", "recipe": {"class": "EBN"}, "training": {"seed": 1}}}
    corrupted = {"source": "generated", "n": 2, "correct": 2, "right": "wA==", "points": "x", "points_seed": 0}
    score = {"attack": "pgd", "n": 3, "correct": 2, "eps": 0.1, "norm": "l2", "protocol": "strong", "broke": {"a": 1}}
    texts = [
        json.dumps(config),
        json.dumps(score) + "\n",
        json.dumps({"epoch": 1, "step": 3, "val": {"main": {"loss": 1.5}}}) + "\n",
        json.dumps({"attack": "clean", "n": 2, "points": "x", "right": "wA=="}) + "\n",
        json.dumps({"findings": []}),
        "[{}]",
        "".join(
            json.dumps({**corrupted, "corruption": kind, "severity": severity}) + "\n"
            for kind in CORRUPTIONS
            for severity in (1, 2, 3, 4, 5)
        ),
    ]

    def run(content: bytes, file: Path) -> object:
        # the first byte says which file of a run it is; the others are whole
        which, content = content[0] % len(names) if content else 0, content[1:]
        if not file.exists():
            file.mkdir()
            for name, text in zip(names, texts, strict=True):
                (file / name).write_text(text)
        (file / names[which]).write_bytes(content)
        try:
            found = read(file)
            for each in found.runs:
                assert each.seed is not None
                assert each.method
                evaluations(each.corruptions, each.folder)
            return found
        finally:
            (file / names[which]).write_text(texts[which])

    return Reader(run, lambda: [bytes([number]) + text.encode() for number, text in enumerate(texts)])


def _yaml() -> Reader:
    from easybn.cli.user_code import parse_yaml

    seeds = [
        b"recipe:\n  class_path: EBN\n  init_args: {easy_weight: 0.5}\nepochs: 3\n",
        b"a: &x [1, 2]\nb: *x\n",
        b"- 8/255",
    ]
    return Reader(lambda content, _: parse_yaml(content.decode("utf-8")), lambda: seeds)


def _weights() -> Reader:
    from easybn.models import weights

    def seeds() -> list[bytes]:
        source = next(iter(weights.trained().values()))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.safetensors"
            model = torch.nn.Sequential(torch.nn.Linear(2, 3))
            weights.save(
                model, path, {"name": "resnet_tiny", "num_classes": 3}, weights.TrainedOn("x", (1, 2, 2), ("a",))
            )
            return [path.read_bytes(), source.read_bytes()[:4096]]

    def read(path: Path) -> object:
        return weights.trained_on(path), weights.load(path)

    return Reader(_as_file(read, ".safetensors"), seeds)


def _users_weights() -> Reader:
    from easybn.models.state_dicts import load_weights

    def seeds() -> list[bytes]:
        found = []
        for content in (
            {"state_dict": torch.nn.Linear(2, 3).state_dict(), "epoch": 3},
            torch.nn.Linear(2, 3).state_dict(),
        ):
            for new in (True, False):
                buffer = io.BytesIO()
                torch.save(content, buffer, _use_new_zipfile_serialization=new)
                found.append(buffer.getvalue())
        return found

    return Reader(_as_file(lambda path: load_weights(torch.nn.Linear(2, 3), path), ".pth"), seeds)


def _checkpoint() -> Reader:
    from easybn.train import checkpoint

    def seeds() -> list[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.pt"
            checkpoint.save(checkpoint.Checkpoint(3, torch.nn.Linear(2, 3).state_dict(), {"a": [1]}), path)
            buffer = io.BytesIO()
            torch.save({"version": 1, "step": 1, "model": {}, "optimizer": {}}, buffer)
            return [path.read_bytes(), buffer.getvalue()]

    return Reader(_as_file(checkpoint.load), seeds)


def _pictures() -> Reader:
    from easybn.data.pictures import decode_picture

    def seeds() -> list[bytes]:
        found = []
        pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 4), np.uint8)
        for kind, mode in (
            ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"),
            ("WEBP", "RGBA"), ("BMP", "RGB"), ("PPM", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"),
        ):  # fmt: skip
            buffer, exif = io.BytesIO(), Image.Exif()
            exif[0x0112] = 6
            more = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
            Image.fromarray(pixels).convert("RGB").convert(mode if mode != "I;16" else "L").save(buffer, kind, **more)
            found.append(buffer.getvalue())
        return found

    return Reader(lambda content, _: (decode_picture(content, "x", 3), decode_picture(content, "x", 1, 16)), seeds)


def _archives() -> Reader:
    from easybn.data.image_folder import image_folder

    def seeds() -> list[bytes]:
        found = []
        for stored in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            buffer, picture = io.BytesIO(), io.BytesIO()
            Image.linear_gradient("L").resize((2, 2)).save(picture, "PNG")
            with zipfile.ZipFile(buffer, "w", stored) as archive:
                for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"):
                    archive.writestr(name, picture.getvalue())
            found.append(buffer.getvalue())
        return found

    def read(path: Path) -> object:
        return image_folder(path, cache=False, progress=lambda *_: None)

    return Reader(_as_file(read, ".zip"), seeds)


def _eps() -> Reader:
    from easybn.perturb.eps import format_eps, parse_eps

    def read(content: bytes, _: Path) -> object:
        text = content.decode("utf-8")
        value = parse_eps(text)
        assert 0 < value < float("inf")
        again = parse_eps(format_eps(value, "linf"))
        assert abs(again - value) <= 1e-3 * value
        return value

    return Reader(read, lambda: [b"8/255", b"0.5", b"1e-3", b".5", b"1/3", b"4e2/1e3"])


def _classes() -> Reader:
    from easybn.runs.target import read_classes

    return Reader(_as_file(lambda path: read_classes(str(path)), ".txt"), lambda: ["cat\ndog\nému\n".encode()])


READERS: dict[str, Callable[[], Reader]] = {
    "archives": _archives,
    "checkpoint": _checkpoint,
    "classes": _classes,
    "eps": _eps,
    "manifest": _manifest,
    "packed": _packed,
    "parquet": _parquet,
    "pictures": _pictures,
    "published": _published,
    "rows": _rows,
    "users_weights": _users_weights,
    "weights": _weights,
    "yaml": _yaml,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["easybn"]):
        reader = READERS[given.reader]()
        seeds = reader.seeds()
    with tempfile.TemporaryDirectory() as folder:
        corpus, file = Path(folder) / "corpus", Path(folder) / "input"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
            check(reader, seed, file)  # everything is imported and warm
        at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        limits = [f"-runs={given.runs}", f"-seed={given.seed}", f"-timeout={SECONDS}"]
        limits += [f"-rss_limit_mb={at_start + MEGABYTES}", "-max_len=65536", f"-artifact_prefix={Path.cwd()}/"]

        def mutate(content: bytes, most: int, number: int) -> bytes:
            draw = random.Random(number)
            return changed(content, draw)[:most] if draw.random() < 0.5 else atheris.Mutate(content, most)

        atheris.Setup(
            [sys.argv[0], *limits, str(corpus)], lambda content: check(reader, content, file), custom_mutator=mutate
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
