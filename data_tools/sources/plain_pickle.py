"""Reads pickles of strangers that hold plain data: a pickle can name code to run, and here none is ever looked up."""

import pickle
from pathlib import Path
from typing import Any, NoReturn

from megatron_mplug2.errors import UserError


class _PlainUnpickler(pickle.Unpickler):
    """Lists, tuples, dicts, texts and numbers have opcodes of their own; everything else has to be found by its name first."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names the code {module}.{name}, which plain data does not")


def read_plain_pickle(path: Path) -> Any:
    """Texts of Python 2 are taken as UTF-8. Raises UserError for a file that is missing, damaged or more than plain data."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8").load()
    except OSError as error:
        raise UserError(f"cannot read the annotation {path}: {error.strerror}") from None
    except Exception as error:  # a damaged pickle may raise anything
        told = " ".join(str(error).split())
        raise UserError(f"{path} is no pickle of plain data ({type(error).__name__}: {told}): download it anew") from None
