"""From YAML files and `key=value` overrides to one frozen RunConfig, with every error at once."""

import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.names import Place, dotted, nearest
from megatron_mplug2.config.node import Frozen
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError

BASE_KEY = "base"
"""Top-level key of a file: the file or files, relative to it, that it builds on. Later ones win, the file itself last."""
RESOLVED_NAME = "config.yaml"
"""The resolved config's name in a run folder and in a checkpoint."""

Tree = dict[str, Any]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a file with the files that it builds on, applies `dotted.key=value` overrides, and checks the whole.

    Values of overrides are YAML; `schedule.0.steps=100` reaches into a list. Paths of data stay relative to the current folder.

    Raises:
        UserError: with a line for each thing that is wrong.
    """
    tree = _read(path.resolve(), ())
    wrong = [line for override in overrides if (line := _apply_or_tell(tree, override)) is not None]
    if wrong:
        raise UserError("\n  ".join(wrong))
    return _build(tree, str(path))


def load_model(path: Path) -> ModelConfig:
    """The `model` section of a config file, which may be all that it has, such as configs/model/base.yaml.

    Raises:
        UserError: as `load_config`.
    """
    tree = _read(path, ())
    crossed: list[str] = []
    try:
        model = _ModelAlone.model_validate({key: value for key, value in tree.items() if key == "model"}, context=crossed).model
    except ValidationError as error:
        raise _refusal(str(path), _sentences(error.errors())) from error
    if crossed:
        raise _refusal(str(path), crossed)
    return model


class _ModelAlone(Frozen):
    model: ModelConfig


def resolved_yaml(config: RunConfig) -> str:
    """The whole tree, defaults written out; `parse_resolved` of it, or `load_config` of a file with it, gives an equal config."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def parse_resolved(text: str, source: str) -> RunConfig:
    """The config that `resolved_yaml` wrote into `source`, a checkpoint for instance.

    Raises:
        UserError: with a line for each thing that this version cannot read.
    """
    return _build(_parse(text, source), source)


def write_resolved(config: RunConfig, folder: Path) -> None:
    """Puts the resolved config into a folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{RESOLVED_NAME}.{os.getpid()}"
    unfinished.write_text(resolved_yaml(config), encoding="utf-8")
    unfinished.replace(folder / RESOLVED_NAME)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`over` on top of `base`: sections merge key by key; anything else, lists too, replaces what was there."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where PyYAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
            if key is not None:
                seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _read(path: Path, from_files: tuple[Path, ...]) -> Tree:
    """One file merged over its bases. `from_files` are the files that led here."""
    if path in from_files:
        raise UserError(f"{' -> '.join(str(file) for file in (*from_files, path))}: these config files build on one another in a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        asked = f" ({BASE_KEY} of {from_files[-1]})" if from_files else ""
        raise UserError(f"{path}{asked}: cannot read the config file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: {_one_line(error)}") from error
    tree = _parse(text, str(path))
    bases = tree.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY} is a file name or a list of file names")
    below: Tree = {}
    for base in bases:
        below = merge(below, _read((path.parent / base).resolve(), (*from_files, path)))
    return merge(below, tree)


def _parse(text: str, source: str) -> Tree:
    try:
        tree = yaml.load(text, _Loader) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not YAML: {_one_line(error)}") from error
    except RecursionError:
        raise UserError(f"{source}: nested too deep") from None
    if not isinstance(tree, dict):
        raise UserError(f"{source}: a config file holds `key: value` lines, this one holds a {type(tree).__name__}")
    return tree


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _apply_or_tell(tree: Tree, override: str) -> str | None:
    """Why it cannot be applied."""
    try:
        _apply(tree, override)
    except UserError as error:
        return str(error)
    return None


def _apply(tree: Tree, override: str) -> None:
    """Sets one `dotted.key=value` in the tree, making the sections that aren't there; a wrong key is found when the tree is checked."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"override {override!r}: write it as dotted.key=value")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not YAML: {_one_line(error)}") from error
    if isinstance(value, str) and value and text.strip().startswith(value):
        value = text.strip()  # with what YAML takes for a comment: a folder may be called "run #2"
    *sections, last = key.split(".")
    node: Any = tree
    for depth, section in enumerate(sections):
        node = _child(node, section, override, ".".join(sections[:depth]))
    if isinstance(node, list):
        node[_index(node, last, override, ".".join(sections))] = value
    elif isinstance(node.get(last), dict) and isinstance(value, dict):
        node[last] = merge(node[last], value)
    else:
        node[last] = value


