"""Bugs that are put in on purpose: the simulation must find each of them, or its silence says nothing.

Each is a small change in the copy of the Lua source that the simulation loads, or in a method of a broker or worker while it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobwire_broker.rules.filters import Filter, Span
from jobwire_broker.rules.partition import Partition
from jobwire_broker.rules.session import WorkSession
from jobwire_broker.rules.shares import Shares
from jobwire_broker.services import bulk, classes, queues
from jobwire_broker.services.batches import Batch, Maker, Outcome
from jobwire_broker.services.work_stream import WorkStream
from jobwire_broker.store import client
from jobwire_broker.store.client import StoreClient
from jobwire_worker._session import Session

#: A class or a module, a name in it, and what stands there instead.
Patch = tuple[Any, str, Callable[..., Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bug:
    """One of them. `seed` is the first that is known to find it; the plans of seeds change with the simulation, so it may be another by now."""

    name: str
    lua: Sequence[tuple[str, str]] = ()
    python: Sequence[Patch] = ()
    seed: int = 1


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Let the methods of a bug stand in for the real ones."""
    real = [(owner, name, getattr(owner, name)) for owner, name, _ in bug.python]
    for owner, name, wrong in bug.python:
        setattr(owner, name, wrong)
    try:
        yield
    finally:
        for owner, name, right in real:
            setattr(owner, name, right)


def _nothing(*_: Any, **__: Any) -> None:
    return None


_real_free = WorkSession.free


def _free_of_any_slots(session: WorkSession, queue: str, slots: int = 0) -> int:
    return _real_free(session, queue)


async def _at_once(*_: Any, **__: Any) -> None:
    return None


async def _join_what_is_under_way(fence: Any) -> None:
    if fence._current is None or fence._current.done():
        await _real_wait(fence)
    else:
        await asyncio.shield(fence._current)


_real_wait = client._Fence.wait
_real_outcome = Batch.outcome
_real_put = Maker._put


def _outcome_of_others(batch: Batch, results: Sequence[Any]) -> Outcome:
    return _real_outcome(batch, results[::-1])


def _put_backward(maker: Maker, queues: Sequence[str], items: Sequence[Any], tell: Callable[[Any], None]) -> None:
    _real_put(maker, queues[::-1], items[::-1], lambda results: tell(results[::-1]))


def _free_of_all_but_what_is_kept(session: WorkSession, queue: str, slots: int = 0) -> int:
    kept = session._shares._kept_from(queue, session._taken) if session._shares else 0
    return min(_real_free(session, queue, slots), (slots - session._taken(queue) if slots else 100) - kept)


def _learn_once(partition: Partition, text: str) -> None:
    if not partition.policy.version:
        _real_learn(partition, text)


_real_learn = Partition.learn_policy
_real_pause_class = classes.pause_class


async def _pause_none(registry: Any, queue_class: int, paused: bool) -> list[str]:
    return await _real_pause_class(registry, queue_class, False)


async def _pause_all(registry: Any, queue_class: int, paused: bool) -> list[str]:
    return [name for each in range(1, 6) for name in await _real_pause_class(registry, each, paused)]


def _drop_unacked(session: Any) -> None:
    for key, lease in list(session._held.items()):
        if lease.outcome is not None:
            del session._held[key]
    session._stream = None


def _believe_the_count(partition: Any, seq: int, waiting: int) -> None:
    partition._is_news(seq, waiting if partition.waiting else 0)


