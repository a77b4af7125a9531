"""What is in a file or folder of weights, told without loading it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit_file import COMMIT
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.conversion.huggingface.settings import CONFIG, family_of, model_config
from megatron_mplug2.conversion.huggingface.weight_files import read_weights
from megatron_mplug2.conversion.released import plan_released
from megatron_mplug2.conversion.released_file import open_torch
from megatron_mplug2.conversion.released_sizes import config_from_released
from megatron_mplug2.conversion.report import table
from megatron_mplug2.data.class_list import read_classes
from megatron_mplug2.errors import UserError

_SHOWN = 5
"""Most classes that are named."""


def describe(place: Path) -> list[str]:
    """Lines about an exported folder or a released .pth: sizes of the model, parameters by module, and of a .pth what becomes of its names.

    Raises:
        UserError: it is neither.
    """
    if store.checkpoint_folder(place).is_dir() or (place / COMMIT).is_file():
        raise UserError(f"{place} is of a run: `mplug2 checkpoint inspect {place}` tells what is in it")
    if place.is_dir():
        config = model_config(place)
        sizes = [(weight.name, weight.size.numel()) for weight in read_weights(place)]
        return [f"folder for transformers: {place}", *_model(config), *_family(place), *_parameters(sizes)]
    try:
        content = open_torch(place)
        config = config_from_released(content)
        plan = plan_released(content, config)
    except UserError as error:
        line = str(error)
        raise UserError(line if line.startswith(str(place)) else f"{place}: {line}") from None
    sizes = [(weight.name, weight.size.numel()) for weight in plan.weights()]
    beside = sorted(str(key) for key in content if key not in ("model", "module"))
    wrapped = [f"beside the weights: {', '.join(beside)}"] if len(content) - len(beside) else []
    return [f"released file: {place}", *wrapped, *_model(config), *_parameters(sizes), *table(plan.report)]


def _model(config: ModelConfig) -> Iterator[str]:
    vision, text = config.vision, config.text
    yield f"vision: {vision.blocks} blocks of width {vision.width}, patch {vision.patch}, resolution {vision.resolution}"
    yield f"text: {text.layers} layers of width {text.hidden}, {text.universal_layers} of them universal, {text.vocab_size} pieces"
    yield f"fusion layers: {config.fusion_layers}"
    yield f"decoder layers: {config.decoder_layers}"


def _family(folder: Path) -> Iterator[str]:
    family = family_of(folder)
    if family is not None:
        yield f"finetuned for: {family}"
    if family is not None and family.classifies:
        names = read_classes(folder / CONFIG).names
        yield f"classes: {len(names):,} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"


def _parameters(sizes: Iterable[tuple[str, int]]) -> Iterator[str]:
    counts: dict[str, int] = defaultdict(int)
    for name, count in sizes:
        counts[name.split(".")[0]] += count
    yield f"parameters: {sum(counts.values()):,}"
    yield from (f"  {module}: {count:,}" for module, count in counts.items())
