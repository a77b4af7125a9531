"""What each rank of a job exited with, and why, in files that the job's script reads.

srun's own status does not tell: where one rank ends early, srun kills the others and exits with the largest status of all, a killed one's.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

FOLDER = "MPLUG2_EXIT_NOTES"
"""Environment variable that names the folder; set by the batch script (`launchers.batch_script`)."""
WHY = "why: "
"""What the note's second line begins with, where there is one."""
_MOST_LETTERS = 500


def write_exit_note(code: int, why: str, environ: Mapping[str, str]) -> None:
    """Puts the code into a file named by the rank, torchrun's or srun's, and a line that says why, escaped as in JSON, if it is not empty;
    does nothing where no job's script asked for it."""
    if FOLDER not in environ:
        return
    note = Path(environ[FOLDER]) / environ.get("RANK", environ.get("SLURM_PROCID", "0"))
    unfinished = note.with_name(f".{note.name}.{os.getpid()}")
    line = f"{WHY}{json.dumps(why[:_MOST_LETTERS])[1:-1]}\n" if why else ""
    unfinished.write_text(f"{int(code)}\n{line}")
    unfinished.replace(note)
