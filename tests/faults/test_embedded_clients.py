"""Clients of the embedded database that go away at the wrong time."""

import contextlib
import socket
import struct
import time

import psycopg2

SETTINGS = b"user\0postgres\0database\0postgres\0\0"
STARTUP = struct.pack("!ii", 8 + len(SETTINGS), 196608) + SETTINGS


def test_clients_that_hang_up_before_their_turn_are_in_nobodys_way(embedded_target):
    directory = psycopg2.extensions.parse_dsn(embedded_target.uri)["host"]
    with contextlib.closing(psycopg2.connect(embedded_target.uri)) as busy:
        busy.cursor().execute("SELECT 1")
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{directory}/.s.PGSQL.5432")
                client.sendall(STARTUP)
        time.sleep(0.5)
        busy.commit()
    began = time.monotonic()
    embedded_target.wait()
    assert time.monotonic() - began < 5
