"""mPLUG-2 for transformers: features, similarity, matching, logits and loss of given texts, captions and answers. Plain torch.

A text is `[CLS] X`, without a [SEP]; what the decoder says ends in [SEP]. `processing_mplug2` makes both. Media are [b, 3, T, R, R], T=1
for pictures; a model whose `vision_temporal_on_images` is off runs its temporal modules where T > 1.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_mplug2 import MPlug2Config
from .generation_mplug2 import BeamSettings, Hypotheses, beam_search
from .layers_mplug2 import LayerCache
from .parts_mplug2 import Decoder, Fusion, Heads, Memory, TextEncoder, UniversalLayers
from .vision_mplug2 import VisionEncoder

IGNORED = -100
"""Label of a token that is not predicted."""
CAPTION_TOKENS, ANSWER_TOKENS = (4, 20), (1, 10)  # released
CHOICE_ROWS = 128
"""Most sequences whose logits are in memory together."""


@dataclass
class MPlug2Output(ModelOutput):
    loss: torch.Tensor | None = None
    """Scalar, where there are labels."""
    logits: torch.Tensor | None = None
    """[b, t, vocabulary] of the decoder, where there are decoder ids."""
    media_embeds: torch.Tensor | None = None
    """[b, n, h]: visual tokens after the universal layers, the class token first."""
    text_embeds: torch.Tensor | None = None
    """[b, L, h] after the universal layers."""
    fused_embeds: torch.Tensor | None = None
    """[b, L, h]: the texts after fusion with the media."""


class MPlug2PreTrainedModel(PreTrainedModel):
    config_class = MPlug2Config
    base_model_prefix = "mplug2"
    main_input_name = "pixel_values"
    _no_split_modules = ("BertLayer", "VisionBlock")

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, zero biases; temporal modules start as no change."""
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm) and name == "weight":
                init.ones_(parameter)
            elif name.endswith("bias"):
                init.zeros_(parameter)
            elif name == "log_temperature":
                init.constant_(parameter, -2.659)  # log 0.07
            else:
                init.normal_(parameter, std=self.config.init_std)


