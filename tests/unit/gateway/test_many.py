"""Many topics on one stream: each from its snapshot to its end, and a reader that comes back gets nothing twice that it has."""

import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job, JobState, LogLine
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire_gateway.cursors import UNKNOWN_PLACE, Place, digest_of, place_of
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.many import ManyReader, Subscriptions
from jobwire_gateway.problems import Problem
from jobwire_gateway.topic_names import topic_name, topic_names
from jobwire_gateway.topics import Topics

from .reading import Event, events, job

ACTIVE, DELAYED, COMPLETED = JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED, JobState.JOB_STATE_COMPLETED
SNAPSHOT, UPDATE, FINAL = ChangeType.CHANGE_TYPE_SNAPSHOT, ChangeType.CHANGE_TYPE_UPDATE, ChangeType.CHANGE_TYPE_FINAL
NOT_FOUND, LOG = ChangeType.CHANGE_TYPE_NOT_FOUND, ChangeType.CHANGE_TYPE_LOG
A, B, Q = "queues/q/jobs/a", "queues/q/jobs/b", "queues/q"


class House:
    """Topics on a feed that the test plays: jobs as they are, and what the broker says of them."""

    def __init__(self, **jobs: Job) -> None:
        self.topics = Topics(Bounds(100, 1_000_000), 15_000)
        self.jobs = {of.name: of for of in jobs.values()}
        list(self.topics.plug())

    def answer(self) -> None:
        """Confirm what was asked for, with snapshots."""
        add, _ = self.topics.demand()
        changes = [self._snapshot(name) for name in add if name != Q]
        list(self.topics.apply(SubscribeResponse(added=add, changes=changes)))

    def say(self, *jobs: Job) -> None:
        """Let jobs change."""
        self.jobs |= {of.name: of for of in jobs}
        list(self.topics.apply(SubscribeResponse(changes=[JobChange(type=FINAL if of.state == COMPLETED else UPDATE, job=of) for of in jobs])))

    def read(self, *names: str, after: str = "") -> ManyReader:
        return ManyReader(self.topics, names, place_of(after), lambda: None)

    def _snapshot(self, name: str) -> JobChange:
        of = self.jobs.get(name)
        if of is None:
            return JobChange(type=NOT_FOUND, job=Job(name=name))
        return JobChange(type=FINAL if of.state == COMPLETED else SNAPSHOT, job=of)


def a(revision: int, state: JobState.ValueType = ACTIVE) -> Job:
    return job(revision, state, job_id="a")


def b(revision: int, state: JobState.ValueType = ACTIVE) -> Job:
    return job(revision, state, job_id="b")


def shown(seen: list[Event]) -> list[tuple[str, str]]:
    return [(event.type, event.data.get("name", "")) for event in seen]


def last_id(stream: bytes) -> str:
    found: list[bytes] = re.findall(rb"^id: (.*)$", stream, re.MULTILINE)
    return found[-1].decode()


def test_each_topic_begins_with_its_own_connected_and_snapshot() -> None:
    house = House(a=a(1), b=b(2))
    reader = house.read(A, B, Q)
    house.answer()
    seen = events(reader.take())
    assert sorted(shown(seen)) == [("connected", Q), ("connected", A), ("connected", B), ("update", A), ("update", B)]
    house.say(b(3, DELAYED))
    assert [(event.type, event.data["revision"]) for event in events(reader.take())] == [("update", 3)]


def test_a_job_that_is_watched_by_name_and_by_its_queue_is_shown_once() -> None:
    house = House(a=a(1))
    reader = house.read(A, Q)
    house.answer()
    reader.take()
    house.say(a(2), b(3), a(4, COMPLETED))
    assert [(event.type, event.data["revision"]) for event in events(reader.take())] == [("update", 2), ("update", 3), ("final", 4)]
    house.say(a(5, DELAYED))
    assert [event.data["revision"] for event in events(reader.take())] == [5]


def test_the_stream_ends_with_the_last_of_its_jobs_and_its_id_says_so() -> None:
    house = House(a=a(1), b=b(2, COMPLETED))
    reader = house.read(A, B)
    house.answer()
    assert not reader.ended
    stream = reader.take()
    house.say(a(3, COMPLETED))
    assert reader.ended
    stream += reader.take()
    assert [event.type for event in events(stream)].count("final") == 2
    place = place_of(last_id(stream))
    assert place is not None
    assert place.ends([B, A])
    assert not any(map(place.ends, ([A], [A, B, Q], [])))


