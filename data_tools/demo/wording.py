"""What is said about a scene: captions, questions with answers, attributes, and documents of a few sentences.

The words are few, so that a tiny model learns them.
"""

import numpy as np

from data_tools.demo.scene import Look, Motion, MotionScene, OrderScene, PictureScene, Place, Scene
from megatron_mplug2.data.record import Question, Record

_WHERE = {
    Place.TOP_LEFT: "at the top left",
    Place.TOP: "at the top",
    Place.TOP_RIGHT: "at the top right",
    Place.LEFT: "on the left",
    Place.MIDDLE: "in the middle",
    Place.RIGHT: "on the right",
    Place.BOTTOM_LEFT: "at the bottom left",
    Place.BOTTOM: "at the bottom",
    Place.BOTTOM_RIGHT: "at the bottom right",
}
_MOTION_QUESTIONS = {
    Motion.LEFT: "which way does the shape move?",
    Motion.RIGHT: "which way does the shape move?",
    Motion.UP: "which way does the shape move?",
    Motion.DOWN: "which way does the shape move?",
    Motion.CLOCKWISE: "which way does the shape turn?",
    Motion.ANTICLOCKWISE: "which way does the shape turn?",
    Motion.GROWS: "what happens to the size of the shape?",
    Motion.SHRINKS: "what happens to the size of the shape?",
    Motion.APPEARS: "does the shape appear or vanish?",
    Motion.VANISHES: "does the shape appear or vanish?",
}


def record(scene: Scene) -> Record:
    """All texts of a picture or a clip. The first caption names everything in the plainest words."""
    return Record(captions=_captions(scene), questions=_questions(scene), attributes=_attributes(scene))


def document(scenes: list[Scene], rng: np.random.Generator) -> str:
    """Sentences about scenes. Each scene is told twice, so that a masked word can be found elsewhere in the text."""
    return " ".join(_told_twice(scene, rng) for scene in scenes)


def _captions(scene: Scene) -> tuple[str, ...]:
    color, shape, size = scene.look.color, scene.look.shape, scene.look.size
    match scene:
        case PictureScene(place=place):
            where = _WHERE[place]
            return (
                f"a {size} {color} {shape} {where}",
                f"the {size} {shape} {where} is {color}",
                f"there is a {shape} {where}, it is {size} and {color}",
            )
        case MotionScene(motion=motion):
            return (
                f"a {size} {color} {shape} {motion}",
                f"the {size} {shape} that {motion} is {color}",
                f"there is a {shape}, it is {size} and {color} and {motion}",
            )
        case OrderScene(second=second):
            return (
                f"a {size} {shape} is first {color} and then {second}",
                f"the {size} {shape} changes from {color} to {second}",
                f"there is a {shape}, it is {size} and first {color} and then {second}",
            )


def _questions(scene: Scene) -> tuple[Question, ...]:
    match scene:
        case PictureScene(look=look, place=place):
            where = Question(question="where is the shape?", answer=place, kind="position")
            return where, _color(look), _shape(look)
        case MotionScene(look=look, motion=motion):
            happens = Question(
                question=_MOTION_QUESTIONS[motion], answer=_answer(motion), kind="motion", reversed_answer=_answer(motion.reverse)
            )
            return happens, _shape(look)
        case OrderScene(look=look, second=second):
            first = Question(question="which color comes first?", answer=look.color, kind="order", reversed_answer=second)
            last = Question(question="which color comes last?", answer=second, kind="order", reversed_answer=look.color)
            return first, last, _shape(look)


def _answer(motion: Motion) -> str:
    return motion.split()[-1]


def _color(look: Look) -> Question:
    return Question(question="what color is the shape?", answer=look.color, kind="color")


def _shape(look: Look) -> Question:
    return Question(question="what shape is it?", answer=look.shape, kind="shape")


def _attributes(scene: Scene) -> dict[str, str]:
    look = {"color": str(scene.look.color), "shape": str(scene.look.shape), "size": str(scene.look.size)}
    match scene:
        case PictureScene(place=place):
            return look | {"position": str(place)}
        case MotionScene(motion=motion):
            return look | {"motion": str(motion)}
        case OrderScene(second=second):
            return look | {"second_color": str(second), "motion": "changes color"}


def _told_twice(scene: Scene, rng: np.random.Generator) -> str:
    first, *others = _captions(scene)
    questions = _questions(scene)
    asked = questions[rng.integers(len(questions))]
    return f"{first}. {others[rng.integers(len(others))]}. {asked.question} {asked.answer}."
