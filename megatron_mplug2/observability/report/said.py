"""What the model said: figures of the evaluation, and samples with their frames."""

from collections.abc import Iterator, Mapping

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.evaluation.evaluate import FamilyNames
from megatron_mplug2.evaluation.figures import figures
from megatron_mplug2.evaluation.metrics.exact_match import same
from megatron_mplug2.evaluation.samples import ShownSample
from megatron_mplug2.observability.report.run_folder import Run
from megatron_mplug2.pages.markup import apart, shown, table

MOST_BYTES = 4_000_000
"""Of all frames in a page, as it holds them."""


def results(run: Run) -> str:
    """Markup."""
    if not run.trained.results and run.families:
        return ""
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


def families(run: Run) -> Iterator[str]:
    """Markup of the scores of each downstream family; each has a page of its own beside them."""
    for family, found in run.families.items():
        scores, chance = (_object(found.get(name)) for name in ("scores", "chance"))
        rows = [(shown(name), _score(value), _score(chance.get(name))) for name, value in scores.items()]
        page = FamilyNames.of(family, trained=True).page
        yield f"<h3>{shown(family.replace('_', ' ').capitalize())}</h3>"
        yield f"<p>Test split, after step {shown(found.get('step'))}; more in <code>{page}</code>.</p>"
        yield f"<div class='numbers'>{table(('percent', 'model', 'by chance'), rows)}</div>"


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _score(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else ""


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
    right = sample.said is not None and any(same(sample.said, caption) for caption in sample.captions)
    if sample.said is not None:
        yield _fact("said", apart(sample.said or "nothing"), "right" if right else "")
    if truth and not right:
        yield _fact("truth", apart(truth), "")
    if before is not None and before.said is not None:
        yield _fact("said before training", apart(before.said or "nothing"), "faint")
    for answer in sample.answers:
        found = same(answer.said, answer.answer)
        told = apart(answer.said or "nothing") + ("" if found else f" (truth: {apart(answer.answer)})")
        if answer.said_reversed is not None:
            told += f"; played backwards: {apart(answer.said_reversed or 'nothing')}"
        yield _fact(apart(answer.question), told, "right" if found else "wrong")
    yield _fact("retrieval", _retrieval(sample), "")


def _retrieval(sample: ShownSample) -> str:
    ranks = f"found by its text at rank {sample.text_place}, finds its text at rank {sample.media_place} of {sample.gallery}"
    return ranks if sample.media_place == 1 or not sample.found else f"{ranks}; before it: {apart(sample.found)}"


def _fact(name: str, value: str, kind: str) -> str:
    return f"<dt>{name}</dt><dd class='{kind}'>{value}</dd>"
