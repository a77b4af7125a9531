"""CLIP and BERT as a beginning: features equal those of transformers' own models, from every kind of file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from megatron_mplug2.checkpoint import store
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig, TextConfig, VisionConfig
from megatron_mplug2.conversion.lazy import LazyWeight
from megatron_mplug2.conversion.pretrained import Positions, initial_weights, pretrained_to_checkpoint
from megatron_mplug2.conversion.pretrained_names import bert_as_released, clip_as_released, resized
from megatron_mplug2.conversion.tensor_files import open_tensors
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.models.units import VisionEmbeddingUnit, VisionOutputUnit
from tests.models.build import build
from tests.ranks import run_ranks

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
WIDTH, HEADS, FFN, LAYERS, PATCH, RESOLUTION = 64, 2, 128, 3, 8, 32
CONFIG = ModelConfig(
    vision=VisionConfig(width=WIDTH, blocks=LAYERS, heads=HEADS, ffn=FFN, patch=PATCH, resolution=RESOLUTION, temporal_on_images=True),
    text=TextConfig(hidden=WIDTH, heads=HEADS, ffn=FFN, layers=LAYERS, vocab_size=101, positions=40),
    fusion_layers=2,
    decoder_layers=2,
)


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval()


def clip_of(resolution: int) -> nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = transformers.CLIPVisionConfig(**sizes, image_size=resolution, patch_size=PATCH, hidden_act="quick_gelu")
    return randomised(transformers.CLIPVisionModel(config))


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    return clip_of(RESOLUTION)


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = transformers.BertConfig(**sizes, vocab_size=101, max_position_embeddings=40)
    return randomised(transformers.BertForMaskedLM(config))


def as_openai(clip: nn.Module) -> dict[str, torch.Tensor]:
    """Under OpenAI's names, with some of what else is in its archive."""
    released = clip_as_released(clip.state_dict(), CONFIG)
    visual = {name.removeprefix("visual_encoder."): tensor.clone() for name, tensor in released.items()}
    visual["visual.conv1.weight"] = visual["visual.conv1.weight"].squeeze(2)
    return visual | {
        "visual.proj": torch.zeros(WIDTH, 8),
        "logit_scale": torch.zeros(()),
        "transformer.resblocks.0.ln_1.weight": torch.ones(8),
    }


