"""The file of endpoints: what it may say, and how its mistakes are told."""

import base64
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from jobwire_gateway.webhooks.endpoints import EVENTS, QueuePattern
from jobwire_gateway.webhooks.webhooks_file import load_webhooks_file, parse_webhooks

GOOD = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOD", GOOD)
    monkeypatch.setenv("SHORT", "whsec_" + base64.b64encode(b"k" * 23).decode())
    monkeypatch.setenv("LONG", "whsec_" + base64.b64encode(b"k" * 65).decode())
    monkeypatch.setenv("PLAIN", base64.b64encode(b"k" * 32).decode())
    monkeypatch.setenv("GARBAGE", "whsec_not base64!")
    monkeypatch.delenv("MISSING", raising=False)


def test_a_file_says_everything_or_takes_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(GOOD + "\n")
    file = tmp_path / "webhooks.yaml"
    file.write_text(f"""
queue: hooks
look_back: 1h
timeout: 5s
concurrency: 3
allow_http: true
allow_private: [10.0.0.0/8, "fd00::/8"]
endpoints:
  billing:
    url: http://10.0.0.7:8080/hook?of=jobs
    secrets:
      - file: {tmp_path}/secret
      - env: GOOD
    queues: [orders, "mail*", "*"]
    events: [job.failed]
    labels: {{tenant: acme, tier: 1}}
  search:
    url: https://search.example/
    secrets: [{{env: GOOD}}]
    queues: [pages]
""")
    found = load_webhooks_file(file)
    assert (found.queue, found.look_back, found.timeout, found.concurrency) == ("hooks", timedelta(hours=1), timedelta(seconds=5), 3)
    assert found.allow_private == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    billing, search = found.endpoints
    assert (billing.name, billing.url, billing.host) == ("billing", "http://10.0.0.7:8080/hook?of=jobs", "10.0.0.7")
    assert [secret.key() for secret in billing.secrets] == [b"k" * 32] * 2
    assert billing.queues == (QueuePattern("orders"), QueuePattern("mail*"), QueuePattern("*"))
    assert (billing.events, billing.labels) == (frozenset({"job.failed"}), {"tenant": "acme", "tier": "1"})
    assert (search.events, search.labels) == (frozenset(EVENTS), {})
    assert GOOD not in repr(found)


SMALL = """
endpoints:
  shop:
    url: https://shop.example/hook
    secrets: [{env: GOOD}]
    queues: [orders]
"""


