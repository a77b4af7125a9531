"""The COMMIT file of a checkpoint: what its files must contain, to the byte."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megatron_mplug2.errors import UserError

COMMIT = "COMMIT"
FORMAT = 2
"""Raised when older checkpoints can no longer be read as they are. 2: has a serial."""


class DamagedError(UserError):
    """A checkpoint is not what was committed. Another one may be good."""


class FileSum(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    """Bytes."""
    sha256: str


class Commit(BaseModel):
    """Content of the COMMIT file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    step: int
    serial: int = Field(ge=1)
    """Counts the checkpoints of a run in the order of their writing, which is not that of their steps where a run went back."""
    files: dict[str, FileSum]
    """Name in the folder -> what it must contain."""


def read_commit(checkpoint: Path) -> Commit:
    """Raises DamagedError where there is none that can be read, UserError where it is of another format."""
    try:
        tree = json.loads((checkpoint / COMMIT).read_bytes())
        found = tree["format"]
        if found == FORMAT:
            return Commit.model_validate(tree)
    except FileNotFoundError:
        raise DamagedError(f"{checkpoint / COMMIT} is missing") from None
    except OSError as error:
        raise DamagedError(f"{checkpoint / COMMIT} cannot be read ({error.strerror})") from None
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError(f"{checkpoint / COMMIT} is damaged") from None
    if not isinstance(found, int):
        raise DamagedError(f"{checkpoint / COMMIT} is damaged")
    other = "a newer" if found > FORMAT else "an older"
    raise UserError(f"{checkpoint} has checkpoint format {found}, this version reads {FORMAT}: use {other} version, or another run_dir")


def checksum(path: Path) -> FileSum:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileSum(size=file.tell(), sha256=digest.hexdigest())


def fault_of(path: Path, expected: FileSum) -> str | None:
    """What is wrong with a file, such as "run.json is missing"; None where it is what was committed."""
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"{path.name} has {size} of {expected.size} bytes"
        if checksum(path) != expected:
            return f"{path.name} is damaged (its checksum differs)"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
