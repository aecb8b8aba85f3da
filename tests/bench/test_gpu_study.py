"""Stage ``study`` of bench/gpu, in small on the CPU, and the way of its rows to results/gpu."""

import io
import json
import tarfile

import pytest

from easybn.runs.run import Run

from .stages import ROOT, run

RECIPES = ("vanilla", "advprop", "ebn")


@pytest.fixture(autouse=True)
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))


def archive(path, **files):
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


@pytest.mark.slow
def test_the_whole_stage_and_its_rows_as_runs(tmp_path):
    from gpu.collecting import main

    rows, printed = run("study", tmp_path / "out")
    assert [row["item"] for row in rows if row["value"] is None] == []
    assert rows[-1]["item"] == "sample, seed 0: runs measured whole"
    assert rows[-1]["value"] == 3
    assert rows[-1]["item"] in printed
    back = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert back == ["sample-0.tar.gz", "study.jsonl"]
    assert main([str(tmp_path / "out"), "--results", str(tmp_path / "gpu")]) == 0
    for recipe in RECIPES:
        made = Run(tmp_path / "gpu" / f"sample-{recipe}-0")
        assert made.config["model"] == "resnet_tiny"
        assert made.metrics[-1]["epoch"] == made.config["training"]["epochs"] == 1
        assert made.sessions[-1]["commit"]
        scores = {(s["attack"], s["protocol"], s["eps"]): 100 * s["accuracy"] for s in made.scores}
        assert len(scores) == 8  # clean, one attack, three radii of PGD under two protocols
        assert [row["value"] for row in rows if row.get("run") == made.folder.name][1:] == list(scores.values())
    before = {path: path.read_bytes() for path in (tmp_path / "gpu").rglob("*.json*")}
    assert main([str(tmp_path / "out"), "--results", str(tmp_path / "gpu")]) == 0  # a second time adds nothing
    assert {path: path.read_bytes() for path in (tmp_path / "gpu").rglob("*.json*")} == before


def test_the_next_is_the_first_of_which_a_run_is_missing(tmp_path):
    from gpu.study import DATA, SEEDS, committed_epochs, following

    order = []
    while (found := following(tmp_path)) is not None:
        order.append(found)
        data, seed = found
        for recipe in RECIPES:
            assert following(tmp_path) == found  # until the last of them is there
            folder = tmp_path / f"{data}-{recipe}-{seed}"
            folder.mkdir()
            (folder / "scores.jsonl").touch()
            (folder / "config.json").write_text(json.dumps({"experiment": {"training": {"epochs": 30 + seed}}}))
    assert order == [(data, seed) for seed in SEEDS for data in DATA]
    assert set(committed_epochs(tmp_path, "cifar10-jpeg")) == {30, 31, 32}
    assert committed_epochs(tmp_path, "sample") == []


def test_the_studies_are_ones_that_easybn_reads(tmp_path):
    from gpu.study import DATA, EVALUATE, write_study

    from easybn.cli import study_file

    for data, path in DATA.items():
        write_study(tmp_path / "study.yaml", data, 2, 31, small=False)
        study = study_file.read(tmp_path / "study.yaml")
        assert [run.name for run in study.runs] == [f"{data}-{recipe}-2" for recipe in RECIPES]
        for run_ in study.runs:
            experiment = run_.experiment
            assert (experiment.data, experiment.model) == (path, "resnet18")
            assert (experiment.training.epochs, experiment.training.precision) == (31, "bf16")
            assert len(run_.evaluations) == len(EVALUATE) + 1


@pytest.mark.parametrize(
    "name", ["../gpu-1/scores.jsonl", "run-1/checkpoint.pt", "run-1/a/scores.jsonl", "/scores.jsonl"]
)
def test_an_archive_with_anything_but_rows_is_refused(name, tmp_path, capsys):
    from gpu.collecting import main

    (tmp_path / "out").mkdir()
    archive(tmp_path / "out" / "a.tar.gz", **{"run-1/scores.jsonl": b"{}\n", name: b"{}\n"})
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "out"), "--results", str(tmp_path / "gpu")])
    assert stopped.value.code == 1
    assert "is none of a run's rows" in capsys.readouterr().err
    assert not (tmp_path / "gpu").exists()


def test_rows_are_added_and_another_run_of_the_name_is_refused(tmp_path, capsys):
    from gpu.collecting import collect, main

    out, gpu = tmp_path / "out", tmp_path / "gpu"
    out.mkdir()
    archive(out / "a.tar.gz", **{"run-1/scores.jsonl": b'{"n": 1}\n'})
    (out / "speed.jsonl").write_text('{"item": 1}\n{"item": 2}\n{"item": 3')  # cut off
    collect(out, gpu)
    assert (gpu / "speed.jsonl").read_text() == '{"item": 1}\n{"item": 2}\n'
    (out / "speed.jsonl").write_text('{"item": 2}\n{"item": 3}\n')
    collect(out, gpu)
    assert (gpu / "speed.jsonl").read_text() == '{"item": 1}\n{"item": 2}\n{"item": 3}\n'
    archive(out / "a.tar.gz", **{"run-1/scores.jsonl": b'{"n": 2}\n'})
    with pytest.raises(SystemExit):
        main([str(out), "--results", str(gpu)])
    assert "is there already, and another one" in capsys.readouterr().err
    assert (gpu / "run-1" / "scores.jsonl").read_bytes() == b'{"n": 1}\n'
    with pytest.raises(ValueError, match="no rows of a stage"):
        collect(tmp_path, gpu)
