"""The verdict store: an evaluation in a folder, which many processes fill and any kill leaves whole.

    manifest.json                 what the job is
    attempts/00003-02.parquet     chunk 3, stage 2: a row a try
    images/00003-02.safetensors   the adversarial images of that stage, if they are kept
    partial/00003-02.state        the stage under way, as it was about a minute ago
    claims/00003.json             the process that works on the chunk

A file that is damaged is put aside as ``*.corrupt``, and the stage computed again.
"""

from ...json_files import Damaged
from .manifest import Manifest
from .store import Store
from .worker import Found, RunStage, Task, work

__all__ = ["Damaged", "Found", "Manifest", "RunStage", "Store", "Task", "work"]
