"""``easybn push`` and models called hub:USER/NAME, on a Hub of this machine (tests/hub_server.py)."""

import json
import os
import subprocess
import sys

import pytest

import easybn as package

from .. import hub_server

SHORT = ("--attacks", "apgd-ce", "--norm", "linf", "--eps", "4/255", "--points", "6", "--steps", "2", "--no_diagnosis")


@pytest.fixture
def name(hub, finished_run):
    """Of the finished run, on the Hub: me/ebn@COMMIT."""
    return package.push_to_hub(finished_run, "me/ebn")


def test_a_run_is_pushed_and_its_address_printed(easybn, hub, finished_run):
    done = easybn("push", str(finished_run.folder), "me/ebn", "--private", "--licence", "mit")
    commit = hub.repositories["me/ebn"].branches["main"]
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"written: {hub.address}/me/ebn/tree/{commit}",
        f"to use it: easybn.from_hub('me/ebn@{commit}'), or --model hub:me/ebn@{commit}",
    ]
    assert hub.repositories["me/ebn"].private


def test_an_evaluation_is_of_a_commit_and_named_so(easybn, hub, name, tmp_path):
    commit = name.partition("@")[2]
    first = easybn("evaluate", "--model", "hub:me/ebn", *SHORT)
    assert first.status == 0, first.err
    folder = tmp_path / f"runs/evaluations/hub-me-ebn-{commit[:12]}"
    about = json.loads((folder / "evaluation.json").read_text())
    assert about["model"] == f"hub:{name}"
    (rows,) = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()][1:]
    assert (rows["data"], rows["n"]) == ("sample", 6)
    again = easybn("evaluate", str(folder), *SHORT)
    assert again.status == 2
    assert f"names a model of the Hub, which no file downloads: repeat it: --model hub:{name}" in again.err
    repeated = easybn("evaluate", str(folder), "--model", f"hub:{name}", *SHORT)
    assert (repeated.status, repeated.out.count("robust accuracy")) == (0, first.out.count("robust accuracy"))
    hub.repositories["me/ebn"].commit({"README.md": b"# another commit"})
    other = easybn("evaluate", "--model", "hub:me/ebn", *SHORT, "--out", str(folder))
    assert other.status == 2
    assert "holds the results of another model" in other.err


def test_a_model_of_the_hub_is_exported_like_a_file(easybn, name, tmp_path):
    done = easybn("export", f"hub:{name}", "--format", "safetensors", "--out", "out.safetensors")
    assert done.status == 0, done.err
    assert (tmp_path / "out.safetensors").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "--model", "hub:me/nothing"), "me/nothing: there is no such model on"),
        (("evaluate", "--model", "hub:../../etc"), "is no model of the Hub: USER/NAME or USER/NAME@REVISION"),
        (("evaluate", "--model", "hub:me/ebn@v9"), "me/ebn has no revision v9"),
        (("evaluate", "--model", "hub:me/ebn", "--mean", "0.5"), "has its weights and all that shapes it"),
        (("evaluate", "--model", "hub:me/ebn", "--data", "cifar10"), "cifar10"),
        (("evaluate", "--model", "resnet_tiny", "--weights", "hub:me/ebn"), "--model hub:me/ebn"),
        (("train", "--model", "hub:me/ebn"), "unknown model 'hub:me/ebn'"),
        (("push", "nothing", "me/x"), "nothing is no run"),
        (("push", ".", "me"), "is no"),
    ],
)
def test_mistakes_take_one_line(easybn, name, tmp_path, words, message):
    done = easybn(*words)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_a_data_set_that_a_stranger_names_is_not_looked_for(easybn, hub, tmp_path, finished_run):
    """The header of weights names what they were trained on: only data sets that easybn knows by name."""
    from easybn.models.weights import TrainedOn, save

    model, classes = package.load(finished_run.folder), ("a", "b")
    save(model, tmp_path / "w.safetensors", {"name": "resnet_tiny"}, TrainedOn("/etc", (1, 28, 28), classes))
    stranger = {"config.json": b'{"experiment": {}}', "model.safetensors": (tmp_path / "w.safetensors").read_bytes()}
    hub.add("you/net", stranger)
    done = easybn("evaluate", "--model", "hub:you/net", *SHORT)
    assert (done.status, "--data is missing" in done.err) == (2, True), done.err


@pytest.mark.slow
def test_processes_of_a_user_push_evaluate_and_do_without_a_network(tmp_path, finished_run):
    """As huggingface_hub's own variables say, which are read when it is imported."""
    variables = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub_server.TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        command, environment = [sys.executable, "-m", "easybn", *words], {**os.environ, **variables, **more}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    with hub_server.running() as hub:
        pushed = run("push", str(finished_run.folder), "me/ebn", HF_ENDPOINT=hub.address)
        assert pushed.returncode == 0, pushed.stderr
        name = f"hub:me/ebn@{hub.repositories['me/ebn'].branches['main']}"
        first = run("evaluate", "--model", "hub:me/ebn", *SHORT, "--out", "first", HF_ENDPOINT=hub.address)
        assert first.returncode == 0, first.stderr
    second = run("evaluate", "--model", "hub:me/ebn", *SHORT, "--out", "second", HF_HUB_OFFLINE="1")
    assert second.returncode == 0, second.stderr
    for folder in ("first", "second"):
        assert json.loads((tmp_path / folder / "evaluation.json").read_text())["model"] == name
    scores = [(tmp_path / folder / "scores.jsonl").read_text().splitlines() for folder in ("first", "second")]
    counts = [[json.loads(row)["correct"] for row in rows] for rows in scores]
    assert counts[0] == counts[1]
    other = run("evaluate", "--model", "hub:me/other", *SHORT, HF_HUB_OFFLINE="1")
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert "me/other is not complete in the cache" in other.stderr
