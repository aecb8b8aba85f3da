"""``bench/gpu``: what is packed comes out as it went in; rows survive; a stage is stopped, and small ones run here."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "gpu"]:
        del sys.modules[name]


def contents(archive: Path) -> list[tuple[str, str]]:
    with zipfile.ZipFile(archive) as opened:
        return [(e.filename, sha256(opened.read(e)).hexdigest()) for e in opened.infolist() if not e.is_dir()]


def jpeg(scan: bytes) -> bytes:
    """Not a picture, but segments as JPEG files have them."""
    tables = b"\xff\xdb" + (67).to_bytes(2, "big") + bytes(range(65))
    return b"\xff\xd8" + tables + b"\xff\xda" + (8).to_bytes(2, "big") + b"\1" * 6 + scan


def data_sets(folder: Path) -> Path:
    (folder / "fashion-mnist").mkdir(parents=True)
    with zipfile.ZipFile(folder / "cifar10-images.zip", "w") as archive:
        archive.mkdir("train")
        for number in range(20):
            archive.writestr(f"train/{number % 3}/bild é {number}.jpg", jpeg(bytes([number]) * (100 * number)))
    (folder / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"labels" * 50))
    (folder / "fashion-mnist" / "train-labels-idx1-ubyte").write_bytes(b"plain" * 50)
    return folder


def test_data_sets_come_out_as_they_went_in(tmp_path):
    from gpu.packed import packed, unpacked

    source = data_sets(tmp_path / "data")
    packed(source, tmp_path / "packed")
    out = unpacked(tmp_path / "packed", tmp_path / "out")
    assert contents(out / "cifar10-images.zip") == contents(source / "cifar10-images.zip")
    assert (out / "fashion-mnist" / "t10k-labels-idx1-ubyte").read_bytes() == b"labels" * 50
    assert (out / "fashion-mnist" / "train-labels-idx1-ubyte").read_bytes() == b"plain" * 50
    assert not list(tmp_path.rglob("*.part"))
    once = (out / "cifar10-images.zip").read_bytes()
    assert unpacked(tmp_path / "packed", tmp_path / "again").joinpath("cifar10-images.zip").read_bytes() == once


@pytest.mark.parametrize(
    ("scan", "told"), [(b"GIF89a", "no JPEG"), (jpeg(b"").replace(b"\0\1", b"\0\2"), "one header")]
)
def test_what_cannot_be_packed_is_said(scan, told, tmp_path):
    from gpu.packed import pack

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.jpg", jpeg(b"1"))
        archive.writestr("other.jpg", scan)
    with pytest.raises(ValueError, match=told):
        pack(tmp_path / "a.zip", tmp_path / "a.pack")
    assert not (tmp_path / "a.pack").exists()


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie in none of the usual places")
def test_the_real_cifar_comes_out_as_it_went_in(tmp_path):
    from gpu.packed import pack, unpack

    pack(DATA / "cifar10-images.zip", tmp_path / "pack")
    assert (tmp_path / "pack").stat().st_size < 20e6
    unpack(tmp_path / "pack", tmp_path / "zip")
    assert contents(tmp_path / "zip") == contents(DATA / "cifar10-images.zip")


def test_prepare_makes_one_folder(tmp_path):
    source, out = data_sets(tmp_path / "data"), tmp_path / "prepared"
    command = [sys.executable, str(ROOT / "bench" / "gpu" / "prepare"), "--no-wheels", "--out", str(out)]
    done = subprocess.run([*command, "--data", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ["cifar10.pack", "t10k-labels-idx1-ubyte.xz", "train-labels-idx1-ubyte.xz"]
    assert sorted(file.name for file in (out / "data").rglob("*.*")) == names
    assert (out / "commit").read_text().strip()
    (tmp_path / "empty").mkdir()
    nothing = subprocess.run([*command, "--data", str(tmp_path / "empty")], capture_output=True, text=True)
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("error: ")
    assert nothing.stderr.count("\n") == 1


def test_a_wheel_is_installed_without_what_is_large_and_no_code(tmp_path):
    from gpu.harness import installed
    from gpu.preparing import LARGE, slim

    wheel = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some/__init__.py", "NAME = 'some'\n" + "#" * LARGE)
        archive.writestr("some/weights.pt", bytes(LARGE))
        archive.writestr("some-1.0.dist-info/METADATA", "Name: some\nVersion: 1.0\n")
    slim(wheel)
    site = installed([wheel], tmp_path / "site")
    assert {file.name for file in site.rglob("*.*") if file.is_file()} == {"__init__.py"}
    code = "import some, importlib.metadata as m; print(some.NAME, m.version('some'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True
    )
    assert done.stdout.decode().strip() == "some 1.0"


def test_rows_say_where_they_are_from_and_are_on_disk_at_once(tmp_path):
    from gpu.rows import Rows, read_rows, table

    rows = Rows(tmp_path, "speed", "cpu")
    for value in (1.0, 2.0):
        rows.write(item="a", value=value)
        assert json.loads(rows.path.read_text().splitlines()[-1])["value"] == value
    assert {"stage", "card", "driver", "torch", "cuda", "commit", "date"} <= read_rows(rows.path)[0].keys()
    with rows.path.open("a") as file:
        file.write('{"item": "cut o')
    assert [row["value"] for row in read_rows(rows.path)] == [1.0, 2.0]
    assert table(read_rows(rows.path), ("item", "value")).splitlines() == ["item  value", "a     1", "a     2"]


def run(*words: str, **more: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "bench" / "gpu" / "run"), *words]
    return subprocess.run(command, capture_output=True, text=True, **more)


def test_a_stage_that_hangs_is_killed_and_its_rows_are_printed(tmp_path, monkeypatch, capsys):
    from gpu import harness

    class Hanging:
        """A process that writes one row, and does not end by itself."""

        def __init__(self, command, env, cwd):
            self.killed, self.limits = False, []
            started.append(self)
            assert env["PYTHONPATH"].split(os.pathsep)[:2] == [str(ROOT / "src"), str(ROOT / "bench")]
            (Path(command[command.index("--out") + 1]) / "speed.jsonl").write_text('{"item": "before", "value": 1.5}\n')

        def wait(self, timeout=None):
            self.limits.append(timeout)
            if not self.killed:
                raise subprocess.TimeoutExpired("stage", timeout)

        def kill(self):
            self.killed = True

        def poll(self):
            return -9 if self.killed else None

    started: list[Hanging] = []
    monkeypatch.setattr(harness.subprocess, "Popen", Hanging)
    monkeypatch.setattr(harness, "PREPARED", tmp_path / "nothing prepared")
    assert harness.main(["speed", "--out", str(tmp_path), "--seconds", "50", "--device", "cpu"]) == 124
    (process,) = started
    assert process.killed
    assert process.limits[0] <= 50 + harness.GRACE
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["item    value  unit", "before  1.5"]
    assert printed[-1].startswith("speed: exit 124")


def test_without_a_place_for_rows_or_without_cuda_nothing_runs(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OUT"}
    assert "--out DIR is needed" in run("speed", env=environment).stderr
    hidden = run("smoke", "--out", str(tmp_path), env={**environment, "CUDA_VISIBLE_DEVICES": ""})
    assert hidden.returncode
    assert "no CUDA device on this machine: --device cpu --small" in hidden.stderr


@pytest.mark.slow
def test_smoke_in_small(tmp_path):
    done = run("smoke", "--small", "--device", "cpu", "--out", str(tmp_path), "--seconds", "400")
    rows = [json.loads(line) for line in (tmp_path / "smoke.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["outcome"] for row in rows] == ["passed"] * 4
    assert all("[cpu" in row["test"] for row in rows)
    assert "4 passed" in done.stdout.splitlines()[-2]