def test_the_end_of_one_list_of_topics_hides_nothing_of_another() -> None:
    house = House(a=a(1, COMPLETED), b=b(2))
    reader = house.read(A)
    house.answer()
    after = last_id(reader.take())
    back = house.read(A, B, after=after)
    house.answer()
    assert sorted(shown(events(back.take()))) == [("connected", A), ("connected", B), ("final", A), ("gap", A), ("gap", B), ("update", A), ("update", B)]


def test_a_job_that_is_not_there_is_said_and_the_others_go_on() -> None:
    house = House(a=a(1))
    reader = house.read(A, B)
    house.answer()
    seen = events(reader.take())
    assert sorted(shown(seen)) == [("connected", A), ("error", B), ("update", A)]
    assert not reader.ended
    house.say(a(2, COMPLETED))
    assert reader.ended


def test_ids_grow_and_need_no_preflight_however_many_topics_there_are() -> None:
    names = [f"queues/q/jobs/{number}" for number in range(100)]
    house = House(**{f"j{number}": job(number + 1, job_id=str(number)) for number in range(100)})
    reader = house.read(*names)
    house.answer()
    stream = reader.take()
    found = re.findall(rb"^id: (.*)$", stream, re.MULTILINE)
    assert len(found) == 100
    places = [place_of(each.decode()) for each in found]
    counts = [place.count for place in places if place]
    assert counts == sorted(set(counts))
    assert all(re.fullmatch(rb"[A-Za-z0-9._~-]{1,128}", each) for each in found)
    assert places[-1] == Place(100, digest_of((f"queues/q/jobs/{number}", str(number + 1)) for number in range(100)))


def test_one_who_missed_nothing_gets_nothing_twice() -> None:
    house = House(a=a(1), b=b(2, COMPLETED))
    reader = house.read(A, B)
    house.answer()
    after = last_id(reader.take())
    again = House(a=a(1), b=b(2, COMPLETED)).topics
    back = ManyReader(again, [B, A], place_of(after), lambda: None)
    assert back.holding
    other = House(a=a(1), b=b(2, COMPLETED))
    other.topics = again
    other.answer()
    assert [(event.type, event.data["name"], event.data["resumed"]) for event in events(back.take())] == [("connected", A, True)]
    other.say(a(5, COMPLETED))
    assert [event.type for event in events(back.take())] == ["final"]
    assert back.ended


def test_one_who_missed_something_is_told_and_gets_all_jobs() -> None:
    house = House(a=a(1), b=b(2))
    reader = house.read(A, B)
    house.answer()
    after = last_id(reader.take())
    house.say(b(7, DELAYED))
    back = house.read(A, B, after=after)
    seen = events(back.take())
    assert [event.type for event in seen if event.data["name"] == B] == ["connected", "gap", "update"]
    assert [event.type for event in seen if event.data["name"] == A] == ["connected", "gap", "update"]
    assert not any(event.data.get("resumed") for event in seen)


def test_the_id_of_another_list_of_topics_is_replaced_by_snapshots() -> None:
    house = House(a=a(1), b=b(2))
    reader = house.read(A)
    house.answer()
    after = last_id(reader.take())
    back = house.read(A, B, after=after)
    house.answer()
    assert [event.type for event in events(back.take())].count("gap") == 2


@pytest.mark.parametrize("text", ["garbage", "17", "earliest", "5-xyz", "1-0123456789abcde", "17.end"])
def test_an_id_that_no_gateway_sent_is_a_gap_and_holds_up_nothing(text: str) -> None:
    assert place_of(text) == UNKNOWN_PLACE
    house = House(a=a(1))
    reader = house.read(A, Q, after=text)
    assert not reader.holding
    house.answer()
    assert [event.type for event in events(reader.take())].count("gap") == 2


