"""The judgement at the end of a run: the history of each job against what must have become of it, and the whole state of the store."""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.history import HUNG, LOST, OUT_OF_ORDER, OVER_ADMITTED, REPEATED, WRONG, JobStory
from tests.simulation.plan import Bound, JobPlan
from tests.support.queue_state import QueueState, read_state

if TYPE_CHECKING:
    from tests.simulation.world import World

#: The store counts in ms, and a pulse may find a date this much before a whole one.
_EARLY_S = 0.002
#: A deadline is noticed by the next pulse but one, and its worker may answer before it hears of it.
_LATE_S = 2.6
#: A queue's clock may be so much ahead of itself when a lease begins.
_TICK_S = 2.0
#: For so long at least the end of a removed job is known.
_RING_S = 120.0
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "EXPIRED")


def judge(world: World) -> None:
    """Blame what is wrong."""
    for queue in world.plan.queues:
        try:
            state = _at_once(read_state(_Redis(world), world.base(queue)))
        except AssertionError as error:
            world.history.blame(WRONG, f"the state of queue {queue} does not hold together: {str(error)[:500]}")
            return
        for job in world.plan.jobs:
            if job.queue == queue:
                _judge_job(world, job, world.history.story(job.id), state)
        _judge_rest(world, queue, state)
        _judge_notes(world, state)
    _judge_order(world)
    _judge_rates(world)
    _judge_keys(world)
    _judge_freezes(world)


def _judge_rates(world: World) -> None:
    """No window of a period holds more starts than its rate."""
    for queue in world.plan.bounds:
        base = world.base(queue)
        if base not in world.watch.bounds:
            continue
        since_s, bounds = world.watch.bounds[base]
        starts = [(lease.at_s, world.by_id[lease.job]) for lease in world.watch.leases if lease.base == base and lease.at_s > since_s]
        _judge_rate(world, starts, bounds.whole, f"queue {queue}")
        for group in {job.group for _, job in starts if job.group and (base, job.group) not in world.watch.own_limits}:
            _judge_rate(world, [(at_s, job) for at_s, job in starts if job.group == group], bounds.group, f"group {group} of {queue}")
        _judge_rate(world, [(at_s, job) for at_s, job in starts if job.name == "heavy"], bounds.heavy, f"heavy of {queue}")


def _judge_rate(world: World, starts: Sequence[tuple[float, JobPlan]], bound: Bound, what: str) -> None:
    if not bound.count:
        return
    for i, (first_s, _) in enumerate(starts):
        units = sum(min(job.units, bound.count) for at_s, job in starts[i:] if at_s - first_s < bound.period_s)
        if units > bound.count:
            world.history.blame(OVER_ADMITTED, f"{what} starts {units} units within {bound.period_s:g} s from {first_s:.4f} s on, and may {bound.count}")
            return


def _judge_rest(world: World, queue: str, state: QueueState) -> None:
    strangers = state.jobs.keys() - world.by_id.keys()
    if strangers:
        world.history.blame(WRONG, f"queue {queue} has jobs that nobody enqueued: {strangers}")
    if queue in world.plan.rules:
        _judge_kept(world, queue, state)
    if world.plan.may_forget(queue):
        _judge_ages(world, queue, state)
    for what in (state.waiting, state.alone, state.delayed, state.active, state.cancels):
        if what:
            world.history.blame(HUNG, f"queue {queue} is not quiet: {what}")


def _judge_notes(world: World, state: QueueState) -> None:
    """Only those have a note that a bulk run has acted on, which leaves it."""
    verbs = world.watch.verbs
    for text, note in state.notes.items():
        if text not in verbs.offered.get(verbs.notes.get(note, b""), ()):
            world.history.blame(WRONG, f"{text} has the note {note}, which nobody was to leave there", text)


