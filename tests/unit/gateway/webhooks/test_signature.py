"""The signature, judged by the example of the standard and by its own library."""

import base64
import time
from pathlib import Path

import pytest
from jobwire_gateway.webhooks.secrets import Secret, SecretUnreadable, signature
from standardwebhooks import Webhook, WebhookVerificationError


def test_the_example_of_the_standard() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("body", [b"{}", '{"name":"Ærø \\u0000 🦀"}'.encode(), b"x" * 20_000])
def test_the_library_of_the_standard_takes_it_with_any_of_the_keys_and_with_no_other(body: bytes) -> None:
    old, new, other = (bytes([byte]) * size for byte, size in ((1, 24), (2, 64), (3, 32)))
    now = int(time.time())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": signature([old, new], "msg_1", now, body)}
    for key in (old, new):
        Webhook(key).verify(body, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers, json_parse=False)
    for changed in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(now - 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(old).verify(body, headers | changed, json_parse=False)


def test_a_secret_that_is_renewed_is_followed_and_never_shown(tmp_path: Path) -> None:
    secret = Secret(file=tmp_path / "secret")
    for byte in (b"a", b"b"):
        (tmp_path / "secret").write_text("whsec_" + base64.b64encode(byte * 32).decode() + "\n")
        assert secret.key() == byte * 32
    (tmp_path / "secret").write_text("whsec_c2hvcnQ=")
    with pytest.raises(SecretUnreadable) as raised:
        secret.key()
    assert "c2hvcnQ" not in str(raised.value)
