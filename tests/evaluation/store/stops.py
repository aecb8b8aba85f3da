"""An evaluation that is stopped as it saves a half-finished stage."""

import pytest

from easybn.evaluation.store import worker


def stop_at_save(monkeypatch, number, due, evaluation):
    """Run ``evaluation`` up to its save of that number; tasks for which ``due(task)`` is true save at every step."""
    saves, keep = [], worker.Task.save

    def save(self, state):
        keep(self, state)
        saves.append(str(self.stage))
        if len(saves) == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker.Task, "due", due)
        patch.setattr(worker.Task, "save", save)
        with pytest.raises(KeyboardInterrupt):
            evaluation()
    assert len(saves) == number