def _judge_ages(world: World, queue: str, state: QueueState) -> None:
    """Nothing is kept much longer than its state or it itself says while all is well."""
    now_s = world.loop.time()
    for text, view in state.jobs.items():
        age_s = world.by_id[text].kept_s or world.plan.ages.get(queue, {}).get(view.state.lower(), math.inf)
        ended_s = world.store.s_of(state.numbers[text].revision)
        if text not in state.notes and ended_s + age_s + _LATE_S < now_s and world.was_calm(ended_s + age_s, now_s):
            world.history.blame(HUNG, f"{text} has ended {now_s - ended_s:.1f} s ago, and is still kept", text)


def _judge_kept(world: World, queue: str, state: QueueState) -> None:
    """No final state keeps more jobs than the policy lets it, nor fewer if there were as many."""
    plain = not world.plan.may_forget(queue) and not any(
        job.queue == queue and (job.is_forgotten or world.history.story(job.id).had("delete", "retry")) for job in world.plan.jobs
    )
    for word, count in world.plan.rules[queue].kept.items():
        kept = len(getattr(state, word)) + len(state.own.get(word.upper(), ()))
        ended = kept + sum(end == word.upper() for end, _ in state.ring.values())
        if kept > count:
            world.history.blame(WRONG, f"queue {queue} keeps {kept} jobs that are {word}, and may keep {count}")
        if plain and kept < min(count, ended):
            world.history.blame(LOST, f"queue {queue} keeps {kept} of {ended} jobs that are {word}, and may keep {count}")


def _judge_log(world: World, job: JobPlan, story: JobStory, state: QueueState) -> None:
    """The lines of each attempt are in order, and none is there twice; those of one that ran while all was well are all there."""
    found: dict[int, list[int]] = {}
    for _, _, message in state.logs.get(job.id, ()):
        token, number = map(int, message.split(":"))
        found.setdefault(token, []).append(number)
    for token, numbers in found.items():
        if numbers != sorted(set(numbers)):
            world.history.blame(WRONG, f"the log of {job.id} has the lines {numbers} of one attempt", job.id)
        if token not in {run.token for run in story.runs}:
            world.history.blame(WRONG, f"the log of {job.id} has lines of an attempt that never was", job.id)
    for run in story.runs:
        whole = list(range(1, run.lines + 1))
        if run.verdict == "OK" and found.get(run.token, []) != whole and world.was_calm(run.started_s, run.acked_s):
            world.history.blame(LOST, f"the log of {job.id} has the lines {found.get(run.token)} of an attempt that logged {whole}", job.id)


def _judge_job(world: World, job: JobPlan, story: JobStory, state: QueueState) -> None:
    blame = world.history.blame
    view = state.jobs.get(job.id)
    end = view.state if view is not None else state.ring.get(job.id, ("", ""))[0]
    if story.tried_s is None:
        if end or story.runs:
            blame(WRONG, f"{job.id} was never enqueued, and ended as {end}", job.id)
        return
    if story.alias:
        _judge_alias(world, job, story, view is not None)
        return
    if story.refused and story.acknowledged_s is None:
        if story.is_surely_refused and (end or story.runs):
            blame(WRONG, f"{job.id} was refused, and was made all the same: {end}", job.id)
        return
    if not end and (job.id in world.power_loss.lost or _was_removed_long_ago(world, job, story)):
        return
    if end not in _FINAL and job.id in world.power_loss.changed:
        blame(HUNG, f"{job.id}, of which the store has lost the last writes, is {end or 'gone'}")
    if story.acknowledged_s is not None and not end:
        blame(LOST, f"{job.id} was acknowledged, and the store knows nothing of it", job.id)
        return
    if end not in _FINAL:
        blame(HUNG, f"{job.id} is {end}", job.id)
        return
    if job.is_forgotten and view is not None:
        blame(WRONG, f"{job.id} has ended, and was to be forgotten at once", job.id)
    if view is not None:
        _judge_priority(world, job, story, view)
        _judge_log(world, job, story, state)
    completed = [run for run in story.runs if run.outcome == "complete"]
    if end == "COMPLETED" and not completed:
        blame(LOST, f"{job.id} is completed, and no handler did its work", job.id)
    if end == "FAILED":
        _judge_failed(world, job, story, view)
    if end == "CANCELLED" and not story.had("cancel", "delete"):
        blame(LOST, f"{job.id} is cancelled, and nobody asked for it", job.id)
    if end == "EXPIRED":
        _judge_expired(world, job, story, view)
    elif not (story.verbs or job.is_timed or _was_poisoned(view) or (view is None and end == "FAILED")):
        expected = {job.expected(attempts) for attempts in ([job.attempts] if job.attempts else world.attempts[job.queue])}
        if end not in expected:
            blame(WRONG, f"{job.id} ended as {end}, and should have as {expected}", job.id)
    _judge_waits(world, job, story)
    _judge_ends(world, job, story)


