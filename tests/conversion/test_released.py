"""Conversion of released files: every name accounted for, every spelling read, wrong files refused."""

import re
from collections.abc import Callable, Mapping

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.conversion.released import MISSING, plan_released
from megatron_mplug2.conversion.released_sizes import config_from_released
from megatron_mplug2.errors import UserError
from tests.models.build import build
from tests.models.golden import Released, from_released, load, model_config
from tests.models.sizes import model_of, released_shapes
from tests.ranks import run_ranks
from tests.shared import needs_shared

pytestmark = needs_shared

Tensors = dict[str, torch.Tensor]
QUERY = "text_encoder.encoder.layer.0.attention.self.query.weight"
WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"


def _state(kind: Released = Released.VQA) -> Tensors:
    return dict(load(kind)["state_dict"])


def _names_and_sizes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {weight.name: weight.full_size for weight in build(config, LayoutConfig()).weights}


@pytest.mark.parametrize("kind", Released)
def test_every_weight_is_converted_or_missing(kind: Released) -> None:
    config = model_config(kind)
    weights, report = from_released(_state(kind), config)
    (expected,) = run_ranks(1, _names_and_sizes, config)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        name: size for name, size in expected.items() if name not in MISSING
    }
    assert set(report.missing) == set(expected) - set(weights)


@pytest.mark.parametrize("kind", Released)
def test_every_released_weight_is_used_or_ignored(kind: Released) -> None:
    state = _state(kind)
    _, report = from_released(state, model_config(kind))
    assert len(set(report.used)) == len(report.used)
    assert not set(report.used) & set(report.ignored)
    tied = {"text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias"}
    spelt = {key.replace("text_decoder.bert.", "text_decoder.") for key in state}
    assert spelt == set(report.used) | set(report.ignored) | tied


