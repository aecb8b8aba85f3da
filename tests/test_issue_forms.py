"""The forms for issues are of GitHub's form schema, and ask for what ``easybn doctor --report`` prints."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from easybn.cli import doctor
from easybn.cli.arguments import Parser

FOLDER = Path(__file__).parent.parent / ".github" / "ISSUE_TEMPLATE"
FORMS = sorted(path for path in FOLDER.glob("*.yml") if path.stem != "config")
# https://docs.github.com/communities/using-templates-to-encourage-useful-issues-and-pull-requests
KINDS = {
    "markdown": {"value"},
    "textarea": {"label", "description", "placeholder", "value", "render"},
    "input": {"label", "description", "placeholder", "value"},
    "dropdown": {"label", "description", "options", "multiple", "default"},
    "checkboxes": {"label", "description", "options"},
}
TOP = {"name", "description", "body", "title", "labels", "assignees", "projects", "type"}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.mark.skipif(not FORMS, reason="a source distribution has no .github")
def test_there_is_a_form_for_each_kind_of_issue():
    assert {path.stem for path in FORMS} == {"bug", "wrong-number", "feature"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_what_github_takes(path):
    form = read(path)
    assert {"name", "description", "body"} <= set(form) <= TOP
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    labels = [part["attributes"]["label"] for part in form["body"] if part["type"] != "markdown"]
    assert len(labels) == len(set(labels))
    for part in form["body"]:
        assert set(part) <= {"type", "id", "attributes", "validations"}
        assert set(part["attributes"]) <= KINDS[part["type"]]
        assert set(part.get("validations", {})) <= {"required"}
        if part["type"] == "dropdown":
            options = part["attributes"]["options"]
            assert all(isinstance(option, str) for option in options)
            assert len(options) == len(set(options)) > 1


@pytest.mark.parametrize("name", ["bug", "wrong-number"])
@pytest.mark.skipif(not FORMS, reason="a source distribution has no .github")
def test_reports_of_faults_ask_for_the_block_of_doctor(name):
    (part,) = [part for part in read(FOLDER / f"{name}.yml")["body"] if part["id"] == "report"]
    assert part["validations"]["required"]
    assert "render" not in part["attributes"]  # the block has its own fence
    command = shlex.split(part["attributes"]["label"])
    assert command[:2] == ["easybn", "doctor"]
    parser = Parser(prog="easybn doctor")
    doctor.configure(parser)
    assert parser.read(command[2:]).report
