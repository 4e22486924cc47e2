"""Ids: the layout of UUIDv7, never twice the same."""

import os
import threading
import time
from uuid import UUID

from jobwire_client._ids import new_id


def test_an_id_has_the_layout_of_uuid_version_7() -> None:
    minted = new_id()
    assert len(minted) == 32
    assert minted == minted.lower()
    assert UUID(minted).version == 7
    assert UUID(minted).variant == "specified in RFC 4122"


def test_an_id_begins_with_the_millisecond_in_which_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made_ms = int(new_id()[:12], 16)
    assert before <= made_ms <= time.time_ns() // 1_000_000


def test_threads_never_mint_the_same_id() -> None:
    minted: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda ids=ids: ids.extend(new_id() for _ in range(5_000))) for ids in minted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for ids in minted for job_id in ids}) == 20_000


def test_a_forked_process_does_not_go_on_with_its_parents_random_bits() -> None:
    new_id()  # the pool is filled, so a child that kept it would mint the same bits as we do next
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest's may run here
        os.write(write, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 32).decode()
    os.close(read)
    os.close(write)
    assert theirs[12:] != new_id()[12:]
