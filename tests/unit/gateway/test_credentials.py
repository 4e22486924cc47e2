"""A file of the gateway's own certificates that is of no use is told by its variable and its name, at the start and when it is exchanged."""

import logging
from pathlib import Path

import pytest
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.credentials import BrokerCredentials

from tests.support.tls import Authority

CA, CERTIFICATE, KEY = "JOBWIRE_TLS_CA", "JOBWIRE_CLIENT_CERT", "JOBWIRE_CLIENT_KEY"


def variables(authority: Authority) -> dict[str, str]:
    pair = authority.issue("gateway")
    return {CA: str(authority.file), CERTIFICATE: str(pair.certificate), KEY: str(pair.key)}


@pytest.mark.parametrize("variable", [CA, CERTIFICATE, KEY])
@pytest.mark.parametrize("content", [None, "no pem", ""])
def test_a_file_is_told_by_its_variable_and_name(tmp_path: Path, variable: str, content: str | None) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_text(content)
    with pytest.raises(ValueError, match=f"^{variable}: {bad} "):
        BrokerCredentials.from_environment({**variables(Authority(tmp_path)), variable: str(bad)})


def test_a_directory_and_a_key_of_another_certificate_are_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good = variables(authority)
    for variable in good:
        with pytest.raises(ValueError, match=f"^{variable}: {tmp_path} can't be read: Is a directory"):
            BrokerCredentials.from_environment({**good, variable: str(tmp_path)})
    other = authority.issue("other").key
    with pytest.raises(ValueError, match=rf"^{KEY}: {other} is of no use as the key of {good[CERTIFICATE]} \({CERTIFICATE}\)"):
        BrokerCredentials.from_environment({**good, KEY: str(other)})


def test_a_key_file_that_is_missing_is_told_by_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^JOBWIRE_API_KEY_FILE: {tmp_path / 'none'} cannot be read: No such file"):
        BrokerCredentials.from_environment({"JOBWIRE_API_KEY_FILE": str(tmp_path / "none")})


async def test_a_bad_exchange_is_said_once_and_the_next_good_one_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(tmp_path)
    good = authority.file.read_bytes()
    brokers = Brokers(["127.0.0.1:1"], 1.0, BrokerCredentials.from_environment(variables(authority)))
    first = brokers.current
    for harm in (authority.file.unlink, lambda: authority.file.write_text("no pem")):
        harm()
        caplog.clear()
        for _ in range(3):
            brokers.leave(brokers.current)
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert f"{CA}: {authority.file} " in errors[0]
        assert "what was read before stays in use" in errors[0]
        assert brokers.current is first
    authority.file.write_bytes(good)
    brokers.leave(brokers.current)
    assert brokers.current is not first
    await brokers.close()
