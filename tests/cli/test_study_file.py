"""A study's file becomes runs and evaluations as the commands would have them; mistakes are told with their place."""

import re
from pathlib import Path

import pytest

from easybn.cli import evaluate, train
from easybn.cli.arguments import Parser
from easybn.cli.study_file import read
from easybn.cli.study_status import find_study, packaged_studies
from easybn.evaluation.config import EvaluateConfig
from easybn.evaluation.corruptions import CorruptionConfig
from easybn.runs.config import Experiment
from easybn.study.plan import CLEAN, Study


def study(text: str) -> Study:
    Path("s.yaml").write_text(text)
    return read(Path("s.yaml"))


def experiment(*words: str) -> Experiment:
    """As ``easybn train`` would have it."""
    parser = Parser(prog="easybn train", allow_abbrev=False)
    train.configure_train(parser)
    return train.experiment_of(parser.read(list(words)))


def test_a_run_is_what_train_makes_of_the_same_words():
    (found,) = study(
        "runs: [{config: fashion-mnist-ebn, recipe.attack.ball.eps: 8/255, lr: 5e-2, seed: 3, nesterov: true, "
        "norms: [batch, layer], model_options: {widths: [4, 8, 8]}, schedule: Constant}]"
    ).runs
    words = ["--recipe.attack.ball.eps", "8/255", "--lr", "0.05", "--seed", "3", "--nesterov", "true"]
    words += ["--norms", "[batch, layer]", "--model_options", '{"widths": [4, 8, 8]}', "--schedule", "Constant"]
    assert found.experiment == experiment("--config", "fashion-mnist-ebn", *words)
    assert found.evaluations == (CLEAN,)


def test_a_grid_is_the_product_seed_by_seed():
    found = study(
        "name: mine\n"
        "runs: [{config: demo}, {config: demo, name: half, lr: 0.05}]\n"
        "grid: {recipe: [Vanilla, EBN], batch_size: [32, 64], seed: [0, 7]}"
    )
    assert found.name == "mine"
    expected = {
        f"{name}-recipe-{recipe}-batch_size-{size}-{seed}": experiment(
            "--config", "demo", *words, "--recipe", recipe, "--batch_size", str(size), "--seed", str(seed)
        )
        for seed in (0, 7)
        for name, words in (("demo", []), ("half", ["--lr", "0.05"]))
        for recipe in ("Vanilla", "EBN")
        for size in (32, 64)
    }
    assert [(run.name, run.experiment) for run in found.runs] == list(expected.items())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("runs: [{config: fashion-mnist-vanilla}]", ["fashion-mnist-vanilla-0"]),
        ("runs: [{config: demo, lr: 0.05, seed: 2}]", ["demo-lr-0.05-2"]),
        ("runs: [{config: demo, recipe.attack.ball.eps: 8/255}]", ["demo-eps-8-255-0"]),
        ("runs: [{data: sample, recipe: EBN, epochs: 1}]", ["sample-resnet_tiny-ebn-epochs-1-0"]),
        ("grid: {data: [sample, cifar10]}", ["sample-resnet_tiny-vanilla-0", "cifar10-resnet_tiny-vanilla-0"]),
        ("grid: {config: [demo, fashion-mnist-ebn], seed: [1]}", ["demo-1", "fashion-mnist-ebn-1"]),
        ("runs: [{config: beside.yaml}]", ["beside-0"]),
    ],
)
def test_names(text, names):
    Path("beside.yaml").write_text("epochs: 3\n")
    assert [run.name for run in study(text).runs] == names


def test_a_config_beside_the_file_is_found(tmp_path, monkeypatch):
    Path("there").mkdir()
    Path("there/mine.yaml").write_text("epochs: 3\n")
    Path("there/s.yaml").write_text("runs: [{config: mine.yaml}]")
    assert read(Path("there/s.yaml")).runs[0].experiment.training.epochs == 3


