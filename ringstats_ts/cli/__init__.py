"""`tsstats`: one module per verb. Only this package prints."""

from __future__ import annotations

import click

from ringstats_ts import __version__
from ringstats_ts.cli.canary import canary
from ringstats_ts.cli.doctor import doctor
from ringstats_ts.cli.errors import Group
from ringstats_ts.cli.export import export
from ringstats_ts.cli.ingest import ingest
from ringstats_ts.cli.migrate import migrate
from ringstats_ts.cli.query import query
from ringstats_ts.cli.rejects import rejects
from ringstats_ts.cli.serve import serve
from ringstats_ts.cli.show import show
from ringstats_ts.cli.sources import sources
from ringstats_ts.cli.token import token
from ringstats_ts.cli.up import up


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tsstats")
def main() -> None:
    """Time series from the status documents that hosts already print.

    \b
    tsstats up                                         run everything here
    tailscale status --json | curl --data-binary @- localhost:8000
    tsstats query "SELECT * FROM tailscale_peers_hourly"

    Every option can also be set by the environment variable named in its help.
    """


for command in (up, serve, migrate, ingest, export, query, show, rejects, sources, token, doctor, canary):
    main.add_command(command)
