"""What is read of a folder of runs, and what is said of damaged ones."""

import json

import numpy as np
import pytest

from easybn.cli.table import find
from easybn.evaluation.verdicts import pack_bits, points_digest, unpack_bits
from easybn.paper.columns import STRONG
from easybn.runs.verdicts import store_verdicts
from easybn.tables.aggregate import point_verdicts
from easybn.tables.rows import CLEAN, read

from ..report.made_up import N, clean_correct, run, study

APPEARANCE = '{"experiment": {"data": "x", "model": "m", "recipe": {"class": "my.Own"}}, "appearance": %s}'
HIDDEN = {"perturbation": "easy", "layer": "a", "depth": 1, "relative_distance": 0.1}


def test_runs_and_stacked_experiments_are_found_by_name(tmp_path):
    study(tmp_path / "one", ("vanilla",), 2)
    run(tmp_path / "vanilla", "ebn", 0)
    first = tmp_path / "one" / "stacked-fashion-mnist" / "first" / "seed-0"  # the first networks are no runs of ours
    run(first, "vanilla", 0)
    (tmp_path / ".hidden").mkdir()
    found = read(tmp_path)
    assert [each.name for each in found.runs] == ["one/vanilla-0", "one/vanilla-1", "vanilla"]
    assert [each.name for each in found.stacked] == ["one/stacked-fashion-mnist"]
    assert [each.name for each in read(tmp_path / "vanilla").runs] == ["vanilla"]
    assert found.runs[1].seed == 1
    assert found.runs[2].method == "EBN"


def test_only_the_deployed_branch(tmp_path):
    run(tmp_path / "r", "ebn", 0)
    for name, row in (("scores", {"attack": "clean", "n": 1, "correct": 0}), ("hidden", HIDDEN)):
        with (tmp_path / "r" / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps({**row, "branch": "easy"}) + "\n")
    (found,) = read(tmp_path).runs
    assert all(row["branch"] == "main" for row in [*found.scores, *found.hidden])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", '{"experiment": {"data": "x"}}', "config.json is damaged: no model"),
        (
            "config.json",
            '{"experiment": {"data": "x", "model": "m", "recipe": {}}}',
            "recipe must be an object with its class",
        ),
        ("config.json", "[]", "config.json is damaged"),
        ("scores.jsonl", '{"attack": "clean"\n', "scores.jsonl, line 1 is damaged"),
        ("metrics.jsonl", '{"epoch": 1}\n3\n', "metrics.jsonl, line 2 is damaged: no row"),
        ("scores.jsonl", '{"attack": "clean", "n": 3}\n', "scores.jsonl, line 1 is damaged: no correct"),
        ("summary.json", "[]", "summary.json is damaged"),
        ("scores.jsonl", '{"attack": "clean", "n": 0, "correct": 0}\n', "n must be a whole number from 1 on, got 0"),
        ("scores.jsonl", '{"attack": "clean", "n": "3", "correct": 0}\n', 'n must be a whole number.*got "3"'),
        ("scores.jsonl", '{"attack": "clean", "n": true, "correct": 0}\n', "n must be a whole number"),
        ("scores.jsonl", '{"attack": "clean", "n": 3, "correct": 4}\n', "line 1 is damaged: 4 correct of 3"),
        ("scores.jsonl", '{"attack": 7, "n": 3, "correct": 2}\n', "attack must be a text"),
        ("scores.jsonl", '{"attack": "pgd", "n": 3, "correct": 2, "eps": "8/255"}\n', "eps must be a positive number"),
        ("scores.jsonl", '{"attack": "pgd", "n": 3, "correct": 2, "eps": NaN}\n', "eps must be a positive number"),
        ("scores.jsonl", '{"attack": "pgd", "n": 3, "correct": 2, "broke": {"fab": -1}}\n', "broke must be"),
        ("scores.jsonl", "[" * 100_000 + "\n", "scores.jsonl, line 1 is damaged"),
        ("metrics.jsonl", '{"epoch": "x"}\n', "metrics.jsonl, line 1 is damaged: epoch must be"),
        ("metrics.jsonl", '{"epoch": 1, "val": {"main": 3}}\n', "val must be numbers by branch"),
        ("summary.json", '{"findings": [3]}', "summary.json is damaged: findings must be a list of findings"),
        ("summary.json", '{"confidence": {"right": [1], "wrong": []}}', "confidence must be counts"),
        ("summary.json", '{"gallery": {"how": "x", "size": [1]}}', "gallery must be a gallery"),
        ("evaluated.json", '[{"digest": "x"}]', "evaluated.json is damaged: no findings"),
        ("environment.json", '[{"packages": 3}]', "environment.json is damaged: packages must be an object"),
        ("config.json", '{"experiment": {"data": "x", "model": "m", "recipe": {"class": 3}}}', "recipe must be"),
        ("environment.json", "{}", "environment.json is damaged: it does not hold a list"),
        ("config.json", APPEARANCE % '{"colour": ["red", "</style>"]}', "colour must be two colours such as #0069a8"),
        ("config.json", APPEARANCE % '{"order": "x"}', "order must be a whole number"),
        ("config.json", APPEARANCE % "3", "appearance must be an object"),
    ],
)
def test_damage_is_told_with_the_files_name(tmp_path, name, text, told):
    run(tmp_path / "r", "ebn", 0)
    (tmp_path / "r" / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        read(tmp_path)


def test_no_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run in .*: a run's folder has a config\.json"):
        read(tmp_path)


def test_a_line_that_a_kill_cut_off_is_no_row(tmp_path):
    run(tmp_path / "r", "ebn", 0)
    path = tmp_path / "r" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 7')
    assert len(read(tmp_path).runs[0].metrics) == 6


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 200, 1001])
def test_bits_come_back(n):
    right = np.random.default_rng(n).random(n) < 0.3
    assert np.array_equal(unpack_bits(pack_bits(right), n), right)
    assert len(pack_bits(right)) <= n / 6 + 4