def _was_removed_long_ago(world: World, job: JobPlan, story: JobStory) -> bool:
    """Its end need not be known any more."""
    if job.queue in world.plan.rules or world.plan.may_forget(job.queue):
        return world.loop.time() > _RING_S
    if not (job.is_forgotten or story.had("delete")):
        return False
    last_s = max(*(tried_s for _, tried_s, *_ in story.verbs), *(run.ended_s or math.inf for run in story.runs), story.tried_s or 0.0, 0.0)
    return last_s < world.loop.time() - _RING_S


def _judge_priority(world: World, job: JobPlan, story: JobStory, view: Any) -> None:
    """It has the priority that it was made with, or one that it was to get; the last one where it got that for sure."""
    words = [word for verb, _, _, word in story.verbs if verb == "update"]
    right = {job.priority, *story.priorities}
    if len(words) == 1 and words[0] in ("WAITING", "DELAYED"):
        right = {story.priorities[0]}
    if view.priority not in right and job.identity != "debounce":
        world.history.blame(WRONG, f"{job.id} has priority {view.priority}, and should have one of {right}", job.id)


def _judge_alias(world: World, job: JobPlan, story: JobStory, is_there: bool) -> None:
    """Its call was answered with the id of another."""
    other = world.by_id.get(story.alias)
    if other is None or (other.queue, other.identity, other.key) != (job.queue, job.identity, job.key):
        world.history.blame(WRONG, f"{job.id} was answered with {story.alias}, which is another", job.id)
    if is_there or any(lease.job == job.id for lease in world.watch.leases):
        world.history.blame(REPEATED, f"{job.id} was answered with {story.alias}, and was made all the same", job.id)


def _judge_expired(world: World, job: JobPlan, story: JobStory, view: Any) -> None:
    if not job.expires_s:
        world.history.blame(LOST, f"{job.id} has expired, and was to wait for ever", job.id)
    elif not story.verbs and any(lease.job == job.id for lease in world.watch.leases):
        world.history.blame(LOST, f"{job.id} has expired, and had been leased before", job.id)


def _was_poisoned(view: Any) -> bool:
    return view is not None and b"POISON" in view.sections.get("failure", b"")


def _judge_failed(world: World, job: JobPlan, story: JobStory, view: Any) -> None:
    lost = sum(1 for run in story.runs if not run.outcome or run.verdict != "OK" or run.outcome == "drain")
    # What was sent and never arrived may count as well: no broker can know.
    lost += len({lease.token for lease in world.watch.leases if lease.job == job.id} - {run.token for run in story.runs})
    if _was_poisoned(view) or (view is None and lost >= 3):
        if lost < 3:
            world.history.blame(WRONG, f"{job.id} is poison, and was lost {lost} times", job.id)
        return
    needed = job.attempts or min(world.attempts[job.queue])
    if job.is_timed:
        # An attempt may time out before its worker has heard of it.
        failed = needed if view is None or b"TIMEOUT" in view.sections.get("failure", b"") else sum(lease.job == job.id for lease in world.watch.leases)
    else:
        failed = sum(run.outcome == "fail" for run in story.runs)
    if failed and job.errors_are_permanent:
        return
    if failed < needed and not any(run.outcome == "permanent" for run in story.runs):
        world.history.blame(LOST, f"{job.id} has failed for good after {failed} failures of {needed}", job.id)