def test_evaluations_are_what_evaluate_makes_of_the_same_words():
    found = study(
        "runs: [{config: demo}]\nevaluate:\n"
        "  - {points: 20, batch_size: 10, eps: [0.1, 8/255], protocols: strong}\n"
        "  - {attacks: [clean]}\n"
        "  - {attacks: autoattack, norm: linf, eps: 8/255, points: 20, keep_images: true, no_diagnosis: true}\n"
        "  - {attacks: [apgd-ce], branch: easy}\n"
        "  - {attacks: fast, norm: l2, audit_width: 2%}\n"
    )
    parser = Parser(prog="easybn evaluate", allow_abbrev=False)
    evaluate.configure(parser)
    words = "--attacks autoattack --norm linf --eps 8/255 --points 20 --keep_images --no_diagnosis"
    assert found.runs[0].evaluations == (
        CLEAN,
        EvaluateConfig.of_run(points=20, batch_size=10, eps=(0.1, 8 / 255), protocols=("strong",)),
        evaluate.config_of(parser.read(words.split())),
        EvaluateConfig.of_run(["apgd-ce"], norm="linf", eps=(8 / 255,), branch="easy"),
        EvaluateConfig.of_run(["fast"], norm="l2", audit_width=0.02),
    )
    digests = [config.digest for config in found.runs[0].evaluations]
    assert len(set(digests)) == 5
    assert CLEAN.description == {"class": "Measurement", "protocols": []}  # defaults are not part of it


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "s.yaml: a study has name, runs, grid, evaluate"),
        ("runs: [", "s.yaml: "),
        ("rnus: []", "unknown 'rnus' (did you mean runs?)"),
        ("runs: []", "the study s has no runs"),
        ("runs: [demo]", "runs: a list of entries"),
        ("grid: {seed: 3}", "grid: a list of values for each field"),
        ("runs: [{config: demo}, {config: dmeo}]", "runs, entry 2: --config dmeo: no such file"),
        ("runs: [{}, {name: mine, lrr: 1}]", "runs, entry 2 (mine): unknown field 'lrr' (did you mean lr?)"),
        ("runs: [{}, {lr: much}]", "runs, entry 2: lr: expected a number, got much"),
        ("runs: [{}, {lr: -1}]", "runs, entry 2: lr must be at least 0"),
        ("runs: [{recipe: EBM}]", "runs, entry 1: recipe: there is no EBM"),
        ("runs: [{recipe: EBN, recipe.atack.steps: 2}]", "atack"),
        ("runs: [{recipe: EBN, recipe.attack.ball.eps: 8/0}]", "runs, entry 1: "),
        ("runs: [{seed: 1.5}]", "runs, entry 1: seed must be a whole number, got 1.5"),
        ("runs: [{seed: 1}]\ngrid: {seed: [1]}", "runs, entry 1: seed is in the grid too"),
        ("runs: [{name: a/b}]", "runs, entry 1 (a/b): the name 'a/b-0' must do as a folder's"),
        ("runs: [{name: a}, {name: a, lr: 0.5}]", "2 runs of the study s are called a-0"),
        ("name: ../x\nruns: [{}]", "the name '../x' must do as a folder's"),
        ("runs: [{}]\nevaluate: {}", "evaluate: a list of entries"),
        ("runs: [{}]\nevaluate: [{protocol: both}]", "evaluate, entry 1: unrecognized arguments: --protocol=both (did"),
        ("runs: [{}]\nevaluate: [{}, {eps: -1}]", "evaluate, entry 2: eps, value 1: eps must be"),
        ("runs: [{}]\nevaluate: [{}, {attacks: [apgd]}]", "evaluate, entry 2: unknown attack 'apgd'"),
        ("runs: [{}]\nevaluate: [{shard: 0/2}]", "evaluate, entry 1: shard is not for a study"),
        ("runs: [{}]\nevaluate: [{budget: 10m}]", "evaluate, entry 1: --budget is for attacks with stored verdicts"),
        ("runs: [{}]\nevaluate: [{audit: 5}]", "evaluate, entry 1: audit is about the preset fast"),
        ("runs: [{}]\nevaluate: [{}, {}]", "evaluate, entry 2: is there twice"),
        ("runs: [{}]\nevaluate: [{attacks: clean, points: 5}]", "clean accuracy is measured on all test images"),
    ],
)
def test_mistakes_are_told_with_their_place(text, told):
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        study(text)
    assert "\n" not in str(caught.value) or text == "runs: ["


def test_find():
    assert find_study("cpu") == packaged_studies()["cpu"]
    with pytest.raises(ValueError, match=r"no study of the package \(did you mean paper"):
        find_study("papr")


COUNTS = {"cheap": (5, 3), "cpu": (11, 3), "paper": (12, 3), "clean-tier": (3, 30)}


@pytest.mark.parametrize("name", packaged_studies())
def test_every_study_of_the_package(name):
    found, (entries, seeds) = read(find_study(name)), COUNTS[name]
    assert found.name == name
    assert len(found.runs) == entries * seeds
    assert len({run.experiment.digest for run in found.runs}) == entries * seeds
    assert {run.experiment.training.seed for run in found.runs} == set(range(seeds))
    assert all(run.experiment.data_folder is None and not Path(run.experiment.data).is_absolute() for run in found.runs)


def test_the_paper_study_is_the_papers_grid():
    found = read(find_study("paper")).runs
    grid = {(e.data, e.model, type(e.recipe).__name__, e.training.seed) for e in (run.experiment for run in found)}
    assert grid == {
        (data, model, recipe, seed)
        for data in ("fashion-mnist", "cifar10")
        for model in ("resnet18", "resnet50")
        for recipe in ("Vanilla", "AdvProp", "EBN")
        for seed in (0, 1, 2)
    }
    assert {run.experiment.training.epochs for run in found} == {1000}


def test_the_cpu_study_has_the_radii_that_its_names_say():
    for run in read(find_study("cpu")).runs:
        recipe = run.experiment.recipe
        balls = [part.ball for part in vars(recipe).values() if hasattr(part, "ball")] + [getattr(recipe, "ball", None)]
        radii = {round(255 * float(ball.eps), 6) for ball in balls if ball is not None}
        last = run.name.rpartition("-")[0].rpartition("-")[2]
        if last in ("1", "8"):
            assert radii == {float(last)}


def test_corruptions_are_an_evaluation():
    (found,) = study(
        "runs: [{config: demo}]\n"
        "evaluate: [{corruptions: true, corruptions_source: generated, points: 200}, {corruptions: true}]"
    ).runs
    assert found.evaluations == (CLEAN, CorruptionConfig("generated", points=200), CorruptionConfig())
    assert all(
        run.evaluations[-1] == CorruptionConfig("generated", points=1000) for run in read(find_study("cpu")).runs
    )
    for entry, said in (
        ("{corruptions: true, norm: l2}", "--norm is for attacks and does not go with --corruptions"),
        ("{corruptions_source: generated}", "--corruptions_source goes with --corruptions"),
        ("{corruptions: true, corruptions_folder: x}", "corruptions_folder is not for a study"),
        ("{corruptions: true}, {corruptions: true}", "evaluate, entry 2: is there twice"),
    ):
        with pytest.raises(ValueError, match=said):
            study(f"runs: [{{config: demo}}]\nevaluate: [{entry}]")
