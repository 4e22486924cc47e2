"""Scopes, and who may do what with them."""

import time

import pytest
from jobwire_broker.auth.identity import VERBS, Identity, Scope, common_scopes, known_scopes, parse_scopes


def who(*scopes: str, tenant: str = "") -> Identity:
    return Identity(name="who", scopes=parse_scopes(scopes), tenant=tenant)


@pytest.mark.parametrize(
    ("scope", "verb", "queue", "job", "allowed"),
    [
        ("read:mail", "read", "mail", "", True),
        ("read:mail", "read", "mail", "j1", True),
        ("read:mail", "read", "mails", "", False),
        ("read:mail", "watch", "mail", "", False),
        ("read:mail*", "read", "mail", "", True),
        ("read:mail*", "read", "mail-out", "j1", True),
        ("read:mail*", "read", "email", "", False),
        ("read:*", "read", "anything", "", True),
        ("*:mail", "control", "mail", "", True),
        ("*:mail", "control", "other", "", False),
        ("*:*", "admin", "other", "", True),
        ("watch:mail/j1", "watch", "mail", "j1", True),
        ("watch:mail/j1", "watch", "mail", "j2", False),
        ("watch:mail/j1", "watch", "mail", "", False),
        ("watch:mail/a:b@c", "watch", "mail", "a:b@c", True),
    ],
)
def test_a_scope_covers_its_verb_on_its_queues(scope: str, verb: str, queue: str, job: str, allowed: bool) -> None:
    identity = who(scope)
    assert [identity.may(verb, queue, job) for _ in range(2)] == [allowed, allowed]
    assert str(Scope.parse(scope)) == scope


@pytest.mark.parametrize(
    "scope",
    ["", "read", "read:", "fly:mail", ":mail", "read:ma*il", "read:*mail", "read:mail/", "read:mail/a b", "read:mail*/j1", "read:a b", "READ:mail", "read:é"],
)
def test_what_is_no_scope_is_refused_by_name(scope: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        Scope.parse(scope)


def test_a_tenant_reaches_only_its_own_queues_whatever_its_scopes_say() -> None:
    acme = who("*:*", tenant="acme")
    assert acme.may("read", "acme.mail")
    assert not acme.may("read", "acme")
    assert not acme.may("read", "acme-2.mail")
    assert not acme.may("read", "other.mail")
    assert not acme.may_everywhere("read")


@pytest.mark.parametrize("verb", VERBS)
def test_everywhere_needs_a_star(verb: str) -> None:
    assert who(f"{verb}:*").may_everywhere(verb)
    assert who("*:*").may_everywhere(verb)
    assert not who(f"{verb}:a*").may_everywhere(verb)
    assert not who(*(f"{other}:*" for other in VERBS if other != verb)).may_everywhere(verb)


def test_a_token_never_does_more_than_its_maker_may() -> None:
    maker = who("watch:mail")
    token = Identity(name="token", scopes=parse_scopes(["watch:*", "control:mail"]), parent=maker)
    assert token.may("watch", "mail")
    assert not token.may("watch", "other")
    assert not token.may("control", "mail")
    assert not token.may_everywhere("watch")


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        ("watch:mail", "*:*", "watch:mail"),
        ("*:*", "read:mail*", "read:mail*"),
        ("watch:mail-*", "watch:mail*", "watch:mail-*"),
        ("watch:mail/one", "*:mail", "watch:mail/one"),
        ("watch:mail/groups/acme", "watch:m*", "watch:mail/groups/acme"),
        ("*:mail", "watch:mail", "watch:mail"),
        ("watch:mail", "read:mail", ""),
        ("watch:mail*", "watch:mail", "watch:mail"),
        ("watch:mail*", "watch:post*", ""),
        ("watch:mail/one", "watch:mail/two", ""),
        ("watch:mail", "watch:mails", ""),
    ],
)
def test_what_two_scopes_have_in_common_is_a_scope(ours: str, theirs: str, both: str) -> None:
    for one, other in ((ours, theirs), (theirs, ours)):
        assert " ".join(map(str, common_scopes(parse_scopes([one]), parse_scopes([other])))) == both


def test_scopes_of_others_in_a_token_are_passed_over() -> None:
    assert [str(scope) for scope in known_scopes(["openid", "profile", "read:mail", "https://x.example/y:z"])] == ["read:mail"]


def test_what_is_remembered_has_a_bound() -> None:
    identity = who("read:mail*")
    for number in range(2_500):
        assert identity.may("read", f"mail{number}")
    assert len(identity._decided) <= 1_000


def test_an_identity_ends_at_its_date() -> None:
    assert not who("read:a").has_expired()
    assert Identity(name="a", expires_at=time.time() - 1).has_expired()
    assert not Identity(name="a", expires_at=time.time() + 60).has_expired()
