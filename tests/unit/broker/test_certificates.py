"""A file of certificates that is of no use is told by its option and its name, at the start and when it is exchanged."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from jobwire_broker.auth.config import TlsConfig
from jobwire_broker.config import BrokerConfig
from jobwire_broker.server import serve
from jobwire_broker.store.client import StoreClient
from jobwire_broker.tls import CertificateFiles, server_credentials

from tests.support.tls import Authority, Pair


class Files:
    """A good pair, and others of each bad kind."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.pair = self.authority.issue("broker")
        self._directory = directory

    def bad(self, kind: str) -> Path:
        """A path of which nothing good can be read."""
        path = self._directory / kind
        match kind:
            case "directory":
                path.mkdir()
            case "no pem":
                path.write_text("no pem")
            case "empty":
                path.touch()
            case "of another":
                path = self.authority.issue("other").key
        return path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "directory", "no pem", "empty"])
@pytest.mark.parametrize(("option", "field"), [("--tls-cert", "certificate"), ("--tls-key", "key"), ("--tls-client-ca", "client_ca")])
def test_a_file_of_the_port_is_told_by_its_option_and_name(files: Files, option: str, field: str, kind: str) -> None:
    good = {"certificate": files.pair.certificate, "key": files.pair.key, "client_ca": files.authority.file}
    bad = files.bad(kind)
    with pytest.raises(ValueError, match=f"^{option}: {bad} "):
        server_credentials(TlsConfig(**{**good, field: bad}))


def test_a_key_of_another_certificate_is_told_with_both(files: Files) -> None:
    other = files.bad("of another")
    with pytest.raises(ValueError, match=rf"^--tls-key: {other} is of no use as the key of {files.pair.certificate} \(--tls-cert\)"):
        server_credentials(TlsConfig(certificate=files.pair.certificate, key=other))


@pytest.mark.parametrize("kind", ["missing", "directory", "no pem", "empty"])
@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
async def test_a_file_for_the_store_is_told_by_its_option_and_name(files: Files, option: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"ssl_ca_certs": files.authority.file, "ssl_certfile": files.pair.certificate, "ssl_keyfile": files.pair.key}
    bad = files.bad(kind)
    query = "&".join(f"{name}={path}" for name, path in {**good, option: bad}.items())
    assert await serve(BrokerConfig(store=f"rediss://127.0.0.1:1?{query}")) == 2
    assert f"jobwire broker: {option}: {bad} " in capsys.readouterr().err


async def test_a_file_for_the_store_that_goes_away_later_is_named_in_the_log(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    client = StoreClient(BrokerConfig(store=f"rediss://127.0.0.1:1?ssl_ca_certs={files.authority.file}"))
    files.authority.file.unlink()
    await client.start()
    await client.stop()
    assert f"ssl_ca_certs: {files.authority.file} can't be read" in caplog.text


def break_certificate(files: Files) -> Path:
    files.pair.certificate.write_text("no pem")
    return files.pair.certificate


def remove_key(files: Files) -> Path:
    files.pair.key.unlink()
    return files.pair.key


def exchange_key_alone(files: Files) -> Path:
    files.pair.key.write_bytes(files.bad("of another").read_bytes())
    return files.pair.key


def empty_authorities(files: Files) -> Path:
    files.authority.file.write_bytes(b"")
    return files.authority.file


@pytest.mark.parametrize("harm", [break_certificate, remove_key, exchange_key_alone, empty_authorities])
def test_a_bad_exchange_is_said_once_and_the_next_good_one_counts(files: Files, harm: Callable[[Files], Path], caplog: pytest.LogCaptureFixture) -> None:
    pair, authorities = files.pair, files.authority.file.read_bytes()
    followed = CertificateFiles(TlsConfig(certificate=pair.certificate, key=pair.key, client_ca=files.authority.file))
    followed.read()
    assert followed.renewed() is None
    bad = harm(files)
    assert [followed.renewed() for _ in range(3)] == [None] * 3
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert str(bad) in errors[0]
    assert "what was read before stays in use" in errors[0]
    files.authority.file.write_bytes(authorities)
    files.authority.issue("broker", to=Pair(pair.certificate, pair.key))
    assert followed.renewed() is not None