def test_one_job_that_nobody_answers_for_holds_the_others_up_for_a_time_only() -> None:
    house = House(a=a(1), b=b(2))
    reader = house.read(A, B)
    house.answer()
    after = last_id(reader.take())
    reader.leave()
    house.answer()
    back = house.read(A, B, after=after)
    add, _ = house.topics.demand()
    assert sorted(add) == [A, B]
    list(house.topics.apply(SubscribeResponse(added=[A], changes=[JobChange(type=SNAPSHOT, job=a(1))])))
    assert (back.holding, back.take()) == (True, b"")
    back.settle()
    assert [event.type for event in events(back.take())] == ["connected", "gap", "update"]
    list(house.topics.apply(SubscribeResponse(added=[B], changes=[JobChange(type=SNAPSHOT, job=b(2))])))
    assert [event.type for event in events(back.take())] == ["connected", "gap", "update"]


def test_a_change_that_comes_while_a_reader_is_held_is_not_lost() -> None:
    house = House(a=a(1), b=b(2))
    after = f"9-{digest_of([(A, '1'), (B, '2')]):016x}"
    reader = house.read(A, B, after=after)
    house.topics.demand()
    list(house.topics.apply(SubscribeResponse(added=[A], changes=[JobChange(type=SNAPSHOT, job=a(1))])))
    house.say(a(3, COMPLETED))
    list(house.topics.apply(SubscribeResponse(added=[B], changes=[JobChange(type=SNAPSHOT, job=b(2))])))
    seen = events(reader.take())
    assert [event.type for event in seen if event.data["name"] == A] == ["connected", "gap", "update", "final"]


def test_a_reader_that_falls_behind_gets_a_gap_and_the_newest_of_each_job() -> None:
    house = House(a=a(1), b=b(2))
    reader = house.read(A, B)
    house.answer()
    reader.take()
    for revision in range(3, 400):
        house.say(job(revision, (ACTIVE, DELAYED)[revision % 2], job_id="a"))
    house.say(b(400, COMPLETED))
    seen = events(reader.take())
    assert len(seen) < 110
    assert [event.data["revision"] for event in seen if event.type != "gap" and event.data["name"] == A][-1] == 399
    assert [(event.type, event.data["revision"]) for event in seen if event.data["name"] == B] == [("final", 400)]
    assert [event.data["name"] for event in seen if event.type == "gap"] == [A]


def test_topics_come_and_go() -> None:
    house = House(a=a(1), b=b(2))
    topics = Subscriptions(house.topics, lambda: None)
    topics.add(A, None)
    topics.add(A, None)
    house.answer()
    house.say(a(2))
    assert topics.remove(A)
    assert not topics.remove(A)
    assert topics.mailbox.take() == []
    assert house.topics.demand() == ([], [A])
    topics.add(B, None)
    house.answer()
    list(house.topics.apply(SubscribeResponse(changes=[JobChange(type=LOG, job=b(2), lines=[LogLine(message="hello")])])))
    assert [frame.kind for frame in topics.mailbox.take()] == ["connected", "update", "log"]
    topics.leave()
    assert house.topics.demand() == ([], [B])


def test_topics_that_overlap_show_a_change_once() -> None:
    house = House()
    group, label = "queues/q/groups/acme", "queues/q/labels/a/b=c=d"
    topics = Subscriptions(house.topics, lambda: None)
    for topic in (group, label, Q):
        topics.add(topic, None)
    add, _ = house.topics.demand()
    list(house.topics.apply(SubscribeResponse(added=add)))
    topics.mailbox.take()
    both, ended, other = a(1), a(2, COMPLETED), b(2)
    for of in (both, ended):
        of.MergeFrom(Job(group="acme", labels={"a/b": "c=d"}))
    house.say(both, b(1), ended)
    assert [(frame.kind, frame.name) for frame in topics.mailbox.take()] == [("update", A), ("update", B), ("final", A)]
    assert topics.remove(Q)
    other.labels["a/b"] = "c=d"
    house.say(a(3), other)
    assert [(frame.kind, frame.name) for frame in topics.mailbox.take()] == [("update", B)]


