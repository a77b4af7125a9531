"""Whether a node has the interpreter that a job's tasks need, looked up by each task's shell: nothing else there could tell.

Where the job's nodes are looked at first (`launchers.health`), this is known already.
"""

from launchers.exit_notes import FOLDER, WHY

NOT_THERE = 127
"""What a task exits with then, and what its note says; as shells have it."""
_LOOKED_UP = f"""command -v "$1" > /dev/null || {{
  why="$SLURMD_NODENAME cannot run $1: set python, or setup, in the cluster's profile, or leave the node out by --exclude"
  echo "error: $why" >&2
  printf "{NOT_THERE}\\n{WHY}%s\\n" "$(printf %s "$why" | sed 's/["\\\\]/\\\\&/g; s/[[:cntrl:]]/ /g')" > "${FOLDER}/$SLURM_PROCID"
  exit {NOT_THERE}
}}
shift
exec "$@\""""


def looked_up(python: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """The command, for a node on which the interpreter may be missing: then a note of the task says so (`launchers.exit_notes`)."""
    return ("sh", "-c", _LOOKED_UP, "sh", python, *command)
