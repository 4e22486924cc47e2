"""The reader of the store's protocol knows where values end."""

import pytest

from tests.support.resp import first_words, value_end

VALUES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":42\r\n",
    b"_\r\n",
    b",1.5\r\n",
    b"#t\r\n",
    b"$5\r\nhello\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*2\r\n*1\r\n:1\r\n%1\r\n+k\r\n$2\r\n\r\n\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\n\r\n\r\n\r\n",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_ends_where_it_ends_and_not_before_it_is_whole(value: bytes) -> None:
    assert value_end(value + b"+next\r\n", 0) == len(value)
    assert all(value_end(value[:cut], 0) is None for cut in range(len(value)))


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="not a value"):
        value_end(b"GET / HTTP/1.1\r\n", 0) if False else value_end(b"?1\r\n", 0)


def test_the_first_words_of_a_command_and_of_a_message() -> None:
    assert first_words(b"*2\r\n$5\r\nFCALL\r\n$1\r\na\r\n", 1) == [b"FCALL"]
    assert first_words(b">2\r\n$7\r\nmessage\r\n$1\r\nc\r\n", 2) == [b"message", b"c"]
    assert first_words(b"+OK\r\n", 1) == [b""]
