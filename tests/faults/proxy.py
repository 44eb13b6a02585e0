"""A TCP proxy between the service and the database that misbehaves on demand."""

import contextlib
import socket
import struct
import threading
import time

import psycopg2.extensions


class Proxy:
    """Passes bytes until `fault` is set; then new and open connections have that fault.

    blackhole: bytes are taken and go nowhere. reset: connections end with RST. trickle: answers
    come a byte each 100 ms. half_close: the service is told that no more will come, and may go on
    sending. refuse: connections end at once. commit: the first COMMIT reaches the
    database, its answer does not reach the service, and the connection ends; `commit_refuse`
    refuses every connection from there on.
    """

    def __init__(self, uri):
        self._dsn = psycopg2.extensions.parse_dsn(uri)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._pairs = []
        self._fault = None
        self.commits_cut = 0
        port = self._listener.getsockname()[1]
        self.uri = psycopg2.extensions.make_dsn(uri, host="127.0.0.1", port=port, sslmode="disable")
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._listener.close()
        self._end_all()

    @property
    def fault(self):
        return self._fault

    @fault.setter
    def fault(self, name):
        self._fault = name
        if name in ("reset", "refuse"):
            self._end_all(reset=name == "reset")
        if name == "half_close":
            for near, _ in list(self._pairs):
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_WR)
        if name is None:
            self._end_all()  # What was swallowed is missing for good.

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._fault in ("reset", "refuse"):
                end(near, reset=self._fault == "reset")
                continue
            if self._fault == "half_close":
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_WR)
            try:
                far = self._dial()
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            state = {"committing": False}
            threading.Thread(target=self._ask, args=(near, far, state), daemon=True).start()
            threading.Thread(target=self._answer, args=(near, far, state), daemon=True).start()

    def _dial(self):
        host, port = self._dsn.get("host", "127.0.0.1"), int(self._dsn.get("port", 5432))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        far = socket.socket(socket.AF_UNIX)
        far.connect(f"{host}/.s.PGSQL.{port}")
        return far

    def _ask(self, near, far, state):
        with contextlib.suppress(OSError):
            while received := near.recv(65536):
                with self._lock:
                    if self._fault in ("commit", "commit_refuse") and b"COMMIT" in received:
                        state["committing"] = True
                        self._fault = "refuse" if self._fault == "commit_refuse" else None
                        self.commits_cut += 1
                if self._fault != "blackhole":
                    far.sendall(received)
        # A COMMIT that was sent is carried out before the database looks at the connection again.
        end(far)
        if not state["committing"]:
            end(near)

    def _answer(self, near, far, state):
        with contextlib.suppress(OSError):
            while received := far.recv(65536):
                if state["committing"]:
                    break
                if self._fault == "blackhole":
                    continue
                if self._fault == "trickle":
                    for byte in received:
                        time.sleep(0.1)
                        near.sendall(bytes([byte]))
                        if self._fault != "trickle":
                            break
                    continue
                near.sendall(received)
        end(near)
        end(far)

    def _end_all(self, *, reset=False):
        pairs, self._pairs = self._pairs, []
        for near, far in pairs:
            end(near, reset=reset)
            end(far)


def end(connection, *, reset=False):
    """Hang up; with RST where asked. A blocked recv ends with the shutdown."""
    with contextlib.suppress(OSError):
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.shutdown(socket.SHUT_RDWR)
    connection.close()
