"""`python -m ringstats_ts.cli` is `tsstats`."""

from ringstats_ts.cli import main

main()
