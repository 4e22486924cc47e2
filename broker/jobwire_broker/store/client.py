"""The connection to the store: calls with a bound, one at a time unless the caller says so, and the knowledge whether the store is there.

Nothing is repeated here but a call whose function the store did not know, which therefore did nothing (RULES 5: the client library's own retries are off).
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, ConnectionError, OutOfMemoryError, RedisError, ResponseError, TimeoutError, TryAgainError

from jobwire_broker.certificates import PemFile, check_certificates, check_pair
from jobwire_broker.config import BrokerConfig
from jobwire_broker.errors import Precondition, StoreFault, StoreFull, StoreUnavailable
from jobwire_broker.store.call_watch import AnswerLost
from jobwire_broker.store.connections import Connections, NotSent, connection_for_calls
from jobwire_broker.store.functions import library
from jobwire_broker.store.memory import MemoryWatch

log = logging.getLogger(__name__)

#: A call to a store that does not answer is given up after these, so that a caller hears of it within 2 s. One whose answer alone is lost: call_watch.py.
CONNECT_TIMEOUT_S = 0.6
CALL_TIMEOUT_S = 1.2
#: How often an absent store is asked whether it is back.
PROBE_INTERVAL_S = 0.5
DISK_TIMEOUT_S = 6.0
#: The store is asked in steps of this whether it has synced; an answer that is later by half is lost.
DISK_STEP_S = 1.0
_EVICTING = ("allkeys-", "volatile-")
_UNREADABLE = (
    "the store's URL can't be read: in the user and the password, `/` must be written %2F, `?` %3F, `#` %23, `@` %40, `:` %3A, `[` %5B and `%` %25, "
    "and a port must be a number up to 65535"
)
#: What of the address names files of certificates or a key.
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
#: With these words a store says that it is there and takes no writes now: its disk fails, replicas or slots are missing, somebody's script runs on and on.
_TAKES_NO_WRITES = frozenset(("MISCONF", "NOREPLICAS", "BUSY", "READONLY", "CLUSTERDOWN", "MASTERDOWN"))


class StoreRefused(Exception):
    """Raised when the store can be reached but must not be used: its settings would lose jobs."""


def public_url(url: str) -> str:
    """The address without user and password, for logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.path if parts.scheme == 'unix' else (parts.hostname or '') + (f':{parts.port}' if parts.port else '')}"


