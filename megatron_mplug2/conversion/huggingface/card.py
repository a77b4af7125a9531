"""The model card of an exported folder: README.md, as the Hugging Face hub shows it."""

from collections.abc import Mapping

from megatron_mplug2.conversion.huggingface.settings import ModelSettings, ProcessorSettings

_HEADER = """\
---
library_name: transformers
pipeline_tag: video-text-to-text
tags: [mplug2, video-captioning, visual-question-answering, retrieval]
---
"""

_USE = """\
## Use

```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

folder = "path/of/this/folder"
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

inputs = processor(images=Image.open("picture.jpg"))            # or videos=frames, a sequence of pictures
print(processor.batch_decode(model.caption(**inputs)))

inputs = processor(images=Image.open("picture.jpg"), text="what is on the table?")
print(processor.batch_decode(model.answer(**inputs)))
```

"""

_RETRIEVAL = """\
`model.similarity(**processor(images=pictures, text=captions))` gives cosines [texts, pictures], `match_probability` how well each text
fits the picture in its row, `get_vision_features`, `get_text_features` what is compared.

"""


def model_card(name: str, model: ModelSettings, processor: ProcessorSettings, parameters: int, facts: Mapping[str, str], table: str) -> str:
    """`parameters`: how many; `facts`: what is known of the weights' origin, by name; `table`: figures, or nothing."""
    sizes = model.model
    lines = {
        **facts,
        "parameters": f"{parameters / 1e6:,.1f} M",
        "vision": f"{sizes.vision.blocks} blocks of width {sizes.vision.width}, patches of {sizes.vision.patch} pixels",
        "text": f"{sizes.text.layers} layers of width {sizes.text.hidden}, {sizes.text.universal_layers} of them universal; "
        f"{sizes.fusion_layers} fusion layers, {sizes.decoder_layers} decoder layers",
        "input": f"{processor.resolution} x {processor.resolution} pixels, {processor.frames} frames of a clip",
        "beam search": model.search.value,
    }
    listed = "".join(f"- {key}: {value}\n" for key, value in lines.items())
    retrieval = _RETRIEVAL if model.pretraining_heads else ""
    return f"{_HEADER}\n# {name}\n\nmPLUG-2 (arXiv 2302.00402) in plain torch for transformers.\n\n{listed}\n{_USE}{retrieval}{table}"
