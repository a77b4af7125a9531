"""A whole exported folder: weights, config, tokenizer, processor, modelling files, model card. It appears when it is complete."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_tools.fresh_folder import fresh_folder
from megatron_mplug2.conversion.huggingface.settings import CONFIG, PROCESSOR, ModelSettings, ProcessorSettings, config_json, processor_json
from megatron_mplug2.conversion.huggingface.tokenizer_files import write_tokenizer
from megatron_mplug2.conversion.huggingface.weight_files import write_weights
from megatron_mplug2.conversion.lazy import LazyWeight
from megatron_mplug2.data.tokenizer import Tokenizer

CARD = "README.md"
MODELLING = tuple(sorted(Path(__file__).parent.glob("*_mplug2.py")))


def write_folder(
    out: Path, weights: Sequence[LazyWeight], model: ModelSettings, processor: ProcessorSettings, *, vocab: Path, card: str
) -> None:
    """`vocab`: the vocabulary's file; `card`: the text of README.md.

    Raises:
        UserError: `out` is taken or cannot be written, or the vocabulary is none, or larger than the model's.
    """
    tokenizer = Tokenizer(vocab, model.model.text.vocab_size)
    dtype = str(weights[0].dtype).removeprefix("torch.")
    with fresh_folder(out) as folder:
        for path in MODELLING:
            shutil.copyfile(path, folder / path.name)
        _json(folder / CONFIG, config_json(model, tokenizer, dtype))
        _json(folder / PROCESSOR, processor_json(processor))
        write_tokenizer(folder, vocab, model.model)
        (folder / CARD).write_text(card, encoding="utf-8")
        write_weights(folder, weights)


def _json(path: Path, tree: dict[str, object]) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n")