def _child(node: Any, section: str, override: str, place: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, section, override, place)]
    if node.get(section) is None:  # an optional section that a resolved config has left out
        node[section] = {}
    child = node[section]
    if not isinstance(child, dict | list):
        raise UserError(f"override {override!r}: {'.'.join(filter(None, (place, section)))} is the value {child!r}, not a section")
    return child


def _index(node: list[Any], text: str, override: str, place: str) -> int:
    if not text.isdecimal() or int(text) >= len(node):
        raise UserError(f"override {override!r}: {place} is a list, its entries are 0..{len(node) - 1}")
    return int(text)


def _build(tree: Tree, source: str) -> RunConfig:
    crossed: list[str] = []
    try:
        config = RunConfig.model_validate(tree, context=crossed)
    except ValidationError as error:
        details = _own(error.errors())
        raise _refusal(source, [*_sentences(details), *_crossed_elsewhere(tree, details)]) from error
    if crossed:
        raise _refusal(source, crossed)
    return config


def _refusal(source: str, lines: list[str]) -> UserError:
    return UserError(f"{source}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{source}: {len(lines)} errors", *lines]))


def _own(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without what pydantic says of a list that is too short for it once its wrong entries are taken out."""
    places = [detail["loc"] for detail in details]
    return [
        detail
        for detail, place in zip(details, places, strict=True)
        if detail["type"] != "too_short" or not any(len(other) > len(place) and other[: len(place)] == place for other in places)
    ]


def _sentences(details: list[ErrorDetails]) -> list[str]:
    """A line for each of pydantic's errors. A missing key whose misspelling stands beside it is told once."""
    lines, meant = [], set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            candidates = nearest(RunConfig, detail["loc"])
            meant.update(candidates)
            hint = f"; did you mean {' or '.join(candidates)}?" if candidates else ""
            lines.append(f"{dotted(detail['loc'])}: unknown key{hint}")
    for detail in details:
        place = dotted(detail["loc"])
        if detail["type"] == "missing" and place not in meant:
            lines.append(f"{place}: missing")
        elif detail["type"] == "model_type":
            lines.append(f"{place}: must be a section of keys, not {reprlib.repr(detail['input'])}")
        elif detail["type"] not in ("missing", "extra_forbidden"):
            lines.append(f"{place}: {detail['msg'][0].lower()}{detail['msg'][1:]} (it is {reprlib.repr(detail['input'])})")
    return lines


def _crossed_elsewhere(tree: Tree, details: list[ErrorDetails]) -> list[str]:
    """Cross-field errors of a tree that pydantic refused: without the values it refused, where defaults can stand in for them.

    What then is said about a default, and not about a value that was given, is left out.
    """
    wrong = [detail["loc"] for detail in details if detail["type"] != "missing"]
    for place in wrong:
        tree = _without(tree, place)
    crossed: list[str] = []
    with suppress(ValidationError):
        RunConfig.model_validate(tree, context=crossed)
    given = re.compile("|".join(rf"(?<![\w.]){re.escape(dotted(place))}(?!\w)" for place in wrong) or "$^")
    return [line for line in crossed if not given.search(line)]


def _without(node: Tree, place: Place) -> Tree:
    """A copy of the tree without one key. A wrong entry of a list takes its whole list with it, a wrong key in an entry only itself."""
    key, *rest = place
    child = node.get(str(key))
    if rest and isinstance(child, dict):
        return {**node, str(key): _without(child, tuple(rest))}
    if len(rest) > 1 and isinstance(child, list):
        entries = [_without(entry, tuple(rest[1:])) if index == rest[0] else entry for index, entry in enumerate(child)]
        return {**node, str(key): entries}
    return {name: value for name, value in node.items() if name != key}