class MPlug2Model(MPlug2PreTrainedModel):
    """Everything that mPLUG-2 does. Rows of all inputs belong together, except in `similarity`."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__(config)
        self.vision = VisionEncoder(config)
        self.text = TextEncoder(config)
        self.universal = UniversalLayers(config)
        self.fusion = Fusion(config)
        self.decoder = Decoder(config)
        self.heads = Heads(config)
        self.post_init()

    def encode_media(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[b, 3, T, R, R] uint8 or normalised -> visual tokens [b, 1 + T * patches, h]."""
        return self.universal.media(self.vision(pixel_values))

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[b, L] ids -> [b, L, h]."""
        mask = self._keys(input_ids, attention_mask)
        x = self.text.embedding(input_ids)
        for layer in (*self.text.layers, *(universal.layer for universal in self.universal.layers)):
            x = layer(x, mask)
        return x

    def fuse(self, text_embeds: torch.Tensor, text_mask: torch.Tensor, media_embeds: torch.Tensor) -> torch.Tensor:
        """Texts [b, L, h] that attend to media [b, n, h] -> [b, L, h]; `text_mask` [b, L], 0 at padding."""
        mask = text_mask.bool()[:, None, None]
        for layer in self.fusion.layers:
            text_embeds = layer(text_embeds, mask, media_embeds)
        return text_embeds

    def get_vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[b, contrastive width] of pictures or clips, of length 1. Raises ValueError where the model has no such head."""
        return F.normalize(self._pretrained().contrast.vision(self.encode_media(pixel_values)[:, 0]).float(), dim=-1)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[b, contrastive width], of length 1. Raises ValueError where the model has no such head."""
        return F.normalize(self._pretrained().contrast.text(self.encode_text(input_ids, attention_mask)[:, 0]).float(), dim=-1)

    def similarity(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[texts, media] cosines. Raises ValueError where the model has no such head."""
        return self.get_text_features(input_ids, attention_mask) @ self.get_vision_features(pixel_values).T

    def match_probability(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[b], the probability that a text tells of the picture or clip in its row. Raises ValueError where there is no such head."""
        classifier = self._pretrained().matching.classifier
        fused = self.forward(pixel_values, input_ids, attention_mask).fused_embeds
        assert fused is not None
        return classifier(fused[:, 0]).float().softmax(-1)[:, 1]

    def masked_lm_logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[b, L, vocabulary]. Raises ValueError where the model has no such head."""
        return self._pretrained().mlm(self.encode_text(input_ids, attention_mask), self.text.embedding.word.weight)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_reduction: str = "token",
    ) -> MPlug2Output:
        """What the given inputs allow.

        The decoder attends to media and the texts fused with them, to media alone, or to texts alone. `labels` [b, t] are at the positions
        of `decoder_input_ids`, shifted here, -100 where nothing is to be predicted. `loss_reduction`: "token", the mean over tokens (as
        released for captions), or "sample", the mean over rows of their sums (as released for answers).
        """
        media = self.encode_media(pixel_values) if pixel_values is not None else None
        text = self.encode_text(input_ids, attention_mask) if input_ids is not None else None
        output = MPlug2Output(media_embeds=media, text_embeds=text)
        if input_ids is not None and text is not None and media is not None:
            output.fused_embeds = self.fuse(text, self._text_mask(input_ids, attention_mask), media)
        if decoder_input_ids is not None:
            keys = decoder_input_ids != self.config.pad_token_id
            hidden = self.decoder(decoder_input_ids, keys, self._memory(output, input_ids, attention_mask))
            output.logits = self.heads.lm(hidden, self.decoder.embedding.word.weight)
            if labels is not None:
                output.loss = lm_loss(output.logits, labels, loss_reduction)
        return output

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        min_length: int,
        max_length: int,
        beams: int | None = None,
    ) -> Hypotheses:
        """The best sequence of each row by beam search, from the decoder's memory as in `forward`; its ids begin with [CLS].

        `min_length` tokens at least come before [SEP], and `max_length` at most with it.
        """
        config = self.config
        settings = BeamSettings(
            width=beams or config.beams,
            min_length=min_length,
            max_length=max_length,
            start=config.cls_token_id,
            end=config.sep_token_id,
            pad=config.pad_token_id,
            released=config.search == "released",
        )
        memory = self._memory(self.forward(pixel_values, input_ids, attention_mask), input_ids, attention_mask)
        caches = [LayerCache() for _ in self.decoder.layers]
        position = 0

        def next_logits(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            nonlocal position
            for cache in caches:
                if cache.own is not None:
                    cache.own = (cache.own[0].index_select(0, rows), cache.own[1].index_select(0, rows))
            hidden = self.decoder.step(ids, memory, caches, position)
            position += 1
            return self.heads.lm(hidden, self.decoder.embedding.word.weight)

        return beam_search(next_logits, len(memory.tokens), settings, memory.tokens.device)

    def caption(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[b, t] ids of a caption of each picture or clip; the ids [b, L] ask for it, where the model was taught so."""
        fewest, most = self.config.caption_tokens or CAPTION_TOKENS
        return self.generate(pixel_values, input_ids, attention_mask, min_length=fewest, max_length=most).ids

    def answer(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[b, t] ids of the answer to each question [b, L]."""
        fewest, most = self.config.answer_tokens or ANSWER_TOKENS
        return self.generate(pixel_values, input_ids, attention_mask, min_length=fewest, max_length=most).ids

    @torch.no_grad()
    def choice_probabilities(
        self,
        choice_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[b, choices] fp32: how likely the decoder says each of a closed list [choices, t] rather than another of it; a row sums to 1.

        `processor.choices` makes the list. So a model that was finetuned on classes tells them: column i is of `config.id2label[i]`.
        """
        memory = self._memory(self.forward(pixel_values, input_ids, attention_mask), input_ids, attention_mask)
        rows, parts = len(memory.tokens), []
        for choices in choice_ids.split(max(CHOICE_ROWS // rows, 1)):
            ids = choices.repeat(rows, 1)
            hidden = self.decoder(ids, ids != self.config.pad_token_id, memory)
            logits = self.heads.lm(hidden[:, :-1], self.decoder.embedding.word.weight).float()
            losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], ignore_index=self.config.pad_token_id, reduction="none")
            parts.append(-losses.sum(1).unflatten(0, (rows, -1)))
        return torch.cat(parts, dim=1).softmax(1)

    def _memory(self, output: MPlug2Output, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> Memory:
        media, prompt = output.media_embeds, output.fused_embeds if output.fused_embeds is not None else output.text_embeds
        if input_ids is None or prompt is None:
            if media is None:
                raise ValueError("the decoder needs pixel_values, input_ids or both")
            return Memory(media, None)
        mask = self._text_mask(input_ids, attention_mask).bool()
        if media is None:
            return Memory(prompt, mask[:, None, None])
        whole = torch.cat([mask.new_ones(media.shape[:2]), mask], dim=1)
        return Memory(torch.cat([media, prompt], dim=1), whole[:, None, None])

    def _text_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return input_ids != self.config.pad_token_id if attention_mask is None else attention_mask

    def _keys(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return self._text_mask(input_ids, attention_mask).bool()[:, None, None]

    def _pretrained(self) -> Heads:
        if not self.config.pretraining_heads:
            raise ValueError("this model has no heads for contrast, matching and MLM: released finetuned models have none")
        return self.heads


def lm_loss(logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
    """Cross-entropy of [b, t, vocabulary] logits and the label after each."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none")
    if reduction == "sample":
        return losses.sum() / len(labels)
    if reduction == "token":
        return losses.sum() / (labels[:, 1:] != IGNORED).sum()
    raise ValueError(f"loss_reduction {reduction!r} is neither 'token' nor 'sample'")
