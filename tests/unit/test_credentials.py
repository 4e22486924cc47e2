"""What clients and workers show to brokers: a file that is of no use is told by its name at the start, and leaves what it held before in use later."""

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jobwire_client import _credentials as of_client
from jobwire_worker import _credentials as of_worker

from tests.support.tls import Authority

BOTH = pytest.mark.parametrize("package", [of_client, of_worker], ids=["client", "worker"])


def files(authority: Authority) -> dict[str, Path]:
    pair = authority.issue("ann")
    return {"ca": authority.file, "certificate": pair.certificate, "certificate_key": pair.key}


@BOTH
@pytest.mark.parametrize("field", ["ca", "certificate", "certificate_key"])
@pytest.mark.parametrize(("content", "reason"), [(None, "can't be read: No such file"), ("", "is empty"), ("no pem", "is not the key of|holds no certificate")])
def test_a_file_of_no_use_is_told_by_its_name(package: ModuleType, field: str, content: str | None, reason: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_text(content)
    with pytest.raises(ValueError, match=f"^credentials: {bad} ({reason})"):
        package.Credentials(**{**files(Authority(tmp_path)), field: bad})


@BOTH
def test_a_key_of_another_certificate_is_told_with_both(package: ModuleType, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, other = files(authority), authority.issue("bob").key
    with pytest.raises(ValueError, match=f"^credentials: {other} is not the key of {good['certificate']}"):
        package.Credentials(**{**good, "certificate_key": other})


@BOTH
def test_a_bad_exchange_is_said_once_and_the_next_good_one_counts(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(package, "_REREAD_S", -1.0)
    authority = Authority(tmp_path)
    good = files(authority)
    bearer = package.Bearer(package.Credentials(**good))
    before = bearer.transport()
    assert before.secure
    for content in ("", "no pem"):
        good["certificate_key"].write_text(content)
        caplog.clear()
        for _ in range(3):
            assert bearer.transport() == before
        (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
        assert str(good["certificate_key"]) in warning
    key = before.key.decode()
    assert key not in repr(before)
    good["certificate_key"].write_text(key)
    assert bearer.transport() == before
    authority.file.write_bytes(Authority(tmp_path, "next").file.read_bytes())
    assert bearer.transport() != before


def test_both_packages_do_the_same() -> None:
    """Neither depends on the other, so it stands in both."""
    client, worker = (Path(str(package.__file__)).read_text() for package in (of_client, of_worker))
    assert client.replace('"jobwire.client"', '"jobwire.worker"') == worker
