"""What the tests of every part share: the real parts as processes, a history checker, proxies that break things.

`from tests.support import Store, Broker, Gateway, WorkerProcess` gives the parts; each is an async context manager. The fixtures built on
them are in tests/conftest.py.
"""

from tests.support.broker import Broker
from tests.support.gateway import Gateway
from tests.support.history import History, Verdict
from tests.support.process import Process, ProcessEnded
from tests.support.store import Store, StoreKind
from tests.support.worker import WorkerProcess

__all__ = ["Broker", "Gateway", "History", "Process", "ProcessEnded", "Store", "StoreKind", "Verdict", "WorkerProcess"]
