"""study.json: what was started, read back as it was."""

import pytest

from easybn.cli.study_file import read
from easybn.cli.study_status import find_study, packaged_studies
from easybn.study.plan_file import plan_of, read_plan, write_plan


@pytest.mark.parametrize("name", sorted(packaged_studies()))
def test_every_study_of_the_package_comes_back(name, tmp_path):
    file = find_study(name)
    study = read(file)
    plan = plan_of(study.name, [run.expected for run in study.runs], file)
    write_plan(tmp_path, plan)
    found = read_plan(tmp_path)
    assert found.runs == plan.runs == tuple(run.expected for run in study.runs)
    assert found == plan
    before = (tmp_path / "study.json").stat()
    write_plan(tmp_path, plan)  # nothing to write
    assert (tmp_path / "study.json").stat() == before


def test_a_file_that_has_changed_and_a_plan_that_is_damaged(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("runs: [{train_images: 80}]")
    study = read(file)
    write_plan(tmp_path / "s", plan_of(study.name, [run.expected for run in study.runs], file))
    assert not read_plan(tmp_path / "s").has_changed()
    file.write_text("runs: [{train_images: 90}]")
    assert read_plan(tmp_path / "s").has_changed()
    file.unlink()
    assert not read_plan(tmp_path / "s").has_changed()
    assert read_plan(tmp_path) is None
    path = tmp_path / "s" / "study.json"
    whole = path.read_text()
    for text in ("", whole[:-20], "[]", "{}", whole.replace('"seed": 0', '"seed": 1', 1)):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"study\.json is damaged"):
            read_plan(tmp_path / "s")
