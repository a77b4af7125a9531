"""Files that build on one another, overrides, and what is said about mistakes."""

from pathlib import Path

import pytest
import yaml

from megatron_mplug2.config.load import RESOLVED_NAME, load_config, merge, parse_resolved, resolved_yaml, write_resolved
from megatron_mplug2.config.training import InitialiseConfig
from megatron_mplug2.errors import UserError

PRETRAIN = Path(__file__).parents[2] / "configs/pretrain"
DEMO = PRETRAIN / "demo.yaml"


def errors_of(*overrides: str, path: Path = DEMO) -> list[str]:
    """Lines that follow the file's name in the error."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    first, *others = str(caught.value).split("\n  ")
    assert first.startswith(f"{path}: ")
    if not others:
        return [first.removeprefix(f"{path}: ")]
    assert first == f"{path}: {len(others)} errors"
    return others


@pytest.mark.parametrize(
    ("name", "vision_width", "hidden", "fusion", "world_size"),
    [("demo", 128, 128, 2, 2), ("base", 768, 768, 3, 8), ("large", 1024, 1024, 6, 32), ("huge", 1536, 1536, 8, 128)],
)
def test_every_preset_loads(name: str, vision_width: int, hidden: int, fusion: int, world_size: int) -> None:
    config = load_config(PRETRAIN / f"{name}.yaml")
    assert config.name == name
    assert config.model.vision.width == vision_width
    assert config.model.text.hidden == hidden
    assert config.model.fusion_layers == fusion
    assert config.layout.world_size == world_size


@pytest.mark.parametrize("name", ["demo", "base", "large", "huge"])
def test_the_resolved_config_gives_the_same_config(tmp_path: Path, name: str) -> None:
    config = load_config(PRETRAIN / f"{name}.yaml", ["objectives.lm.video_instruction='was passiert? ${x}: #1'", "optimizer.eps=1e-9"])
    write_resolved(config, tmp_path / "run")
    assert load_config(tmp_path / "run" / RESOLVED_NAME) == config
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RESOLVED_NAME]
    assert "video_instruction: 'was passiert? ${x}: #1'" in resolved_yaml(config)
    assert parse_resolved(resolved_yaml(config), "a checkpoint") == config


def test_later_files_win(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "one.yaml").write_text(f"base: {DEMO}\nname: one\ntraining: {{seed: 1, threads: 3}}\n")
    (tmp_path / "two.yaml").write_text("name: two\ntraining: {seed: 2}\n")
    (tmp_path / "sub/top.yaml").write_text("base: [../one.yaml, ../two.yaml]\ndata: {train: {text: [a, b]}}\n")
    config = load_config(tmp_path / "sub/top.yaml")
    assert (config.name, config.training.seed, config.training.threads, config.training.global_batch) == ("two", 2, 3, 32)
    folders = [dataset.folder for dataset in config.data.train.text]
    assert folders == ["a", "b"], "a list replaces the list below it, and stays relative to the current folder"
    assert len(config.data.train.image_text) == 1


@pytest.mark.parametrize("name", ["run #2", "a  # b", "it's é", "#1"])
def test_a_folder_of_any_name(name: str) -> None:
    assert load_config(DEMO, [f"run_dir=/runs/{name}"]).run_dir == Path(f"/runs/{name}")
    assert load_config(DEMO, [f"run_dir='/runs/{name.replace(chr(39), chr(39) * 2)}'"]).run_dir == Path(f"/runs/{name}")


def test_a_comment_after_a_number_and_an_empty_text() -> None:
    assert load_config(DEMO, ["training.seed=3 # three"]).training.seed == 3
    assert errors_of("name=''") == ["name: string should have at least 1 character (it is '')"]


def test_merge_leaves_its_arguments() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}}
    assert merge(base, {"a": {"c": [3]}, "d": None}) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert base == {"a": {"b": 1, "c": [1, 2]}}


def test_overrides(tmp_path: Path) -> None:
    overrides = ["optimizer.lr=2e-4", "layout.sequence_parallel=true", "layout.tensor=2", "schedule.1.steps=9", "schedule.0.steps=100"]
    config = load_config(DEMO, [*overrides, "layout.stage_starts=null", "data.crop_scale=[0.5, 0.9]", "optimizer.vision={lr_scale: 0.5}"])
    assert (config.optimizer.lr, config.layout.sequence_parallel, config.layout.tensor) == (2e-4, True, 2)
    assert (config.steps, config.data.crop_scale) == (109, (0.5, 0.9))
    assert (config.optimizer.vision.lr_scale, config.optimizer.vision.decay_scale) == (0.5, 1.0)
    assert config.layout.stage_starts is None
    write_resolved(config, tmp_path)
    begun = load_config(tmp_path / RESOLVED_NAME, ["initialise_from.checkpoint=there", "initialise_from.modules=[vision]"])
    assert begun.initialise_from == InitialiseConfig(checkpoint=Path("there"), modules=("vision",)), "a section that it has as null"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.mircobatch=4", "training.mircobatch: unknown key; did you mean training.microbatch?"),
        ("training.lr=4", "training.lr: unknown key; did you mean optimizer.lr?"),
        ("optimiser.lr=4", "optimiser: unknown key; did you mean optimizer?"),
        ("model.text.leyers=4", "model.text.leyers: unknown key; did you mean model.text.layers?"),
        ("model.unversal_layers=4", "model.unversal_layers: unknown key; did you mean model.text.universal_layers?"),
        ("schedule.1.frame=4", "schedule.1.frame: unknown key; did you mean schedule.1.frames?"),
        ("data.frames=4", "data.frames: unknown key; did you mean schedule.0.frames?"),
        ("layout.zzzz=4", "layout.zzzz: unknown key"),
        ("vlc.weight=1", "vlc: unknown key; did you mean objectives.vlc?"),
        ("objectives.chunk=1", "objectives.chunk: unknown key; did you mean objectives.vlc.chunk?"),
        ("mlm.chunk.x=1", "mlm: unknown key; did you mean objectives.mlm?"),
        ("data.test_.text=[]", "data.test_: unknown key; did you mean data.test?"),
        ("clipnorm=1", "clipnorm: unknown key; did you mean optimizer.clip_norm?"),
        ("training.precision=fp8", "training.precision: input should be 'fp32' or 'bf16' (it is 'fp8')"),
        ("optimizer.lr=.inf", "optimizer.lr: input should be a finite number (it is inf)"),
        ("optimizer.vision=3", "optimizer.vision: must be a section of keys, not 3"),
        ("model.vision.width=null", "model.vision.width: input should be a valid integer (it is None)"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, said: str) -> None:
    assert errors_of(override) == [said]


def test_a_misspelt_required_key_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        DEMO.read_text().replace("../model/tiny.yaml", str(PRETRAIN.parent / "model/tiny.yaml")).replace("  microbatch:", "  mircobatch:")
    )
    assert errors_of(path=path) == ["training.mircobatch: unknown key; did you mean training.microbatch?"]


def test_all_errors_at_once() -> None:
    """Unknown keys, wrong values, the model's own cross-field errors and the run's, in one go."""
    lines = errors_of("training.mircobatch=4", "optimizer.lr=-1", "model.text.heads=5", "layout.tensor=3", "schedule.0.shape=1")
    assert "training.mircobatch: unknown key; did you mean training.microbatch?" in lines
    assert "schedule.0.shape: unknown key" in lines
    assert "optimizer.lr: input should be greater than 0 (it is -1)" in lines
    assert "model.text.heads=5 does not divide model.text.hidden=128" in lines
    assert "layout.tensor=3 does not divide model.text.heads=5" in lines
    assert len(lines) == len(set(lines))


def test_a_wrong_entry_of_a_list_is_told_once() -> None:
    """Pydantic says beside it that the list is too short without that entry."""
    assert errors_of("schedule=[{steps: 0, text: 1, resolution: 32}]") == ["schedule.0.steps: input should be greater than 0 (it is 0)"]
    assert errors_of("schedule=[]") == ["schedule: tuple should have at least 1 item after validation, not 0 (it is [])"]


def test_overrides_that_cannot_be_applied_are_told_together() -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEMO, ["training.seed", "optimizer.lr=1e-4", "schedule.first.steps=1"])
    assert [line.split(": ")[0].strip() for line in str(caught.value).splitlines()] == [
        "override 'training.seed'",
        "override 'schedule.first.steps=1'",
    ]


def test_nothing_is_said_of_a_default_that_stands_in_for_a_wrong_value() -> None:
    assert errors_of("objectives.vlm.group=-8", "training.microbatch=8") == [
        "objectives.vlm.group: input should be greater than 1 (it is -8)"
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.seed", "override 'training.seed': write it as dotted.key=value"),
        ("training..seed=1", "override 'training..seed=1': write it as dotted.key=value"),
        ("training.seed=[1", "override 'training.seed=[1': the value is not YAML"),
        ("schedule.2.steps=1", "override 'schedule.2.steps=1': schedule is a list, its entries are 0..1"),
        ("schedule.first.steps=1", "override 'schedule.first.steps=1': schedule is a list, its entries are 0..1"),
        ("name.x=1", "override 'name.x=1': name is the value 'demo', not a section"),
    ],
)
def test_an_override_that_cannot_be_applied(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEMO, [override])
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "{folder}/top.yaml: cannot read the config file: No such file or directory"),
        ({"top.yaml": "base: gone.yaml"}, "{folder}/gone.yaml (base of {folder}/top.yaml): cannot read the config file: No such file"),
        (
            {"top.yaml": "base: a.yaml", "a.yaml": "base: top.yaml"},
            "{folder}/top.yaml -> {folder}/a.yaml -> {folder}/top.yaml: these config files build on one another in a circle",
        ),
        ({"top.yaml": "a: [1"}, "{folder}/top.yaml: not YAML: "),
        ({"top.yaml": "name: a\nname: b"}, "{folder}/top.yaml: not YAML: the key 'name' is there twice"),
        ({"top.yaml": "- 1"}, "{folder}/top.yaml: a config file holds `key: value` lines, this one holds a list"),
        ({"top.yaml": "base: {a: 1}"}, "{folder}/top.yaml: base is a file name or a list of file names"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "top.yaml")
    assert str(caught.value).startswith(said.format(folder=tmp_path)) and "\n" not in str(caught.value)


def test_a_common_base_is_no_circle(tmp_path: Path) -> None:
    (tmp_path / "left.yaml").write_text(f"base: {DEMO}\n")
    (tmp_path / "right.yaml").write_text(f"base: {DEMO}\nname: right\n")
    (tmp_path / "top.yaml").write_text("base: [left.yaml, right.yaml]\n")
    assert load_config(tmp_path / "top.yaml").name == "right"


def test_an_empty_file_lacks_every_section(tmp_path: Path) -> None:
    path = tmp_path / "top.yaml"
    path.write_text("")
    assert errors_of(path=path) == [f"{key}: missing" for key in ("name", "run_dir", "model", "data", "schedule", "training")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [a", "step 7: not YAML: "),
        ("- 1", "step 7: a config file holds `key: value` lines, this one holds a list"),
        ("nmae: a", "step 7: 6 errors\n  nmae: unknown key; did you mean name?"),
    ],
)
def test_a_resolved_config_that_this_version_cannot_read(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_resolved(text, "step 7")
    assert str(caught.value).startswith(said)


def test_a_dataset_is_a_folder_or_a_section() -> None:
    config = load_config(DEMO, ["data.train.text=[a, {folder: b, repeat: 2}]"])
    assert [(one.folder, one.weight, one.repeat) for one in config.data.train.text] == [("a", None, 1), ("b", None, 2)]
    assert yaml.safe_load(resolved_yaml(config))["data"]["train"]["text"] == ["a", {"folder": "b", "weight": None, "repeat": 2}]
    assert parse_resolved(resolved_yaml(config), "again") == config
    with pytest.raises(UserError, match=r"data.train.text.0.wieght: unknown key; did you mean data.train.text.0.weight\?"):
        load_config(DEMO, ["data.train.text=[{folder: a, wieght: 2}]"])
    with pytest.raises(UserError, match=r"data.train.text.0: must be a section of keys, not 3"):
        load_config(DEMO, ["data.train.text=[3]"])


@pytest.mark.parametrize(
    ("given", "blocks"),
    [("none", []), ("full", ["vision", "text", "universal", "fusion", "decoder"]), ("[vision, fusion]", ["vision", "fusion"])],
)
def test_recompute_by_word_and_by_list(given: str, blocks: list[str]) -> None:
    config = load_config(DEMO, [f"training.recompute={given}"])
    assert list(config.training.recompute) == blocks
    assert parse_resolved(resolved_yaml(config), "a checkpoint") == config


def test_what_cannot_be_recomputed_is_told_in_one_line() -> None:
    (line,) = errors_of("training.recompute=selective")
    assert line.startswith("training.recompute: must be none, full or a list of vision, text, universal, fusion, decoder (it is ")
    (line,) = errors_of("training.recompute=[heads]")
    assert line.startswith("training.recompute.0: input should be 'vision', 'text', ")


def test_a_misspelt_module_is_told_in_one_line() -> None:
    (line,) = errors_of("training.frozen=[vision, txt]")
    assert line.startswith("training.frozen.1: input should be 'vision', 'temporal', 'text', ") and line.endswith("(it is 'txt')")


def test_fp8_is_refused_in_one_line() -> None:
    """It is Transformer Engine's, whose layers the model has none of: Megatron-Core would compute in bf16 without a word."""
    assert errors_of("training.precision=fp8") == ["training.precision: input should be 'fp32' or 'bf16' (it is 'fp8')"]
    assert errors_of("training.fp8=hybrid") == ["training.fp8: unknown key"]
