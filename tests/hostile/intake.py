"""The whole intake as somebody outside sees it: what it answers, what it kept, and what that cost it."""

import json
import os
import re
import socket
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

from ringstats_ts.decode import documents
from ringstats_ts.errors import NotFound
from ringstats_ts.storage.documents import find_document, hosts_named
from ringstats_ts.times import parse_time
from tests.sources.test_tailscale_round_trip import expected

HOST = "hostile"
STATUS = f"/v1/ingest/tailscale?host={HOST}"
"""Named: what is no status is refused, and not taken as any other JSON."""
MIB = 1024 * 1024
_COUNTED = re.compile(
    r'tsstats_(?:documents_total\{.*outcome="(\w+)".*\}|rows_total\{.*\}|requests_in_flight) (\S+)$'
)
_OTHERS = {"tsstats_rows_total": "rows", "tsstats_requests_in_flight": "in_flight"}
TICKS = os.sysconf("SC_CLK_TCK")


class Intake:
    """A service and its database, which is read over a connection of the test's own."""

    def __init__(self, server, database):
        self.server = server
        self._rows_now = None
        self._database = database
        tables = database.run(
            "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename NOT LIKE '%yoyo%' AND tablename NOT IN ('rejects', 'rejects_kept', 'job_runs')"
        )
        # The newest row tells of an update, too.
        self._rows = " UNION ALL ".join(
            f"SELECT '{table}', count(*), max(xmin::text::bigint) FROM {table}" for (table,) in tables
        )

    def rows(self):
        """Rows of all tables but those of what was refused, and the transaction that wrote last to each."""
        return {table: told for table, *told in self._database.run(self._rows)}

    def count(self, table):
        return self._database.run(f"SELECT count(*) FROM {table}")[0][0]

    @contextmanager
    def unchanged(self):
        """The block leaves every row as it was."""
        self._rows_now = None
        before = self.rows()
        yield
        assert self.rows() == before

    def post(self, body, path=STATUS, headers=None):
        """Post, and see that the answer is none of a bug's, and is one for programs to read."""
        answer = self.server.post(body, path, headers)
        assert answer.status < 500, answer.content
        if answer.status == 200:
            self._rows_now = None
        kind = "application/json" if answer.status == 200 else "application/problem+json"
        assert answer.headers["content-type"] == kind
        return answer

    def judged(self, body, path=STATUS, headers=None, sent=None):
        """The status of the answer: what it takes comes back equal, what it refuses changes no row.

        `sent` are the documents of the body, where it does not tell them itself.
        """
        before = self._rows_now or self.rows()
        answer = self.post(body, path, headers)
        self._rows_now = None
        if answer.status == 200:
            self.check_kept(answer, decoded(body) if sent is None else sent)
        elif answer.json.get("stored"):
            self.check_some_kept(answer, readable_lines(body))
        else:
            assert 400 <= answer.status < 500
            # Nobody writes until the next body is judged: one look is enough.
            self._rows_now = self.rows()
            assert self._rows_now == before
        return answer.status

    def check_kept(self, answer, sent):
        """Read back the documents that an answer says are stored."""
        receipts = answer.json.get("documents", [answer.json])
        assert len(receipts) == len(sent)
        for receipt, document in zip(receipts, sent, strict=True):
            kept = list(self.read_back(receipt))
            assert any(same(expected(document), found) for found in kept), (document, kept)

    def check_some_kept(self, answer, sent):
        """Read back documents of which an answer does not say which ones of the body they are."""
        for receipt in answer.json["documents"]:
            kept = list(self.read_back(receipt))
            assert any(same(expected(document), found) for document in sent for found in kept)

    def read_back(self, receipt):
        """The documents of all hosts of the receipt's name at its time."""
        at = parse_time(receipt["time"])
        for host in hosts_named(self._database, receipt["host"]):
            with suppress(NotFound):
                found = find_document(self._database, host, at)
                if found.time == at:
                    yield found.document

    def held(self, host):
        """Bytes received from the peer in each document of a host, by Unix time."""
        found = self._database.run(
            "SELECT extract(epoch FROM time)::bigint, rx_bytes FROM tailscale_peers"
            " INNER JOIN hosts USING (host_id) WHERE name = %(host)s",
            {"host": host},
        )
        return dict(found)

    def receipts(self, host):
        """How many receipts a host has."""
        ((count,),) = self._database.run(
            "SELECT count(*) FROM receipts INNER JOIN hosts USING (host_id) WHERE name = %(host)s",
            {"host": host},
        )
        return count

    def good(self, document):
        """Post a document that is in order, which is taken whatever came before it."""
        body = json.dumps(document).encode()
        assert self.judged(body) == 200

    def metrics(self):
        """Documents by what became of them, `rows`, and requests `in_flight`, as /metrics tells."""
        counts = Counter()
        for line in self.server.get("/metrics").content.decode().splitlines():
            if match := _COUNTED.match(line):
                counts[match[1] or _OTHERS[line.partition("{")[0].partition(" ")[0]]] += int(float(match[2]))
        return counts

    def settle(self):
        """Wait until every request that has begun is done with; then what /metrics tells."""
        told, before = self.metrics(), None
        while told != before or told["in_flight"] > 1:
            time.sleep(0.1)
            told, before = self.metrics(), told
        return told

    def raw(self):
        """A connection on which anything can be sent."""
        self._rows_now = None
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=30)


def peaks(server):
    """The most memory that each worker has had since `forget_peaks` [bytes]."""
    return {pid: _memory(pid, "VmHWM") for pid in server.workers()}


def forget_peaks(server):
    """Let the peak be what the workers have now."""
    for pid in server.workers():
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def processor_seconds(server):
    """Processor time that the workers have taken."""
    return sum(map(_processor_seconds, server.workers()))


def _memory(pid, name):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))


def _processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def decoded(body):
    """The documents of a body, by another reader than ours where that can read it."""
    try:
        return [json.loads(body.decode("utf-8-sig"))]
    except ValueError:
        return [document.value for document in documents(body, max_documents=5000)]


def readable_lines(body):
    """The documents of those lines that are any."""
    found = []
    for line in body.splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [document for document in found if isinstance(document, dict)]


def same(sent, kept):
    """Whether what is kept is what was sent; jsonb knows numbers, not how they were written."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return sent.keys() == kept.keys() and all(same(sent[key], kept[key]) for key in sent)
    if isinstance(sent, list) and isinstance(kept, list):
        return len(sent) == len(kept) and all(map(same, sent, kept))
    if isinstance(sent, float) and type(kept) in (int, float):
        return float(kept) == sent
    return type(sent) is type(kept) and sent == kept
