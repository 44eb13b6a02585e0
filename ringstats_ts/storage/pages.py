"""Ranges of tables as Arrow tables, a page at a time.

A page is one statement of its own, found by the key of the row before it: no
transaction stays open between pages, so that an export of any length holds nobody
up on a database with a single backend. Pages travel as COPY in CSV, which Arrow
reads without making a Python object of each value.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg2
import psycopg2.extensions
import pyarrow as pa
from pyarrow import csv

from ringstats_ts.sql import statement, statements
from ringstats_ts.storage.database import Database, Params, quote
from ringstats_ts.storage.failures import translate

TEXT = pa.dictionary(pa.int32(), pa.string())
TEXT_LIST = pa.list_(pa.string())
TIME = pa.timestamp("us", tz="UTC")

# pg_type.oid of what is not exported as text.
TYPES: dict[int, pa.DataType] = {
    16: pa.bool_(),
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    700: pa.float32(),
    701: pa.float64(),
    1009: TEXT_LIST,
    1184: TIME,
}

_KEY = re.compile(r"%\(after_(\w+)\)s")
_UNIT = re.compile(r"\[(\w[^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Range:
    """Rows of these hosts with `since` <= time < `until`; None is no bound.

    `source` is for tables that several sources share.
    """

    host_ids: Sequence[int]
    since: datetime | None = None
    until: datetime | None = None
    source: str | None = None

    def params(self) -> Params:
        """The parameters that every export statement takes."""
        return {
            "host_ids": list(self.host_ids),
            "since": self.since or "-infinity",
            "until": self.until or "infinity",
            "source": self.source,
        }


def days(database: Database, table: str, rows: Range) -> list[datetime]:
    """The UTC days that may have rows of the table, as their first instants, in order."""
    name = f"export_days_{table}"
    if name not in statements():
        name = "export_chunk_days"
    return [day.astimezone(UTC) for (day,) in database.rows(name, rows.params() | {"table": table})]


class Pages:
    """The result of an export statement of queries.sql.

    The statement takes the parameters of `Range`, `page` (rows at most) and
    `after_<column>` for each column of its key (NULL before the first page); it gives
    rows in the order of the key. `attribute_id` is replaced by the document it stands for.

    Parameters
    ----------
    name
        of the statement.
    size
        rows of a page.
    """

    def __init__(self, database: Database, name: str, size: int) -> None:
        self._database = database
        self._sql = statement(name)
        self._size = size
        self._key = tuple(dict.fromkeys(_KEY.findall(self._sql)))
        self._columns = self._describe()

    @property
    def schema(self) -> pa.Schema:
        """The columns; a field's metadata has `meaning` and `unit` as far as COMMENT ON tells them."""
        return pa.schema(
            [
                pa.field("attributes", TEXT, metadata=field.metadata)
                if field.name == "attribute_id"
                else field
                for field in self._columns
            ]
        )

    def read(self, rows: Range) -> Iterator[pa.Table]:
        """The pages of the range, none of them empty.

        Raises
        ------
        StorageError
            of any kind; the pages given before stay good.
        """
        after: Params = dict.fromkeys(self._key)
        while (page := self._page(rows, after)) is not None:
            after = {name: page.column(name)[-1].as_py() for name in self._key}
            yield self._with_attributes(page)
            if page.num_rows < self._size:
                return

    def _params(self, rows: Range, after: Params, size: int) -> Params:
        return rows.params() | {f"after_{name}": value for name, value in after.items()} | {"page": size}

    def _describe(self) -> pa.Schema:
        with _cursor(self._database) as cursor:
            cursor.execute(self._sql, self._params(Range(()), dict.fromkeys(self._key), 0))
            described = cursor.description or ()
        tables = sorted({column.table_oid for column in described if column.table_oid})
        comments = {
            (table, column): text
            for table, column, text in self._database.rows("export_comments", {"tables": tables})
        }
        return pa.schema(
            [
                pa.field(
                    column.name,
                    TYPES.get(column.type_code, TEXT),
                    metadata=_meaning(comments.get((column.table_oid, column.table_column))),
                )
                for column in described
            ]
        )

    def _page(self, rows: Range, after: Params) -> pa.Table | None:
        columns = ", ".join(_selected(field) for field in self._columns)
        copy = f"COPY (SELECT {columns} FROM ({self._sql}) AS page) TO STDOUT (FORMAT csv)"
        text = io.BytesIO()
        with _cursor(self._database) as cursor:
            cursor.copy_expert(cursor.mogrify(copy, self._params(rows, after, self._size)), text)
        return _table(text, self._columns) if text.tell() else None

    def _with_attributes(self, page: pa.Table) -> pa.Table:
        index = page.schema.get_field_index("attribute_id")
        if index < 0:
            return page
        encoded = page.column(index).combine_chunks().dictionary_encode()
        ids = encoded.dictionary.to_pylist()
        documents = dict(self._database.rows("export_attributes", {"attribute_ids": ids}))
        texts = pa.array([documents.get(attribute_id) for attribute_id in ids], pa.string())
        attributes = pa.DictionaryArray.from_arrays(encoded.indices, texts)
        return page.set_column(index, self.schema.field("attributes"), attributes)


@contextmanager
def _cursor(database: Database) -> Iterator[psycopg2.extensions.cursor]:
    connection = database.connection()
    try:
        with connection.cursor() as cursor:
            yield cursor
    except psycopg2.Error as error:
        raise translate(error, lost=bool(connection.closed)) from error


def _meaning(comment: str | None) -> dict[str, str] | None:
    if comment is None:
        return None
    unit = _UNIT.search(comment)
    return {"meaning": comment} | ({"unit": unit[1]} if unit else {})


def _selected(field: pa.Field) -> str:
    name = quote(field.name).replace("%", "%%")
    return f"to_json({name})" if field.type == TEXT_LIST else name


def _table(text: io.BytesIO, schema: pa.Schema) -> pa.Table:
    """Read COPY's CSV: NULL is an empty field, the empty string a quoted one."""
    table = csv.read_csv(
        pa.py_buffer(text.getbuffer()),
        read_options=csv.ReadOptions(column_names=schema.names, block_size=text.tell()),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={field.name: TEXT if field.type == TEXT_LIST else field.type for field in schema},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )
    columns = [
        _lists(table[field.name]) if field.type == TEXT_LIST else table[field.name] for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _lists(texts: pa.ChunkedArray) -> pa.Array:
    encoded: Any = texts.combine_chunks()
    lists = [None if text is None else orjson.loads(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(lists, TEXT_LIST).take(encoded.indices)
