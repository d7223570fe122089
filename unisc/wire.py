"""JSON lines over TCP between the few processes of one group; what a message or a silence means is the caller's business.

A peer that dies shows as an end of the stream at once; one whose machine is lost, after about a minute, by the kernel's probes.
"""

import json
import select
import socket
import time
from collections.abc import Mapping
from typing import Any

from unisc.config import canonical
from unisc.errors import InputError

DIAL_SECS = 5.0
RETRY_SECS = 0.1
MAX_LINE_BYTES = 1 << 24
_PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class Wire:
    """One end of a connection. `is_open` turns false once the other end is gone, or has sent what is no line of JSON."""

    def __init__(self, connection: socket.socket):
        self._socket, self._buffer, self.is_open = connection, b"", True
        self._read: list[dict[str, Any]] = []
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            if hasattr(socket, name):  # Linux has them all
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """Return the descriptor, so that several wires can be waited for at once."""
        return self._socket.fileno()

    def address(self, port: int) -> str:
        """Return the address of another port of the host at the other end."""
        host = self._socket.getpeername()[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; a peer that is gone shows in `is_open`."""
        try:
            self._socket.sendall(canonical(message).encode() + b"\n")
        except OSError:
            self.is_open = False

    def hear_one(self, timeout_secs: float) -> dict[str, Any] | None:
        """Return the next message, or None after `timeout_secs`; what came along with it is heard next."""
        self._read = self.hear(timeout_secs)
        return self._read.pop(0) if self._read else None

    def hear(self, timeout_secs: float) -> list[dict[str, Any]]:
        """Return what has arrived, or arrives within `timeout_secs`; often nothing."""
        if self._read:
            found, self._read = self._read, []
            return found
        if not self.is_open or not select.select([self._socket], [], [], timeout_secs)[0]:
            return []
        try:
            chunk = self._socket.recv(1 << 16)
        except OSError:
            chunk = b""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        self.is_open = bool(chunk) and len(self._buffer) <= MAX_LINE_BYTES
        found: list[dict[str, Any]] = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.is_open = False  # some other service's port, or a stranger
                return []
            found.append(message)
        return found

    def close(self) -> None:
        """Hang up."""
        self.is_open = False
        self._socket.close()


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[v6]:port". Raises InputError for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"coordinator {address!r}: not an address; give HOST:PORT")
    return host.strip("[]"), int(port)


def listen(port: int = 0) -> socket.socket:
    """Listen on a port of every interface, a free one by default; `accept` gives what calls.

    Raises:
      InputError: the port is taken or not allowed.
    """
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", port), backlog=1024)
    except OSError as e:
        raise InputError(
            f"port {port}: cannot be listened on ({e.strerror}); is another process 0 on this host? If not, give another port"
        ) from e


def accept(server: socket.socket, timeout_secs: float) -> Wire | None:
    """Return the next caller within `timeout_secs`, or None."""
    if not select.select([server], [], [], max(timeout_secs, 0.0))[0]:
        return None
    try:
        return Wire(server.accept()[0])
    except OSError:  # hung up already
        return None


def dial(host: str, port: int, until: float) -> Wire | None:
    """Call until somebody answers or `time.monotonic()` passes `until`; None then. A name unknown today may be known soon."""
    while True:
        try:
            return Wire(socket.create_connection((host, port), timeout=min(DIAL_SECS, max(until - time.monotonic(), 0.1))))
        except OSError:
            if time.monotonic() + RETRY_SECS >= until:
                return None
            time.sleep(RETRY_SECS)