class Tree(nn.Module):
    """Modules and parameters of dotted names, for a TorchScript archive."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        below: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            first, dot, rest = name.partition(".")
            if dot:
                below.setdefault(first, {})[rest] = tensor
            else:
                self.register_parameter(name, nn.Parameter(tensor))
        for name, inside in below.items():
            self.add_module(name, Tree(inside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def scripted(tensors: dict[str, torch.Tensor], path: Path) -> None:
    torch.jit.trace(Tree(tensors), torch.zeros(1)).save(path)


WRITTEN: dict[str, Callable[[nn.Module, Path], None]] = {
    "transformers": lambda clip, path: torch.save({f"vision_model.{name}": value for name, value in clip.state_dict().items()}, path),
    "openai": lambda clip, path: torch.save(as_openai(clip), path),
    "openai's archive": lambda clip, path: scripted(as_openai(clip), path),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_kind_of_clip_file(clip: nn.Module, tmp_path: Path, kind: str) -> None:
    WRITTEN[kind](clip, tmp_path / "clip.pt")
    found, expected = (clip_as_released(tensors, CONFIG) for tensors in (open_tensors(tmp_path / "clip.pt"), clip.state_dict()))
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def vision_features(weights: dict[str, torch.Tensor], config: ModelConfig, media: torch.Tensor) -> torch.Tensor:
    """[b, 1 + T * patches, width] after the vision encoder."""
    built = build(config, LayoutConfig())
    for weight in built.weights:
        weight.load_full(weights[weight.name], built.topology)
    Inference(built.stage, built.context)
    frames, tokens = media.shape[2], 1 + (media.shape[-1] // PATCH) ** 2
    with torch.no_grad():
        x = built.stage.block(VisionEmbeddingUnit.name)(media)
        for index in range(config.vision.blocks):
            x = built.stage.block(f"vision.blocks.{index}")(x, frames, tokens, temporal=True)
        return built.stage.block(VisionOutputUnit.name)(x, frames, tokens).transpose(0, 1)


def read(weights: list[LazyWeight]) -> dict[str, torch.Tensor]:
    return {weight.name: weight.read() for weight in weights}


@pytest.mark.parametrize(("frames", "resolution"), [(1, RESOLUTION), (4, RESOLUTION), (1, 48)])
def test_vision_equals_clip(clip: nn.Module, frames: int, resolution: int) -> None:
    """Temporal modules begin as no change; at another resolution CLIP gets the resized table too."""
    vision = CONFIG.vision.model_copy(update={"resolution": resolution})
    config = CONFIG.model_copy(update={"vision": vision})
    weights, report = initial_weights(clip_as_released(clip.state_dict(), config), config, 0)
    assert not report.ignored
    media = torch.randn(2, 3, frames, resolution, resolution, generator=torch.Generator().manual_seed(1))
    (found,) = run_ranks(1, vision_features, read(weights), config, media)
    positions = resized(clip.state_dict()["embeddings.position_embedding.weight"], vision.grid)
    with torch.no_grad():
        other = clip_of(resolution)
        other.load_state_dict(clip.state_dict() | {"embeddings.position_embedding.weight": positions})
        hidden = other(media.transpose(1, 2).flatten(0, 1)).last_hidden_state.unflatten(0, (2, frames))
        whole = torch.cat([hidden[:, :, :1].mean(1), hidden[:, :, 1:].flatten(1, 2)], dim=1)
        norm = {name.removeprefix("post_layernorm."): value for name, value in clip.state_dict().items() if "post_layernorm" in name}
        expected = nn.functional.layer_norm(whole, (WIDTH,), norm["weight"], norm["bias"], 1e-5)
    assert float((found - expected).abs().max()) <= TOLERANCE


def text_features(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    built = build(CONFIG, LayoutConfig())
    for weight in built.weights:
        weight.load_full(weights[weight.name], built.topology)
    return Inference(built.stage, built.context).encode_text(tokens).tokens.transpose(0, 1)


def test_text_equals_bert(bert: nn.Module) -> None:
    weights, _ = initial_weights(bert_as_released(bert.state_dict(), CONFIG), CONFIG, 0)
    tokens = torch.randint(1, 101, (3, 9), generator=torch.Generator().manual_seed(2))
    tokens[1, 5:] = 0
    (found,) = run_ranks(1, text_features, read(weights), tokens)
    with torch.no_grad():
        expected = bert.bert(tokens, attention_mask=tokens != 0).last_hidden_state  # type: ignore[operator]
    assert float((found - expected)[tokens != 0].abs().max()) <= TOLERANCE


def test_bert_is_also_fusion_decoder_and_heads(bert: nn.Module) -> None:
    weights, report = initial_weights(bert_as_released(bert.state_dict(), CONFIG), CONFIG, 0)
    found, state = read(weights), bert.state_dict()
    assert torch.equal(found["fusion.layers.0.mlp.linear_fc1.weight"], state["bert.encoder.layer.1.intermediate.dense.weight"])
    assert torch.equal(found["decoder.layers.0.mlp.linear_fc1.weight"], state["bert.encoder.layer.0.intermediate.dense.weight"])
    for head in ("heads.lm", "heads.mlm"):
        assert torch.equal(found[f"{head}.dense.weight"], state["cls.predictions.transform.dense.weight"])
    assert {name.split(".")[0] for name in report.missing} == {"vision", "universal", "fusion", "decoder", "heads"}
    assert all("cross_attention" in name for name in report.missing if name.startswith(("fusion", "decoder")))


def test_a_run_can_begin_with_both(clip: nn.Module, bert: nn.Module, tmp_path: Path) -> None:
    save_file({name: value.contiguous().clone() for name, value in bert.state_dict().items()}, tmp_path / "model.safetensors")
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": CONFIG.model_dump(mode="json")}))
    pretrained_to_checkpoint(
        tmp_path / "out", tmp_path / "model.yaml", clip=tmp_path / "clip.pt", bert=tmp_path, positions=Positions.ZERO, seed=3
    )
    (found,) = run_ranks(1, loaded, tmp_path / "out")
    assert not found["vision.embedding.position"].any()
    assert torch.equal(found["vision.embedding.norm.weight"], clip.state_dict()["pre_layrnorm.weight"])
    assert torch.equal(found["text.layers.0.mlp.linear_fc1.weight"], bert.state_dict()["bert.encoder.layer.0.intermediate.dense.weight"])


def loaded(place: Path) -> dict[str, torch.Tensor]:
    built = build(CONFIG, LayoutConfig())
    store.load_weights(store.find_in(place), built.weights, built.topology)
    return {weight.name: weight.param.detach() for weight in built.weights}


def test_wrong_files_are_one_line(clip: nn.Module, bert: nn.Module, tmp_path: Path) -> None:
    scripted(as_openai(clip), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"half\.pt is damaged or cut off"):
        open_tensors(tmp_path / "half.pt")
    with pytest.raises(UserError, match="holds no vision tower"):
        clip_as_released(bert.state_dict(), CONFIG)
    with pytest.raises(UserError, match="holds no BERT"):
        bert_as_released(clip.state_dict(), CONFIG)
    text = CONFIG.text.model_copy(update={"layers": 4})
    with pytest.raises(UserError, match="it has 3 layers, the model 4"):
        bert_as_released(bert.state_dict(), CONFIG.model_copy(update={"text": text}))
    wide = CONFIG.model_copy(update={"text": CONFIG.text.model_copy(update={"ffn": 256})})
    with pytest.raises(UserError, match=r"intermediate\.dense\.weight is \[128, 64\] in the file, \[256, 64\] in the model"):
        initial_weights(bert_as_released(bert.state_dict(), wide), wide, 0)