#: Where the answer of a key begins.
_ANSWER = "local kind, key, first, second = identity.read(ctx, ask)"
BUGS = (
    Bug(name="the jobs of a lost session are forgotten", lua=[("for i = 1, #jobs do put_back_lost(ctx, jobs[i]) end", "")], seed=2),
    Bug(name="a pulse renews no session", lua=[("if age >= 0 then gather(ctx, 'ZADD t'", "if age < -5 then gather(ctx, 'ZADD t'")]),
    Bug(name="the token of a finish is not looked at", lua=[("if j.token ~= token or not open_end then", "if not open_end then")], seed=1),
    Bug(name="a loss is charged as an attempt", lua=[("j.attempt = math.max(j.attempt - 1, 0)\n  j.losses = math.min(", "j.losses = math.min(")], seed=2),
    Bug(
        name="what comes back goes to the end of the line",
        lua=[("j.state, j.sid = STATE.WAITING, 0\n", "j.state, j.sid, j.order = STATE.WAITING, 0, next_number(ctx)\n")],
        seed=3,
    ),
    Bug(
        name="priority is not looked at",
        lua=[
            (
                "writes[w - 1], writes[w], waiting[a - 1], waiting[a] = record_key .. id, record, own[i] or priority, n8 .. id",
                "writes[w - 1], writes[w], waiting[a - 1], waiting[a] = record_key .. id, record, 5, n8 .. id",
            )
        ],
        seed=22,
    ),
    Bug(name="a retry does not wait", lua=[("return math.floor(wait * (1 + jitter * fraction))", "return 0")], seed=3),
    Bug(name="what is due is taken out and not put in line", lua=[("if j and j.state == STATE.DELAYED then\n      move_to_waiting(ctx, j)", "if false then")]),
    Bug(name="a repeated enqueue makes the job anew", lua=[("for i = 1, #ids do by_id[ids[i]] = records[i] end\n  return by_id", "return by_id")], seed=5),
    Bug(name="a pause stops nothing", lua=[("if ctx.paused or solo_token > 0 then", "if solo_token > 0 then")], seed=7),
    Bug(name="one loss is poison", lua=[("if j.losses >= 3 and has_flag(j, FLAG_ALONE) then", "if j.losses >= 1 then")], seed=3),
    Bug(
        name="a queue runs one more than its limit",
        lua=[
            (
                "if most and fair.active + fair.extra + math.min(units, most) > most then",
                "if most and fair.active + fair.extra + math.min(units, most) > most + 1 then",
            )
        ],
        seed=2,
    ),
    Bug(
        name="a group runs as many as it likes",
        lua=[("if limit and limit.concurrency and g.active + math.min(units, limit.concurrency) > limit.concurrency then return math.huge end", "")],
        seed=3,
    ),
    Bug(name="a rate is forgotten when nothing runs", lua=[("return tat + (limit.rate.count - 1) * pace(limit.rate)", "return 0")], seed=3),
    Bug(name="the units of a lost lease are not given back", lua=[("g.active = math.max(0, g.active - rules.units)", "")], seed=2),
    Bug(
        name="labels are not looked at",
        lua=[("function choosing.meets(ctx, sid, required)\n", "function choosing.meets(ctx, sid, required)\n  if true then return true end\n")],
        seed=8,
    ),
    Bug(
        name="one label of several is enough",
        lua=[("    if not set[pair] then return false end\n  end\n  return true", "    if set[pair] then return true end\n  end\n  return false")],
        seed=11,
    ),
    Bug(
        name="a job starts after it has expired",
        lua=[
            ("return date and date <= ctx.now_ms", "return false"),
            (
                "local due = redis.call('ZRANGEBYSCORE', ctx.base .. 'u', '-inf', ctx.now_ms,",
                "local due = redis.call('ZRANGEBYSCORE', ctx.base .. 'u', '-inf', 0,",
            ),
        ],
        seed=41,
    ),
    Bug(name="an attempt may take as long as it likes", lua=[("if timeout then gather(ctx, 'ZADD t'", "if false then gather(ctx, 'ZADD t'")], seed=41),
    Bug(name="all attempts together may take as long as they like", lua=[("if total and not section(j.body, TAG.FIRST_START) then", "if false then")], seed=41),
    Bug(name="a cancel does not wait for its grace", lua=[("times.clock(ctx) + grace_ms, 'J'", "times.clock(ctx), 'J'")], seed=49),
    Bug(name="a cancel waits for its handler for ever", lua=[("times.clock(ctx) + grace_ms, 'J'", "times.clock(ctx) + grace_ms + 1000000, 'J'")], seed=41),
    Bug(name="an idempotency key finds nothing", lua=[(_ANSWER, f"{_ANSWER}\n  if kind == 'k' then return nil end")], seed=17),
    Bug(name="a unique key finds nothing", lua=[(_ANSWER, f"{_ANSWER}\n  if kind == 'u' then return nil end")], seed=17),
    Bug(name="a debounce finds nothing", lua=[(_ANSWER, f"{_ANSWER}\n  if kind == 'd' then return nil end")], seed=27),
    Bug(name="a throttle finds nothing", lua=[(_ANSWER, f"{_ANSWER}\n  if kind == 't' then return nil end")], seed=27),
    Bug(
        name="a job name runs as many as it likes",
        lua=[("if limit.concurrency and row.active + math.min(units, limit.concurrency) > limit.concurrency then return math.huge end", "")],
        seed=5,
    ),
    Bug(
        name="a group starts although a worker said that it is limited",
        lua=[("local date = g.frozen > ctx.now_ms and g.frozen or 0", "local date = 0")],
        seed=3,
    ),
    Bug(name="a group's limit by a worker's word is not written down", lua=[("g.frozen = math.max(g.frozen, ctx.now_ms + delay_ms)", "")], seed=3),
    Bug(name="a pause of a group stops nothing", lua=[("if g.paused then return math.huge end", "")], seed=2),
    Bug(name="a rate counts one more than it may", lua=[("(rate.count - burst + 1))", "(rate.count - burst + 2))")], seed=2),
    Bug(name="all groups weigh the same", lua=[("= g.tag + units / g.weight,", "= g.tag + units,")], seed=2),
    Bug(name="turns cost nothing", lua=[("= g.tag + units / g.weight,", "= g.tag,")], seed=2),
    Bug(name="express groups wait like all others", lua=[("if fair.express ~= false then", "if false then")], seed=3),
    Bug(
        name="a group that had nothing to do waits until its rate has forgotten all",
        lua=[("elseif g.place ~= 'b' or not (g.paused or g.frozen > ctx.now_ms) then", "elseif g.place ~= 'b' then")],
        seed=3,
    ),
    Bug(name="nobody leaves room to a job that waits for it", lua=[("if owed_ms < 0 then", "if not labels then")], seed=11),
    Bug(
        name="a group keeps no room for a job that misses that of its name",
        lua=[("if most and g.active + math.min(units, most) + math.min(its, most) > most then return false end", "")],
        seed=138,
    ),
    Bug(
        name="a group keeps no start for a job that misses the room of its name",
        lua=[("if not limit.rate then return true end", "if true then return true end")],
        seed=37,
    ),
    Bug(name="ageing ages nothing", lua=[("return ageing and priority * ageing + math.floor(order / 1000) or priority", "return priority")], seed=23),
    Bug(name="the waits of a list are not looked at", lua=[("local own = section(j.body, TAG.DELAYS)\n  if own then", "local own\n  if own then")], seed=50),
    Bug(name="an error that a job lists ends nothing", lua=[("or is_permanent(ctx, j, failure) then", "then")], seed=8),
    Bug(name="a checkpoint is not handed on", lua=[("record = record .. kept.checkpoint(ctx, id) end", "record = record .. '' end")], seed=6),
    Bug(
        name="a new priority is not written down",
        lua=[("contents.changed(contents.tail(ctx, j), changes, priority)", "contents.changed(contents.tail(ctx, j), changes, nil)")],
        seed=16,
    ),
    Bug(
        name="what runs takes no room in a full queue",
        lua=[
            (
                "return most and most - waiting_count(ctx) - redis.call('ZCARD', ctx.base .. 'a') - redis.call('ZCARD', ctx.base .. 'd')",
                "return most and most - waiting_count(ctx) - redis.call('ZCARD', ctx.base .. 'd')",
            )
        ],
    ),
    Bug(
        name="a final state keeps one more than it may",
        lua=[("return given.count or default.count, given.age or default.age", "return (given.count or default.count) + 1, given.age or default.age")],
    ),
    Bug(
        name="a debounce waits as long as calls come",
        lua=[("delay_ms, most_ms > 0 and struct.unpack('>I8', value) + most_ms or math.huge)", "delay_ms, math.huge)")],
        seed=66,
    ),
    Bug(
        name="a log takes the lines of a later attempt for repeats",
        lua=[("kept.new_lines(lines, token == j.token and sequence or 0)", "kept.new_lines(lines, sequence)")],
        seed=84,
    ),
    Bug(
        name="a new payload is not written down",
        lua=[("changes[TAG_PAYLOAD], changes[TAG.LABELS] = given.payload, given.labels", "changes[TAG.LABELS] = given.labels")],
        seed=2,
    ),
    Bug(name="a retry does not take the payload that it brings", lua=[("edit(ctx, j, { [TAG_PAYLOAD] = payload })", "")], seed=2),
    Bug(name="a new due date is not looked at", lua=[("if due_ms and due_ms > ctx.now_ms then", "if false then")], seed=2),
    Bug(
        name="a job that is to be cancelled is handed out again",
        lua=[("if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, j, timed_out and cancels.FORCED) end", "")],
        seed=101,
    ),
    Bug(
        name="a bulk run counts one too many",
        lua=[("return { 'OK', run.done, skipped, '' }", "return { 'OK', run.done + 1, skipped, '' }")],
        seed=6,
    ),
    Bug(
        name="a bulk run takes what has changed since its dry run",
        lua=[("if j and not j.dirty and is_as_it_was(j, newest) and", "if j and not j.dirty and")],
        python=[(bulk, "is_as_it_was", lambda record, newest: True)],
        seed=6,
    ),
    Bug(
        name="a bulk run goes on although it was stopped",
        lua=[("  if run.ending == 'STOPPED' then return { 'STOPPED', run.done, 0, run.by } end\n", "")],
        seed=40,
    ),
    Bug(
        name="a bulk run that was stopped begins again",
        lua=[("  if run and run.ending == 'STOPPED' then return { 'STOPPED', run.done, run.by } end\n", "")],
        seed=2,
    ),
    Bug(name="a purge says that it has deleted nothing", lua=[("remove(ctx, j)\n      count = count + 1", "remove(ctx, j)")], seed=57),
    Bug(
        name="an update gives a job no other labels",
        lua=[("changes[TAG_PAYLOAD], changes[TAG.LABELS] = given.payload, given.labels", "changes[TAG_PAYLOAD] = given.payload")],
        seed=2,
    ),
    Bug(name="a bulk verb does not look at labels", python=[(Filter, "_has_labels", lambda wanted, packed: True)], seed=2),
    Bug(name="a bulk verb does not look at dates", python=[(Span, "holds", lambda span, us: True)]),
    Bug(
        name="a bulk verb finds only what has no rules",
        python=[(Filter, "_matches_sections", lambda wanted, record, found: not found.keys() - {1, 2, 3})],
    ),
    Bug(
        name="a clean does not look at its grace",
        lua=[("if grace_ms == 0 then return ctx.n end\n  return ctx.now_us - grace_ms * 1000", "return ctx.n")],
        seed=3,
    ),
    Bug(
        name="a clean leaves what says for itself how long it is kept", lua=[("if passed < STEP then\n    local own", "if false then\n    local own")], seed=107
    ),
    Bug(name="a clean counts nothing", lua=[("return { count, newest, passed", "return { 0, newest, passed")], seed=3),
    Bug(
        name="what has ended goes before it is too old", lua=[("local cutoff = ctx.now_us - age_ms * 1000", "local cutoff = ctx.now_us - age_ms * 500")], seed=5
    ),
    Bug(name="what has ended never grows too old", lua=[("more = forget_old(ctx, state) or more", "")], seed=5),
    Bug(name="a job's own retention never ends", lua=[("retention.forget_own(ctx, ids)\n  return #ids == LIMIT", "return false")], seed=5),
    Bug(name="an id that comes twice in a batch is made twice", lua=[("if argv[2] == '1' or asks ~= NO_ASKS", "if asks ~= NO_ASKS")], seed=9),
    Bug(name="a batch mixes up its verdicts", python=[(Batch, "outcome", _outcome_of_others)], seed=28),
    Bug(name="a batch says that all was made", python=[(Batch, "outcome", lambda batch, results: Outcome({}, {}))], seed=28),
    Bug(name="a batch is made backward", python=[(Maker, "_put", _put_backward)], seed=50),
    Bug(name="an enqueue to disk does not wait for the disk", python=[(StoreClient, "sync_to_disk", _at_once)], seed=3),
    Bug(name="an enqueue to disk takes the word of a write that began before it", python=[(client._Fence, "wait", _join_what_is_under_way)], seed=18),
    Bug(name="a pause of a class pauses nothing", python=[(queues, "pause_class", _pause_none)]),
    Bug(name="a pause of a class pauses all queues", python=[(queues, "pause_class", _pause_all)], seed=24),
    Bug(name="the slots that are kept for a queue or a class are not looked at", python=[(Shares, "__bool__", lambda shares: False)], seed=24),
    Bug(name="what is kept for others is taken from the slots of a queue", python=[(WorkSession, "free", _free_of_all_but_what_is_kept)], seed=33),
    Bug(name="slots that change are not heard of", python=[(Partition, "learn_policy", _learn_once)], seed=23),
    Bug(name="a debounce waits twice as long", lua=[("math.min(ctx.now_ms + delay_ms, latest_ms)", "math.min(ctx.now_ms + 2 * delay_ms, latest_ms)")], seed=17),
    Bug(
        name="what is due is found 5 s late",
        lua=[
            (
                "redis.call('ZRANGEBYSCORE', ctx.base .. 'd', '-inf', ctx.now_ms, 'LIMIT'",
                "redis.call('ZRANGEBYSCORE', ctx.base .. 'd', '-inf', ctx.now_ms - 5000, 'LIMIT'",
            )
        ],
        seed=2,
    ),
    Bug(name="the slots of a queue are not looked at", python=[(WorkSession, "free", _free_of_any_slots)], seed=23),
    Bug(name="credit is not reserved for a call under way", python=[(WorkSession, "reserve", _nothing), (WorkSession, "unreserve", _nothing)], seed=5),
    Bug(name="nobody compares what the store holds for a worker with what it got", python=[(WorkStream, "reattach", _nothing)], seed=29),
    Bug(name="a finish that met no store is dropped", python=[(WorkStream, "failed", lambda stream, error: False)], seed=44),
    Bug(name="a worker forgets a result that was not acked when its stream breaks", python=[(Session, "closed", _drop_unacked)], seed=18),
    Bug(name="a wake-up that was lost is not made up for", python=[(Partition, "pulsed", _believe_the_count)], seed=35),
)
"""Those that must be found."""
