"""Overrides of the policies: clear words where they cannot be used."""

import pytest

from ringstats_ts.errors import ConfigError
from ringstats_ts.storage import policies


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("TSSTATS_RETENTION_NO_TABLE", "1 day", "names no relation.*TSSTATS_RETENTION_TAILSCALE_PEERS"),
        ("TSSTATS_RETENTION_TAILSCALE_PEERS", "a while", "write it like `90 days`"),
        ("TSSTATS_REFRESH_TAILSCALE_PEERS_5M", "2 days", "Write it like `start="),
        ("TSSTATS_REFRESH_TAILSCALE_PEERS_5M", "start=1 year", "write it like"),
        ("TSSTATS_RETENTION_TAILSCALE_PEERS", "1 day", "Keep rows longer"),
        ("TSSTATS_RETENTION_TAILSCALE_PEERS_5M", "2 days", "Keep rows longer"),
    ],
)
def test_an_override_that_cannot_be_used_is_named(database, name, text, message):
    with pytest.raises(ConfigError, match=message):
        policies.configured(database, {name: text})
