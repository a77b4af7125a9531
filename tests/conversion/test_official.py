"""A released .pth to a Hugging Face folder and back, by the command, and the folder used without Megatron."""

import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_mplug2.conversion.contents import describe
from megatron_mplug2.conversion.exported_model import exported_config, is_exported, search_of
from megatron_mplug2.conversion.huggingface.settings import Search, model_config
from megatron_mplug2.conversion.official import folder_to_official, official_to_folder
from megatron_mplug2.conversion.released import MISSING
from megatron_mplug2.conversion.released_file import is_dead
from megatron_mplug2.errors import UserError
from tests.conversion.exported import elsewhere, vocabulary
from tests.models.golden import Released, load
from tests.shared import needs_shared
from tests.test_cli import run

pytestmark = needs_shared

TOLERANCE = 1e-5

LOAD = """
outputs = {}
for kind, given in inputs.items():
    model = model_of(given["folder"])
    made = model(**given["inputs"])
    found = model.generate(**given["asked"], min_length=given["lengths"][0], max_length=given["lengths"][1])
    alone = [model.generate(**{name: value[row:row + 1] for name, value in given["asked"].items()}, min_length=given["lengths"][0],
             max_length=given["lengths"][1]).ids[0] for row in range(len(found.ids))]
    outputs[kind] = {
        "dec_logits": made.logits, "loss": made.loss, "img_emb": made.media_embeds, "text": made.text_embeds,
        "fusion_txt": made.fused_embeds, "beam_ids": found.ids.tolist(), "beam_scores": found.scores.tolist(),
        "alone": [ids.tolist() for ids in alone],
        "decoded": processor_of(given["folder"]).batch_decode(found.ids),
        "prompted": processor_of(given["folder"]).targets(["a cat"], prompted=True),
        "prompt cut off": processor_of(given["folder"]).decode([101, 200, 201, 202, 203, 204, 102, 204]),
    }
"""


def official(file: Path, out: Path, vocab: Path, bert_config: Path | None = None) -> None:
    official_to_folder(file, out, vocab, model=None, bert_config=bert_config)


def refusal(convert: Callable[[], object]) -> str:
    """The one line that a conversion ends in."""
    with pytest.raises(UserError) as error:
        convert()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tiny models as .pth files of other spellings, and their folders."""
    place = tmp_path_factory.mktemp("official")
    vocab = vocabulary(place / "vocab.txt")
    for kind in Released:
        torch.save({"model": load(kind)["state_dict"], "optimizer": {"step": 3}, "epoch": 1}, place / f"{kind}.pth")
        official(place / f"{kind}.pth", place / kind, vocab)
    return place


def given(kind: Released, folder: Path) -> dict[str, Any]:
    """Inputs of the released model's training forward and search."""
    golden = load(kind)
    asked = {"pixel_values": golden["video"]}
    if kind is Released.VQA:
        asked |= {"input_ids": golden["question_ids"], "attention_mask": golden["question_mask"]}
    labels = golden["answer_ids"].masked_fill(golden["answer_mask"] == 0, -100)
    labels[:, : golden["prompt_length"] or 0] = -100
    taught = {"decoder_input_ids": golden["answer_ids"], "labels": labels}
    reduction = {"loss_reduction": "sample" if kind is Released.VQA else "token"}
    lengths = (1, 10) if kind is Released.VQA else (4, 20)
    return {"folder": str(folder / kind), "asked": asked, "inputs": asked | taught | reduction, "lengths": lengths}


def test_equals_the_released_model(place: Path, tmp_path: Path) -> None:
    """Loaded by AutoModel where there is no Megatron: values, logits, loss, beams."""
    found = elsewhere(tmp_path, LOAD, {str(kind): given(kind, place) for kind in Released})
    for kind in Released:
        expected, values = load(kind)["out"], found[str(kind)]
        names = {"dec_logits", "loss", "img_emb"} | ({"text", "fusion_txt"} if kind is Released.VQA else set())
        errors = {name: float((values[name] - expected[name]).abs().max()) for name in names}
        assert max(errors.values()) <= TOLERANCE, errors
        assert values["beam_ids"] == expected["beam_ids"] == values["alone"]
        assert values["beam_scores"] == pytest.approx(expected["beam_scores"], abs=TOLERANCE)
        assert values["decoded"] == [" ".join(f"w{id_}" for id_ in ids[1:] if id_ != 102) for ids in expected["beam_ids"]]
        assert values["prompted"]["decoder_input_ids"].tolist() == [[101, 200, 201, 202, 203, 204, 102]]  # glued: "of", "##a"
        assert values["prompted"]["labels"].tolist() == [[-100, -100, -100, 202, 203, 204, 102]]
        assert values["prompt cut off"] == "a cat"


@pytest.mark.parametrize("kind", Released)
def test_a_folder_can_be_asked_by_predict(place: Path, kind: Released) -> None:
    config = exported_config(place / kind)
    assert is_exported(place / kind) and search_of(place / kind) is Search.RELEASED
    assert config.model == model_config(place / kind) and config.data.vocab == place / kind / "vocab.txt"


