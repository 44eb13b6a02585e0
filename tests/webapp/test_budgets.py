"""One careless host over HTTP: others are served, and who ran out is seen."""

import json
import uuid

import pytest

from tests.webapp.test_metrics import read, total

pytestmark = pytest.mark.usefixtures("clean")


def test_a_careless_host_spends_its_own_budget_and_no_other(start_server, status):
    server = start_server(TSSTATS_NEW_SERIES="100")
    answers = []
    numbers = 40
    while numbers:
        answer = server.post(
            json.dumps({uuid.uuid4().hex: 1 for _ in range(numbers)}).encode(), "/?host=buggy"
        )
        answers.append(answer)
        if answer.status != 200:
            numbers //= 2
    stored, refused = answers[:3], answers[3:]
    assert [answer.json["rows"] for answer in stored] == [41, 41, 21]
    assert "TSSTATS_NEW_SERIES" in stored[2].json["warnings"][0]
    assert {(a.status, a.json["type"], int(a.headers["retry-after"]) <= 3600) for a in refused} == {
        (429, "/problems/budget-spent", True)
    }
    assert server.post(json.dumps(status()).encode(), "/?host=gateway").status == 200
    assert server.post(b'{"load_1m": 0.5}', "/?host=web-77").status == 200
    samples = read(server)
    spent = {"level": "host", "what": "series"}
    assert total(samples, "tsstats_budget_spent_rows_total", **spent) == 20 + len(refused)
    assert total(samples, "tsstats_budget_spent_rows_total") == 20 + len(refused)
