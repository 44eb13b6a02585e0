"""Write the pages that are made from the code: commands, settings, sources, tables.

`--check` writes nothing, and fails where a page is not what the code says. The
tables are read from a migrated database, an embedded one that is made for it
unless one is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

DOCS = Path(__file__).parent
MIGRATIONS = DOCS.parent / "migrations"
WIDTH = 100
NOTE = "<!-- Made by docs/generate.py; `tox -e docs -- --write` makes it again. -->"

RELATIONS = """
    SELECT
        c.oid,
        c.relname,
        CASE
            WHEN h.hypertable_name IS NOT NULL THEN 'Hypertables'
            WHEN a.view_name IS NOT NULL THEN 'Continuous aggregates'
            WHEN c.relkind = 'r' THEN 'Tables'
            ELSE 'Views'
        END,
        obj_description(c.oid, 'pg_class')
    FROM pg_class AS c
    LEFT JOIN timescaledb_information.hypertables AS h
        ON h.hypertable_schema = 'public' AND h.hypertable_name = c.relname
    LEFT JOIN timescaledb_information.continuous_aggregates AS a
        ON a.view_schema = 'public' AND a.view_name = c.relname
    WHERE
        c.relnamespace = 'public'::regnamespace
        AND c.relkind IN ('r', 'v', 'm')
        AND c.relname NOT LIKE '%yoyo%'
    ORDER BY c.relname
"""

COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum)
    FROM pg_attribute
    WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
"""

FUNCTIONS = """
    SELECT
        p.proname,
        pg_get_function_arguments(p.oid),
        pg_get_function_result(p.oid),
        p.prokind = 'a',
        obj_description(p.oid, 'pg_proc')
    FROM pg_proc AS p
    WHERE
        p.pronamespace = 'public'::regnamespace
        AND NOT EXISTS (
            SELECT 1 FROM pg_depend
            WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e'
        )
    ORDER BY p.proname, 2
"""

POLICIES = """
    SELECT
        upper(format('TSSTATS_%s_%s', kind, relation)),
        kind,
        relation,
        after,
        until,
        every
    FROM policies
    ORDER BY source, relation, level, kind
"""

KINDS = ("Tables", "Hypertables", "Continuous aggregates", "Views")


def cli_page() -> str:
    """Give the help of every command, as `--help` prints it."""
    from ringstats_ts.cli import main

    sections = (_command_section(context) for context in _contexts(main, "tsstats", None))
    return _page(
        "Commands",
        "Every option can be set by the environment variable that its help names. "
        "Exit codes: 0 done, 1 failed, 2 usage, 65 input refused, 75 try later.",
        *sections,
    )


def _contexts(command: click.Command, name: str, parent: click.Context | None) -> Iterator[click.Context]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, **command.context_settings
    )
    yield context
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            subcommand = command.get_command(context, verb)
            if subcommand is not None and not subcommand.hidden:
                yield from _contexts(subcommand, verb, context)


def _command_section(context: click.Context) -> str:
    shown = context.get_help().replace(str(Path.home()), "~")
    return f"## `{context.command_path}`\n\n```text\n{shown}\n```"


def sources_page() -> str:
    """Give every source: what it accepts, where it lands, and a command that posts one."""
    from ringstats_ts.sources import SOURCES

    sections = (
        f"## [{source.name}]({source.name}.md)\n\n{source.title}.\n\n"
        f"Into {', '.join(f'`{table}`' for table in source.tables)}.\n\n```sh\n{source.example}\n```"
        for source in SOURCES
    )
    return _page(
        "Sources",
        "What is accepted. A body is recognised by its content, in this order; `POST /v1/ingest/SOURCE` and "
        "`tsstats ingest --source SOURCE` name its source, and refuse what is of another one.",
        *sections,
    )


def settings_page() -> str:
    """Give every setting with its variable and default."""
    from ringstats_ts.config import SETTINGS

    rows = (
        (
            " or ".join(f"`{name}`" for name in setting.env),
            _default(setting.default),
            setting.help,
        )
        for setting in SETTINGS
    )
    return _page(
        "Settings",
        "Read from the environment, once, at start. An option on the command line wins. "
        "A secret may come from a file: the same variable with `_FILE` behind its name. "
        "The policies in [tables.md](tables.md#policies) have variables too.",
        _table(("variable", "default", "meaning"), rows),
    )


