"""The plain reference of momentum encoders and their queue: a second model, all of history, whole matrices and autograd."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional as F

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.weights import named_weights
from megatron_mplug2.objectives.ids import equal_ids, pair_ids
from megatron_mplug2.parallel.topology import Topology


class MomentumReference:
    def __init__(self, config: RunConfig, stage: Stage, twin: Stage, topology: Topology) -> None:
        """`twin`: a model like `stage`, which becomes the average."""
        self._settings = config.objectives.vlc.queue
        self._stage, self._twin, self._topology = stage, twin.eval(), topology
        twin.load_state_dict(stage.state_dict())
        width = config.model.contrastive_width
        self._vision, self._text, self._ids = torch.empty(0, width), torch.empty(0, width), torch.empty(0, 2, dtype=torch.int64)

    def loss(self, micros: Sequence[Microbatch], log_temperature: torch.Tensor) -> torch.Tensor:
        """Of the batch against itself and the queue, which it then joins."""
        vision, text = _together([micro.features for micro in micros])
        with torch.no_grad():
            own_vision, own_text = _together([self._averaged_features(micro) for micro in micros])
        ids = torch.cat([pair_ids(micro.pair) for micro in micros])
        queued = slice(-self._settings.size, None)
        same = equal_ids(ids, torch.cat([ids, self._ids[queued]])).float()
        same = same / same.sum(1, keepdim=True)
        alpha = self._settings.alpha * min(1.0, micros[0].step / self._settings.alpha_ramp_steps)

        def half(live: torch.Tensor, own: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
            soft = (own @ keys.T / log_temperature.exp()).softmax(1).detach()
            return F.cross_entropy(live @ keys.T / log_temperature.exp(), alpha * soft + (1 - alpha) * same)

        to_texts = half(vision, own_vision, torch.cat([own_text, self._text[queued]]))
        to_images = half(text, own_text, torch.cat([own_vision, self._vision[queued]]))
        self._vision, self._text = torch.cat([self._vision, own_vision]), torch.cat([self._text, own_text])
        self._ids = torch.cat([self._ids, ids])
        return (to_texts + to_images) / 2

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        for average, weight in zip(self._twin.parameters(), self._stage.parameters(), strict=True):
            average.copy_(self._settings.momentum * average + (1 - self._settings.momentum) * weight)

    def averages(self) -> dict[str, torch.Tensor]:
        weights = named_weights(self._twin, self._topology)
        return {weight.name: weight.param.detach()[tuple(slice(size) for size in weight.full_size)].clone() for weight in weights}

    def ring(self) -> dict[str, torch.Tensor]:
        """Sample number i of all is in slot i % size."""
        count, size = len(self._ids), self._settings.size
        order = sorted(range(max(0, count - size), count), key=lambda number: number % size)
        return {
            "vision": self._vision[order],
            "text": self._text[order],
            "ids": self._ids[order],
            "enqueued": torch.tensor(count),
        }

    def _averaged_features(self, micro: Microbatch) -> tuple[torch.Tensor, torch.Tensor]:
        twin = replace(micro, features_only=True, features=None)
        self._twin({}, twin)
        assert twin.features is not None
        return twin.features


def _together(features: Sequence[tuple[torch.Tensor, torch.Tensor] | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all microbatches, vision and text."""
    vision, text = zip(*(pair for pair in features if pair is not None), strict=True)
    return torch.cat(vision), torch.cat(text)