@pytest.mark.parametrize("kind", Released)
@pytest.mark.parametrize("name", ["large", "base"])
def test_a_whole_released_model(name: str, kind: Released) -> None:
    """Names and shapes of the released classes; the VQA files have momentum twins of everything."""
    state = released_shapes(name, kind)
    plan = plan_released(state, model_of(name))
    report, weights = plan.report, {weight.name for weight in plan.weights()}
    assert len(weights) + len(report.missing) == len(weights | set(report.missing))
    tied = {"text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias"}
    assert {key.replace(".bert.", ".") for key in state} == set(report.used) | set(report.ignored) | tied | {
        key.replace("decoder.", "decoder_m.", 1) for key in tied if kind is Released.VQA
    }
    twins = [name for name in report.ignored if re.match(r"\w+_m\.", name)]
    assert len(twins) == (len(state) // 2 if kind is Released.VQA else 0)


@pytest.mark.parametrize("name", ["large", "base"])
def test_sizes_of_the_released_models(name: str) -> None:
    config = model_of(name)
    always = config.vision.model_copy(update={"temporal_on_images": True})
    assert config_from_released(released_shapes(name)) == config.model_copy(update={"vision": always})


def test_one_temporal_module() -> None:
    state = {key: value for key, value in _state().items() if "lmhra2" not in key}
    config = config_from_released(state)
    assert config.vision.temporal_modules == 1
    weights, _ = from_released(state, config)
    assert not any(".temporal.1." in name for name in weights)


def test_queries_keys_and_values_are_interleaved_by_head() -> None:
    state = _state()
    weights, _ = from_released(state, model_config(Released.VQA))
    heads = weights["text.layers.3.self_attention.linear_qkv.weight"].unflatten(0, (2, 3, 64))
    for index, part in enumerate(("query", "key", "value")):
        expected = state[f"text_encoder.encoder.layer.3.attention.self.{part}.weight"]
        assert torch.equal(heads[:, index].flatten(0, 1), expected)
    memory = weights["decoder.layers.2.cross_attention.linear_kv.bias"].unflatten(0, (2, 2, 64))
    assert torch.equal(memory[1, 0], state["text_decoder.bert.encoder.layer.2.crossattention.self.key.bias"][64:])
    clip = weights["vision.blocks.1.attention.linear_qkv.bias"].unflatten(0, (2, 3, 64))
    stacked = state["visual_encoder.visual.transformer.resblocks.1.attn.in_proj_bias"]
    assert torch.equal(clip[1, 2], stacked[2 * 128 + 64 :])


def test_layers_are_offset() -> None:
    """Of six text encoder layers the last two are universal; of six fusion layers the last two run."""
    state = _state()
    weights, report = from_released(state, model_config(Released.VQA))
    pairs = {
        "fusion.layers.0": "fusion_encoder.encoder.layer.4",
        "universal.layers.0.layer": "text_encoder.encoder.layer.4",
        "universal.layers.1.layer": "text_encoder.encoder.layer.5",
        "text.layers.3": "text_encoder.encoder.layer.3",
    }
    for target, source in pairs.items():
        assert torch.equal(weights[f"{target}.mlp.linear_fc1.weight"], state[f"{source}.intermediate.dense.weight"])
    assert "fusion_encoder.encoder.layer.3.intermediate.dense.weight" in report.ignored


def _with_infix(state: Tensors) -> Tensors:
    return {re.sub(r"^(text|fusion)_encoder\.", r"\1_encoder.bert.", key): value for key, value in state.items()}


def _without_infix(state: Tensors) -> Tensors:
    return {key.replace("text_decoder.bert.", "text_decoder."): value for key, value in state.items()}


def _with_twins(state: Tensors) -> Tensors:
    return state | {re.sub(r"^(\w+)\.", r"\1_m.", key): value + 1 for key, value in state.items()}


def _used_fusion_layers_only(state: Tensors) -> Tensors:
    return {key: value for key, value in state.items() if not re.match(r"fusion_encoder\.(embeddings|encoder\.layer\.[0-3])\.", key)}


def _untied_names(state: Tensors) -> Tensors:
    return {key: value for key, value in state.items() if "predictions.decoder." not in key}


def _pretraining(state: Tensors) -> Tensors:
    return _with_infix(state) | {"temp": torch.tensor(0.07), "itm_head.weight": torch.zeros(2, 128)}


@pytest.mark.parametrize(
    "spelling",
    [
        _with_infix,
        _without_infix,
        _with_twins,
        _used_fusion_layers_only,
        _untied_names,
        _pretraining,
        lambda state: {"model": state, "optimizer": {}, "epoch": 3},
        lambda state: {"module": state, "config": None},
    ],
)
def test_other_spellings_of_the_same_weights(spelling: Callable[[Tensors], Mapping[str, object]]) -> None:
    config = model_config(Released.VQA)
    expected, _ = from_released(_state(), config)
    state = spelling(_state())
    weights, _ = from_released(state, config)
    assert config_from_released(state) == config
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def _resized(state: Tensors) -> Tensors:
    return state | {QUERY: torch.zeros(64, 128)}


WRONG: dict[str, tuple[Callable[[Tensors], Mapping[str, object]], str]] = {
    "empty": (lambda _: {}, "visual_encoder.visual.conv1.weight"),
    "a weight is absent": (lambda state: {key: value for key, value in state.items() if key != QUERY}, QUERY),
    "a weight is too small": (_resized, r"\[64, 128\] in the file, \[128, 128\] in the model"),
    "an unknown weight": (lambda state: state | {"pooler.dense.weight": torch.zeros(1)}, "pooler.dense.weight"),
    "an unknown weight in a known layer": (lambda state: state | {QUERY + "_scale": torch.zeros(1)}, "query.weight_scale"),
    "not a tensor": (lambda state: state | {"epoch": 3}, "epoch is a int"),
    "both spellings": (lambda state: state | {WORDS.replace("bert.", ""): state[WORDS]}, "with and without 'bert.'"),
    "an untied pair": (lambda state: state | {WORDS: state[WORDS] + 1}, "differ, but mPLUG-2 ties them"),
    "another model": (lambda _: {"encoder.weight": torch.zeros(3, 3)}, "isn't a released mPLUG-2 checkpoint"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(UserError, match=message) as error:
        from_released(make(_state()), model_config(Released.VQA))
    assert "\n" not in str(error.value)


def test_a_config_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="choose the model config that the file is of"):
        from_released(_state(), model_of("base"))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"encoder.weight": torch.zeros(3, 3)},
        {"visual_encoder.visual.conv1.weight": torch.zeros(8, 3)},
    ],
)
def test_sizes_of_a_wrong_file(state: dict[str, object]) -> None:
    with pytest.raises(UserError, match="isn't a released mPLUG-2 checkpoint"):
        config_from_released(state)


def test_a_text_encoder_without_universal_layers() -> None:
    state = {key: value for key, value in _state().items() if not (key.startswith("text_encoder") and "crossattention" in key)}
    with pytest.raises(UserError, match="latents"):
        config_from_released(state)


def test_a_width_without_whole_heads() -> None:
    state = _state() | {"visual_encoder.visual.conv1.weight": torch.zeros(100, 3, 1, 14, 14)}
    with pytest.raises(UserError, match="100 isn't a multiple of 64"):
        config_from_released(state)
