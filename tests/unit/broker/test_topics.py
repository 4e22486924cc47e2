"""What can be followed, by its name."""

import pytest
from jobwire_broker.auth.identity import Identity, Scope, parse_scopes
from jobwire_broker.errors import InvalidField
from jobwire_broker.services.verbs import topic_scope
from jobwire_broker.topics import Topic, parse_topic


@pytest.mark.parametrize(
    ("name", "topic", "scope"),
    [
        ("queues", Topic(), "watch:*"),
        ("queues/q", Topic("q"), "watch:q"),
        ("queues/q/jobs/a:b", Topic("q", b"a:b"), "watch:q/a:b"),
        ("queues/q/groups/acme", Topic("q", group="acme"), "watch:q/groups/acme"),
        ("queues/q/labels/a/b=c=d", Topic("q", label=("a/b", "c=d")), "watch:q/labels/a/b=c%3Dd"),
        ("queues/q/labels/a=", Topic("q", label=("a", "")), "watch:q/labels/a="),
        ("queues/q/labels/a=x y/ü", Topic("q", label=("a", "x y/ü")), "watch:q/labels/a=x%20y%2F%C3%BC"),
    ],
)
def test_a_topic_is_read_and_has_its_scope(name: str, topic: Topic, scope: str) -> None:
    assert parse_topic(name, "f") == topic
    assert topic_scope(name, "f") == scope
    assert str(Scope.parse(scope)) == scope
    who = Identity(name="who", scopes=parse_scopes([scope]))
    if topic.queue:
        assert who.may("watch", topic.queue, topic.part)
        assert who.may("watch", "q", "other") == (not topic.part)


@pytest.mark.parametrize(
    "name",
    [
        *("", "q", "queues/", "queues/q/", "queues/q/jobs", "queues/q/jobs/", "queues/q/jobs/a/b", "queues/q/groups/", "queues/q/groups/.a"),
        *("queues/q/labels/a", "queues/q/labels/=b", "queues/q/labels/a b=c", f"queues/q/labels/a={'x' * 129}"),
        *("jobs/q/jobs/a", "queues/a b/groups/c", "queues/q/states/failed"),
    ],
)
def test_what_is_no_topic_is_refused_by_its_field(name: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_topic(name, "add[3]")
    assert caught.value.field.startswith("add[3]")