def test_the_defaults() -> None:
    found = parse_webhooks(SMALL, "f")
    assert (found.queue, found.look_back, found.timeout, found.concurrency) == ("webhooks", timedelta(minutes=15), timedelta(seconds=20), 20)
    assert found.allow_private == ()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "endpoints"),
        ("endpoints:", 1, "an endpoint per key"),
        ("endpoints: {}", 1, "1 to 1000"),
        ("[]", 1, "the file must hold some of"),
        ("queue: hooks", 1, "endpoints is required"),
        ("endpoint: {}", 1, "'endpoint' is not known here; there are allow_http, "),
        ("a: [", 1, "expected"),
        ("a: \x07", 1, "special characters"),
        ("[" * 3_000, 1, "nested too deeply"),
        (SMALL + "queue: no/name", 7, "queue must be of the form"),
        (SMALL + "look_back: soon", 7, "look_back: 'soon' is no duration"),
        (SMALL + "look_back: 8d", 7, "look_back must be from"),
        (SMALL + "timeout: 0", 7, "timeout must be from"),
        (SMALL + "timeout: 61s", 7, "timeout must be from"),
        (SMALL + "concurrency: 0", 7, "concurrency must be a whole number from 1 to 1000"),
        (SMALL + "concurrency: many", 7, "concurrency must be a whole number"),
        (SMALL + "allow_http: maybe", 7, "allow_http must be true or false"),
        (SMALL + "allow_private: 10.0.0.0/8", 7, "allow_private must be a list of 1 to 100, such as [10.0.0.0/8]"),
        (SMALL + "allow_private: [10.0.0.1/8]", 7, "allow_private: '10.0.0.1/8' is no network"),
        (SMALL + "allow_private: [localhost]", 7, "allow_private: 'localhost' is no network"),
        (SMALL + "queue: a\nqueue: b", 8, "a second time"),
        (SMALL.replace("shop:", "'no name':"), 3, "an endpoint's name must be of the form"),
        (SMALL.replace("[orders]", "orders"), 6, 'queues must be a list of 1 to 100, such as [orders, "mail*"]'),
        (SMALL.replace("[orders]", "[]"), 6, "queues must be a list of 1 to 100"),
        (SMALL.replace("[orders]", "['or*ders']"), 6, "a prefix with a star behind it"),
        (SMALL.replace("[orders]", "['']"), 6, "must name a queue"),
        (SMALL.replace("    queues: [orders]", "    events: [job.failed]"), 3, 'shop: queues is required, such as [orders, "mail*"]'),
        (SMALL.replace("queues:", "queue:"), 6, "'queue' is not known here; there are events, labels, queues, secrets, url"),
        (SMALL + "    events: [job.started]", 7, "'job.started' is no event; there are job.completed, job.failed, job.cancelled, job.expired"),
        (SMALL + "    labels: [a]", 7, "labels must hold a value per key"),
        (SMALL + "    labels: {'a b': c}", 7, "a label's key must be of the form"),
        (SMALL + "    labels: {a: }", 7, "a value must stand here"),
        (SMALL.replace("{env: GOOD}", GOOD), 5, "it never stands here itself"),
        (SMALL.replace("{env: GOOD}", "{env: GOOD, file: x}"), 5, "one of `file: PATH` and `env: NAME`"),
        (SMALL.replace("{env: GOOD}", "{text: GOOD}"), 5, "one of `file: PATH` and `env: NAME`"),
        (SMALL.replace("{env: GOOD}", "{env: MISSING}"), 5, "the variable MISSING is not set"),
        (SMALL.replace("{env: GOOD}", "{file: /no/such/file}"), 5, "the file /no/such/file can't be read"),
        (SMALL.replace("{env: GOOD}", '{file: "a\\0b"}'), 5, "can't be read"),
        (SMALL.replace("{env: GOOD}", f"{{file: {GOOD}}}"), 5, "a secret itself"),
        (SMALL.replace("{env: GOOD}", f"{{env: {GOOD}}}"), 5, "a secret itself"),
        (SMALL.replace("{env: GOOD}", "{env: SHORT}"), 5, "24 to 64 bytes; it has 23"),
        (SMALL.replace("{env: GOOD}", "{env: LONG}"), 5, "24 to 64 bytes; it has 65"),
        (SMALL.replace("{env: GOOD}", "{env: PLAIN}"), 5, "must hold whsec_ and the base64 of 24 to 64 bytes"),
        (SMALL.replace("{env: GOOD}", "{env: GARBAGE}"), 5, "base64"),
        (
            SMALL.replace("{env: GOOD}", ", ".join(["{env: GOOD}"] * 4)),
            5,
            "list of 1 to 3, such as [{file: shop.secret}] or [{env: SHOP_SECRET}]",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_would_be_good(text: str, line: int, said: str) -> None:
    with pytest.raises(ValueError, match=r"^hooks\.yaml:") as raised:
        parse_webhooks(text, "hooks.yaml")
    (mistake,) = str(raised.value).splitlines()
    assert mistake.startswith(f"hooks.yaml:{line}: ")
    assert said in mistake
    assert GOOD not in mistake


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://shop.example/", "allow_http"),
        ("ftp://shop.example/", "https://"),
        ("shop.example/hook", "https://"),
        ("https:///hook", "must name a host"),
        ("https://:443/", "must name a host"),
        ("https://shop.example:0/", "a port other than 0"),
        ("https://shop.example:65536/", "no address"),
        ("https://shop.example:https/", "no address"),
        ("https://user@shop.example/", "no user"),
        ("https://user:word@shop.example/", "no user"),
        ("https://shop.example@10.0.0.1/", "no user"),
        ("https://user:PASS/WORD@shop.example/", "no address"),
        ("https://user:PASSWORD", "no address"),
        ("https://[v1.x]/", "brackets"),
        ("https://[2606:4700::1111].shop.example/", "address"),  # which sentence it is depends on the Python that reads it
        ("https://@shop.example/", "no user"),
        ("https://shop.example/#part", "behind a #"),
        ("https://shop.example/#", "behind a #"),
        ("https://bücher.example/", "xn--"),
        ("https://shop.example/a b", "without spaces"),
        ("https://shop.example\\@10.0.0.1/", "without spaces"),
        ("https://10.0.0.1/", "allow_private"),
        ("https://127.0.0.1:8443/", "allow_private"),
        ("https://169.254.169.254/latest/meta-data", "allow_private"),
        ("https://[::1]/", "allow_private"),
        ("https://[::ffff:10.0.0.1]/", "allow_private"),
        ("https://[fe80::1%25eth0]/", "must name a host"),
        ("https://[::1/", "no address"),
        ("https://2130706433/", "neither a name nor an address"),
        ("https://0x7f.1/", "neither a name nor an address"),
        ("https://0x7f000001/", "neither a name nor an address"),
        ("https://0177.0.0.1/", "neither a name nor an address"),
        ("https://127.1/", "neither a name nor an address"),
        ("https://127.0.0.1./", "neither a name nor an address"),
        ("https://shop..example/", "no name of a host"),
        ("https://.shop.example/", "no name of a host"),
        (f"https://{'a' * 64}.example/", "no name of a host"),
        (f"https://{'a.' * 130}example/", "no name of a host"),
        ("https://sh*p.example/", "no name of a host"),
        ("https://1.1.1.256/", "neither a name nor an address"),
    ],
)
def test_an_address_that_could_mean_something_else_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^f:4: ") as raised:
        parse_webhooks(SMALL.replace("https://shop.example/hook", f'"{url.replace(chr(92), chr(92) * 2)}"'), "f")
    assert said in str(raised.value)
    assert "PASS" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example",
        "https://shop.example.:/",
        "https://shop.example:0443/",
        "https://SHOP.example:8443/a/b?c=d",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:8443/",
        "https://xn--bcher-kva.example/",
    ],
)
def test_others_are_taken(url: str) -> None:
    (endpoint,) = parse_webhooks(SMALL.replace("https://shop.example/hook", f'"{url}"'), "f").endpoints
    assert endpoint.url == url


def test_all_mistakes_are_told_at_once() -> None:
    text = SMALL.replace("https:", "http:").replace("GOOD", "MISSING") + "timeout: never\n"
    with pytest.raises(ValueError, match=r"^f:4: ") as raised:
        parse_webhooks(text, "f")
    assert [line.split(":")[1] for line in str(raised.value).splitlines()] == ["4", "5", "7"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        load_webhooks_file(tmp_path / "no.yaml")
