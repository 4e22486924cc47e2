"""Debian's nginx in front of a gateway, as whoever knows nothing of event streams would set it up: with its default buffering."""

import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support import Gateway, Process
from tests.support.needs import need

_CONFIG = """
daemon off;
pid {directory}/pid;
error_log stderr info;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    gzip on;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream gateways {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{http2_port} http2;
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Host localhost;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""


class Nginx(Process):
    """One nginx with a server for HTTP/1.1, and one for HTTP/2 without TLS."""

    ready_line = r"start worker process"

    def __init__(self, *gateways: Gateway) -> None:
        super().__init__("nginx")
        self._program = need("nginx")
        self._directory = tempfile.TemporaryDirectory(prefix="jobwire-nginx-")
        port, http2_port = _free_port(), _free_port()
        self.address, self.http2_address = f"127.0.0.1:{port}", f"127.0.0.1:{http2_port}"
        servers = " ".join(f"server {gateway.address} max_fails=1 fail_timeout=1s;" for gateway in gateways)
        self._config = Path(self._directory.name) / "nginx.conf"
        self._config.write_text(_CONFIG.format(directory=self._directory.name, servers=servers, port=port, http2_port=http2_port))

    @property
    def url(self) -> str:
        """Of the server for HTTP/1.1."""
        return f"http://{self.address}"

    def command(self) -> Sequence[str]:
        return [str(self._program), "-c", str(self._config), "-e", "stderr"]

    def clean(self) -> None:
        super().clean()
        self._directory.cleanup()


def _free_port() -> int:
    # Two may be asked for at once, and nginx cannot take port 0: the moment between is the price.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
