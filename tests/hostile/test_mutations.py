"""Documents of which something was made another thing: kept as they are, or refused without a trace."""

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import status_document
from tests.examples import examples
from tests.hostile.intake import HOST
from tests.hostile.strategies import bodies

NODE = {
    "Tags": ["tag:db"],
    "CapMap": {"a": [1]},
    "Location": {"City": "Kyiv"},
    "KeyExpiry": "2027-01-01T00:00:00Z",
}
DOCUMENT = status_document("hostile", {"db": NODE, "laptop": 1000}, Health=["a warning"])
PATHS = [f"/?host={HOST}", "/", "/v1/ingest/tailscale", f"/?partial=1&host={HOST}"]


@examples(200)
@given(body=bodies(DOCUMENT), path=st.sampled_from(PATHS))
def test_whatever_is_changed_comes_back_or_leaves_no_trace(intake, body, path):
    intake.judged(body, path)
