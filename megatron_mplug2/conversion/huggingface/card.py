"""The model card of an exported folder: README.md, as the Hugging Face hub shows it."""

from collections.abc import Mapping

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.conversion.huggingface.settings import ModelSettings, ProcessorSettings
from megatron_mplug2.data.class_list import number_of

_HEADER = """\
---
library_name: transformers
pipeline_tag: video-text-to-text
tags: [mplug2, video-captioning, visual-question-answering, retrieval]
---
"""

_LOAD = """\
## Use

```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

folder = "path/of/this/folder"
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

"""

_SPEAK = """\
inputs = processor(images=Image.open("picture.jpg"))            # or videos=frames, a sequence of pictures
print(processor.batch_decode(model.caption(**inputs)))

inputs = processor(images=Image.open("picture.jpg"), text="what is on the table?")
print(processor.batch_decode(model.answer(**inputs)))
```

"""

_GROUND = """\
inputs = processor(images=Image.open("picture.jpg"), text="the cup on the left")
print(processor.batch_decode(model.answer(**inputs)))  # left, upper, right and lower edge, in pixels of the square that the model sees
```

"""

_INPUTS = {
    Family.IMAGE_CLASSIFICATION: 'images=Image.open("picture.jpg")',
    Family.VIDEO_CLASSIFICATION: "videos=frames",
    Family.TEXT_CLASSIFICATION: 'text="a text"',
    Family.IMAGE_ENTAILMENT: 'images=Image.open("picture.jpg"), text="what is to be judged"',
    Family.PAIR_ENTAILMENT: 'images=[Image.open("left.jpg"), Image.open("right.jpg")], text="what is to be judged"',
}
_NOTES = {
    Family.VIDEO_CLASSIFICATION: "  # a sequence of pictures, all that the clip has",
    Family.TEXT_CLASSIFICATION: '  # of two: and text_pair="the other"',
}

_CLASSIFY = """\
inputs = processor({inputs}){note}
classes = processor.choices(model.config.id2label.values())
probabilities = model.choice_probabilities(**classes, **inputs)  # [1, classes], of one whole view
{told}
```

"""
_LIKELIEST = "print(model.config.id2label[int(probabilities[0].argmax())])"
_MEAN = "print(float(probabilities[0] @ torch.tensor([float(name) for name in model.config.id2label.values()])))"

_RETRIEVAL = """\
`model.similarity(**processor(images=pictures, text=captions))` gives cosines [texts, pictures], `match_probability` how well each text
fits the picture in its row. `model.get_vision_features(processor(images=pictures)["pixel_values"])` and
`model.get_text_features(**processor(text=captions))` are what is compared.

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
    return (
        f"{_HEADER}\n# {name}\n\nmPLUG-2 (arXiv 2302.00402) in plain torch for transformers.\n\n{listed}\n"
        f"{_LOAD}{_use(model)}{retrieval}{table}"
    )


def _use(model: ModelSettings) -> str:
    """What is done with a loaded model of its family."""
    if model.family is None or not model.family.classifies:
        return _GROUND if model.family is Family.IMAGE_GROUNDING else _SPEAK
    numbers = all(number_of(name) is not None for name in model.classes)
    inputs, note = _INPUTS[model.family], _NOTES.get(model.family, "")
    return _CLASSIFY.format(inputs=inputs, note=note, told=_MEAN if numbers else _LIKELIEST)
