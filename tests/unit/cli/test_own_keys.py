"""The key that `jobwire up` makes for its gateway."""

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
