"""A worker process of the fault tests."""

from collections.abc import Sequence

from tests.support.broker import Broker
from tests.support.events import EventLog
from tests.support.process import Process, python


class WorkerProcess(Process):
    """One process with the Python SDK that runs the jobs named `work` of one queue; see worker_main for what a payload may ask.

    It is ready when a broker has welcomed it.
    """

    ready_line = r"worker\.connected"

    def __init__(self, brokers: Broker | str | Sequence[Broker | str], queue: str, log: EventLog, *, concurrency: int = 10) -> None:
        super().__init__("worker")
        several = [brokers] if isinstance(brokers, (Broker, str)) else list(brokers)
        self.target = ",".join(b.address if isinstance(b, Broker) else b for b in several)
        self._arguments = [queue, str(concurrency), str(log.path)]

    def command(self) -> list[str]:
        return python("-m", "tests.support.worker_main", self.target, *self._arguments)
