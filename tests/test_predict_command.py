"""`mplug2 predict` as a person runs it, over a checkpoint of a random model, real pictures and real clips."""

import io
import multiprocessing
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from launchers.local import launch
from megatron_mplug2 import cli
from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.conversion.checkpoints import checkpoint_to_folder, folder_to_checkpoint
from megatron_mplug2.conversion.official import folder_to_official
from megatron_mplug2.data.evaluation_batches import evaluation_batches
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation import model
from megatron_mplug2.evaluation.generation.speaker import Speaker
from tests.checkpoint.test_newest import flip
from tests.data.corpus import clip, make_config, picture, write_corpus

QUESTION = "what color is the circle ?"
LIMIT_S = 120


@dataclass(frozen=True, kw_only=True)
class Done:
    code: object
    out: str
    err: str


def command(*arguments: str | Path) -> Done:
    """In a process of its own, forked, on one core: the command takes a thread for each that it may use."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_run, args=([str(argument) for argument in arguments], results.put))
    process.start()
    process.join(LIMIT_S)
    assert process.exitcode == 0, process.exitcode
    done: Done = results.get()
    return done


def _run(arguments: list[str], put: object) -> None:
    assert callable(put)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    sys.argv = ["mplug2", "predict", *arguments]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code
    put(Done(code=code, out=out.getvalue(), err=err.getvalue()))


def refusal(*arguments: str | Path) -> str:
    done = command(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
    return done.err.removeprefix("error: ").rstrip("\n")


def save(config: RunConfig, step: int, without: str = "nothing") -> None:
    """Saves the weights of step 0; without those of a module."""
    inference, weights = model.built(config)
    state = RunState(step=step, config=resolved_yaml(config), data={"steps": step})
    kept = [weight for weight in weights if not weight.name.startswith(without)]
    store.save(store.checkpoint_folder(config.run_dir), state, kept, None, inference.context.topology, Retention(last=5))


@dataclass(frozen=True, kw_only=True)
class Trained:
    config: RunConfig
    pictures: list[Path]
    """The first three of the test split, and its clips."""
    clips: list[Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("run")
    write_corpus(folder / "corpus", images=3, videos=3)
    config = make_config(folder / "corpus", folder / "run", model__init_std=0.2)
    launch(config, lambda config: save(config, 1))
    pictures, clips = ([folder / f"{number}.{form}" for number in range(3)] for form in ("jpg", "mp4"))
    for number in range(3):
        pictures[number].write_bytes(picture(number))
        clips[number].write_bytes(clip(number))
    return Trained(config=config, pictures=pictures, clips=clips)


def as_evaluated(config: RunConfig) -> list[str]:
    """Captions of pictures, then of clips, then answers about clips, by the evaluation's own path."""
    said: list[str] = []

    def evaluate(config: RunConfig) -> None:
        inference, _ = model.trained(config, config.run_dir)
        speaker = Speaker(inference, Tokenizer(config.data.vocab, config.model.text.vocab_size), config)
        for task in (Task.IMAGE_TEXT, Task.VIDEO_TEXT):
            (batch,) = evaluation_batches(config, Split.TEST, task, data_rank=0, data_size=1, batch=8)
            media = inference.encode_media(batch.media, task)
            said.extend(speaker.captions(media, task, [0, 0, 0]))
        said.extend(speaker.answers(media, range(3), [QUESTION] * 3, [0, 0, 0]))

    launch(config, evaluate)
    return said


def test_files_are_told_of_as_in_an_evaluation(trained: Trained) -> None:
    expected = as_evaluated(trained.config)
    assert len(set(expected)) > 3
    mixed = [trained.pictures[0], *trained.clips[:2], *trained.pictures[1:], trained.clips[2]]
    texts = dict(zip([*trained.pictures, *trained.clips], expected, strict=False))
    done = command(trained.config.run_dir, *mixed)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"{path}: {texts[path]}" for path in mixed]
    checkpoint = store.checkpoint_folder(trained.config.run_dir) / "step-00000001"
    assert command(checkpoint, trained.clips[1], "--question", QUESTION).out == f"{expected[7]}\n"


def test_modes_and_draws(trained: Trained) -> None:
    run, sample = trained.config.run_dir, ("--mode", "sample", "--temperature", "1.5")
    together = command(run, *trained.clips, *sample).out.splitlines()
    alone = command(run, trained.clips[2], *sample).out
    assert f"{trained.clips[2]}: {alone}" == f"{together[2]}\n", "a draw does not depend on the other files"
    assert command(run, *trained.clips, *sample, "--seed", "1").out.splitlines() != together
    assert command(run, trained.clips[0], "--mode", "released").code == 0
    assert refusal(run, trained.clips[0], "--mode", "sample", "--top-p", "0") == "top_p=0.0: give a number above 0, at most 1"


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "folder"
    checkpoint_to_folder(trained.config.run_dir, folder)
    return folder


def test_an_exported_folder_says_what_its_run_says(trained: Trained, exported: Path) -> None:
    files = [*trained.pictures, *trained.clips]
    told = command(exported, *files)
    assert told.code == 0 and told.out == command(trained.config.run_dir, *files).out
    asked = ("--question", QUESTION, "--mode", "released")
    assert command(exported, *files, *asked).out == command(trained.config.run_dir, *files, *asked).out


