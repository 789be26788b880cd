"""Every Python process that a page starts begins here: no network but this machine's own."""

import socket

LOCAL = {"localhost", "127.0.0.1", "::1", "", None, socket.gethostname()}


def _guard(function):
    def guarded(self, address, *rest):
        if self.family != socket.AF_UNIX and address[0] not in LOCAL and not address[0].startswith("127."):
            raise ConnectionError(f"a page has no network: it tried to reach {address[0]}")
        return function(self, address, *rest)

    return guarded


def _resolve(host, *rest, _resolve=socket.getaddrinfo, **options):
    if isinstance(host, bytes):
        host = host.decode()
    if host not in LOCAL and not host.startswith("127."):
        raise ConnectionError(f"a page has no network: it tried to look up {host}")
    return _resolve(host, *rest, **options)


socket.socket.connect = _guard(socket.socket.connect)
socket.socket.connect_ex = _guard(socket.socket.connect_ex)
socket.getaddrinfo = _resolve
