"""Names, ids, and the paths made of them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire_broker import names
from jobwire_broker.errors import InvalidField

ids = st.from_regex(names.ID_PATTERN, fullmatch=True)
queues = st.from_regex(names.QUEUE_PATTERN, fullmatch=True)


@settings(deadline=None)
@given(ids)
def test_every_id_comes_back_as_it_went_in(text: str) -> None:
    assert names.id_to_text(names.id_to_bytes(text)) == text


@settings(deadline=None)
@given(st.lists(ids, unique=True))
def test_different_ids_stay_different(texts: list[str]) -> None:
    assert len({names.id_to_bytes(text) for text in texts}) == len(texts)


@settings(deadline=None)
@given(queues, ids)
def test_an_address_comes_apart_into_what_it_was_made_of(queue: str, text: str) -> None:
    raw_id = names.id_to_bytes(text)
    assert names.parse_job(names.job_path(queue, raw_id)) == (queue, raw_id)


def test_an_id_of_ours_takes_sixteen_bytes_and_sorts_by_time() -> None:
    before = time.time_ns() // 1_000_000
    first = names.mint_id()
    while time.time_ns() // 1_000_000 == int.from_bytes(first[:6], "big"):
        pass
    second = names.mint_id()
    assert before <= int.from_bytes(first[:6], "big") < int.from_bytes(second[:6], "big")
    assert (len(first), first[6] >> 4, first[8] >> 6, first < second) == (16, 7, 2, True)
    text = names.id_to_text(first)
    assert (len(text), text, names.id_to_bytes(text)) == (32, first.hex(), first)


@pytest.mark.parametrize(
    "text",
    ["0" * 31, "0" * 33, "2" * 32, "A" * 32, "0" * 31 + "A", "0" * 31 + "g", "0a" * 15 + "0A"],
)
def test_what_only_looks_like_an_id_of_ours_stands_as_its_text(text: str) -> None:
    assert names.id_to_bytes(text) == text.encode()


@pytest.mark.parametrize("text", ["", " ", "-a", ".", "a b", "a/b", "a\n", "é", "a" * 129, "a{b}", "a\0"])
def test_an_odd_id_is_refused_with_the_field_and_the_rule(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^job.id must be 1 to 128 of") as caught:
        names.id_to_bytes(text, "job.id")
    assert caught.value.field == "job.id"


@pytest.mark.parametrize("queue", ["", "-a", "a b", "a/b", "a:b", "a{b}", "a\n", "ä", "a" * 101])
def test_an_odd_queue_is_refused_however_often_it_comes(queue: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidField, match=r"^queue must be 1 to 100 of"):
            names.check_queue(queue)


@pytest.mark.parametrize("job_name", ["", "/a", "a b", "a\n", "a" * 129])
def test_an_odd_job_name_is_refused(job_name: str) -> None:
    with pytest.raises(InvalidField, match=r"^job_name must be 1 to 128 of"):
        names.check_job_name(job_name)


def test_a_right_job_name_is_no_right_queue() -> None:
    assert names.check_job_name("mail/send") == "mail/send"
    with pytest.raises(InvalidField):
        names.check_queue("mail/send")


@pytest.mark.parametrize(
    "name", ["", "a", "queues/a", "queues/a/jobs", "queues/a/jobs/b/c", "queue/a/jobs/b", "queues/a/job/b", "queues//jobs/b", "queues/a/jobs/"]
)
def test_an_odd_address_is_refused(name: str) -> None:
    with pytest.raises(InvalidField):
        names.parse_job(name)


def test_a_very_long_value_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidField) as caught:
        names.check_queue("-" * 10_000)
    assert len(caught.value.message) < 200