def released_and_live(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without weights that are never run: of six fusion layers the last two are."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not is_dead(name.replace("text_decoder.bert.", "text_decoder."))
        and not re.match(r"fusion_encoder\.encoder\.layer\.[0-3]\.", name)
    }


@pytest.mark.parametrize("kind", Released)
def test_there_and_back_is_bit_exact(place: Path, tmp_path: Path, kind: Released) -> None:
    folder_to_official(place / kind, tmp_path / "back.pth")
    found = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    expected = released_and_live(load(kind)["state_dict"])
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_the_released_bert_config_gives_the_heads(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bert.json").write_text('{"num_attention_heads": 4, "fusion_layers": 3, "hidden_size": 128}')
    official(place / "vqa.pth", tmp_path / "out", place / "vocab.txt", tmp_path / "bert.json")
    text = (tmp_path / "out" / "config.json").read_text()
    assert '"text_heads": 4' in text and '"fusion_layers": 3' in text


class Executed:
    """Leaves a file behind where it is unpickled as pickle does it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (self.trace,)  # type: ignore[return-value]


def test_nothing_in_a_file_is_executed(place: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"model": load(Released.VQA)["state_dict"], "config": Executed(trace)}, tmp_path / "evil.pth")
    line = refusal(lambda: official(tmp_path / "evil.pth", tmp_path / "out", place / "vocab.txt"))
    assert "evil.pth" in line and "isn't executed" in line
    assert not trace.exists() and not (tmp_path / "out").exists()


def half(file: Path, place: Path) -> None:
    data = (place / "vqa.pth").read_bytes()
    file.write_bytes(data[: len(data) // 2])


def resized(file: Path, place: Path) -> None:
    name = "text_encoder.encoder.layer.0.attention.self.query.weight"
    torch.save({"model": load(Released.VQA)["state_dict"] | {name: torch.zeros(64, 128)}}, file)


def quantised(file: Path, place: Path) -> None:
    name = "text_encoder.embeddings.word_embeddings.weight"
    state = load(Released.VQA)["state_dict"]
    torch.save({"model": state | {name: state[name].to(torch.int8)}}, file)


WRONG: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "half downloaded": (half, "damaged or cut off"),
    "a text": (lambda file, _: file.write_text("<html>404</html>"), "is no file of torch.save"),
    "a list": (lambda file, _: torch.save([torch.zeros(1)], file), "holds a list"),
    "another model": (lambda file, _: torch.save({"encoder.weight": torch.zeros(3, 3)}, file), "isn't a released mPLUG-2 checkpoint"),
    "a wrong shape": (resized, "text_encoder.encoder.layer.0.attention.self.query.weight is"),
    "quantised": (quantised, "text.embedding.word.weight is torch.int8, but weights are torch.float32, "),
    "missing": (lambda _, __: None, "No such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_one_line(place: Path, tmp_path: Path, case: str) -> None:
    make, message = WRONG[case]
    make(tmp_path / "in.pth", place)
    line = refusal(lambda: official(tmp_path / "in.pth", tmp_path / "out", place / "vocab.txt"))
    assert message in line and "in.pth" in line
    assert {path.name for path in tmp_path.iterdir()} <= {"in.pth"}


def test_what_is_there_is_left_alone(place: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    assert "exists already" in refusal(lambda: official(place / "vqa.pth", mine, place / "vocab.txt"))
    assert "exists already" in refusal(lambda: folder_to_official(place / "vqa", mine))
    assert mine.read_text() == "mine"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Larger ones fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    with files_no_larger_than(500_000):
        lines = (
            refusal(lambda: official(place / "vqa.pth", tmp_path / "out", place / "vocab.txt")),
            refusal(lambda: folder_to_official(place / "vqa", tmp_path / "out.pth")),
        )
    assert lines[0].startswith(f"cannot write {tmp_path / 'out'}: ") and "File too large" in lines[0]
    assert lines[1] == f"cannot write {tmp_path / 'out.pth'}: it was not written whole; is the disk full?"
    assert list(tmp_path.iterdir()) == []


def test_inspection(place: Path, tmp_path: Path) -> None:
    """Both tell the same model, whose live weights are in the folder."""
    of_file, of_folder = describe(place / "vqa.pth"), describe(place / "vqa")
    assert of_file[1] == "beside the weights: epoch, optimizer"
    assert "text: 6 layers of width 128, 2 of them universal, 211 pieces" in of_folder
    assert set(of_folder[1:]) <= set(of_file) and "missing: 12" in of_file
    (tmp_path / "a.pth").write_text("?")
    for wrong in (tmp_path, tmp_path / "a.pth"):
        assert str(tmp_path) in refusal(lambda wrong=wrong: describe(wrong))  # type: ignore[misc]


def test_the_command_tells_what_became_of_each_weight(place: Path, tmp_path: Path) -> None:
    arguments = (str(place / "vqa.pth"), str(tmp_path / "out"), "--vocab", str(place / "vocab.txt"))
    done = run("convert", "official", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert {"  text_encoder.encoder.layer.*.attention.self.query.weight  x 6", "  visual_encoder.visual.proj"} <= set(lines)
    missing = lines[lines.index("missing: 12") + 1 : -1]
    assert [name.strip() for name in missing] == list(MISSING)
