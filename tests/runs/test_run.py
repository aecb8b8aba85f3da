import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from easybn import data, models
from easybn.files import Removed
from easybn.json_files import Damaged, write_json
from easybn.models import convolutions, resnet
from easybn.norm.branched import BranchedNorm
from easybn.norm.convert import strip
from easybn.recipes import EBN, Vanilla
from easybn.runs import run as run_module
from easybn.runs.run import BusyError, Run, train
from easybn.runs.target import branched_model
from easybn.train.fit import fit
from easybn.train.observers import Observer
from easybn.train.schedule import Training

from ..conftest import TINY

HOLD = """
import sys
from easybn.runs.run import Run
from pathlib import Path
with Run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_finished_run_is_what_fit_makes(finished_run):
    source = data.load("sample").part(100)
    kept, val = source.holdout(20, seed=1)
    torch.manual_seed(1)
    model = models.build("resnet_tiny", 10, 1, source.mean, source.std)
    fitted = fit(model, EBN(), kept, TINY.training, val=val, device="cpu")
    stored = models.load(finished_run.folder)
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(stored.state_dict()[name], value), name
    timing = ("images_per_second", "seconds")
    assert [{k: v for k, v in row.items() if k not in timing} for row in finished_run.metrics] == fitted.history
    assert finished_run.scores == []
    config = json.loads((finished_run.folder / "config.json").read_text())
    assert config["digest"] == TINY.digest
    sessions = json.loads((finished_run.folder / "environment.json").read_text())
    assert len(sessions) == 1
    assert torch.__version__.startswith(sessions[0]["packages"]["torch"])


def test_a_run_whose_branches_share_their_affine_parameters(tmp_path):
    shared = replace(TINY, share="affine", training=replace(TINY.training, epochs=1, ema=0.9))
    run = train(shared, tmp_path / "run", device="cpu")
    branched, _ = branched_model(run)
    norms = [module.norms for module in branched.modules() if isinstance(module, BranchedNorm)]
    assert norms
    for norm in norms:
        assert norm["easy"].weight is norm["main"].weight
        assert not torch.equal(norm["easy"].running_var, norm["main"].running_var)
    deployed = models.load(run.folder).state_dict()
    assert all(torch.equal(value, deployed[name]) for name, value in strip(branched).state_dict().items())
    with pytest.raises(ValueError, match="share: Vanilla has one branch, which shares nothing"):
        replace(shared, recipe=Vanilla())


def test_training_leaves_torchs_generator_alone(tmp_path):
    torch.manual_seed(8)
    state = torch.get_rng_state()
    train(replace(TINY, training=Training(epochs=1, batch_size=80)), tmp_path, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_finished_run_is_not_run_again(finished_run, no_training):
    path = finished_run.folder / "model.safetensors"
    before = path.stat().st_mtime_ns, (finished_run.folder / "environment.json").read_text()
    assert train(TINY, finished_run.folder).folder == finished_run.folder
    assert (path.stat().st_mtime_ns, (finished_run.folder / "environment.json").read_text()) == before


def test_another_experiments_folder_is_refused(finished_run, no_training):
    other = replace(TINY, data_folder="x", recipe=EBN(clean_weight=0.7), training=replace(TINY.training, lr=0.3))
    with pytest.raises(
        ValueError, match=r"holds another run \(recipe.clean_weight: 0.5 -> 0.7; training.lr: 0.05 -> 0"
    ):
        train(other, finished_run.folder)
    finished_run.claim(replace(TINY, data_folder="elsewhere"))


def test_a_mistake_does_not_take_the_folder(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'smaple'"):
        train(replace(TINY, data="smaple"), tmp_path)
    with pytest.raises(ValueError, match=r"does not take these model_options: .*'width'"):
        train(replace(TINY, model_options={"width": 3}), tmp_path)
    assert train(TINY, tmp_path, device="cpu").finished


def test_a_run_that_has_begun_is_kept(tmp_path):
    class Crash(Observer):
        def step(self, state):
            if state.step == 3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(TINY, tmp_path, observers=[Crash()], checkpoint_seconds=0.0)
    assert not Run(tmp_path).finished
    with pytest.raises(ValueError, match=r"holds another run \(recipe: EBN -> Vanilla\)"):
        train(replace(TINY, recipe=Vanilla()), tmp_path)


def test_two_processes_on_one_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=rf"another process is at work in .* \(process {other.pid} on .*, since 20"):
            train(TINY, tmp_path)
        assert not (tmp_path / "config.json").exists()
        other.stdin.write("\n")
        other.stdin.close()
        assert other.wait(60) == 0
    with Run(tmp_path).locked():
        pass


def test_the_test_split_is_never_looked_at(tmp_path, monkeypatch, finished_run):
    load = data.load

    def poisoned(*args, **kwargs):
        source = load(*args, **kwargs)
        test = data.Split(torch.full_like(source.test.images, 255), torch.zeros_like(source.test.labels))
        return replace(source, test=test)

    monkeypatch.setattr(data, "load", poisoned)
    run = train(TINY, tmp_path, device="cpu")
    ours, theirs = (models.load(each.folder).state_dict() for each in (run, finished_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_train_and_validation_images_are_disjoint(monkeypatch, tmp_path):
    seen = {}

    def spy(model, recipe, train, training, *, val, **_):
        seen.update(train=train, val=val)
        raise ZeroDivisionError

    monkeypatch.setattr(run_module, "fit", spy)
    with pytest.raises(ZeroDivisionError):
        train(TINY, tmp_path)
    ids = [{image.numpy().tobytes() for image in split.images} for split in seen.values()]
    assert [len(s) for s in seen.values()] == [80, 20]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {image.numpy().tobytes() for image in data.load("sample").part(100).train.images}
    with pytest.raises(ZeroDivisionError):
        train(replace(TINY, validation=0.0), tmp_path / "b")
    assert seen["val"] is None
    assert len(seen["train"]) == 100


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run: it has no config.json"):
        _ = Run(tmp_path).config
    for text in ("{", "{}", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            _ = Run(tmp_path).config
    assert Run(tmp_path).metrics == Run(tmp_path).scores == []


def test_rows_are_added_all_or_none(tmp_path):
    run = Run(tmp_path)
    rows = [{"attack": "clean", "n": n, "correct": 1} for n in (1, 2, 3)]
    run.add_scores(rows[:1])
    with pytest.raises(TypeError):
        run.add_scores([rows[1], {**rows[1], "notes": object()}])
    run.add_scores(rows[2:])
    assert run.scores == [rows[0], rows[2]]


def test_the_lock_is_a_file_lock(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(BusyError):
        with Run(tmp_path).locked():
            pass


class At(Observer):
    """Does something once, at a step."""

    def __init__(self, step, do):
        self.at, self.do = step, do

    def step(self, state):
        if state.step == self.at:
            self.do()


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_folder_removed_meanwhile_is_not_written_to(seconds, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Removed, match="run was removed, or is another process's now"):
        train(TINY, folder, observers=[At(3, lambda: shutil.rmtree(folder))], checkpoint_seconds=seconds, device="cpu")
    assert not folder.exists()


def test_a_folder_made_anew_meanwhile_stays_the_other_runs(tmp_path):
    folder, other = tmp_path / "run", replace(TINY, recipe=Vanilla())
    theirs = train(other, tmp_path / "theirs", device="cpu").folder

    def anew():
        shutil.rmtree(folder)
        shutil.copytree(theirs, folder)

    with pytest.raises(Removed):
        train(TINY, folder, observers=[At(3, anew)], device="cpu")
    run = Run(folder)
    run.check_complete()
    run.check(other)
    names = [path.name for path in theirs.iterdir()]
    assert all((folder / name).read_bytes() == (theirs / name).read_bytes() for name in names)
    assert not list(folder.glob(".*.easybn-part"))


def test_files_removed_meanwhile_are_there_in_the_end(finished_run, tmp_path):
    def remove():
        for path in tmp_path.glob("[!.]*"):  # rm -r run/*
            path.unlink()

    run = train(TINY, tmp_path, observers=[At(3, remove)], checkpoint_seconds=0.0, device="cpu")
    run.check_complete()
    run.check(TINY)
    assert len(run.metrics) == 2
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in finished_run.folder.iterdir()}

    def change():
        write_json(tmp_path / "b" / "config.json", {"digest": "x", "experiment": {}})

    with pytest.raises(Damaged, match=r"config\.json was changed during the training"):
        train(TINY, tmp_path / "b", observers=[At(3, change)], device="cpu")
    assert not Run(tmp_path / "b").finished


def test_a_model_beside_another_runs_config_is_not_evaluated(finished_run, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(finished_run.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {"digest": "0123456789ab", "experiment": config["experiment"]})
    with pytest.raises(Damaged, match=r"model\.safetensors is of another run than config\.json beside it"):
        models.load(folder)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 5000)])
def test_a_damaged_model_is_made_again_from_the_checkpoint(damage, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run.folder, folder)
    model = folder / "model.safetensors"
    whole = model.read_bytes()
    damage(model)
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        models.load(folder)
    with pytest.warns(UserWarning, match=r"put aside as model\.safetensors\.corrupt and made again from checkpoint"):
        train(TINY, folder, device="cpu")
    assert model.read_bytes() == whole
    damage(model)
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(Damaged, match=r"there is no checkpoint\.pt to make it again from"):
        train(TINY, folder, device="cpu")


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("config.json", flip, "config.json is damaged"),
        ("config.json", lambda path: path.write_bytes(b""), "config.json is damaged"),
        ("metrics.jsonl", lambda path: path.write_bytes(b""), r"lacks the rows of 2 epochs .* such as epoch 1"),
        ("metrics.jsonl", lambda path: os.truncate(path, 100), "lacks the rows of 2 epochs"),
        ("metrics.jsonl", flip, r"metrics\.jsonl, line \d is damaged"),
        ("environment.json", lambda path: os.truncate(path, 100), "environment.json is damaged"),
    ],
)  # fmt: skip
def test_a_finished_run_with_a_damaged_file_is_not_done(name, damage, told, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run.folder, folder)
    damage(folder / name)
    if name == "environment.json":
        with pytest.raises(Damaged, match=told):
            _ = Run(folder).sessions
        return
    with pytest.raises(Damaged, match=told):
        train(TINY, folder, device="cpu")


def test_a_damaged_checkpoint_is_gone_on_from_the_one_before(finished_run, tmp_path):
    class Crash(Observer):
        def step(self, state):
            if state.step == 3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(TINY, tmp_path, observers=[Crash()], checkpoint_seconds=0.0, device="cpu")
    flip(tmp_path / "checkpoint.pt")
    with pytest.warns(UserWarning, match=r"resuming from checkpoint\.previous\.pt, step 1"):
        run = train(TINY, tmp_path, device="cpu")
    ours, theirs = (models.load(each.folder).state_dict() for each in (run, finished_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "checkpoint.previous.pt").exists()


KILLED = """
import os, signal, sys
from easybn import files
from easybn.runs.run import train
from tests.conftest import TINY

