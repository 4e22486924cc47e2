"""Page sizes and page tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire_broker.errors import InvalidField
from jobwire_broker.services import pages


@settings(deadline=None)
@given(st.text(max_size=40), st.binary(max_size=200))
def test_a_token_brings_its_cursor_back(of: str, cursor: bytes) -> None:
    assert pages.read_token(of, pages.make_token(of, cursor)) == cursor


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.binary(min_size=1, max_size=40))
def test_a_token_of_another_list_is_refused(of: str, other: str, cursor: bytes) -> None:
    token = pages.make_token(of, cursor)
    if of != other:
        with pytest.raises(InvalidField, match="not from this list"):
            pages.read_token(other, token)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_a_token_that_nobody_made_is_refused(token: str) -> None:
    with pytest.raises(InvalidField) as caught:
        pages.read_token("list", token)
    assert (caught.value.reason, caught.value.field) == ("PAGE_TOKEN_INVALID", "page_token")


def test_the_last_page_has_no_token() -> None:
    assert pages.make_token("list", b"") == ""
    assert pages.read_token("list", "") == b""


@pytest.mark.parametrize(("size", "answer"), [(0, pages.DEFAULT_SIZE), (1, 1), (pages.MAX_SIZE, pages.MAX_SIZE)])
def test_a_page_has_its_size_or_the_default(size: int, answer: int) -> None:
    assert pages.page_size(size) == answer


@pytest.mark.parametrize("size", [-1, pages.MAX_SIZE + 1])
def test_a_page_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidField, match="page_size"):
        pages.page_size(size)