def _default(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "`on`" if value else "`off`"
        case timedelta():
            return f"`{_interval(value)}`"
        case frozenset():
            return ", ".join(f"`{name}`" for name in sorted(value))
        case Path():
            return f"`{value.name}` in the user's data directory"
        case _:
            return f"`{value}`"


def _interval(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    unit, size = next(
        (unit, size)
        for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
        if seconds % size == 0
    )
    count = seconds // size
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _page(title: str, intro: str, *sections: str) -> str:
    return "\n\n".join([f"# {title}", NOTE, intro, *sections]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def tables_page(uri: str) -> str:
    """Give what a migrated database says of itself, and its migrations."""
    import psycopg2

    connection = psycopg2.connect(uri)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            return _page(
                "Tables",
                "What the database says of itself; the comments are in it, too (`\\d+` in psql). "
                "Every time is a timestamptz, kept in UTC.",
                *_relation_sections(cursor),
                *_function_sections(cursor),
                *_policy_sections(cursor),
                *_migration_sections(),
            )
    finally:
        connection.close()


def _rows(cursor: Any, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    cursor.execute(sql, params or None)
    return list(cursor.fetchall())


def _relation_sections(cursor: Any) -> Iterator[str]:
    relations = _rows(cursor, RELATIONS)
    for kind in KINDS:
        yield f"## {kind}"
        for oid, name, _, comment in (row for row in relations if row[2] == kind):
            columns = _rows(cursor, COLUMNS, oid)
            yield f"### {name}\n\n{_said(comment, name)}"
            yield _table(
                ("column", "type", "meaning"),
                (
                    (
                        f"`{column}`",
                        type_ + (" not null" if required else ""),
                        _said(text, f"{name}.{column}"),
                    )
                    for column, type_, required, text in columns
                ),
            )


def _function_sections(cursor: Any) -> Iterator[str]:
    yield "## Functions"
    for name, arguments, result, aggregate, comment in _rows(cursor, FUNCTIONS):
        kind = "aggregate " if aggregate else ""
        signature = f"{kind}{name}({arguments}) -> {result}"
        yield f"### {name}\n\n```text\n{signature}\n```\n\n{_said(comment, name)}"


def _policy_sections(cursor: Any) -> Iterator[str]:
    yield "## Policies"
    yield (
        "As shipped. The variable overrides one, and `tsstats migrate` applies it. A refresh takes what is "
        "younger than `after` and older than `until`; its variable is written like "
        "`start=2 days end=5 minutes every=5 minutes`. Chunks older than `after` are compressed "
        "(columnstore) or dropped (retention); empty is never, and the variable is written like `90 days` "
        "or `never`."
    )
    yield _table(
        ("variable", "kind", "relation", "after", "until", "every"),
        (
            (f"`{variable}`", kind, relation, *("" if span is None else _interval(span) for span in spans))
            for variable, kind, relation, *spans in _rows(cursor, POLICIES)
        ),
    )


def _migration_sections() -> Iterator[str]:
    yield "## Migrations"
    files = sorted(path for path in MIGRATIONS.glob("*.sql") if not path.stem.endswith(".rollback"))
    yield _table(
        ("migration", "purpose"),
        ((f"`{path.stem}`", path.read_text("utf-8").splitlines()[0].removeprefix("-- ")) for path in files),
    )


def _said(comment: str | None, name: str) -> str:
    if not comment:
        raise SystemExit(f"{name} has no comment. Add a COMMENT ON to the migration that makes it.")
    return comment


@contextmanager
def _migrated_database() -> Iterator[str]:
    from ringstats_ts.embedded import open_database
    from ringstats_ts.storage.database import Database
    from ringstats_ts.storage.schema import migrate

    with TemporaryDirectory(prefix="tsstats-docs-") as directory, open_database(Path(directory)) as uri:
        with Database(uri) as database:
            migrate(database, uri)
        yield uri


def pages(database_uri: str | None = None) -> dict[Path, str]:
    """Make every page, by where it belongs."""
    with nullcontext(database_uri) if database_uri else _migrated_database() as uri:
        tables = tables_page(uri)
    return {
        DOCS / "cli.md": cli_page(),
        DOCS / "settings.md": settings_page(),
        DOCS / "sources" / "README.md": sources_page(),
        DOCS / "tables.md": tables,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them; 1 where one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="fail where a page is out of date")
    what.add_argument("--write", action="store_true", help="write the pages")
    parser.add_argument("--database", metavar="URI", help="a migrated database; otherwise an embedded one")
    options = parser.parse_args(arguments)

    stale = {
        path: text
        for path, text in pages(options.database).items()
        if not path.exists() or path.read_text("utf-8") != text
    }
    for path, text in stale.items():
        if options.write:
            path.write_text(text, "utf-8")
        print(f"{path.name} {'written' if options.write else 'is out of date'}.")
    if stale and not options.write:
        print("Run `tox -e docs -- --write`, and look at what has changed.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
