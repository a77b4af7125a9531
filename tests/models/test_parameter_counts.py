"""Sizes of the released models, from their specification and, exactly, from the shapes of their weights."""

import math

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.conversion.released_file import released_tensors
from megatron_mplug2.conversion.released_rules import rules
from megatron_mplug2.parallel.topology import StageRoles, make_topology
from tests.models.parameter_groups import Group, group_of, live, parameter_groups
from tests.models.sizes import model_of, released_shapes
from tests.ranks import run_ranks
from tests.shared import needs_shared

MILLIONS = {
    Group.VISION: (303.97 - 0.79, 86.19 - 0.39),  # without CLIP's projection, which nothing uses
    Group.TEMPORAL_1: (25.30, 7.13),
    Group.TEMPORAL_2: (25.30, 7.13),
    Group.TEXT_EMBEDDING: (31.78, 23.84),
    Group.TEXT_LAYERS: (277.12, 70.88),
    Group.UNIVERSAL_SHARED: (25.19, 14.18),
    Group.UNIVERSAL_CROSS: (8.40, 4.73),
    Group.UNIVERSAL_QUERIES: (0.05, 0.04),
    Group.VISUAL_NORM: (0.00, 0.00),
    Group.FUSION: (100.78, 28.36),
    Group.DECODER_EMBEDDING: (31.78, 23.84),
    Group.DECODER_LAYERS: (201.56, 113.42),
    Group.LM_HEAD: (1.08, 0.62),
}
"""Large and base, in the released code, to two places."""

SIZES = ("large", "base")
LIVE = {"large": 1031.5, "base": 380.0}


def _groups(name: str) -> dict[Group, int]:
    return parameter_groups(model_of(name), make_topology(LayoutConfig(), StageRoles()))


def _counts(name: str) -> dict[Group, int]:
    return run_ranks(1, _groups, name)[0]


@pytest.mark.parametrize("name", SIZES)
def test_every_group_has_the_released_size(name: str) -> None:
    counts = _counts(name)
    place = SIZES.index(name)
    shown = {group: round(counts[group] / 1e6, 2) for group in MILLIONS}
    assert shown == pytest.approx({group: size[place] for group, size in MILLIONS.items()}, abs=0.011)
    assert live(counts) / 1e6 == pytest.approx(LIVE[name], abs=0.05)


@needs_shared
@pytest.mark.parametrize("name", SIZES)
def test_every_group_is_as_large_as_its_released_weights(name: str) -> None:
    config, counts = model_of(name), _counts(name)
    shapes = released_tensors(released_shapes(name))
    expected = dict.fromkeys(counts, 0)
    for rule in rules(config, config.text.layers - config.fusion_layers):
        expected[group_of(rule.name)] += sum(math.prod(shapes[source.name].shape) for source in rule.sources)
    assert {group: counts[group] for group in MILLIONS} == {group: expected[group] for group in MILLIONS}


@pytest.mark.parametrize("name", [*SIZES, "huge", "tiny"])
def test_pretraining_heads(name: str) -> None:
    config, counts = model_of(name), _counts(name)
    hidden, vocabulary, width = config.text.hidden, config.text.vocab_size, config.contrastive_width
    assert counts[Group.MLM_HEAD] == hidden * hidden + 3 * hidden + vocabulary
    assert counts[Group.CONTRAST_HEAD] == 2 * (hidden * width + width) + 1
    assert counts[Group.MATCHING_HEAD] == 2 * hidden + 2


def test_huge_and_tiny_are_as_large_as_their_configs_say() -> None:
    assert sum(_counts("huge").values()) / 1e9 == pytest.approx(3.0, abs=0.05)
    assert sum(_counts("tiny").values()) / 1e6 == pytest.approx(3.0, abs=0.5)
