"""A YAML file of the launchers' own (a cluster's profile, a study) as its typed tree; whatever is wrong with it, in one line."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from megatron_mplug2.config.names import dotted, nearest
from megatron_mplug2.config.node import Frozen
from megatron_mplug2.errors import UserError

Tree = TypeVar("Tree", bound=Frozen)


def read_yaml(kind: type[Tree], path: Path, asked: str, advice: str) -> Tree:
    """The file as a `kind`. `asked` and `advice` are said where it cannot be read. Raises UserError."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{asked}: cannot read {path} ({_one_line(error)}): {advice}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        raise UserError(f"{path}: not YAML: {_one_line(error)}") from None
    try:
        return kind.model_validate(tree if tree is not None else {})
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_sentence(kind, detail) for detail in error.errors())) from None


def _sentence(kind: type[Frozen], detail: ErrorDetails) -> str:
    place = dotted(detail["loc"])
    if detail["type"] == "extra_forbidden":
        candidates = nearest(kind, detail["loc"])
        return f"{place}: unknown key" + (f"; did you mean {' or '.join(candidates)}?" if candidates else "")
    if detail["type"] == "missing":
        return f"{place}: missing"
    said = detail["msg"].removeprefix("Value error, ")
    sentence = said[0].lower() + said[1:]
    return f"{place}: {sentence} (it is {detail['input']!r})" if place else sentence


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
