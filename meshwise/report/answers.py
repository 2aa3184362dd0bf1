"""Sentences of answers: a step, its error bar and its memory, as a committee reads them."""

from meshwise.errorbars import error_bar
from meshwise.jobfile import Question
from meshwise.report.steps import range_words
from meshwise.tables.plans import items, question_words, unverified
from planner.breakdown import PARTS, Breakdown
from planner.choose.explain import PART_WORDS, duration, why_risky, why_too_big
from planner.cost.estimate import Estimate
from planner.cost.fit import Fit, fit_of
from planner.cost.metrics import mfu, tokens_per_second
from planner.plan import Plan
from profiles.units import GIB


def asked_words(question: Question) -> str:
    """The job in a sentence."""
    return f"Training {question_words(question)}."


def step_words(question: Question, plan: Plan, seconds: float) -> str:
    """A step with its range, and what it means in throughput and MFU."""
    rate = float(tokens_per_second(seconds, question.job)) / question.cluster.num_devices
    used = float(mfu(seconds, question.job, question.cluster))
    return (
        f"a step takes {duration(seconds)}, {range_words(error_bar(question, plan, seconds))}: "
        f"{rate:,.0f} {items(question)}/s on each device, {100.0 * used:.1f} % of the datasheet's peak (MFU)"
    )


def largest_words(breakdown: Breakdown) -> str:
    """The two parts that take most of a step."""
    seconds = {part: float(breakdown.parts()[part]) for part in PARTS}
    first, second = sorted(seconds, key=lambda part: -seconds[part])[:2]
    whole = float(breakdown.step_seconds)
    words = [f"{PART_WORDS[part]} ({100.0 * seconds[part] / whole:.0f} %)" for part in (first, second)]
    return f"Most of it is {' and '.join(words)}."


def memory_words(question: Question, answer: Estimate) -> str:
    """What the fullest device holds, and whether that fits."""
    assert isinstance(answer.plan, Plan)
    home = question.home(answer.plan)
    held, capacity = float(answer.memory.peak_bytes) / GIB, home.accelerator.memory_bytes / GIB
    verdict = fit_of(answer.memory, home, question.stack)
    words = f"The fullest device holds {held:.1f} of {capacity:,.4g} GiB"
    if verdict is Fit.TOO_BIG:
        return f"{words}, which does not fit: {why_too_big(answer, home, question.stack)}."
    if verdict is Fit.RISKY:
        return f"{words}, which is risky: {why_risky(home, question.stack)}."
    return f"{words}, which fits."


def trust_words(question: Question, plan: Plan) -> str:
    """What the error bars rest on, what was assumed, and what nobody checked."""
    words = [f"The range rests on {error_bar(question, plan, 1.0).basis}."]
    assumed = [text for text in question.assumed.values() if text]
    if assumed:
        words.append(f"Assumed, because nobody stated them: {'; '.join(assumed)}.")
    doubts = unverified(question)
    if doubts:
        words.append(f"Not checked against a source: {', '.join(doubts)}.")
    return " ".join(words)
