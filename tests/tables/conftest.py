"""Made-up runs of three recipes at several seeds."""

import pytest

from easybn.tables.aggregate import settings
from easybn.tables.rows import read

from ..report.made_up import study


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = study(tmp_path_factory.mktemp("rows"))
    (found,) = settings(read(folder).runs)
    return found
