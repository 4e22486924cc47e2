"""A certificate authority of one test run, made with openssl."""

import subprocess
from pathlib import Path

from tests.support.needs import need


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate of 127.0.0.1 by it. Returns the paths of the authority's certificate, the certificate and its key."""
    openssl = str(need("openssl"))
    authority, authority_key, certificate, key, request, names = (directory / n for n in ("ca.crt", "ca.key", "store.crt", "store.key", "store.csr", "names"))
    # All that Python 3.13 and newer ask of a certificate, which is more than openssl adds by itself.
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    signs = ["-addext", "keyUsage=critical,keyCertSign"]
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _run(openssl, "req", "-x509", *elliptic, "-keyout", authority_key, "-out", authority, "-days", "2", *signs, "-subj", "/CN=an authority of a test")
    _run(openssl, "req", *elliptic, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    signed_by: list[str | Path] = ["-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "2", "-extfile", names]
    _run(openssl, "x509", "-req", "-in", request, "-out", certificate, *signed_by)
    return authority, certificate, key


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
