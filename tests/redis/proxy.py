"""A network between a client and a server, which can be cut."""

import contextlib
import socket
import threading


class Proxy:
    """Passes bytes on to a port of the loopback, until it is cut."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = True
        self._lock = threading.Lock()  # guards _open and _links
        self._links = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        """Where clients find it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self):
        """End all connections, and every new one at once."""
        with self._lock:
            self._open = False
            for link in self._links:
                _end(link)
            self._links.clear()

    def mend(self):
        """Let connections through again."""
        with self._lock:
            self._open = True

    def close(self):
        """Cut it for ever."""
        self.cut()
        _end(self._listener)

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                server = self._reach() if self._open else None
                if server is None:
                    _end(client)
                    continue
                self._links += [client, server]
                for link in (client, server):  # as long as nobody can have cut them
                    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def _reach(self):
        try:
            return socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # whoever asked sees a server that is away, and may ask again
            return None


def _pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(link):
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
    link.close()
