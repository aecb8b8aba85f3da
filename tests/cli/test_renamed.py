"""An option's old name is refused in one line that says the new one, wherever it is written; nothing runs."""

from pathlib import Path

import pytest

from easybn.cli import renamed
from easybn.cli.arguments import Parser
from easybn.cli.main import COMMANDS, _command

ENTRIES = [(command, old, new) for (command, old), new in renamed.RENAMED.items()]


@pytest.mark.parametrize(("command", "old", "new"), ENTRIES)
@pytest.mark.parametrize("words", ["--{} 3", "--{}=3"])
def test_every_entry_of_the_table(command, old, new, words, easybn):
    assert command in COMMANDS
    parser = Parser(prog=f"easybn {command}")
    _command(command)[0](parser)
    options = {option for action in parser._actions for option in action.option_strings}
    assert f"--{new}".partition(" ")[0] in options
    assert f"--{old}" not in options
    found = easybn(command, *words.format(old).split())
    line = f"easybn: error: --{old} is called --{new} now (easybn {command} --help)\n"
    assert (found.status, found.out, found.err) == (2, "", line)
    assert not list(Path().iterdir())


@pytest.fixture
def _older_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that no version had, for files whose keys were never renamed."""
    names = {("train", "rate"): "lr", ("evaluate", "number"): "points", ("train", "recipe.weights"): "recipe.weight"}
    monkeypatch.setattr(renamed, "RENAMED", names)


@pytest.mark.usefixtures("_older_names")
@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("grid:\n  rate: [0.1]\n", "study.yaml: runs, entry 1: rate is called lr now (easybn train --help)"),
        ("runs: [{rate: 0.1}]\n", "study.yaml: runs, entry 1: rate is called lr now (easybn train --help)"),
        (
            "runs: [{lr: 0.1}]\nevaluate: [{number: 3}]\n",
            "study.yaml: evaluate, entry 1: number is called points now (easybn evaluate --help)",
        ),
    ],
)
def test_a_study(content, line, easybn):
    Path("study.yaml").write_text(content)
    found = easybn("study", "study.yaml")
    assert (found.status, found.out, found.err) == (2, "", f"easybn: error: {line}\n")


@pytest.mark.usefixtures("_older_names")
def test_a_config_and_an_option_of_an_option(easybn):
    Path("a.yaml").write_text("rate: 0.1\n")
    found = easybn("train", "--config", "a.yaml", "--out", "run")
    assert (found.status, found.err) == (2, "easybn: error: a.yaml: rate is called lr now (easybn train --help)\n")
    found = easybn("train", "--recipe.weights=0.5", "--out", "run")
    assert found.status == 2
    assert found.err == "easybn: error: --recipe.weights is called --recipe.weight now (easybn train --help)\n"
    assert not Path("run").exists()
