"""What the model said: figures of the evaluation, and samples with their frames."""

from collections.abc import Iterator, Mapping

from megatron_mplug2.config.schema import Task
from megatron_mplug2.evaluation.figures import figures
from megatron_mplug2.evaluation.samples import ShownSample
from megatron_mplug2.evaluation.scoring import same
from megatron_mplug2.observability.report.run_folder import Run
from megatron_mplug2.pages.markup import shown, table

MOST_BYTES = 4_000_000
"""Of all frames in a page, as it holds them."""


def results(run: Run) -> str:
    """Markup."""
    if not run.trained.results:
        return "<p>This run was not evaluated yet: <code>mplug2 evaluate CONFIG</code> does that.</p>"
    step = run.trained.results.get("step")
    rows = [
        (shown(one.label), *(_number(value) for value in (one.trained, one.untrained, one.chance)))
        for one in figures(run.trained.results, run.untrained.results)
        if one.trained is not None
    ]
    left_out = run.trained.results.get("left_out")
    lost = f", without {len(left_out)} samples that cannot be decoded" if isinstance(left_out, dict) and left_out else ""
    return (
        f"<p>Test split, after step {shown(step)}{lost}.</p>"
        f"<div class='numbers'>{table(('percent', 'trained', 'untrained', 'by chance'), rows)}</div>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def samples(run: Run) -> Iterator[str]:
    """Markup of each stream's samples, as far as the page can carry their frames."""
    before = {(sample.task, sample.index): sample for sample in run.untrained.samples}
    left = MOST_BYTES
    for task, title in ((Task.VIDEO_TEXT, "Clips"), (Task.IMAGE_TEXT, "Pictures")):
        cards = []
        for sample in (one for one in run.trained.samples if one.task is task):
            left -= sum(map(len, sample.frames))
            if left >= 0:
                cards.append(_card(sample, before.get((sample.task, sample.index))))
        if cards:
            yield f"<h3>{title}</h3><div class='samples {task}'>{''.join(cards)}</div>"


def _card(sample: ShownSample, before: ShownSample | None) -> str:
    frames = "".join(f"<img src='data:image/jpeg;base64,{shown(frame, len(frame))}' alt=''>" for frame in sample.frames)
    facts = "".join(_facts(sample, before))
    return (
        f"<figure class='sample'><div class='strip' title='as the model saw it: {sample.resolution} pixels a side'>{frames}</div>"
        f"<figcaption><dl>{facts}</dl><small>{shown(sample.key, 80)}</small></figcaption></figure>"
    )


def _facts(sample: ShownSample, before: ShownSample | None) -> Iterator[str]:
    truth = next(iter(sample.captions), "")
    if sample.said is not None:
        right = any(same(sample.said, caption) for caption in sample.captions)
        yield _fact("said", _text(sample.said or "nothing"), "right" if right else "")
        yield "" if before is None or before.said is None else _fact("untrained", _text(before.said or "nothing"), "faint")
    if truth:
        yield _fact("truth", _text(truth), "")
    answers_before: Mapping[str, str] = {answer.question: answer.said for answer in before.answers} if before is not None else {}
    for answer in sample.answers:
        right = same(answer.said, answer.answer)
        told = _text(answer.said or "nothing") + ("" if right else f" (truth: {_text(answer.answer)})")
        if answer.said_reversed is not None:
            told += f"; backwards: {_text(answer.said_reversed or 'nothing')}"
        if answer.question in answers_before:
            told += f" <span class='faint'>untrained: {_text(answers_before[answer.question] or 'nothing')}</span>"
        yield _fact(_text(answer.question), told, "right" if right else "wrong")
    yield _fact("retrieval", _retrieval(sample), "")


def _retrieval(sample: ShownSample) -> str:
    first = "" if sample.media_place == 1 or not sample.found else f"; it finds first: {_text(sample.found)}"
    return f"its text finds it at place {sample.text_place}, it its text at {sample.media_place}, of {sample.gallery}{first}"


def _fact(name: str, value: str, kind: str) -> str:
    return f"<dt>{name}</dt><dd class='{kind}'>{value}</dd>"


def _text(text: str) -> str:
    return f"<bdi>{shown(text)}</bdi>"
