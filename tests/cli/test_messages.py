"""Values that do not fit are told in a user's words, by what jsonargparse really says of them."""

import re

import pytest

from easybn.cli.arguments import Parser
from easybn.cli.messages import in_plain_words
from easybn.cli.train import configure_train


@pytest.fixture(scope="module")
def train():
    parser = Parser(prog="easybn train", allow_abbrev=False)
    configure_train(parser)
    return parser


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--epochs many", "--epochs: expected a whole number, got many"),
        ("--train_images few", "--train_images: expected a whole number or null, got few"),
        ("--clip_norm big", "--clip_norm: expected a number or null, got big"),
        ("--compile maybe", "--compile: expected true or false, got maybe"),
        ("--norms layer", "--norms: expected a list such as [a, b], got layer"),
        ("--model_options 3", "--model_options: expected names and values such as {name: value}, got 3"),
        ("--precision 33", "--precision: expected 32 or bf16 or fp16, got 33"),
        ("--share all", "--share: expected affine or null, got all"),
        ("--keep_epochs 1 b", "--keep_epochs, value 2: expected a whole number, got b"),
        ("--schedule Foo", "--schedule: there is no Foo: give Cosine, Piecewise or Constant, or my.py:MySchedule"),
        ("--schedule Cosine --schedule.warmup many", "--schedule.warmup: expected a number, got many"),
        ("--recipe EBM", "--recipe: there is no EBM (did you mean EBN?)"),
        ("--recipe Vanilla --recipe.target random", "--recipe.target: Vanilla has no such field"),
        ("--recipe EBN --recipe.atack.steps 3",
         "--recipe.atack.steps: EBN has no such field (did you mean attack.steps?)"),
        ("--recipe EBN --recipe.mode foo", "--recipe.mode: expected eval or train, got foo"),
        ("--recipe EBN --recipe.attack.steps many", "--recipe.attack.steps: expected a whole number, got many"),
        ("--recipe EBN --recipe.attack.ball L3", "--recipe.attack.ball: there is no L3: give Linf or L2"),
        ("--recipe EBN --recipe.attack.random_start maybe",
         "--recipe.attack.random_start: expected true or false or a number, got maybe"),
        ("--recipe EBN --recipe.attack.ball.eps x",
         "--recipe.attack.ball.eps: a radius must be a number or a fraction such as '8/255', got 'x'"),
        ("--epohcs 3", "unrecognized arguments: --epohcs 3 (did you mean epochs?)"),
    ],
)  # fmt: skip
def test_on_the_command_line(train, capsys, words, told):
    with pytest.raises(SystemExit) as ended:
        train.read(words.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"easybn train: error: {told} (see easybn train --help)\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs: many", "epochs: expected a whole number, got many"),
        ("recipe: {class_path: EBN, init_args: {mode: foo}}", "recipe.mode: expected eval or train, got foo"),
        ("epohcs: 3", "Option 'epohcs' is not accepted (did you mean epochs?)"),
    ],
)
def test_in_a_file_it_is_named(train, capsys, tmp_path, text, told):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit):
        train.read([f"--config={tmp_path / 'mine.yaml'}"])
    message = capsys.readouterr().err
    assert re.fullmatch(rf"easybn train: error: \S+/mine\.yaml: {re.escape(told)} \(see .*\)\n", message), message


@pytest.mark.parametrize(
    "message", ["lr must be at least 0", "Parser key \"x\": Expected a <class 'mine'>. Got value: 3"]
)
def test_what_it_does_not_know_stays_legible(message):
    assert in_plain_words(message, "--") == message.replace('Parser key "x"', "--x")
