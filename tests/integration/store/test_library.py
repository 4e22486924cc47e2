"""The function library itself: how it is loaded, how versions live together, and that both sides use the same words and forms."""

import re
import struct
from importlib.resources import files

import pytest
from jobwire_broker.store import codec, functions
from jobwire_broker.store.answers import Word

from tests.support import Store
from tests.support.queue_lab import QueueLab, open_lab
from tests.support.queue_state import ENDS, state_name

SOURCES = {
    path.name: path.read_text() for folder in ("", "lib") for path in (files("jobwire_broker.store") / "lua" / folder).iterdir() if path.name.endswith(".lua")
}
VERBS = [f"{name}.lua" for name in functions.VERB_FILES]


def lua_numbers(*names: str) -> dict[str, int]:
    """Numbers given as `NAME = 1` or `local A, B = 1, 2` anywhere in the sources."""
    found: dict[str, int] = {}
    for text in SOURCES.values():
        for left, right in re.findall(r"^local ([A-Z_, ]+) = ([0-9, ]+)$", text, re.M):
            found |= dict(zip(left.split(", "), map(int, right.split(", ")), strict=True))
    return {name: found[name] for name in names}


def lua_table(name: str) -> dict[str, int]:
    (body,) = re.findall(rf"^local {name} = {{(.*)}}$", SOURCES["codec.lua"], re.M)
    return {key: int(value) for key, value in re.findall(r"(\w+) = (\d+)", body)}


# Loading ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_functions_that_the_store_lost_are_loaded_again_in_the_middle(store: Store, queue: str) -> None:
    async with open_lab(store, queue) as q:
        await q.make("a")
        await q.redis.function_flush()
        assert await q.make("a", "b") == ["MADE", "MADE"]
        assert (await q.store.stats()).waiting == 2


async def test_two_versions_work_on_the_same_queue_side_by_side(product: Store, queue: str, q: QueueLab, monkeypatch: pytest.MonkeyPatch) -> None:
    body = functions.library()[1].split("\n", 4)[4]
    monkeypatch.setattr("jobwire_broker.store.client.library", lambda: ("0ther000", functions._prelude("0ther000") + body))
    async with open_lab(product, queue) as other:
        assert await other.make("a") == ["MADE"]
        assert await q.make("a", "b") == ["MADE", "MADE"]
        token = (await other.leased("a"))["a"]
        assert await q.complete("a", token) == ("OK", "COMPLETED")
        assert (await other.store.stats()).waiting == 1
        names = {bytes(row[1]).decode() for row in await q.redis.function_list()}
        assert {"jobwire_0ther000", f"jobwire_{functions.library()[0]}"} <= names
        await q.redis.function_delete("jobwire_0ther000")


def test_every_function_carries_the_version_in_its_name() -> None:
    version, source = functions.library()
    assert re.fullmatch("[0-9a-f]{8}", version)
    assert source.startswith(f"#!lua name=jobwire_{version}\n")
    assert re.findall(r"function_name = '([^']*)'", source) == [f"jobwire_{version}_"]


def test_every_lua_file_is_in_the_library() -> None:
    assert {f"{name}.lua" for name in (*functions.LIB_FILES, *functions.VERB_FILES)} == set(SOURCES)


# The contract of the files ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_file_begins_with_a_sentence_on_what_it_holds(name: str) -> None:
    assert re.match(r"--- [A-Z].*[.:]", SOURCES[name])


@pytest.mark.parametrize("name", [name for name in VERBS if name not in ("reads.lua", "logs.lua")])
def test_every_function_that_writes_names_its_keys_arguments_and_answer(name: str) -> None:
    header = SOURCES[name].split("\n\n")[0]
    for part in ("-- KEYS[1]  ", "-- ARGV     ", "-- Returns  "):
        assert part in header


def test_every_function_that_reads_says_what_it_returns() -> None:
    registered = re.findall(r"^register\('(\w+)', (\w+), { 'no-writes' }\)$", SOURCES["reads.lua"], re.M)
    for _, function in registered:
        comment = re.search(rf"((?:^--.*\n)+)local function {function}\(", SOURCES["reads.lua"], re.M)
        assert comment is not None
        assert "Returns" in comment[1]


