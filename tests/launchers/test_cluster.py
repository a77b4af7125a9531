"""Profiles of clusters: those that come with the project, and mistakes in one, each a line."""

import re
from pathlib import Path

import pytest
import yaml

from launchers.cluster import PROFILES, SlurmConfig, load_cluster, without_nodes
from megatron_mplug2.errors import UserError

SLURM = {"max_nodes": 2, "tasks_per_node": 2, "device": "cpu", "cpus_per_task": 1, "time_limit_min": 10}


def load(folder: Path, tree: object) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    load_cluster(str(folder / "mine.yaml"))


@pytest.mark.parametrize("name", ["local_cpu", "one_gpu", "slurm_8x8", "template"])
def test_a_profile_of_the_project(name: str) -> None:
    assert (load_cluster(name).slurm is None) == (name in ("local_cpu", "one_gpu"))


def test_the_template_s_comments_are_keys_with_their_defaults() -> None:
    text = (PROFILES / "template.yaml").read_text()
    whole = re.sub(r"^  # ", "  ", text, flags=re.MULTILINE)
    given = load_cluster("template").slurm
    assert given is not None
    tree = yaml.safe_load(whole)["slurm"]
    container = tree.pop("container")
    assert set(tree) | {"container"} == set(type(given).model_fields) and set(container) == {"image", "mounts"}
    assert type(given).model_validate(tree) == given


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"slurm": {**SLURM, "partiton": "gpu"}}, "slurm.partiton: unknown key; did you mean slurm.partition?"),
        (
            {"slurm": {**SLURM, "container": {"imag": "a", "image": "b"}}},
            "slurm.container.imag: unknown key; did you mean slurm.container.image?",
        ),
        ({"slurm": {**SLURM, "max_nodes": 0}}, "slurm.max_nodes: input should be greater than 0 (it is 0)"),
        ({"slurm": {name: value for name, value in SLURM.items() if name != "device"}}, "slurm.device: missing"),
        ({"slurm": {**SLURM, "setup": ["a\nb"]}}, "slurm.setup.0: string should match pattern"),
        ({"slurm": {**SLURM, "time_limit_min": 2}}, "signal_lead_s=120 takes all of time_limit_min=2: "),
        ({"slurm": {**SLURM, "environment": {"A B": "c"}}}, "slurm.environment.A B"),
        ({}, "a cluster is either local or slurm"),
        ([1], "input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, tree: object, said: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, tree)
    assert str(error.value).startswith(str(tmp_path / "mine.yaml")) and "\n" not in str(error.value)
    assert said in str(error.value)


def test_a_date_that_is_none_is_one_line(tmp_path: Path) -> None:
    """YAML's reader has another error for it."""
    (tmp_path / "mine.yaml").write_text("slurm: {max_nodes: 2024-13-45}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: not YAML: month must be in 1\.\.12$"):
        load_cluster(str(tmp_path / "mine.yaml"))


def test_a_profile_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match=r"--cluster nowhere: cannot read .*nowhere\.yaml .*one of local_cpu, one_gpu, slurm_8x8, template$"
    ):
        load_cluster("nowhere")


def test_nodes_are_left_out_by_name() -> None:
    slurm = SlurmConfig.model_validate({**SLURM, "exclude": ["a1"]})
    assert without_nodes(slurm, ["b[2-3,7]", "c-1.d"]).exclude == ("a1", "b[2-3,7]", "c-1.d")
    for name in ("", "a\ntouch obeyed", "a b", "$(touch obeyed)"):
        with pytest.raises(UserError, match="is no name of a node"):
            without_nodes(slurm, [name])
