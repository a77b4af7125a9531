"""The command as a person runs it: what it prints and how it exits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
DEMO = "configs/pretrain/demo.yaml"


def run(
    *arguments: str, program: tuple[str, ...] = ("-m", "megatron_mplug2.cli"), folder: Path = PROJECT
) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1", "COLUMNS": "100"}
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_the_resolved_config_is_printed() -> None:
    done = run("config", DEMO, "name=other", "optimizer.lr=2e-4")
    assert (done.returncode, done.stderr) == (0, "")
    tree = yaml.safe_load(done.stdout)
    assert (tree["name"], tree["optimizer"]["lr"], tree["objectives"]["mlm"]["probability"]) == ("other", 2e-4, 0.15)


@pytest.mark.parametrize("command", ["config", "pretrain", "evaluate"])
def test_a_wrong_key_is_one_line_and_exit_code_2(command: str) -> None:
    done = run(command, DEMO, "training.mircobatch=4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {DEMO}: training.mircobatch: unknown key; did you mean training.microbatch?\n"


def test_the_demo_finds_its_config_from_anywhere(tmp_path: Path) -> None:
    done = run("demo", "training.mircobatch=4", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {PROJECT / DEMO}: training.mircobatch: unknown key; did you mean training.microbatch?\n"
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_checkpoint_to_evaluate(tmp_path: Path) -> None:
    done = run("evaluate", DEMO, f"run_dir={tmp_path}")
    told = f"error: no checkpoint in {tmp_path}/checkpoints: train first, or name a run that has one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


def test_a_missing_file_is_one_line_and_exit_code_2() -> None:
    done = run("pretrain", "nowhere.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {PROJECT}/nowhere.yaml: cannot read the config file: No such file or directory\n"


@pytest.mark.parametrize(
    ("command", "config", "said"),
    [
        ("pretrain", "configs/finetune/demo_qa.yaml", "error: configs/finetune/demo_qa.yaml: downstream.family=video_qa is finetuned"),
        ("finetune", DEMO, "error: downstream.family is missing"),
    ],
)
def test_a_config_for_the_other_kind_of_training_is_refused(command: str, config: str, said: str) -> None:
    done = run(command, config)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and done.stderr.startswith(said)


def test_data_are_looked_at_before_ranks_start(tmp_path: Path) -> None:
    """8 ranks of the base model, which would take minutes and most of a machine's memory."""
    base = str(PROJECT / "configs/pretrain/base.yaml")
    done = run("pretrain", base, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data.vocab=data/bert-base-uncased/vocab.txt cannot be read") and done.stderr.count("\n") == 1
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    done = run("pretrain", base, "data.vocab=vocab.txt", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: data/shards/train/text has no manifest.json: make the folder with `mplug2 data shard`\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pretrain",), "Missing argument 'CONFIG' (`mplug2 pretrain --help` tells more)"),
        (
            ("data", "shard", "listing", "a", "--ou", "b"),
            "No such option: --ou (Possible options: --out) (`mplug2 data shard --help` tells more)",
        ),
        (("nosuch",), "No such command 'nosuch' (`mplug2 --help` tells more)"),
        (
            ("data", "filter", "listing", "a", "--out", "b", "--duplicates", "looks"),
            "Invalid value for '--duplicates': 'looks' is not one of 'keep', 'content', 'look' (`mplug2 data filter --help` tells more)",
        ),
        (
            ("data", "probe", "coco", "captions.json", "--media", "nowhere", "--out", "b"),
            "--media nowhere is no folder: name the one that the pictures or clips of captions.json lie in",
        ),
        (("data", "sources", "qqqq"), "unknown source 'qqqq': there are listing, webdataset"),
    ],
)
def test_a_command_that_is_called_wrongly_says_so_in_one_line(words: tuple[str, ...], said: str) -> None:
    done = run(*words, program=("-c", "import sys; from megatron_mplug2 import cli; sys.argv[0] = 'mplug2'; cli.main()"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert done.stderr.startswith(f"error: {said}")


def test_a_group_without_a_command_shows_its_help() -> None:
    done = run("data")
    assert done.returncode == 2 and "Commands:" in done.stderr and "verify" in done.stderr and "error" not in done.stderr


RAISE = """
import sys
from megatron_mplug2 import cli
from megatron_mplug2.errors import BrokenDataError, RankError

@cli.app.command()
def stop() -> None:
    raise {error}

sys.argv = ["mplug2", "stop"]
cli.main()
"""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("KeyboardInterrupt", 130, ""),
        ("SystemExit(143)", 143, ""),
        ("RankError('rank 1 of 2 failed')", 1, "error: rank 1 of 2 failed\n"),
        ("BrokenDataError('too many')", 65, "error: too many\n"),
    ],
)
def test_how_a_stopped_run_exits(error: str, code: int, said: str) -> None:
    done = run(program=("-c", RAISE.format(error=error)))
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


@pytest.mark.parametrize("arguments", [["--help"], ["config", DEMO]])
def test_help_and_checking_do_not_import_torch(arguments: list[str]) -> None:
    """Importing it takes seconds."""
    program = "import atexit, sys; from megatron_mplug2 import cli; atexit.register(lambda: print('torch' in sys.modules)); cli.main()"
    done = run(*arguments, program=("-c", program))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "False"