def test_a_gap_in_a_queue_is_told_to_its_groups_and_labels() -> None:
    house = House()
    topics = Subscriptions(house.topics, lambda: None)
    names = ["queues/q/groups/acme", "queues/q/labels/a=b", "queues/r/groups/acme", Q]
    for topic in names:
        topics.add(topic, None)
    add, _ = house.topics.demand()
    list(house.topics.apply(SubscribeResponse(added=add)))
    topics.mailbox.take()
    list(house.topics.apply(SubscribeResponse(changes=[JobChange(type=ChangeType.CHANGE_TYPE_GAP, job=Job(name=Q, queue="q"))])))
    told = [frame.json.decode() for frame in topics.mailbox.take()]
    assert len(told) == 3
    assert all('"type":"gap"' in text and "queues/r" not in text for text in told)
    topics.leave()
    assert sorted(house.topics.demand()[1]) == sorted(names)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jobs/a",
        "queues/",
        "queues/a b",
        "queues/q/jobs/",
        "queues/q/jobs/x/y",
        "queues/q\n",
        "queues/ä",
        "labels/user=7",
        "queues/q/groups/.g",
        "queues/q/labels/a",
        "queues/q/labels/a=\ud800",
    ],
)
def test_what_is_no_topic_is_refused(text: str) -> None:
    with pytest.raises(Problem) as caught:
        topic_name(text)
    assert (caught.value.status, caught.value.reason) == (400, "INVALID_FIELD")


def test_a_list_of_topics_has_bounds_and_may_repeat_itself() -> None:
    assert topic_names([Q, A, Q], 3) == [Q, A]
    for wrong in ([], [Q] * 4, [1], [Q, None]):
        with pytest.raises(Problem):
            topic_names(wrong, 3)


class Returns(RuleBasedStateMachine):
    """A reader of three jobs is cut off anywhere and comes back to another gateway, while the jobs change."""

    NAMES = ("queues/q/jobs/0", "queues/q/jobs/1", "queues/q/jobs/2")

    def __init__(self) -> None:
        super().__init__()
        self.now = 3
        self.house = House(**{f"j{number}": job(number + 1, job_id=str(number)) for number in range(3)})
        self.reader = self.house.read(*self.NAMES)
        self.has: dict[str, str] = {}
        self.last_id = ""

    @rule(number=st.integers(0, 2), state=st.sampled_from((ACTIVE, DELAYED, COMPLETED)))
    def change(self, number: int, state: JobState.ValueType) -> None:
        if self.house.jobs[self.NAMES[number]].state != COMPLETED:
            self.now += 1
            self.house.say(job(self.now, state, job_id=str(number)))

    @rule()
    def answer(self) -> None:
        self.house.answer()

    @rule(part=st.floats(0, 1))
    def cut(self, part: float) -> None:
        stream = self.reader.take()
        frames = stream.split(b"\n\n")[:-1]
        self._see(b"".join(frame + b"\n\n" for frame in frames[: round(part * len(frames))]))
        self._come_back()

    @rule()
    def read(self) -> None:
        self._see(self.reader.take())

    @rule()
    def settle(self) -> None:
        self.reader.settle()

    @invariant()
    def nothing_that_it_has_is_newer_than_the_job(self) -> None:
        for name, event_id in self.has.items():
            assert int(event_id.partition(".")[0]) <= self.house.jobs[name].revision

    def teardown(self) -> None:
        self.house.answer()
        self.read()
        for name, of in self.house.jobs.items():
            assert self.has[name] == (f"{of.revision}.end" if of.state == COMPLETED else str(of.revision))
        if all(of.state == COMPLETED for of in self.house.jobs.values()):
            assert self.reader.ended
            place = place_of(self.last_id)
            assert place is not None
            assert place.ends(self.NAMES)

    def _come_back(self) -> None:
        """At another gateway."""
        jobs = self.house.jobs
        self.house = House()
        self.house.jobs = jobs
        place = place_of(self.last_id)
        if place is not None and place.end:
            assert all(of.state == COMPLETED for of in jobs.values())
        self.reader = self.house.read(*self.NAMES, after=self.last_id)

    def _see(self, stream: bytes) -> None:
        for event in events(stream):
            if event.type == "update":
                revision = event.data["revision"]
                assert revision >= int(self.has.get(event.data["name"], "0").partition(".")[0])
                self.has[event.data["name"]] = str(revision)
            elif event.type == "final":
                self.has[event.data["name"]] = f"{event.data['revision']}.end"
        if ids := re.findall(rb"^id: (.*)$", stream, re.MULTILINE):
            self.last_id = ids[-1].decode()


TestReturns = Returns.TestCase
TestReturns.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
