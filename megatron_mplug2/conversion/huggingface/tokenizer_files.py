"""A vocabulary as transformers reads it, of both kinds; texts become the same ids as in training."""

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, processors

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.data.subwords import SPECIALS, WordPiece, open_subwords, wordpiece_tokenizer
from megatron_mplug2.errors import UserError

WORDPIECE, SENTENCEPIECE = "vocab.txt", "sentencepiece.model"
_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def write_tokenizer(folder: Path, vocab: Path, model: ModelConfig) -> None:
    """A special token's name inside a text is plain text, as in training. Raises UserError for a vocabulary that is none."""
    subwords = open_subwords(vocab)
    common = dict(zip(_NAMES, SPECIALS, strict=True)) | {
        "split_special_tokens": True,
        "model_max_length": model.text.positions,
        "clean_up_tokenization_spaces": False,
        "processor_class": "MPlug2Processor",
    }
    if isinstance(subwords, WordPiece):
        tokenizer = wordpiece_tokenizer(subwords.pieces)
        tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in SPECIALS])
        ids = [(special, subwords.pieces.index(special)) for special in ("[CLS]", "[SEP]")]
        # A single text ends without [SEP], as released.
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids)
        tokenizer.save(str(folder / "tokenizer.json"))
        shutil.copyfile(vocab, folder / WORDPIECE)
        config = common | {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        shutil.copyfile(vocab, folder / SENTENCEPIECE)
        config = common | {
            "tokenizer_class": "MPlug2SentencePieceTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_mplug2.MPlug2SentencePieceTokenizer", None]},
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def vocabulary_file(folder: Path) -> Path:
    """The file that the folder's vocabulary was made from: `data.vocab` of a run that goes on from its weights.

    Raises UserError where there is none.
    """
    for name in (WORDPIECE, SENTENCEPIECE):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has neither {WORDPIECE} nor {SENTENCEPIECE}: copy it from the folder that the model was loaded from")