def test_bits_of_another_number_of_points_and_no_bits_at_all():
    with pytest.raises(ValueError, match="25 bytes for 100 points"):
        unpack_bits(pack_bits([True] * 200), 100)
    with pytest.raises(ValueError, match="no packed points"):
        unpack_bits("?!", 3)


def test_points_are_known_again_in_any_order():
    assert points_digest([3, 1, 2]) == points_digest(range(1, 4))
    assert points_digest([1, 2]) != points_digest([1, 2, 3])


def test_verdicts_of_scores_and_of_verdicts_jsonl(tmp_path):
    run(tmp_path / "r", "ebn", 1)
    (found,) = read(tmp_path).runs
    assert int(point_verdicts(found, CLEAN).right.sum()) == clean_correct("ebn", 1)
    assert point_verdicts(found, STRONG[0]) is None
    row = {"attack": "pgd", "protocol": "strong", "norm": "l2", "eps": 0.1, "n": 3, "correct": 2}
    row |= {"points": points_digest([5, 6, 9]), "right": pack_bits([True, False, True])}
    with (tmp_path / "r" / "scores.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    (found,) = read(tmp_path).runs
    verdicts = point_verdicts(found, STRONG[0])
    assert verdicts.right.tolist() == [True, False, True]
    assert verdicts.points == points_digest([9, 6, 5])


def test_damaged_verdicts_are_told(tmp_path):
    run(tmp_path / "r", "ebn", 1)
    row = {"attack": "clean", "n": N, "points": "x", "right": "?"}
    (tmp_path / "r" / "verdicts.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="verdicts of Basic"):
        point_verdicts(read(tmp_path).runs[0], CLEAN)


def test_a_run_without_stores_has_none(tmp_path):
    assert list(store_verdicts(tmp_path)) == []


def test_a_config_of_another_program_below_is_no_run_and_named_itself_it_is_refused(tmp_path):
    """As a network of transformers has one, saved beside the runs."""
    run(tmp_path / "runs" / "vanilla-0", "vanilla", 0)
    other = tmp_path / "runs" / "hf_trainer"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}')
    assert [each.name for each in read(tmp_path / "runs").runs] == ["vanilla-0"]
    assert [each.folder.name for each in find([str(tmp_path / "runs")])] == ["vanilla-0"]
    with pytest.raises(ValueError, match="does not describe an experiment"):
        read(other)
    (other / "config.json").write_text('{"architectures": [')  # cut off: perhaps of a run
    with pytest.raises(ValueError, match="hf_trainer"):
        read(tmp_path / "runs")