def kill(handle):
    if any(name.startswith(f".{sys.argv[2]}.") for name in os.listdir(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = kill
train(TINY, sys.argv[1], checkpoint_seconds=0.0, device="cpu")
"""


@pytest.mark.parametrize("name", ["checkpoint.pt", pytest.param("model.safetensors", marks=pytest.mark.slow)])
def test_what_a_kill_left_half_written_is_removed_at_the_next_start(name, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-c", KILLED, str(folder), name]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = folder.glob(".*.easybn-part")
    mine = folder / f".notes.{'0' * 32}.easybn-part"
    mine.write_text("x")
    with Run(folder).locked():
        assert not left.exists()
    assert mine.exists()
    assert train(TINY, folder, device="cpu").finished


def test_a_run_resumed_on_another_processor_convolves_as_it_began(tmp_path, monkeypatch):
    """Begun where Winograd's algorithm pays from 16 channels on, resumed where it does not: the same bits."""
    monkeypatch.setattr(convolutions, "CHANNELS", 16)
    monkeypatch.setattr(resnet, "CHANNELS", 16)

    def processor(training):
        thresholds = convolutions.Thresholds(training, 10**6, 1)
        monkeypatch.setattr(convolutions, "_this_processor", lambda: thresholds)

    experiment = replace(TINY, training=Training(epochs=2, batch_size=80))
    processor(16)
    here = train(experiment, tmp_path / "here", device="cpu")
    crash = At(1, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(experiment, tmp_path / "moved", device="cpu", observers=[crash], checkpoint_seconds=0.0)
    processor(10**6)
    moved = train(experiment, tmp_path / "moved", device="cpu")
    there = train(experiment, tmp_path / "there", device="cpu")
    weights = [models.load(run.folder).state_dict() for run in (here, moved, there)]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())
    assert any(not torch.equal(weights[2][name], value) for name, value in weights[0].items())
    assert [session["winograd_channels"] for session in moved.sessions] == [16, 16]
    assert there.sessions[0]["winograd_channels"] == 10**6