def _judge_waits(world: World, job: JobPlan, story: JobStory) -> None:
    """No lease comes before its time."""
    if story.verbs:
        return
    leases = [lease for lease in world.watch.leases if lease.job == job.id]
    if leases and story.tried_s is not None and leases[0].at_s < story.tried_s + job.delay_s - _EARLY_S:
        world.history.blame(OUT_OF_ORDER, f"{job.id} was leased before its delay was over", job.id)
    if (
        leases
        and job.expires_s
        and job.identity != "debounce"
        and story.acknowledged_s is not None
        and leases[0].at_s > story.acknowledged_s + job.delay_s + job.expires_s + _EARLY_S
    ):
        world.history.blame(OUT_OF_ORDER, f"{job.id} was leased after it had expired", job.id)
    for run in story.runs:
        if not (job.attempts or job.delays_s) or run.verdict != "OK" or run.ended_s is None or run.outcome not in ("fail", "snooze"):
            continue
        wait_s = run.wait_s if run.wait_s is not None else job.wait_s(run.attempt)
        after = next((lease for lease in leases if lease.token > run.token), None)
        if after is not None and after.at_s < run.ended_s + wait_s - _EARLY_S:
            world.history.blame(OUT_OF_ORDER, f"{job.id} was leased again {after.at_s - run.ended_s:.3f} s after a {run.outcome}, not {wait_s:g} s", job.id)


def _judge_ends(world: World, job: JobPlan, story: JobStory) -> None:
    """What is to be ended is ended in time, while all is well, and not before."""
    blame = world.history.blame
    leases = [lease.at_s for lease in world.watch.leases if lease.job == job.id]
    for run in story.runs:
        for verb, tried_s, _, word, grace_s in _cancels(story) if len(story.verbs) == 1 and not job.is_timed else ():
            was_lost = run.lost_s is not None and run.started_s < tried_s < run.lost_s < tried_s + grace_s
            if word == "ACTIVE" and was_lost and world.was_calm(run.started_s, run.lost_s or math.inf):
                blame(WRONG, f"{job.id} was taken from its worker before the grace of its {verb} was over", job.id)
        if run.ended_s is None or run.verdict not in ("OK", "CANCELLED"):
            continue
        late_s = min(run.started_s + job.timeout_s if job.timeout_s else math.inf, leases[0] + job.total_s if job.total_s and not story.verbs else math.inf)
        if run.verdict == "OK" and run.ended_s > late_s + _LATE_S and world.was_calm(run.started_s, run.ended_s):
            blame(HUNG, f"{job.id} ran until {run.ended_s:.3f} s, its time was over at {late_s:.3f} s, and its end counts", job.id)
        for verb, tried_s, answered_s, word, grace_s in _cancels(story):
            if word != "ACTIVE" or not run.started_s < tried_s < run.ended_s or answered_s is None:
                continue
            if run.verdict == "OK" and run.ended_s > answered_s + grace_s + _LATE_S and world.was_calm(run.started_s, run.ended_s):
                blame(HUNG, f"{job.id} was to be cancelled by {answered_s + grace_s:.3f} s, ran until {run.ended_s:.3f} s, and its end counts", job.id)
            may_time_out_s = min(run.started_s + (job.timeout_s or math.inf), leases[0] + (job.total_s or math.inf)) - _TICK_S
            is_early = run.acked_s < min(tried_s + grace_s, may_time_out_s)
            if run.verdict == "CANCELLED" and run.outcome == "complete" and is_early and story.count("cancel") == 1:
                blame(WRONG, f"{job.id} was completed, and heard before the grace of its {verb} was over that this did not count", job.id)


def _cancels(story: JobStory) -> list[tuple[str, float, float | None, str, float]]:
    return [(*told, grace_s) for told, grace_s in zip((told for told in story.verbs if told[0] == "cancel"), story.graces, strict=True)]


