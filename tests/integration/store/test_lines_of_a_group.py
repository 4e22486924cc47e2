"""Lists of one group: its own line, those of parked jobs, and no line of another group."""

import pytest

from tests.support.queue_lab import QueueLab, item, ruled


async def listed(q: QueueLab, group: str, limit: int) -> list[str]:
    found, cursor = [], b""
    while True:
        cursor, page = await q.store.page(b"U" + group.encode(), cursor, limit)
        found += [raw_id.decode() for raw_id, _ in page]
        if not cursor:
            return found


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_a_list_of_one_group_leaves_the_lines_of_others_out(q: QueueLab, limit: int) -> None:
    await q.make("plain", item("later", due="+60000"), *(ruled(f"{group}{i}", group) for i in range(3) for group in ("a", "ab", "b", "z")))
    assert await listed(q, "a", limit) == ["a0", "a1", "a2"]
    assert await listed(q, "ab", limit) == ["ab0", "ab1", "ab2"]
    assert await listed(q, "z", limit) == ["z0", "z1", "z2"]
    assert await listed(q, "none", limit) == []
    assert sorted(await listed(q, "", limit)) == sorted(f"{group}{i}" for i in range(3) for group in ("a", "ab", "b", "z"))


@pytest.mark.parametrize("limit", [1, 100])
async def test_a_list_of_one_group_has_its_parked_jobs(q: QueueLab, limit: int) -> None:
    await q.set_policy(names={"work": {"concurrency": 1}})
    await q.make(*(ruled(f"{group}{i}", group) for i in range(2) for group in ("a", "b")))
    await q.attach("s")
    assert len(await q.lease("s", 4)) == 1
    state = await q.state()
    assert any(line.startswith("n") for line in state.lines), state.lines
    found = await listed(q, "a", limit)
    assert [raw_id for raw_id in found if raw_id[0] == "a"] == ["a1"] if "a0" in state.active else ["a0", "a1"]
    for line, ids in state.lines.items():
        assert all((raw_id in found) == (raw_id[0] == "a" or line[0] != "l") for raw_id in ids), (line, ids, found)
