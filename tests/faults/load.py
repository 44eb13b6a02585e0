"""Hosts that post and remember what they were told, and the comparison of that with the database."""

import contextlib
import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from urllib.parse import quote

import psycopg2

from tests.conftest import status_document

PEERS = ("a", "b", "c")
REPEAT_EVERY = 25
"""Each host posts one in so many of its documents again, though it was acknowledged."""


@dataclass
class Sent:
    """One document and what became of it. `serial` is the count of bytes in each of its peers.

    `time` is None where the Idempotency-Key alone tells the document: its rows then take the time
    of arrival, so that no key of a table would keep a repetition out. `unclear` is set by an
    attempt that got no answer, or one that says that it does not know.
    """

    host: str
    serial: int
    key: str
    time: datetime | None
    answer: dict | None = None
    attempts: int = 0
    unclear: bool = False

    def __str__(self):
        return f"document {self.serial} of {self.host}"

    @property
    def path(self):
        at = "" if self.time is None else f"&time={quote(self.time.isoformat())}"
        return f"/v1/ingest/tailscale?host={self.host}{at}"

    @property
    def body(self):
        return json.dumps(status_document(self.host, dict.fromkeys(PEERS, self.serial))).encode()


class Load:
    """Posts as `curl --retry-all-errors` would: the same bytes and key again until a 2xx comes.

    Every second document has a time of its own, if `own_times`; the others the key alone.
    """

    def __init__(self, port, hosts=4, *, name="host", own_times=True, repeat=True):
        self.port = port
        self.sent = []
        self.answers = Counter()
        self.wrong = []
        self.slowest = 0.0
        self._name, self._own_times, self._repeats = name, own_times, repeat
        self._stop = threading.Event()
        self._give_up = float("inf")
        self._start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)
        self._threads = [threading.Thread(target=self._host, args=(number,)) for number in range(hosts)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.stop(0)

    @property
    def acknowledged(self):
        return sum(1 for sent in list(self.sent) if sent.answer)

    def stop(self, settle=30):
        """Send nothing new; what was begun is tried for `settle` seconds more."""
        self._give_up = time.monotonic() + settle
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _host(self, number):
        client = Client(self.port)
        name = f"{self._name}{number}"
        for serial in count(1):
            if self._stop.is_set():
                break
            own_time = self._own_times and serial % 2
            at = self._start + timedelta(seconds=serial) if own_time else None
            sent = Sent(name, serial, uuid.uuid4().hex, at)
            self.sent.append(sent)
            self._deliver(client, sent)
            if self._repeats and sent.answer and serial % REPEAT_EVERY == 0:
                self._repeat(client, sent)
        client.close()

    def _deliver(self, client, sent):
        while sent.answer is None and time.monotonic() < self._give_up:
            status, answer = self._post(client, sent)
            if status == 200:
                sent.answer = answer
                if answer["duplicate"] and not sent.unclear:
                    self.wrong.append(f"{sent} is a duplicate, though no attempt before may have stored it")
            else:
                time.sleep(random.uniform(0.02, 0.2))

    def _repeat(self, client, sent):
        status, answer = self._post(client, sent)
        if status == 200 and (answer["id"], answer["duplicate"]) != (sent.answer["id"], True):
            self.wrong.append(f"a repetition of {sent} was answered {answer}")

    def _post(self, client, sent):
        sent.attempts += 1
        began = time.monotonic()
        try:
            status, answer = client.post(sent.path, sent.body, {"Idempotency-Key": sent.key})
        except (OSError, http.client.HTTPException):
            self.answers["none"] += 1
            sent.unclear = True
            return None, None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers[status] += 1
        if answer.get("type", "").endswith("outcome-unknown"):
            sent.unclear = True
        if status not in (200, 429, 503):
            self.wrong.append(f"{sent} was answered {status} {answer}")
        return status, answer


class Client:
    """A connection that is kept open, and opened again when it was lost."""

    def __init__(self, port, timeout=30):
        self._port, self._timeout = port, timeout
        self._connection = None
        self.headers = {}

    def post(self, path, body, headers=None):
        """The status and the JSON of the answer; `headers` are those of the last one."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        try:
            self._connection.request("POST", path, body, headers or {})
            response = self._connection.getresponse()
            self.headers = response.headers
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def close(self):
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@dataclass
class Verdict:
    """What is wrong between what the hosts were told and what is stored; all zero where nothing is."""

    acknowledged: int = 0
    unresolved: int = 0
    stored: int = 0
    replayed: int = 0
    missing: list = field(default_factory=list)
    partial: list = field(default_factory=list)
    duplicates: list = field(default_factory=list)
    strangers: list = field(default_factory=list)
    wrong: list = field(default_factory=list)

    @property
    def counts(self):
        return {name: len(found) if isinstance(found, list) else found for name, found in vars(self).items()}

    @property
    def faults(self):
        return {name: found for name, found in vars(self).items() if isinstance(found, list) and found}

    @property
    def good(self):
        """Whether all that was acknowledged is stored, whole and once, and nothing that was not sent."""
        return not self.faults and 0 <= self.stored - self.acknowledged <= self.unresolved

    def check(self):
        assert self.good, self.counts | {name: found[:3] for name, found in self.faults.items()}


def verify(uri, load):
    """Compare every document that was sent with every row and receipt that is stored."""
    verdict = Verdict(wrong=list(load.wrong))
    found = _stored(uri)
    by_document = {}
    for place, rows in found.items():
        if rows != Rows(serial=rows.serial, whole=True, receipts=rows.receipts[:1]) or not rows.receipts:
            verdict.partial.append((place, rows))
        by_document.setdefault((place[0], rows.serial), []).append(place)
    sent_documents = {(sent.host, sent.serial) for sent in load.sent}
    verdict.strangers = [places for document, places in by_document.items() if document not in sent_documents]
    verdict.duplicates = [places for places in by_document.values() if len(places) > 1]
    verdict.stored = len(by_document)
    for sent in load.sent:
        if sent.answer is None:
            verdict.unresolved += 1
            continue
        verdict.acknowledged += 1
        verdict.replayed += sent.answer["duplicate"]
        rows = found.get((sent.host, datetime.fromisoformat(sent.answer["time"])))
        if rows is None or rows.serial != sent.serial or sent.answer["id"] not in rows.receipts:
            verdict.missing.append(sent)
    return verdict


@dataclass
class Rows:
    """What is stored under one host and time."""

    serial: int | None = None
    whole: bool = False
    receipts: list = field(default_factory=list)


def _stored(uri):
    with contextlib.closing(psycopg2.connect(uri, options="-c TimeZone=UTC")) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        found = {}
        cursor.execute(
            "SELECT h.name, p.time, min(p.rx_bytes), count(*) = %s AND min(p.rx_bytes) = max(p.rx_bytes)"
            " AND EXISTS (SELECT FROM tailscale_status AS s WHERE s.host_id = h.host_id AND s.time = p.time)"
            " FROM tailscale_peers AS p JOIN hosts AS h USING (host_id) GROUP BY h.host_id, p.time",
            (len(PEERS),),
        )
        for host, at, serial, whole in cursor.fetchall():
            found[host, at] = Rows(serial, whole)
        cursor.execute("SELECT h.name, s.time FROM tailscale_status AS s JOIN hosts AS h USING (host_id)")
        for place in cursor.fetchall():
            found.setdefault(place, Rows())
        cursor.execute(
            "SELECT h.name, r.time, r.receipt_id::text, r.row_count"
            " FROM receipts AS r JOIN hosts AS h USING (host_id)"
        )
        for host, at, receipt_id, row_count in cursor.fetchall():
            rows = found.setdefault((host, at), Rows())
            rows.receipts.append(receipt_id)
            rows.whole = rows.whole and row_count == len(PEERS) + 1
        return found


FORGET_RECEIPTS = """
CREATE FUNCTION forget_receipt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.key := 'forgotten:' || NEW.receipt_id;
    RETURN NEW;
END $$;
CREATE TRIGGER forget_receipt BEFORE INSERT ON receipts FOR EACH ROW EXECUTE FUNCTION forget_receipt()
"""
"""The switch that takes the protection of receipts away: no retry of a client finds one."""

REMEMBER_RECEIPTS = (
    "DROP TRIGGER IF EXISTS forget_receipt ON receipts; DROP FUNCTION IF EXISTS forget_receipt()"
)
