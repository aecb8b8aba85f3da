"""Runs on a Hugging Face Hub of this machine (tests/hub_server.py), through the real huggingface_hub."""

import json
import re
import shutil
import socket
import sys
import time
from dataclasses import asdict, replace

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard, constants
from torch import nn

import easybn
from easybn.evaluation.audit import Audit
from easybn.evaluation.result import Score
from easybn.json_files import read_json, write_json
from easybn.models import hub as models_hub
from easybn.models.hub import HubError
from easybn.models.weights import TrainedOn, save
from easybn.runs.hub_card import hub_card, scores_table
from easybn.runs.run import Run

from .. import hub_server

REPO = "me/ebn"


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, with scores."""
    shutil.copytree(finished_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint*"))
    run = Run(tmp_path / "run")
    clean = Score("clean", 1000, 880)
    attacked = Score("autoattack", 100, 8, "standard", "linf", 8 / 255)
    run.add_scores([{**score.to_dict(), "branch": "main", "data": "sample"} for score in (clean, attacked)])
    run.add_scores([{**replace(clean, correct=13).to_dict(), "branch": "easy", "data": "sample"}])
    return run


def files(hub, name=REPO, branch="main"):
    repository = hub.repositories[name]
    return repository.commits[repository.branches[branch]]


def test_a_run_comes_back_as_it_was_and_says_its_commit(hub, run):
    name = easybn.push_to_hub(run.folder, REPO, private=True)
    commit = hub.repositories[REPO].branches["main"]
    assert name == f"{REPO}@{commit}"
    assert hub.repositories[REPO].private
    assert sorted(files(hub)) == ["README.md", "config.json", "model.safetensors"]
    assert files(hub)["model.safetensors"] == (run.folder / "model.safetensors").read_bytes()
    model, expected = easybn.from_hub(REPO), easybn.load(run.folder)
    assert model.hub == name
    assert not model.training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in expected.state_dict().items())
    assert easybn.models.weights.trained_on(f"hub:{REPO}") == easybn.models.weights.trained_on(run.folder)


def test_a_revision_is_a_branch_or_a_commit(hub, run):
    first = easybn.push_to_hub(run, REPO, message="one")
    (run.folder / "README.md").write_text("# Another card\n")
    second = easybn.push_to_hub(run, REPO, revision="v2", licence="mit")
    assert first != second
    assert easybn.from_hub(REPO).hub == first
    assert easybn.from_hub(REPO, "v2").hub == easybn.from_hub(f"hub:{REPO}@v2").hub == second
    assert easybn.from_hub(second).hub == second
    assert b"# Another card" in files(hub, branch="v2")["README.md"]
    assert b"# Another card" not in files(hub)["README.md"]
    asked = len(hub.asked)
    easybn.from_hub(second)  # a commit never changes: the cache is enough
    assert len(hub.asked) == asked


def test_the_card_has_scores_with_intervals_and_how_it_was_trained(hub, run):
    easybn.push_to_hub(run, REPO, licence="mit")
    card = ModelCard(files(hub)["README.md"].decode())
    assert "| clean accuracy | 88.0% (95%: 85.8 to 89.9), 1,000 points |" in card.text
    assert (
        "| robust accuracy at linf 8/255 | 8.0% (95%: 4.1 to 15.0), 100 of 1,000 points, AutoAttack standard |"
        in card.text
    )
    assert "1.3%" not in card.text  # of another branch than the deployed one
    session = run.sessions[-1]
    for said in (session["processor"], session["packages"]["torch"], run.config["training"]["seed"], "attack.ball.eps"):
        assert f"| {said} |" in card.text or f"{said}" in card.text
    assert "| commit |" in card.text
    headings = re.findall(r"^## (.*)$", card.text, re.M)
    assert headings[:2] == ["Use", "Scores on test images"]
    assert headings[2:] == re.findall(r"^## (.*)$", (run.folder / "README.md").read_text(), re.M)[1:]
    data = vars(card.data)
    said = {"library_name": "easybn", "pipeline_tag": "image-classification", "license": "mit"}
    assert data.items() >= {**said, "datasets": ["zalando-datasets/fashion_mnist"]}.items()
    assert data["eval_results"] is None  # the sample is not the test split of that data set
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
    space = {"x": torch.rand(2, 1, 28, 28)}
    exec(compile(code, "README.md", "exec"), space)
    assert space["logits"].shape == (2, 10)


def test_the_model_index_has_the_accuracy_on_the_whole_test_split_alone(run):
    about = TrainedOn("fashion-mnist", (1, 28, 28), easybn.models.weights.trained_on(run.folder).classes)
    digest = read_json(run.folder / "config.json")["digest"]
    save(easybn.load(run.folder), run.folder / "model.safetensors", {"name": "resnet_tiny"}, about, {"config": digest})
    scores = [Score("clean", 10_000, 9_080), Score("autoattack", 100, 8, "standard", "linf", 8 / 255)]

    def results(n):
        rows = [{**score.to_dict(), "branch": "main", "data": "fashion-mnist"} for score in scores[n:]]
        (run.folder / "scores.jsonl").unlink()
        run.add_scores(rows)
        return vars(ModelCard(hub_card(run, REPO)).data)["eval_results"]

    (found,) = results(0)
    assert (found.dataset_type, found.dataset_split) == ("zalando-datasets/fashion_mnist", "test")
    assert (found.metric_type, found.metric_value) == ("accuracy", 0.908)
    assert results(1) is None


def test_what_is_no_plain_figure_is_said_beside_it():
    assert "Not measured" in scores_table([])
    audit = Audit(survivors=50, suspicious=10, drawn=10, broke_suspicious=1, broke_drawn=0, broke={"apgd-t": 1})
    fast = {**Score("fast", 100, 49, "", "linf", 8 / 255).to_dict(), "audit": asdict(audit)}
    square = Score("square", 100, 60, None, "linf", 8 / 255).to_dict()
    finding = {"name": "masking", "severity": "warning", "what": "gradients are masked", "how_much": "by far"}
    corrupted = {"attack": "corruptions", "n": 7500, "correct": 1, "accuracy": 0.5, "low": 0.4, "high": 0.6}
    text = scores_table([{**fast, "findings": [finding, {**finding, "severity": "ok"}]}, square, corrupted])
    assert "at most 49.0%, audited" in text
    assert "at most 60.0%" in text
    assert "gradient-free" in text
    assert "| mean accuracy under common corruptions | 50.0% (95%: 40.0 to 60.0)" in text
    assert text.endswith("The diagnosis warns:\n\n- gradients are masked: by far")


def test_folders_of_this_machine_are_not_uploaded(hub, run):
    path = run.folder / "config.json"
    config = read_json(path)
    names = {"data_folder": "/home/me/data", "leave_out": "/home/me/easy.txt", "data": "/home/me/photos"}
    config["experiment"] |= names
    write_json(path, config)
    readme = run.folder / "README.md"
    readme.write_text(
        readme.read_text().replace("| recipe |", "| left out | the images in `/home/me/easy.txt` |\n| recipe |")
    )
    easybn.push_to_hub(run, REPO)
    for content in files(hub).values():
        assert b"/home/me" not in content
    uploaded = json.loads(files(hub)["config.json"])["experiment"]
    assert [uploaded[name] for name in names] == [None, "easy.txt", "photos"]
    assert b"in `easy.txt`" in files(hub)["README.md"]
    assert read_json(path)["experiment"]["data"] == "/home/me/photos"
    easybn.from_hub(REPO)


def test_the_cache_serves_without_a_network(hub, run, monkeypatch):
    name = easybn.push_to_hub(run, REPO)
    with pytest.raises(HubError, match=r"is not complete in the cache \(.*\), and the network is not asked"):
        easybn.from_hub(REPO, local_files_only=True)
    easybn.from_hub(REPO)
    asked = len(hub.asked)
    assert easybn.from_hub(REPO, local_files_only=True).hub == name
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert easybn.from_hub(REPO).hub == name
        with pytest.raises(HubError, match="cannot be written to without a network: HF_HUB_OFFLINE is set"):
            easybn.push_to_hub(run, REPO)
    assert len(hub.asked) == asked
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(time, "sleep", lambda _: None)  # before huggingface_hub tries again
        hub_server.use(f"http://127.0.0.1:{free.getsockname()[1]}", monkeypatch)
        assert easybn.from_hub(REPO).hub == name
        with pytest.raises(
            HubError, match=r"me/other is not in the cache, and .* cannot be reached: is there a network\?"
        ):
            easybn.from_hub("me/other")
        with pytest.raises(HubError, match=r"me/other: .* cannot be reached \(\w+\): is there a network\?"):
            easybn.push_to_hub(run, "me/other")


@pytest.mark.parametrize("token", [hub_server.TOKEN, None])
def test_what_is_not_there_or_may_not_be_read(hub, run, monkeypatch, token):
    easybn.push_to_hub(run, "me/secret", private=True)
    hub.add("you/gated", files(hub, "me/secret"), gated=True)
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(HubError, match=r"me/nothing: there is no such model on .*, or it is private: hf auth login"):
        easybn.from_hub("me/nothing")
    if token is None:
        with pytest.raises(HubError, match=r"me/secret: there is no such model on .*, or it is private"):
            easybn.from_hub("me/secret")
        assert easybn.from_hub("me/secret", token=hub_server.TOKEN).hub.startswith("me/secret@")
        with pytest.raises(HubError, match=r"me/new: .* does not allow it \(401\): hf auth login, .* may write there"):
            easybn.push_to_hub(run, "me/new")
    else:
        with pytest.raises(HubError, match="me/secret has no revision v9"):
            easybn.from_hub("me/secret@v9")
        with pytest.raises(HubError, match=r"does not allow it \(403\)"):
            easybn.push_to_hub(run, "you/new")
    with pytest.raises(HubError, match="you/gated is gated: accept its terms on its page"):
        easybn.from_hub("you/gated")


def tensors(**state):
    return safetensors.torch.save(state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"README.md": b"nothing"}, r"holds no run of easybn: it lacks config.json or model.safetensors"),
        ({"config.json": b'{"experiment": {}}'}, r"holds no run of easybn: it lacks config.json or model.safetensors"),
        (
            {"config.json": b'{"architectures": ["ResNetForImageClassification"]}'},
            "its config.json does not describe one",
        ),
        ({"config.json": b"[1]"}, "its config.json does not describe one"),
        ({"config.json": b"\x80\x04K\x01."}, "its config.json does not describe one"),
        ({"config.json": b'{"experiment": {}}', "model.safetensors": b"\x80\x04K\x01."}, "is no safetensors file"),
        (
            {"config.json": b'{"experiment": {}}', "model.safetensors": tensors(weight=torch.ones(1))},
            "does not say of which model it is",
        ),
    ],
)
def test_repositories_that_hold_no_run(hub, content, message):
    hub.add("you/other", content)
    with pytest.raises(ValueError, match=message):
        easybn.from_hub("you/other")


def test_no_code_of_a_repository_is_run(hub, run, tmp_path, monkeypatch):
    """Its recipe and its network may be of a user's file; neither that file nor a pickle is even downloaded."""
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\nfrom torch.nn import Linear as Net\n"
    config = read_json(run.folder / "config.json")
    config["experiment"]["recipe"]["class"] = "their_recipe.Theirs"
    stranger = {"their_recipe.py": code.encode(), "pytorch_model.bin": b"\x80\x04K\x01.", "config.json": b""}
    write_json(run.folder / "config.json", config)
    stranger |= {name: (run.folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hub.add("you/recipe", stranger)
    (tmp_path / "their_recipe.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert easybn.from_hub("you/recipe")(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    net = nn.Linear(3, 2)
    save(net, tmp_path / "net.safetensors", {"name": "their_recipe.py:Net", "in_features": 3})
    hub.add("you/net", {**stranger, "model.safetensors": (tmp_path / "net.safetensors").read_bytes()})
    with pytest.raises(ValueError, match="a stored name of a function runs no code"):
        easybn.from_hub("you/net")
    assert torch.equal(easybn.from_hub("you/net", model=nn.Linear(3, 2)).weight, net.weight)
    assert not (tmp_path / "ran").exists()
    assert "their_recipe" not in sys.modules
    assert {line.rpartition("/")[2] for line in hub.asked} == {"config.json", "model.safetensors"}


NO_NAMES = [
    "../etc",
    "me/../..",
    "me",
    "/me/x",
    "me/x/y",
    "me\\x",
    "me/",
    "",
    "hub:",
    "me/x@",
    "me/x@../main",
    "me/x@/main",
]


@pytest.mark.parametrize("repo", [*NO_NAMES, "me/x@a/../../b", "me/x@main\n"])
def test_names_that_are_paths_are_refused_before_anything_is_asked(hub, run, repo):
    for use in (easybn.from_hub, lambda name: easybn.push_to_hub(run, name)):
        with pytest.raises(HubError, match=r"is no model of the Hub|is no revision"):
            use(repo)
    assert not hub.asked


def test_two_revisions_are_one_too_many():
    with pytest.raises(HubError, match="there are two revisions, v1 and v2"):
        easybn.from_hub("me/x@v1", "v2")


@pytest.mark.parametrize(
    "headers",
    [{"X-Repo-Commit": "../../../escaped"}, {"X-Repo-Commit": f"../../../{'a' * 40}"}, {"ETag": '"../../../../out"'}],
)
def test_a_server_that_names_files_outside_of_the_cache_is_not_believed(hub, run, headers):
    easybn.push_to_hub(run, REPO)
    hub.headers |= headers
    with pytest.raises(ValueError, match=r"Invalid pointer path|leads out of the cache"):
        easybn.from_hub(REPO)


def test_what_may_not_be_overwritten_is_not(hub, run):
    hub.add("me/bert", {"config.json": b'{"architectures": ["Bert"]}', "model.safetensors": b"weights"})
    hub.add("me/timm", {"model.safetensors": b"weights"})
    before = {name: dict(files(hub, name)) for name in ("me/bert", "me/timm")}
    with pytest.raises(HubError, match=r"me/bert holds no run of easybn: .*: choose another name"):
        easybn.push_to_hub(run, "me/bert")
    with pytest.raises(HubError, match="me/timm holds weights that are not of easybn: choose another name"):
        easybn.push_to_hub(run, "me/timm")
    assert before == {name: files(hub, name) for name in before}
    easybn.push_to_hub(run, REPO)
    with pytest.raises(HubError, match="me/ebn is there and public: make it private"):
        easybn.push_to_hub(run, REPO, private=True)


def test_what_is_not_a_finished_run_is_not_pushed(hub, run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run: it has no config.json"):
        easybn.push_to_hub(tmp_path, REPO)
    weights = run.folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\1\2\3\4")
    with pytest.raises(ValueError, match="is damaged"):
        easybn.push_to_hub(run, REPO)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="is not finished"):
        easybn.push_to_hub(run, REPO)
    assert not hub.asked


def test_without_huggingface_hub_one_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (lambda: easybn.from_hub(REPO), lambda: easybn.push_to_hub(run, REPO)):
        with pytest.raises(HubError, match="pip install huggingface_hub"):
            use()


def test_errors_of_other_kinds_are_not_taken_for_the_hubs(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(ZeroDivisionError):
        models_hub.fetch(REPO)
