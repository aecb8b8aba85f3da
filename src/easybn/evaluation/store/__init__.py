"""The verdict store: an evaluation in a folder, which several processes fill and no kill damages.

    manifest.json                 what the evaluation is
    attempts/00003-02.parquet     chunk 3, stage 2: one row per attempt
    images/00003-02.safetensors   the adversarial images of that stage, if they are kept
    partial/00003-02.state        the state of the stage under way, about a minute old
    locks/00003.lock              held by the process that works on the chunk

A file that is damaged is put aside as ``*.corrupt``, and its stage is computed again.
"""

from ...json_files import Damaged
from .manifest import Manifest
from .store import Store
from .worker import RunStage, StageResult, Task, work

__all__ = ["Damaged", "Manifest", "RunStage", "StageResult", "Store", "Task", "work"]
