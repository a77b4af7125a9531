"""A list in a text file, one entry on each line: answers, classes."""

from pathlib import Path

from megatron_mplug2.errors import UserError


def plain(entry: str) -> str:
    """As entries are compared: in lower case, as what the tokenizer gives back."""
    return entry.strip().lower()


def read_list(path: Path, one: str, several: str) -> tuple[str, ...]:
    """The entries, plain, in the order of the file. `one` and `several` are what an entry is called ("answer", "answers").

    Raises UserError for a file that cannot be read, an empty line, an entry that is there twice, and fewer than two entries.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the {several} in {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start}): write one {one} on each line") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        entry = plain(line)
        if not entry:
            raise UserError(f"{path}, line {number}: empty; write one {one} on each line")
        if entry in found:
            raise UserError(f"{path}, line {number}: {entry!r} is there already, on line {found[entry]}; leave one of them")
        found[entry] = number
    if len(found) < 2:
        raise UserError(f"{path} has {len(found)} {several}: there is nothing to choose; write one {one} on each line")
    return tuple(found)
