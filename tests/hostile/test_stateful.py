"""Any order of posts, retries, corrections, keys and cut connections: the service does what this model says.

received = stored + duplicate + rejected, by the answers, by /metrics and by the tables.
"""

import itertools
import json
import socket
import time
import uuid
from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.conftest import status_document
from tests.examples import examples

ROWS = 2
"""Of a document with one peer."""

BAD = "bad"
TIMES = st.integers(0, 3)
CONTENTS = st.integers(1, 2)
KEYS = st.none() | st.sampled_from(["a", "b"])
DOCUMENTS = st.tuples(TIMES, CONTENTS)
numbers = itertools.count()


class Refused(Exception):
    """What the model says of a document that is not to be stored."""


class Model:
    """What is stored of one host: contents by time, and what each receipt is for."""

    def __init__(self, contents=(), receipts=()):
        self.contents = dict(contents)
        self.receipts = dict(receipts)

    def copy(self):
        return Model(self.contents, self.receipts)

    def take(self, document, key, replace):
        """What becomes of a document; `key` is None or that of its place in the body."""
        if document == BAD:
            raise Refused
        at, content = document
        name = ("time", at) if key is None else ("key", key)
        known = self.receipts.get(name)
        if known == document:
            return "duplicate"
        if known is not None and not (replace and key is None):
            raise Refused
        if replace:
            self.receipts = {
                name: other for name, other in self.receipts.items() if name[0] == "key" or other[0] != at
            }
        elif at in self.contents:
            if self.contents[at] == content:
                return "duplicate"
            raise Refused
        self.contents[at] = content
        self.receipts[name] = document
        return "stored"


class Machine(RuleBasedStateMachine):
    def __init__(self, intake):
        super().__init__()
        self.intake = intake
        self.host = f"machine-{next(numbers)}-{uuid.uuid4().hex[:8]}"
        self.since = int(time.time()) - 3600
        self.model = Model()
        self.told = Counter()
        self.refused_bodies = 0
        self.last = None
        self.before = intake.settle()
        self.rejects = intake.count("rejects")

    @rule(
        documents=st.lists(DOCUMENTS | st.just(BAD), min_size=1, max_size=3),
        key=KEYS,
        replace=st.booleans(),
        partial=st.booleans(),
    )
    def post(self, documents, key, replace, partial):
        self.last = documents, key, replace, partial
        status, told = self.expected(*self.last)
        answer = self.intake.post(*self.request(*self.last))
        assert (answer.status, self.outcomes(answer)) == (status, told)

    @rule(at=TIMES, content=CONTENTS, key=KEYS)
    def post_one(self, at, content, key):
        self.post([(at, content)], key, replace=False, partial=False)

    @rule()
    def retry(self):
        if self.last is not None:
            self.post(*self.last)

    @rule(key=KEYS)
    def change_key(self, key):
        if self.last is not None:
            self.post(self.last[0], key, *self.last[2:])

    @rule(at=TIMES, content=CONTENTS, share=st.floats(0, 0.99))
    def cut(self, at, content, share):
        body, path, _ = self.request([(at, content)], None, False, False)
        self.send(path, body, body[: int(len(body) * share)])
        self.told["rejected"] += 1
        self.refused_bodies += 1

    @rule(at=TIMES, content=CONTENTS, key=KEYS)
    def leave_before_the_answer(self, at, content, key):
        self.last = [(at, content)], key, False, False
        self.expected(*self.last)
        body, path, headers = self.request(*self.last)
        self.send(path, body, body, headers)
        self.intake.settle()

    def send(self, path, body, sent, headers=None):
        """Post in this way, and close."""
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        with self.intake.raw() as connection:
            connection.sendall("\r\n".join([*lines, "\r\n"]).encode() + sent)
            connection.shutdown(socket.SHUT_WR)
            if sent != body:
                assert b"truncated-payload" in connection.makefile("rb").read()

    def expected(self, documents, key, replace, partial):
        """Do to the model what is about to be posted: the status, and outcomes by number."""
        partial = partial and len(documents) > 1
        model, told, refused = self.model.copy(), Counter(), 0
        for number, document in enumerate(documents, 1):
            try:
                told[model.take(document, key and f"{key}#{number}", replace)] += 1
            except Refused:
                refused += 1
                if not partial:
                    told = Counter()
                    break
        if refused and not partial:
            told["rejected"] = len(documents)
            self.refused_bodies += 1
        else:
            self.model = model
            if refused:
                told["rejected"] = refused
            self.refused_bodies += refused
        self.told += told
        return (422 if refused else 200), told

    def request(self, documents, key, replace, partial):
        lines = [json.dumps({} if document == BAD else self.document(*document)) for document in documents]
        headers = {} if key is None else {"Idempotency-Key": key}
        path = f"/?host={self.host}&replace={int(replace)}&partial={int(partial)}"
        return "\n".join(lines).encode(), path, headers

    def document(self, at, content):
        return status_document(self.host, {"db": content}) | {"_timestamp": self.since + at}

    def outcomes(self, answer):
        """Documents of an answer by what became of them."""
        told = Counter({"rejected": int(answer.headers["ingest-rejected"])})
        receipts = answer.json.get("documents", [answer.json] if answer.status == 200 else [])
        told.update("duplicate" if receipt["duplicate"] else "stored" for receipt in receipts)
        return +told

    def teardown(self):
        after = self.intake.settle()
        counted = Counter(
            {
                name: after[name] - self.before[name]
                for name in ("stored", "duplicate", "rejected", "failed", "rows")
            }
        )
        assert +counted == +(self.told + Counter(rows=ROWS * self.told["stored"]))
        assert self.intake.count("rejects") - self.rejects == self.refused_bodies
        held = self.intake.held(self.host)
        assert held == {self.since + at: content for at, content in self.model.contents.items()}
        assert self.intake.receipts(self.host) == len(self.model.receipts)


def test_the_service_does_what_the_model_says(intake):
    run_state_machine_as_test(lambda: Machine(intake), settings=examples(8, stateful_step_count=12))