def _judge_keys(world: World) -> None:
    """A call that comes while its key is held makes no job."""
    asked = [job for job in world.plan.jobs if job.identity and (story := world.history.story(job.id)).acknowledged_s is not None and not story.alias]
    for first in asked:
        story = world.history.story(first.id)
        leases = [lease.at_s for lease in world.watch.leases if lease.job == first.id]
        if first.identity in ("idempotency", "throttle"):
            held_until_s = (story.tried_s or 0.0) + first.window_s
        elif not leases or story.verbs:
            continue
        else:
            # A unique key is held until the job has ended, that of a debounce until it has begun.
            held_until_s = leases[-1 if first.identity == "unique" else 0]
        for later in asked:
            if (later.queue, later.identity, later.key) != (first.queue, first.identity, first.key) or later is first:
                continue
            other = world.history.story(later.id)
            if story.acknowledged_s < other.tried_s and other.acknowledged_s < held_until_s:  # type: ignore[operator]
                world.history.blame(WRONG, f"{later.id} was made although {first.id} held their {first.identity} key until {held_until_s:.3f} s", later.id)


def _judge_freezes(world: World) -> None:
    """No job of a group starts while a worker's word limits it."""
    for story in list(world.history.jobs.values()):
        job = world.by_id.get(story.job)
        if job is None or not job.group:
            continue
        for run in story.runs:
            if run.outcome != "limit_group" or run.verdict != "OK" or run.ended_s is None or run.wait_s is None:
                continue
            until_s = run.ended_s + run.wait_s - _EARLY_S
            thawed = any(began_s <= until_s for queue, group, began_s in world.thaws if (queue, group) == (job.queue, job.group))
            for lease in world.watch.leases if not thawed else ():
                other = world.by_id[lease.job]
                if (other.queue, other.group) == (job.queue, job.group) and run.acked_s < lease.at_s < until_s:
                    world.history.blame(OVER_ADMITTED, f"{other.id} is leased {until_s - lease.at_s:.3f} s before its group may start again", other.id)


def _judge_order(world: World) -> None:
    """First come, first served: of two jobs of one priority, the one that was acknowledged before the other was tried is leased first."""
    first: dict[str, int] = {}
    for lease in world.watch.leases:
        first.setdefault(lease.job, lease.token)
    plain = [job for job in world.plan.jobs if not job.delay_s and job.identity != "debounce" and job.id in first and not world.history.story(job.id).verbs]
    plain = [job for job in plain if job.id not in world.power_loss.changed]
    # One whose job name has a limit is parked while that is used up, and another of its group may go before it.
    plain = [job for job in plain if (job.name != "heavy" or job.queue not in world.plan.bounds) and job.queue not in world.plan.ageing]
    for job in plain:
        acknowledged_s = world.history.story(job.id).acknowledged_s
        for other in plain:
            tried_s = world.history.story(other.id).tried_s
            if _line_of(job) != _line_of(other) or acknowledged_s is None or tried_s is None:
                continue
            if acknowledged_s >= tried_s and not _stood_before(world, job, other):
                continue
            if first[job.id] > first[other.id]:
                world.history.blame(OUT_OF_ORDER, f"{other.id} came after {job.id} and was leased before it", other.id)


def _stood_before(world: World, job: JobPlan, other: JobPlan) -> bool:
    """Whether both were made by one call, while all was well, and in this order."""
    first, second = world.history.story(job.id), world.history.story(other.id)
    if first.batch is None or second.batch is None or first.refused or second.refused or first.acknowledged_s is None:
        return False
    return first.batch[0] == second.batch[0] and first.batch[1] < second.batch[1] and world.was_calm(first.batch[0], first.acknowledged_s)


def _at_once(reading: Coroutine[Any, Any, QueueState]) -> QueueState:
    """What a coroutine gives that waits for nothing."""
    try:
        reading.send(None)
    except StopIteration as end:
        found: QueueState = end.value
        return found
    raise AssertionError("it waits for something")


def _line_of(job: JobPlan) -> tuple[object, ...]:
    """Jobs that have this in common pass each other never."""
    return job.queue, job.priority, job.group, job.name, job.units, *job.labels


class _Redis:
    """What read_state needs of a client, over the simulation's own connection."""

    def __init__(self, world: World) -> None:
        self._real = world.store.real

    async def eval(self, script: str, keys: int, *args: str) -> Any:
        return self._real.ask("EVAL", script, keys, *args)
