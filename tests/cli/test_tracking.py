"""``--track`` with the real packages, offline: what they have is read back and compared with the run's own files.

Each is stopped and resumed on the way, and gets the scores of an evaluation. TensorBoard is among the packages of every
test; the others are extras.
"""

import json
import re
import sqlite3
import struct
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest

from easybn.json_files import read_rows
from easybn.runs.run import Run
from easybn.runs.tracked import score_name
from easybn.train.tracking import curves, flat

TRAIN = ("train", "--recipe", "EBN", "--model", "resnet_tiny", "--train_images", "100", "--batch_size", "30",
         "--epochs", "3", "--checkpoint_seconds", "0", "--out", "ebn", "--track")  # fmt: skip


@dataclass
class Found:
    """What a tracker has of a run."""

    config: dict[str, str]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    images: dict[str, list[int]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    def add(self, name, step, value):
        if name.startswith("scores/"):
            self.scores[name] = value
        else:
            self.curves.setdefault(name, []).append((step, value))


def tensorboard(folder: Path) -> Found:
    EventAccumulator = import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    HParamsPluginData = import_module("tensorboard.plugins.hparams.plugin_data_pb2").HParamsPluginData
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    data = HParamsPluginData.FromString(events.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
    values = data.session_start_info.hparams
    found = Found({name: str(getattr(values[name], values[name].WhichOneof("kind"))) for name in values})
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.add(name, event.step, event.value)
    for name in events.Tags()["images"]:
        found.images[name] = [event.step for event in events.Images(name)]
    return found


def wandb(folder: Path) -> Found:
    Record = import_module("wandb.proto.wandb_internal_pb2").Record

    def records(path):  # blocks of LevelDB's log format, after seven bytes of wandb's
        data, position, parts = path.read_bytes(), 7, []
        while position + 7 <= len(data):
            if (left := 2**15 - position % 2**15) < 7:
                position += left
                continue
            _, size, kind = struct.unpack_from("<IHB", data, position)
            parts.append(data[position + 7 : position + 7 + size])
            position += 7 + size
            if kind in (1, 4):  # whole, or a last part
                yield Record.FromString(b"".join(parts))
                parts = []

    def named(items):
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    found, ids = Found({}), set()
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") == "run":
                ids.add((record.run.project, record.run.run_id))
                given = named(record.run.config.update)
                found.config |= {name: str(value) for name, value in given.items() if name != "_wandb"}
            for name, value in named(record.history.item).items():
                step = record.history.step.num
                if name.startswith("images/"):
                    if name.endswith("/path"):
                        assert list((path.parent / "files").glob(value))
                        found.images.setdefault(name.removesuffix("/path"), []).append(step)
                elif not name.startswith("_"):
                    found.add(name, step, value)
            for name, value in named(record.summary.update).items():
                if name.startswith("scores/"):
                    found.scores[name] = value
    assert len(ids) == 1  # folders that `wandb sync` puts together
    assert ids == {("easybn", json.loads((folder / "wandb.json").read_text())["id"])}
    return found


def trackio(folder: Path) -> Found:
    import trackio

    name = json.loads((folder / "trackio.json").read_text())["name"]
    with sqlite3.connect(trackio.TRACKIO_DIR / "easybn.db") as data:
        runs = {row[0] for row in data.execute("SELECT DISTINCT run_name FROM metrics")}
        rows = data.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (name,)).fetchall()
        (config,) = data.execute("SELECT config FROM configs WHERE run_name = ?", (name,)).fetchall()
    assert runs == {name}
    found = Found({name: str(value) for name, value in json.loads(config[0]).items() if not name.startswith("_")})
    for step, values in rows:
        for key, value in json.loads(values).items():
            if key.startswith("images/"):
                assert (trackio.TRACKIO_DIR / "media" / value["file_path"]).exists()
                found.images.setdefault(key, []).append(step)
            else:
                found.add(key, step, value)
    return found


def mlflow(folder: Path) -> Found:
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'easybn'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "ebn"
    found = Found(run.data.params)
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.add(name, metric.step, metric.value)
    for artifact in client.list_artifacts(run.info.run_id, "images"):
        if artifact.path.endswith(".png"):
            name, step = re.match(r"images\W(\w+)\Wstep\W(\d+)", Path(artifact.path).name).groups()
            found.images.setdefault(f"images/{name}", []).append(int(step))
    found.images = {name: sorted(steps) for name, steps in found.images.items()}
    return found


def approx(value):
    return pytest.approx(value, rel=1e-6)  # TensorBoard keeps float32


@pytest.mark.filterwarnings("ignore", "always:the tracker")  # theirs, not ours
@pytest.mark.parametrize(
    "read",
    [tensorboard, *(pytest.param(each, marks=pytest.mark.slow) for each in (wandb, trackio, mlflow))],
    ids=lambda read: read.__name__,
)
def test_the_tracker_has_what_the_run_has(read, easybn, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    name = read.__name__
    pytest.importorskip(name)

    def stop(self, state, row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("easybn.cli.train.ProgressBar.epoch", stop)
        assert easybn(*TRAIN, name).status == 130
    done = easybn(*TRAIN, name)
    assert (done.status, "the tracker" in done.err) == (0, False), done.err
    run, folder = Run(tmp_path / "ebn"), tmp_path / "ebn/tracking"
    rows = read_rows(run.folder / "metrics.jsonl", {})
    steps = [row["step"] for row in rows]
    expected: dict[str, list] = {}
    for row in rows:
        for curve, value in curves(row).items():
            expected.setdefault(curve, []).append((row["step"], approx(value)))
    found = read(folder)
    assert {"train/easy/loss", "val/main/accuracy", "lr"} < set(expected)
    assert found.curves == expected
    assert found.images == {"images/main": [steps[0], steps[-1]], "images/easy": [steps[0], steps[-1]]}
    stored = flat(run.config)
    assert {name: float(found.config[name]) for name in ("recipe/attack/ball/eps", "training/lr")} == {
        name: pytest.approx(stored[name]) for name in ("recipe/attack/ball/eps", "training/lr")
    }
    assert found.config["recipe/class"] == "EBN"
    assert set(stored) < set(found.config)
    assert not found.scores

    evaluated = easybn("evaluate", "ebn", "--points", "5", "--steps", "1", "--eps", "1/255")
    assert f"ebn: scores are in {name} too" in evaluated.out, evaluated.err
    assert easybn("evaluate", "ebn", "--points", "5", "--steps", "1", "--eps", "1/255").status == 0  # sends none twice
    found = read(folder)
    scores = {score_name(row): row["accuracy"] for row in run.scores}
    assert {"scores/main/clean", "scores/main/pgd-strong/l2-0.003922"} < set(scores)
    assert found.scores == {name: approx(value) for name, value in scores.items()}
    assert found.curves == expected


def test_a_tracker_that_is_not_there_is_a_mistake_and_leaves_no_folder(easybn, tmp_path, monkeypatch):
    monkeypatch.setattr("easybn.train.trackers.find_spec", lambda name: None)
    done = easybn(*TRAIN, "wandb")
    assert (done.status, done.out) == (2, "")
    assert done.err == "easybn: error: the tracker wandb is not installed: pip install 'easybn[wandb]'\n"
    assert not (tmp_path / "ebn").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_without_a_key_is_a_mistake_before_anything_begins(easybn, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads the environment once
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    done = easybn(*TRAIN, "wandb")
    wandb.teardown()
    assert done.status == 2
    assert "easybn: error: wandb: UsageError: No API key configured" in done.err
    assert "(WANDB_MODE=offline does without)" in done.err
    assert not (tmp_path / "ebn").exists()


@pytest.mark.filterwarnings("always:the tracker")
def test_a_tracker_that_was_out_of_reach_gets_everything_later(easybn, tmp_path, monkeypatch):
    def refused(*given):
        raise ConnectionError("refused")

    quick = ("train", "--recipe", "Vanilla", "--model", "resnet_tiny", "--train_images", "60", "--epochs", "1")
    with monkeypatch.context() as patched:
        patched.setattr("easybn.train.trackers.TensorBoard.__init__", refused)
        done = easybn(*quick, "--out", "ebn", "--track", "tensorboard")
    assert done.status == 0
    assert done.err.count("easybn: note: the tracker tensorboard failed (ConnectionError: refused)") == 1
    evaluate = ("evaluate", "ebn", "--points", "5", "--steps", "1", "--eps", "1/255")
    with monkeypatch.context() as patched:
        patched.setattr("easybn.train.trackers.find_spec", lambda name: None)
        done = easybn(*evaluate)
    assert done.status == 0
    assert "note: ebn: the tracker tensorboard lacks scores: the tracker tensorboard is not installed" in done.out
    assert "ebn: scores are in tensorboard too" in easybn(*evaluate).out
    run, found = Run(tmp_path / "ebn"), tensorboard(tmp_path / "ebn/tracking")
    (row,) = run.metrics
    assert found.curves == {name: [(row["step"], approx(value))] for name, value in curves(row).items()}
    assert found.scores == {score_name(each): approx(each["accuracy"]) for each in run.scores}
    assert found.config["recipe/class"] == "Vanilla"