def test_only_what_can_make_a_job_larger_is_refused_by_a_full_store() -> None:
    flags = dict(re.findall(r"^register\('(\w+)', .*, {(.*)}\)$", "\n".join(SOURCES.values()), re.M))
    assert [name for name, flag in flags.items() if "allow-oom" not in flag and "no-writes" not in flag] == ["redrive", "update", "enqueue"]


def test_both_sides_use_the_same_words() -> None:
    code = "\n".join(line.split("--")[0] for name, text in SOURCES.items() for line in text.splitlines() if name != "codec.lua")
    code = re.sub(r"redis\.call\('[A-Z]+'|gather\(ctx, '[A-Z]+'|batch_for\(ctx, '[A-Z]+'", "", code)
    arguments_and_reasons = {"NUMSUB", "ZREM", "HDEL", "ZCARD", "ZADD", "GT", "LIMIT", "COUNT", "WITHSCORES", "PX", "LLEN", "NX", "XX"}
    arguments_and_reasons |= {"NO_HANDLER", "POISON", "TIMEOUT", "TOTAL_TIMEOUT"}
    assert set(re.findall(r"'([A-Z]{2,}(?:_[A-Z]+)*) ?'", code)) - arguments_and_reasons == {word.value for word in Word}


def test_both_codecs_agree_on_the_header() -> None:
    (form,) = re.findall(r"^local HEADER = '(.*)'$", SOURCES["codec.lua"], re.M)
    sizes = {"B": "B", "i": "i4", "Q": "I8", "H": "I2", "I": "I4"}
    assert form == ">" + "".join(sizes[letter] for letter in codec.HEADER.format[1:])
    assert struct.calcsize(codec.HEADER.format) == codec.HEADER_SIZE
    numbers = lua_numbers("FORMAT", "HEADER_SIZE", "NO_PROGRESS")
    assert numbers == {"FORMAT": codec.FORMAT, "HEADER_SIZE": codec.HEADER_SIZE, "NO_PROGRESS": codec.NO_PROGRESS}


def test_both_codecs_agree_on_tags_flags_and_states() -> None:
    names = (
        "TAG_BACKOFF",
        "TAG_PROGRESS",
        "TAG_RESULT",
        "TAG_FAILURE",
        "TAG_TRUNCATED",
        "TAG_LOG",
        "FLAG_CANCEL_REQUESTED",
        "FLAG_CANCEL_DELIVERED",
        "FLAG_ALONE",
    )
    assert lua_numbers(*names) == {name: getattr(codec, name) for name in names}
    assert lua_numbers("TAG_STATE_FIRST")["TAG_STATE_FIRST"] > max(codec.TAG_PAYLOAD, codec.TAG_BACKOFF, codec.TAG_DELAY)
    assert {name: state_name(number) for name, number in lua_table("STATE").items()} == {name: name for name in lua_table("STATE")}
    assert state_name(lua_numbers("STATE_REMOVED")["STATE_REMOVED"]) == "REMOVED"
    assert [name for name, _ in sorted(lua_table("END").items(), key=lambda pair: pair[1])] == ["NONE", *ENDS[1:]]


async def test_a_record_with_a_tag_from_the_future_keeps_it(q: QueueLab) -> None:
    await q.attach("s")
    await q.make("a")
    unknown = codec.SECTION.pack(40, 3) + b"new" + codec.SECTION.pack(99, 5) + b"newer"
    await q.redis.append(q.base + "ja", unknown)
    token = (await q.lease("s", 1))["a"]
    await q.turn("P", "a", token, 5000, b"note")
    await q.complete("a", token, b"result")
    assert (await q.state()).jobs["a"].sections == {"40": b"new", "99": b"newer", "progress": b"note", "result": b"result"}


async def test_a_record_of_an_unknown_format_is_left_alone(q: QueueLab) -> None:
    await q.make("a")
    await q.attach("s")
    await q.redis.setrange(q.base + "ja", 0, b"\x02")
    assert (await q.store.cancel(b"a", 0)).word == "NOT_FOUND"
    assert (await q.store.delete(b"a")).word == "NOT_FOUND"
    assert await q.turn("C", "a", 5) == ("NOT_FOUND", "UNSPECIFIED")
    assert await q.redis.getrange(q.base + "ja", 0, 0) == b"\x02"
