"""From pictures, clips and texts to what `MPlug2Model` takes, and from its ids back to text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers import BatchFeature, ProcessorMixin

IGNORED = -100


class MPlug2Processor(ProcessorMixin):
    """A picture is a PIL image, or an array or tensor [H, W, 3] uint8; a clip is a sequence of such frames, all that there are."""

    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: Any,
        resolution: int = 224,
        frames: int = 16,
        text_length: int = 50,
        target_length: int = 32,
        clip_resize: str = "bicubic",
        image_instruction: str | None = None,
        video_instruction: str | None = None,
        caption_prompt: str | None = None,
        pictures: int = 1,
    ) -> None:
        """Settings of the model.

        Args:
            resolution: side of the square in pixels.
            frames: taken from each clip.
            text_length: most tokens of what the model reads.
            target_length: most tokens of what its decoder is taught.
            clip_resize: "bicubic", or "nearest" as the released code tests. Pictures are always resized with the bicubic filter.
            image_instruction: what asks for a caption of a picture; None: nothing does.
            video_instruction: the same of a clip.
            caption_prompt: what the decoder was taught to begin captions with; None: nothing.
            pictures: that are looked at together, such as left and right; more than one are seen as frames.
        """
        super().__init__(tokenizer)
        self.resolution, self.frames = resolution, frames
        self.text_length, self.target_length = text_length, target_length
        self.clip_resize = clip_resize
        self.image_instruction, self.video_instruction = image_instruction, video_instruction
        self.caption_prompt = caption_prompt
        self.pictures = pictures

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        text_pair: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs of the model; what is alone is a batch of one.

        Without `text`, pictures and clips come with the instruction that asks for a caption or a class, where the model has one. One text
        for several pictures or clips is asked of each. Of a model that looks at two pictures together, images are left, right, left, ...;
        `text_pair` are second texts, for a model that was taught pairs of them.

        Raises:
            ValueError: there are both images and videos, or a number of texts or pictures that does not fit.
        """
        if images is not None and videos is not None:
            raise ValueError("pictures and clips make separate batches: give images or videos")
        data: dict[str, torch.Tensor] = {}
        media = self._together(_listed(images, 3)) if images is not None else _listed(videos, 4) if videos is not None else []
        if images is not None:
            data["pixel_values"] = torch.stack([self._pixels(pictures, "bicubic") for pictures in media])
            text = self.image_instruction if text is None else text
        elif videos is not None:
            data["pixel_values"] = torch.stack([self._pixels(self._sampled(clip), self.clip_resize) for clip in media])
            text = self.video_instruction if text is None else text
        if text is not None:
            texts = [text] * max(len(media), 1) if isinstance(text, str) else list(text)
            if media and len(texts) != len(media):
                raise ValueError(f"{len(texts)} texts for {len(media)} pictures or clips")
            data |= self.tokens(texts, [text_pair] if isinstance(text_pair, str) else text_pair)
        return BatchFeature(data)

    def tokens(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` [n, L]: each text as [CLS] A, with a second one as [CLS] A [SEP] B [SEP], cut at `text_length`
        (of two the end of the longer one), padded to the longest."""
        seconds = [""] * len(texts) if pairs is None else list(pairs)
        if len(seconds) != len(texts):
            raise ValueError(f"{len(seconds)} second texts for {len(texts)} texts")
        ids = self._padded([self._framed(self._ids(text), self._ids(second)) for text, second in zip(texts, seconds, strict=True)])
        return {"input_ids": ids, "attention_mask": (ids != self.tokenizer.pad_token_id).long()}

    def choices(self, texts: Iterable[str]) -> BatchFeature:
        """`choice_ids` [n, t] for `choice_probabilities`: each text as [CLS] X [SEP], padded. Of a model that was finetuned on classes they
        are `config.id2label.values()`. Raises ValueError for a text that is nothing to the vocabulary."""
        rows = []
        for text in texts:
            ids = self._ids(text)
            if not ids:
                raise ValueError(f"the vocabulary has nothing of {text!r}")
            rows.append([self.tokenizer.cls_token_id, *ids, self.tokenizer.sep_token_id])
        return BatchFeature({"choice_ids": self._padded(rows)})

    def targets(self, texts: Sequence[str], *, prompted: bool = False) -> dict[str, torch.Tensor]:
        """`decoder_input_ids` and `labels` [n, t] of texts that the decoder is to say: [CLS] X [SEP], cut at `target_length`, padded.

        `prompted`: X begins with the caption prompt, without a space after it, and all its tokens but the last are not to be predicted, as
        the released code does it.
        """
        before = self.caption_prompt or "" if prompted else ""
        unlabelled = len(self._ids(before))
        rows = [
            [self.tokenizer.cls_token_id, *self._ids(before + text)[: self.target_length - 2], self.tokenizer.sep_token_id]
            for text in texts
        ]
        ids = self._padded(rows)
        labels = torch.full_like(ids, IGNORED)
        for place, row in enumerate(rows):
            labels[place, unlabelled : len(row)] = ids[place, unlabelled : len(row)]
        return {"decoder_input_ids": ids, "labels": labels}

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text.encode(errors="replace").decode(), add_special_tokens=False, verbose=False)["input_ids"])

    def _framed(self, first: list[int], second: list[int]) -> list[int]:
        """As in training."""
        tokenizer, length = self.tokenizer, self.text_length
        if not second:
            return [tokenizer.cls_token_id, *first[: length - 1]]
        room = max(length - 3, 0)
        kept = max(min(len(first), room - min(len(second), room // 2)), 0)
        framed = [tokenizer.cls_token_id, *first[:kept], tokenizer.sep_token_id, *second[: room - kept], tokenizer.sep_token_id]
        return framed[:length]

    def _padded(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """[n, t] int64. Raises ValueError without rows."""
        if not rows:
            raise ValueError("there are no texts: give one or more")
        ids = torch.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        return ids

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> list[str]:
        """The vocabulary too as training reads it, a piece a line, where it is of WordPiece: transformers would leave it out."""
        vocabulary = []
        if self.tokenizer.is_fast:  # first, since the rest may be pushed to a hub
            pieces = sorted(self.tokenizer.get_vocab().items(), key=lambda piece: piece[1])
            place = Path(save_directory) / "vocab.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
            vocabulary.append(str(place))
        return [*super().save_pretrained(save_directory, **kwargs), *vocabulary]

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """[n, t] ids -> texts."""
        return [self.decode(ids) for ids in sequences]

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """[t] ids -> the text up to the first [SEP], after the caption prompt if it says that.

        Special tokens other than [UNK] and ids of no piece are passed over.
        """
        tokenizer, kept = self.tokenizer, []
        for id_ in map(int, token_ids):
            if id_ == tokenizer.sep_token_id:
                break
            if id_ not in (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.mask_token_id) and 0 <= id_ < len(tokenizer):
                kept.append(id_)
        text = str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return (text.split(self.caption_prompt)[-1] if self.caption_prompt else text).strip()

    def _together(self, pictures: list[Any]) -> list[list[Any]]:
        """Those that are looked at together."""
        if len(pictures) % self.pictures:
            raise ValueError(f"{self.pictures} pictures are looked at together: {len(pictures)} cannot be shared out so")
        return [pictures[start : start + self.pictures] for start in range(0, len(pictures), self.pictures)]

    def _sampled(self, clip: Any) -> list[Any]:
        """The middle of each of `frames` equal segments; a shorter clip repeats its last frame."""
        count = len(clip)
        taken = min(self.frames, count)
        edges = np.linspace(0, count, taken + 1).astype(int).tolist()
        chosen = [(edges[place] + edges[place + 1] - 1) // 2 for place in range(taken)]
        return [clip[index] for index in chosen + chosen[-1:] * (self.frames - taken)]

    def _pixels(self, frames: Sequence[Any], resize: str) -> torch.Tensor:
        """[3, T, R, R] uint8."""
        side = (self.resolution, self.resolution)
        squares = []
        for frame in frames:
            pixels = torch.as_tensor(np.array(_rgb(frame) if isinstance(frame, Image.Image) else frame)).permute(2, 0, 1)[None]
            if resize == "nearest":
                squares.append(F.interpolate(pixels, size=side, mode="nearest"))
            else:
                squares.append(F.interpolate(pixels, size=side, mode="bicubic", antialias=True))
        return torch.cat(squares).transpose(0, 1).contiguous()


def _listed(media: Any, dimensions: int) -> list[Any]:
    """A batch; `dimensions` of an array that is one picture or one clip."""
    if isinstance(media, Image.Image) or (hasattr(media, "ndim") and media.ndim == dimensions):
        return [media]
    first = media[0]
    frames_of_one = dimensions == 4 and (isinstance(first, Image.Image) or getattr(first, "ndim", 0) == 3)
    return [media] if frames_of_one else list(media)


def _rgb(picture: Image.Image) -> Image.Image:
    """Upright, and what is transparent becomes white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bit; PIL's own conversion clips to 255
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
