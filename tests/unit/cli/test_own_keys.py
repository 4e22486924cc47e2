"""The keys that `jobwire up` makes for its gateway and for webhooks."""

import pytest
from jobwire_broker.auth.keys import parse_keys
from jobwire_cli.up.own_keys import OwnKeys


@pytest.mark.parametrize(
    "environment", [{}, {"JOBWIRE_KEYS": ""}, {"JOBWIRE_KEYS": "x", "JOBWIRE_API_KEY": "k"}, {"JOBWIRE_KEYS_FILE": "f", "JOBWIRE_API_KEY_FILE": "k"}]
)
def test_none_is_made_where_nobody_is_asked_or_there_is_one(environment: dict[str, str]) -> None:
    assert OwnKeys.made(environment) == OwnKeys()


def test_it_is_known_to_the_broker_beside_the_others_and_does_not_show() -> None:
    made = OwnKeys.made({"JOBWIRE_KEYS": "# a comment"})
    key = made.for_gateway["JOBWIRE_API_KEY"]
    holder = parse_keys(made.for_broker["JOBWIRE_KEYS"], "it").holder_of(key)
    assert holder is not None
    assert holder.may_everywhere("watch")
    assert not holder.may_everywhere("enqueue")
    assert key not in repr(made)


def test_that_of_webhooks_may_work_their_queue_and_no_other() -> None:
    made = OwnKeys.made({"JOBWIRE_KEYS_FILE": "f"}, webhooks_queue="hooks")
    holder = parse_keys(made.for_broker["JOBWIRE_KEYS"], "it").holder_of(made.for_webhooks["JOBWIRE_API_KEY"])
    assert holder is not None
    assert all(holder.may_everywhere(verb) for verb in ("watch", "read"))
    assert all(holder.may(verb, "hooks") and not holder.may(verb, "orders") for verb in ("enqueue", "work", "manage"))
    assert not holder.may("control", "hooks")
    assert OwnKeys.made({"JOBWIRE_KEYS_FILE": "f"}).for_webhooks == {}
