"""What a stream refuses of its caller, message by message."""

from contextvars import copy_context

import pytest
from jobwire_broker.auth.caller import Caller, checker, set_caller
from jobwire_broker.auth.errors import NotPermitted
from jobwire_broker.auth.identity import Identity


def test_each_refusal_of_a_stream_is_noted_with_its_queue() -> None:
    noted: list[NotPermitted] = []

    def ask() -> None:
        set_caller(Caller(Identity(name="reader"), noted.append))
        check = checker("enqueue")
        assert check is not None
        for queue in ("mine", "yours"):
            with pytest.raises(NotPermitted, match=rf"enqueue:{queue} \(queue {queue}\)$"):
                check((queue,))

    copy_context().run(ask)
    assert [(error.metadata["verb"], error.metadata["queue"]) for error in noted] == [("enqueue", "mine"), ("enqueue", "yours")]
