"""`tsstats sources`: what is accepted."""

from __future__ import annotations

import click
import orjson

from ringstats_ts.cli.options import json_option
from ringstats_ts.sources import SOURCES


@click.command()
@json_option
def sources(as_json: bool) -> None:
    """List the payload formats: what each accepts and where it lands.

    \b
    tsstats sources
    """
    listed = [
        {
            "name": source.name,
            "title": source.title,
            "tables": list(source.tables),
            "example": source.example,
        }
        for source in SOURCES
    ]
    if as_json:
        click.echo(orjson.dumps(listed, option=orjson.OPT_INDENT_2))
        return
    for source in SOURCES:
        click.echo(f"{source.name}: {source.title}")
        click.echo(f"  into     {', '.join(source.tables)}")
        click.echo(f"  example  {source.example}")
