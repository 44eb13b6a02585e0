"""Status documents of any size, from the shape of the real sample that the project ships.

The same arguments give the same documents: counters grow, handshakes move, and nothing
else changes from one sample of a host to the next.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

SAMPLE = Path(__file__).parent.parent / "samples" / "status.json"

START = datetime(2026, 1, 15, tzinfo=UTC)
STEP = timedelta(minutes=1)

Document = dict[str, Any]


def documents(
    host: int, peers: int, count: int, *, start: datetime = START
) -> Iterator[tuple[datetime, Document]]:
    """The status of a host with that many peers, `count` times, one each minute.

    Parameters
    ----------
    host
        number of the reporting host: another one is another node of the same tailnet.
    start
        time of the first sample.
    """
    sample = orjson.loads(SAMPLE.read_bytes())
    status = _status(sample, host, peers)
    for number in range(count):
        time = start + number * STEP
        for index, peer in enumerate(status["Peer"].values()):
            _advance(peer, index, number, time)
        yield time, status


def _status(sample: Document, host: int, peers: int) -> Document:
    status = copy.deepcopy(sample)
    _rename(status["Self"], f"reporter{host}", host)
    shapes = list(sample["Peer"].values())
    nodes = [_peer(shapes[index % len(shapes)], index) for index in range(peers)]
    status["Peer"] = {node["PublicKey"]: node for node in nodes}
    return status


def _peer(shape: Document, index: int) -> Document:
    peer = copy.deepcopy(shape)
    _rename(peer, f"peer{index}", 1_000_000 + index)
    # A reporter is online and talks to every third of its peers.
    peer |= {"Online": True, "Active": index % 3 == 0, "InEngine": True, "ExitNode": False}
    peer |= {"CurAddr": f"203.0.113.{index % 250 + 1}:41641" if index % 3 == 0 else "", "PeerRelay": ""}
    return peer


def _rename(node: Document, name: str, number: int) -> None:
    digest = hashlib.sha256(name.encode()).hexdigest()
    address = f"100.{64 + (number >> 16) % 64}.{(number >> 8) % 256}.{number % 256}"
    node |= {
        "ID": f"n{digest[:11]}CNTRL",
        "PublicKey": f"nodekey:{digest}",
        "HostName": name,
        "DNSName": f"{name}.tail1example.ts.net.",
        "TailscaleIPs": [address],
        "AllowedIPs": [f"{address}/32"],
    }


def _advance(peer: Document, index: int, number: int, time: datetime) -> None:
    if not peer["Active"]:
        return
    peer["RxBytes"] = (number + 1) * (1_000 + index)
    peer["TxBytes"] = (number + 1) * (500 + index)
    peer["LastHandshake"] = _written(time - timedelta(seconds=index % 120))
    peer["LastWrite"] = _written(time - timedelta(seconds=index % 5, milliseconds=1))


def _written(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
