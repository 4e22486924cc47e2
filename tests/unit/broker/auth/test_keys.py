"""Lines of API keys."""

from datetime import UTC, datetime

import pytest
from jobwire_broker.auth.keys import KEY_PREFIX, hash_of, make_key, parse_keys

HASH = "sha256:" + "a" * 64


def test_a_key_is_found_by_itself_and_its_line_does_not_hold_it() -> None:
    made = make_key("billing", "enqueue:billing-*,read:billing-*", tenant="acme", expires=datetime(2100, 1, 1, tzinfo=UTC))
    assert made.key.startswith(KEY_PREFIX)
    assert made.key not in made.line
    assert hash_of(made.key) in made.line
    found = parse_keys(made.line, "it").holder_of(made.key)
    assert found is not None
    assert (found.name, found.tenant, [str(s) for s in found.scopes]) == ("billing", "acme", ["enqueue:billing-*", "read:billing-*"])
    assert found.expires_at == datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    assert parse_keys(made.line, "it").holder_of(made.key + "x") is None


def test_two_keys_are_never_the_same() -> None:
    assert len({make_key("a", "read:a").key for _ in range(100)}) == 100


def test_empty_lines_and_comments_are_passed_over() -> None:
    assert len(parse_keys(f"\n# billing {HASH} read:a\n  \nbilling {HASH} read:a\n", "it")) == 1


def test_a_certificate_stands_in_the_place_of_a_key() -> None:
    found = parse_keys("worker-7 cert:worker-7.example work:*", "it").certified("worker-7.example")
    assert found is not None
    assert found.name == "worker-7"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("billing", "a line is"),
        (f"billing {HASH}", "a line is"),
        (f"billing {HASH} tenant=acme", "scopes are needed"),
        ("billing jobwire_key_thisisthekeyitself read:a", "second word"),
        ("billing sha256:123 read:a", "second word"),
        ("billing cert: read:a", "second word"),
        (f"billing {HASH} fly:a", "VERB:QUEUE"),
        (f"billing {HASH} read:a color=red", "color"),
        (f"billing {HASH} read:a tenant=a.b", "tenant"),
        (f"billing {HASH} read:a expires=soon", "expires="),
        (f"bil;ling {HASH} read:a", "name"),
        (f"a {HASH} read:a\nb {HASH} read:b", "line 2"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_never_repeats_a_key(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_keys(line, "keys.txt")
    assert "keys.txt, line" in str(caught.value)
    assert "thisisthekeyitself" not in str(caught.value)
