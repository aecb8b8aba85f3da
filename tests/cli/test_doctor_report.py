"""``easybn doctor --report``: what an issue needs to say about a machine, and nothing private."""

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import easybn as easybn_package
from easybn.cli import doctor_report
from easybn.cli.doctor import Finding
from easybn.cli.doctor_report import report, without_private_paths


def lines(block: str) -> dict[str, str]:
    """The block's lines by their names; a name that repeats has the last one."""
    first, *rows, last = block.strip().split("\n")
    assert (first, last) == ("```text", "```")
    return {row.partition(" ")[0]: row.partition(" ")[2].strip() for row in rows}


def test_it_says_what_an_issue_needs(easybn, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AN_API_TOKEN", "secret")
    found = easybn("doctor", "--report")
    assert found.status == 0
    said = lines(found.out)
    assert said["easybn"].startswith(easybn_package.__version__)
    for package in ("torch", "torchvision", "numpy", "timm"):
        assert f"{package} {version(package)}" in said["packages"]
    assert f"torch uses {torch.backends.cpu.get_cpu_capability()}" in said["processor"]
    assert said["threads"].startswith(f"{torch.get_num_threads()} of torch")
    assert said["data"].startswith("sample")
    assert "OMP_NUM_THREADS=1" in said["environment"]
    assert "secret" not in found.out
    assert "Read it before you paste it" in found.err


def test_home_and_user_are_not_shown(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    shown = without_private_paths("/home/ada/data:/home/ada /home/adaline/x /scratch/ada/runs /scratch/ada-2 ada")
    assert shown == "~/data:~ /home/adaline/x /scratch/USER/runs /scratch/ada-2 ada"


def test_no_home_and_no_user(monkeypatch):
    def fail(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    def nobody() -> str:
        raise KeyError("uid not found: 1234")

    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.setattr("getpass.getuser", nobody)
    assert without_private_paths("/home/ada") == "/home/ada"


def test_findings_that_are_not_ok_are_in_it():
    found = [
        Finding("ok", "numpy", "2.0"),
        Finding("note", "cifar10", f"not in {Path.home()}/data", "easybn data cifar10 --download"),
        Finding("broken", "jinja2", "is missing"),
    ]
    said = lines(report(found))
    assert said["note"] == "cifar10: not in ~/data"
    assert said["broken"] == "jinja2: is missing"


def test_the_config_of_a_run(easybn, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = tmp_path / "run"
    run.mkdir()
    config = {"experiment": {"data_folder": str(tmp_path / "home/pictures"), "data": "```"}, "digest": "ab"}
    (run / "config.json").write_text(json.dumps(config))
    started = [{"command": ["easybn", "train"]}, {"command": ["easybn", "train", "--out", f"{tmp_path}/home/run"]}]
    (run / "environment.json").write_text(json.dumps(started))
    said = lines(report([], run))
    assert said["run"] == '{"digest": "ab", "experiment": {"data": "\'\'\'", "data_folder": "~/pictures"}}'
    assert said["started"] == "by   easybn train --out ~/run"
    found = easybn("doctor", "--report", "--run", "nowhere")
    assert (found.status, found.out) == (2, "")
    assert "nowhere is no run: it has no config.json" in found.err
    found = easybn("doctor", "--run", "run")
    assert (found.status, found.err) == (2, "easybn: error: --run goes with --report\n")


def test_gpus(monkeypatch):
    about = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    assert lines(report([]))["gpu"].startswith("cuda:0 NVIDIA H100, 80 GiB, compute capability 9.0; CUDA ")


def test_a_torch_that_does_not_work(monkeypatch):
    def fail() -> None:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr("easybn.runs.run.environment", fail)
    said = lines(report([Finding("broken", "torch", "cannot be imported")]))
    assert said["torch"] == "cannot be imported: libcudart.so.13: cannot open shared object file"
    assert said["broken"] == "torch: cannot be imported"
    assert "processor" not in said


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "HOME", "PATH", "AWS_SECRET_ACCESS_KEY", "HOSTNAME"])
def test_variables_that_may_be_private_are_left_out(name):
    assert not doctor_report.VARIABLES.fullmatch(name)