def check_url(url: str) -> None:
    """Raises ValueError for an address that can't be read, or would be read otherwise than it was meant.

    What the error says has no part of the address: any may be of a password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("the store's URL must begin with redis://, rediss:// or unix://")
    # With a `/`, `?` or `#` as it is in the password, what comes behind that holds the `@` before the host.
    if parts.scheme != "unix" and ("@" in parts.path + parts.query or parts.fragment):
        raise ValueError(_UNREADABLE)
    try:
        pool: Any = redis.ConnectionPool.from_url(url)
        pool.make_connection()
    except (TypeError, ValueError):
        raise ValueError("the store's URL has a parameter that there is none of, or one with a value that it can't have") from None


def check_files(url: str) -> None:
    """Raises ValueError when a file that the address names for TLS is of no use, which a connection would only say without its name."""
    named = {option: PemFile(option, Path(values[0])) for option, values in parse_qs(urlsplit(url).query).items() if option in _FILES}
    if "ssl_ca_path" in named and not named["ssl_ca_path"].path.is_dir():
        raise ValueError(f"ssl_ca_path: {named['ssl_ca_path'].path} is no directory; name one that holds certificates")
    if "ssl_ca_certs" in named:
        check_certificates(named["ssl_ca_certs"])
    if "ssl_certfile" in named:
        check_pair(named["ssl_certfile"], named.get("ssl_keyfile", named["ssl_certfile"]))
    elif "ssl_keyfile" in named:
        raise ValueError("ssl_keyfile: a key needs its certificate; name that as ssl_certfile")


class StoreClient:
    """One store. `start` never fails because the store is away; `available` tells, and `on_available` is called at each return."""

    def __init__(self, config: BrokerConfig) -> None:
        """Raises ValueError for an address that can't be used."""
        check_url(config.store)
        check_files(config.store)
        self._config = config
        self._namespace = config.namespace
        self._redis = self._connect(CALL_TIMEOUT_S)
        self._calls = Connections(self._redis.connection_pool, CALL_TIMEOUT_S)
        self._command = self._calls.call
        # WAITAOF blocks its connection, so it has its own.
        self._fence_redis = self._connect(DISK_STEP_S * 1.5)
        self._version, self._source = library()
        self._names: dict[str, str] = {}
        self._run_id: str | None = None
        self._probe: asyncio.Task[None] | None = None
        self._ping: asyncio.Task[None] | None = None
        self._fence = _Fence(self)
        self.memory_watch = MemoryWatch(self.memory)
        self._syncing: set[asyncio.Future[None]] = set()
        self.available = False
        self.product = ""
        self.disk_durability = False
        self.refused: str | None = None
        self._reason = ""
        self.on_change: list[Callable[[bool], None]] = []

    def connect_for_messages(self) -> redis.Redis:
        """A connection of its own for pub/sub, where silence is no fault."""
        return self._connect(None)

    def _connect(self, timeout_s: float | None) -> redis.Redis:
        pool = redis.ConnectionPool.from_url(
            self._config.store,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_s,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            protocol=2,
            driver_info=None,
        )
        pool.connection_class = connection_for_calls(pool.connection_class)
        return redis.Redis.from_pool(pool)

    # Life ---------------------------------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look whether the store is there. Raises StoreRefused when it is, and its settings would lose jobs."""
        try:
            await self._prepare()
        except RedisError as error:
            self._lost(error)
        if self.refused:
            raise StoreRefused(self.refused)

    async def stop(self) -> None:
        """Close all connections."""
        for task in (self._probe, self._ping):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._probe = self._ping = None
        await self.memory_watch.stop()
        await self._calls.close()
        await self._redis.aclose()
        await self._fence_redis.aclose()

    async def _prepare(self) -> None:
        info = await self._redis.info()
        if info.get("loading"):
            raise BusyLoadingError("the store is loading its data")
        is_valkey = "valkey_version" in info
        self.product = f"{'valkey' if is_valkey else 'redis'} {info['valkey_version' if is_valkey else 'redis_version']}"
        self._run_id = info.get("run_id")
        self._check_eviction(info)
        self.disk_durability = await self._has_disk_durability(info)
        await self._load()
        self._found()

    def _check_eviction(self, info: dict[str, Any]) -> None:
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy.startswith(_EVICTING) and not self._config.allow_eviction:
            self.refused = f"the store's maxmemory-policy is {policy}, so it may evict jobs: set it to noeviction, or say --allow-eviction"
            raise BusyLoadingError(self.refused)
        self.refused = None

    async def _has_disk_durability(self, info: dict[str, Any]) -> bool:
        if not int(info.get("aof_enabled", 0)):
            return False
        major, minor = (int(part) for part in str(info["redis_version"]).split(".")[:2])
        if (major, minor) < (7, 2):
            return False
        try:
            # As words of their own: our connections do not split the client library's "CONFIG GET".
            _, setting = await self._command("CONFIG", "GET", "appendfsync")
        except ResponseError:
            return True  # the setting can't be read with these rights, or at this provider; WAITAOF itself will tell
        return bytes(setting) != b"no"

    async def _load(self) -> None:
        try:
            await self._command("FUNCTION", "LOAD", self._source)
        except ResponseError as error:
            # A full store refuses to load what it has, too.
            if "already exists" not in str(error) and not (isinstance(error, OutOfMemoryError) and await self._is_loaded()):
                raise

    async def _is_loaded(self) -> bool:
        return bool(await self._command("FUNCTION", "LIST", "LIBRARYNAME", f"jobwire_{self._version}"))

    def _found(self) -> None:
        if not self.available:
            self.available = True
            self._reason = ""
            log.info("store.available product=%s address=%s disk_durability=%s", self.product, public_url(self._config.store), self.disk_durability)
            for callback in self.on_change:
                callback(True)

    def suspect(self, error: BaseException) -> None:
        """A connection failed. The store is away only if it does not answer a ping either, since a reply may be lost alone; or if another one answers."""
        if self.available and (self._ping is None or self._ping.done()):
            self._ping = asyncio.create_task(self._check(error))

    async def _check(self, error: BaseException) -> None:
        await self._drop_idle()
        if not await self.is_answering() or await self._is_another():
            self._lost(error)

    async def _is_another(self) -> bool:
        """Whether what answers now was started later, or is a replica that took over: it may have other settings, and lack the last writes."""
        try:
            info = await self._redis.info("server")
        except (RedisError, OSError):
            return True
        return bool(info.get("run_id") != self._run_id)

    async def is_answering(self) -> bool:
        """Whether the store answers now, on a new connection."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._calls.ping()
        except (RedisError, OSError, builtins.TimeoutError):
            return False
        return True

    def _lost(self, error: BaseException) -> None:
        if self.available or self._probe is None:
            log.warning("store.unavailable address=%s error=%s", public_url(self._config.store), self._why(error))
        was_available, self.available = self.available, False
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._watch_for_return())
        for gone in self._syncing:
            if not gone.done():
                gone.set_result(None)
        if was_available:
            for callback in self.on_change:
                callback(False)

    def _why(self, error: BaseException) -> str:
        """What is wrong: a file that can't be read any more, or whatever the connection says."""
        try:
            check_files(self._config.store)
        except ValueError as fault:
            return str(fault)
        return f"{type(error).__name__}: {str(error)[:200]}"

    async def _drop_idle(self) -> None:
        """Every idle connection is suspect after one of them failed."""
        await self._calls.close_idle()
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _watch_for_return(self) -> None:
        await self._drop_idle()
        while not self.available:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                await self._prepare()
            except Exception as error:  # whatever it says, it is asked again
                self._note_reason(error)

    def _note_reason(self, error: Exception) -> None:
        """Say once why a store that answers can't be used; callers are told as well."""
        silent = isinstance(error, (ConnectionError, TimeoutError, OSError)) and not isinstance(error, (BusyLoadingError, AuthenticationError))
        reason = "" if silent else str(error)[:200]
        if reason and reason != self._reason:
            log.warning("store.unusable address=%s reason=%s", public_url(self._config.store), reason)
        self._reason = reason

    async def memory(self) -> tuple[int, int]:
        """How many bytes the store uses of its limit, and that; 0 is none. Raises StoreUnavailable."""
        await self._must_be_there()
        try:
            lines = bytes(await self._command("INFO", "memory")).decode().splitlines()
        except RedisError as error:
            raise self._translate(error) from error
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        # Buffers of replication and of the append-only file do not count against the limit.
        return int(found.get("used_memory", 0)) - int(found.get("mem_not_counted_for_evict", 0)), int(found.get("maxmemory", 0))

    # Calls --------------------------------------------------------------------------------------------------------------------------------------------

    def base(self, queue: str) -> str:
        """What all keys of a queue begin with; the braces are the cluster's hash tag."""
        return f"{self._namespace}:{{{queue}}}:"

    async def call(self, function: str, meta_key: str, args: Sequence[bytes | str | int]) -> Any:
        """Call one of our functions.

        Raises StoreUnavailable, whose `accepted` says whether the call can have been carried out, and StoreFull.
        """
        await self._must_be_there()
        return await self._answered(self._calls.call("FCALL", self._name(function), 1, meta_key, *args), function, meta_key, args)

    def begin(self, function: str, meta_key: str, args: Sequence[bytes | str | int]) -> Awaitable[Any]:
        """The same, sent before this returns when a connection is free. To be awaited once."""
        if self.available and (self._ping is None or self._ping.done()):
            answer = self._calls.begin("FCALL", self._name(function), 1, meta_key, *args)
            if answer is not None:
                return self._answered(answer, function, meta_key, args)
        return asyncio.ensure_future(self.call(function, meta_key, args))

    def _name(self, function: str) -> str:
        return self._names.get(function) or self._names.setdefault(function, f"jobwire_{self._version}_{function}")

    async def _answered(self, answer: Awaitable[Any], function: str, meta_key: str, args: Sequence[bytes | str | int]) -> Any:
        try:
            try:
                return await answer
            except ResponseError as error:
                if "Function not found" not in str(error):
                    raise
                await self._load()
                return await self._calls.call("FCALL", self._name(function), 1, meta_key, *args)
        except RedisError as error:
            raise self._translate(error) from error

    def _translate(self, error: RedisError) -> Exception:
        if isinstance(error, OutOfMemoryError):
            return StoreFull("the store is at its memory limit")
        if isinstance(error, (BusyLoadingError, AuthenticationError)) or _word_of(error) in _TAKES_NO_WRITES:
            self._lost(error)
            return StoreUnavailable(f"the store does not take writes now: {error}", accepted=_accepted_of(error))
        if isinstance(error, TryAgainError):
            # Of one slot alone, which is on its way to another node.
            return StoreUnavailable(f"the store asks to try again: {error}", accepted=_accepted_of(error))
        if isinstance(error, AnswerLost):
            # The store is there: nobody has to wait until that is found out.
            return StoreUnavailable("the store's answer was lost", accepted="unknown")
        if isinstance(error, (ConnectionError, TimeoutError)):
            self.suspect(error)
            return StoreUnavailable("the store does not answer", accepted="no" if isinstance(error, NotSent) else "unknown")
        return StoreFault(str(error))

    async def _must_be_there(self) -> None:
        """Raises StoreUnavailable when the store is away. Who comes while that is being found out waits for it, and not for a time limit of their own."""
        if self._ping is not None and not self._ping.done():
            await asyncio.wait([self._ping])
        if not self.available:
            raise self.absence()

    def absence(self) -> StoreUnavailable:
        """What to tell who needs the store while it is away."""
        return StoreUnavailable(f"the store can't be used: {self._reason}" if self._reason else "the store is away", accepted="no")

    async def remember_queue(self, queue: str) -> None:
        """Note that a queue exists, before its first job does. Raises StoreUnavailable, and StoreFull for one that is new."""
        await self._must_be_there()
        key = f"{self._namespace}:queues"
        try:
            # A full store takes no write, not even one that changes nothing.
            if not await self._command("SISMEMBER", key, queue):
                await self._command("SADD", key, queue)
        except RedisError as error:
            translated = self._translate(error)
            if isinstance(translated, StoreFull):
                raise translated from error
            # Nothing of the caller's was done yet, whatever became of the note.
            raise StoreUnavailable(str(translated), accepted="no") from error

    async def queues(self) -> list[str]:
        """The names of all queues, sorted."""
        await self._must_be_there()
        try:
            found = await self._command("SMEMBERS", f"{self._namespace}:queues")
        except RedisError as error:
            raise self._translate(error) from error
        return sorted(name.decode() for name in found)

    async def sync_to_disk(self) -> None:
        """Return when all that was written before is on disk. Raises Precondition and StoreUnavailable; paid once for all who wait."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._syncing.add(gone)
        synced = asyncio.ensure_future(self._fence.wait())
        try:
            await asyncio.wait([synced, gone], return_when=asyncio.FIRST_COMPLETED)
            if not synced.done():
                raise StoreUnavailable("the store went away before it had confirmed the write to disk", accepted="unknown")
            synced.result()
        finally:
            self._syncing.discard(gone)
            synced.cancel()

    def check_disk_durability(self) -> None:
        """Raises Precondition when the store can't promise it, before anything is done."""
        if self.available and not self.disk_durability:
            raise Precondition("the store has no append-only file that is synced to disk: ask for DURABILITY_STORE, or turn appendonly on (Redis 7.2, Valkey)")

    async def write_fence(self) -> None:
        """One tiny write, then WAITAOF, which waits for this connection's own writes and so for all before them. A connection that hangs costs one step."""
        loop = asyncio.get_running_loop()
        late_at = loop.time() + DISK_TIMEOUT_S
        while True:
            try:
                async with self._fence_redis.client() as connection:
                    if await self._synced(connection, late_at):
                        return
            except (ConnectionError, TimeoutError):
                if loop.time() + DISK_STEP_S > late_at:
                    raise
                continue
            raise TimeoutError("the store did not sync its append-only file in time")

    async def _synced(self, connection: redis.Redis, late_at: float) -> bool:
        command: Any = connection.execute_command
        await command("SET", f"{self._namespace}:fence", "1")
        while asyncio.get_running_loop().time() < late_at:
            answer = await command("WAITAOF", 1, 0, int(DISK_STEP_S * 1000))
            if int(answer[0]) >= 1:
                return True
        return False

    async def fence(self) -> None:
        """write_fence with its errors translated."""
        try:
            await self.write_fence()
        except RedisError as error:
            if isinstance(error, ResponseError) and not isinstance(self._translate(error), (StoreUnavailable, StoreFull)):
                raise Precondition(f"the store can't sync to disk: {error}") from error
            raise StoreUnavailable("the store did not confirm the write to disk", accepted="unknown") from error


def _word_of(error: RedisError) -> str:
    """The word with which an error of the store begins; the client library has cut off those that it knows."""
    return error.status_code or str(error).partition(" ")[0]


def _accepted_of(error: RedisError) -> str:
    """Whether what was refused can have been carried out: only where the error came up midway in a function."""
    return "unknown" if " script: " in str(error) else "no"


class _Fence:
    """While one fence is under way, who comes waits for the next one, together."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        if self._next is None:
            self._next = asyncio.create_task(self._run_after(self._current))
        await asyncio.shield(self._next)

    async def _run_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._current, self._next = self._next, None
        await self._client.fence()
