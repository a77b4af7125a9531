"""Where a launch of ranks came from, as far as another one from the same place needs it: the profile as it was, and the current folder."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from launchers.cluster import SlurmConfig
from megatron_mplug2.errors import UserError

_ORIGIN = "origin.json"


class Origin(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    slurm: SlurmConfig
    """With the excluded nodes of the command line, and the interpreter."""
    work_dir: Path
    options: tuple[str, ...] = ()
    """Of the command, beside its config."""


def write_origin(folder: Path, origin: Origin) -> None:
    (folder / _ORIGIN).write_text(origin.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_origin(folder: Path) -> Origin:
    """Raises UserError where a launch is not one of ranks, or is an older version's."""
    try:
        return Origin.model_validate_json((folder / _ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"the launch in {folder} cannot change its number of nodes ({why}): use `mplug2 launch`, with --nodes") from None
