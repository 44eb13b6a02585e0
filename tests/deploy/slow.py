"""Clients that begin a request and never end it: a program of its own, so that it slows nobody else.

`slow.py PORT HEADERS BODIES` keeps so many half-sent headers and half-sent bodies open, 20 from
each loopback address, and opens another for each one that is closed. A line `ready` says that all
are open; at the end of standard input it prints what became of them, as JSON.
"""

import collections
import json
import os
import resource
import selectors
import socket
import sys
import time

PER_ADDRESS = 20
HEADER = b"GET / HTTP/1.1\r\nHost: slow\r\nX-Slow: "
BODY = b'POST / HTTP/1.1\r\nHost: slow\r\nContent-Length: 1000000\r\n\r\n{"BackendState'
CONNECTING = 200
DRIP_SECONDS = 4


class Slow:
    """One connection at a time, from an address that it shares with 19 others."""

    def __init__(self, number, port, begins):
        shared = number // PER_ADDRESS
        self.address = f"127.{20 + shared // 62500}.{shared // 250 % 250}.{1 + shared % 250}"
        self.port, self.begins = port, begins
        self.socket = None

    def open(self):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.bind((self.address, 0))
        self.socket.connect_ex(("127.0.0.1", self.port))

    def send(self, sent):
        try:
            self.socket.send(sent)
        except OSError:
            return False
        return True

    def answer(self):
        """The status that it is answered, or that it was closed."""
        try:
            return self.socket.recv(4096)[9:12].decode() or "closed"
        except OSError:
            return "closed"


class Crowd:
    """All of them, and what became of those before."""

    def __init__(self, port, headers, bodies):
        kinds = [HEADER] * headers + [BODY] * bodies
        self.waiting = collections.deque(Slow(number, port, kind) for number, kind in enumerate(kinds))
        self.wanted = len(kinds)
        self.connecting, self.live = set(), set()
        self.opened = 0
        self.answers = collections.Counter()
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin, selectors.EVENT_READ)

    def connect(self):
        while self.waiting and len(self.connecting) < CONNECTING:
            slow = self.waiting.popleft()
            slow.open()
            self.connecting.add(slow)
            self.selector.register(slow.socket, selectors.EVENT_WRITE, slow)

    def look(self):
        """Go on with those that something happened to; False at the end of standard input."""
        found = [key.data for key, _ in self.selector.select(0.2)]
        for slow in filter(None, found):
            if slow in self.live:
                self.again(slow, slow.answer())
            else:
                self.begin(slow)
        return None not in found

    def begin(self, slow):
        if not slow.send(slow.begins):
            self.again(slow, "refused")
            return
        self.connecting.discard(slow)
        self.live.add(slow)
        self.opened += 1
        self.selector.modify(slow.socket, selectors.EVENT_READ, slow)

    def again(self, slow, why):
        self.answers[why] += 1
        self.selector.unregister(slow.socket)
        slow.socket.close()
        self.connecting.discard(slow)
        self.live.discard(slow)
        self.waiting.append(slow)

    def drip(self):
        for slow in self.live:
            slow.send(b"x")


def main(port, headers, bodies):
    crowd = Crowd(port, headers, bodies)
    ready, drip = False, time.monotonic() + DRIP_SECONDS
    crowd.connect()
    while crowd.look():
        crowd.connect()
        if not ready and len(crowd.live) >= crowd.wanted * 0.98:
            ready = True
            print("ready", flush=True)
        if time.monotonic() > drip:
            drip = time.monotonic() + DRIP_SECONDS
            crowd.drip()
    print(json.dumps({"open": len(crowd.live), "opened": crowd.opened, "answers": crowd.answers}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    main(*map(int, sys.argv[1:]))