def test_damaged_exported_folders(trained: Trained, exported: Path, tmp_path: Path) -> None:
    def damaged(name: str, content: bytes) -> str:
        folder = tmp_path / name
        shutil.copytree(exported, folder)
        (folder / name).write_bytes(content)
        return refusal(folder, trained.pictures[0])

    assert damaged("processor_config.json", b"{}").endswith("is damaged (KeyError: 'image_instruction'): export the model again")
    assert damaged("config.json", b"[]").endswith("config.json has no model_type 'mplug2': name a folder that `mplug2 convert` wrote")
    weights = (exported / "model.safetensors").read_bytes()
    assert "model.safetensors" in damaged("model.safetensors", weights[:-100])


def test_exported_folders_that_are_not_whole(trained: Trained, exported: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", trained.pictures[0]
    shutil.copytree(exported, folder)
    vocab = (folder / "vocab.txt").rename(tmp_path / "moved.txt")
    copied = "neither vocab.txt nor sentencepiece.model: copy it from the folder that the model was loaded from"
    assert refusal(folder, file) == f"{folder} has {copied}"
    assert command(folder, file, "--vocab", vocab).out == command(exported, file).out
    (folder / "processor_config.json").unlink()
    assert refusal(folder, file).endswith(
        "processor_config.json cannot be read (No such file or directory): a processor is saved beside its model"
    )
    weights = exported / "model.safetensors"
    assert refusal(weights, file).startswith(f"{weights} is a file: name a run, a checkpoint or a folder; ")
    folder_to_checkpoint(exported, tmp_path / "imported")
    assert refusal(tmp_path / "imported", file).endswith("was made by `mplug2 convert`, not by a run: name the folder that it was made of")


def test_a_released_file_that_cannot_be_written_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write .*file/x\.pth: (File exists|Not a directory)$"):
        folder_to_official(exported, tmp_path / "file/x.pth")


def test_bad_files(trained: Trained, tmp_path: Path) -> None:
    run, nowhere, text = trained.config.run_dir, tmp_path / "nowhere.jpg", tmp_path / "text.jpg"
    text.write_text("not a picture")
    assert refusal(run, nowhere) == f"{nowhere}: no such file or directory"
    assert refusal(run, tmp_path) == f"{tmp_path}: is a directory"
    assert refusal(run, text).startswith(f"{text}: neither a picture nor a clip that can be read (")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(picture(1)[:-300])  # its header is whole
    assert refusal(run, cut).startswith(f"{cut}: not a readable picture: ")
    done = command(run, nowhere, trained.pictures[0], cut)
    assert done.code == 2 and len(done.out.splitlines()) == 1 and done.out.startswith(f"{trained.pictures[0]}: ")
    assert done.err.splitlines()[0] == f"{nowhere}: no such file or directory"
    assert done.err.splitlines()[-1] == "error: 2 of 3 files cannot be read (listed above)"


def test_a_gif_of_several_frames_is_a_clip(trained: Trained, tmp_path: Path) -> None:
    frames = [Image.open(path).convert("RGB") for path in trained.pictures]
    still, moving = tmp_path / "still.gif", tmp_path / "moving.gif"
    frames[0].save(still)
    frames[0].save(moving, save_all=True, append_images=frames[1:], duration=100)
    said = command(trained.config.run_dir, still, moving).out.splitlines()
    assert len(said) == 2 and said[0].partition(": ")[2] != said[1].partition(": ")[2]


def test_bad_checkpoints(trained: Trained, tmp_path: Path) -> None:
    file = trained.pictures[0]
    assert refusal(tmp_path, file) == f"no checkpoint in {tmp_path}: name a run's folder, or a checkpoint's"
    assert refusal(tmp_path / "step-00000001", file).endswith("has no run.json: it is not a checkpoint of this program")
    other = trained.config.model_copy(update={"run_dir": tmp_path / "run"})
    folder = store.checkpoint_folder(other.run_dir)
    launch(other, lambda config: save(config, 1, without="decoder."))
    assert refusal(other.run_dir, file) == (
        f"{folder / 'step-00000001'} has no decoder, so it can say nothing: take a checkpoint of a whole model"
    )
    launch(other, lambda config: save(config, 2))
    launch(other, lambda config: save(config, 3))
    flip(folder / "step-00000003/__0_0.distcp")
    done = command(other.run_dir, file)
    assert done.code == 0 and done.out == command(trained.config.run_dir, file).out
    assert done.err == f"skipped {folder / 'step-00000003'}: __0_0.distcp is damaged (its checksum differs)\n"


def test_the_vocabulary_may_have_moved(trained: Trained, tmp_path: Path) -> None:
    moved = trained.config.data.vocab.rename(tmp_path / "vocab.txt")
    try:
        assert "data.vocab=" in refusal(trained.config.run_dir, trained.pictures[0])
        assert command(trained.config.run_dir, trained.pictures[0], "--vocab", moved).code == 0
    finally:
        moved.rename(trained.config.data.vocab)
