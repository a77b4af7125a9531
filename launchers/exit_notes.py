"""What each rank of a job exited with, in files that the job's script reads.

srun's own status does not tell: where one rank ends early, srun kills the others and exits with the largest status of all, a killed one's.
"""

import os
from collections.abc import Mapping
from pathlib import Path

FOLDER = "MPLUG2_EXIT_NOTES"
"""Environment variable that names the folder; set by the batch script (`launchers.batch_script`)."""


def write_exit_note(code: int, environ: Mapping[str, str]) -> None:
    """Puts the code into a file named by the rank, torchrun's or srun's; does nothing where no job's script asked for it."""
    if FOLDER not in environ:
        return
    note = Path(environ[FOLDER]) / environ.get("RANK", environ.get("SLURM_PROCID", "0"))
    unfinished = note.with_name(f".{note.name}.{os.getpid()}")
    unfinished.write_text(f"{int(code)}\n")
    unfinished.replace(note)
