"""What drivers do: both protocols, COPY, large messages, errors in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import socket
import struct
import subprocess

import psycopg2
import pytest

ROWS = 300_000


def test_copy_goes_both_ways(connect, run, table):
    connection = connect()
    sent = "".join(f"{number}\trow {number}\n" for number in range(ROWS))
    with connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(sent))
        assert cursor.rowcount == ROWS
        received = io.StringIO()
        cursor.copy_expert(f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT", received)
    assert received.getvalue() == sent


def test_a_copy_that_fails_early_leaves_the_session_usable(connect, run, table):
    connection = connect()
    wrong = "1\tfine\nwrong\n" + "2\tfine\n" * 500_000
    with connection.cursor() as cursor, pytest.raises(psycopg2.errors.InvalidTextRepresentation):
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(wrong))
    assert run(connection, f"SELECT count(*) FROM {table}") == [(0,)]
    with connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO("1\tfine\n"))
    assert run(connection, f"SELECT count(*) FROM {table}") == [(1,)]


def test_a_statement_of_several_megabytes(connect, run, table):
    text = "ü" * 4_000_000
    connection = connect()
    run(connection, f"INSERT INTO {table} VALUES (1, %s)", text)
    assert run(connection, f"SELECT text FROM {table}") == [(text,)]


def test_a_large_answer_is_complete_while_others_work(connect, run):
    first, second = connect(), connect()
    with first.cursor() as cursor:
        cursor.execute(f"SELECT g, repeat('x', 100) FROM generate_series(1, {ROWS}) AS g")
        assert run(second, "SELECT 1") == [(1,)]
        assert sum(1 for _ in cursor) == ROWS


def test_an_error_in_a_query_of_several_statements_undoes_them_all(connect, run, table):
    connection = connect()
    with pytest.raises(psycopg2.errors.DivisionByZero):
        run(
            connection,
            f"INSERT INTO {table} VALUES (1, 'x'); SELECT 1/0; INSERT INTO {table} VALUES (2, 'x')",
        )
    assert run(connection, f"SELECT count(*) FROM {table}") == [(0,)]
    assert run(connection, f"INSERT INTO {table} VALUES (1, 'x'); SELECT count(*) FROM {table}") == [(1,)]


def test_psycopg_with_parameters_pipeline_and_binary_copy(uri, table):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(uri) as connection:
        rows = [(number, f"text {number}") for number in range(500)]
        connection.cursor().executemany(f"INSERT INTO {table} VALUES (%s, %s)", rows)
        assert (
            connection.execute(f"SELECT * FROM {table} WHERE id < %s ORDER BY id", (2,)).fetchall()
            == rows[:2]
        )
        connection.commit()
        with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "text"])
            for row in rows:
                copy.write_row(row)
        connection.commit()
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1000,)
        with connection.cursor(name="portal") as cursor:
            assert len(cursor.execute(f"SELECT * FROM {table}").fetchall()) == 1000


def test_an_error_in_the_middle_of_a_batch_skips_the_rest_of_it(uri, table):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(uri, autocommit=True) as connection:

        def batch() -> None:
            with connection.pipeline():
                connection.execute(f"INSERT INTO {table} VALUES (1, %s)", ("x",))
                connection.execute("SELECT 1 / %s::int", (0,))
                connection.execute(f"INSERT INTO {table} VALUES (2, %s)", ("x",))

        with pytest.raises(psycopg.errors.DivisionByZero):
            batch()
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_asyncpg_prepares_fetches_and_copies(uri, table):
    asyncpg = pytest.importorskip("asyncpg")

    async def work() -> None:
        first, second = await asyncpg.connect(uri), await asyncpg.connect(uri)
        rows = [(number, f"text {number}") for number in range(1000)]
        await first.copy_records_to_table(table, records=rows)
        for connection in (first, second):
            statement = await connection.prepare(f"SELECT text FROM {table} WHERE id = $1")
            assert await statement.fetchval(5) == "text 5"
        with pytest.raises(asyncpg.DivisionByZeroError):
            await first.fetchval("SELECT 1 / $1::int", 0)
        async with first.transaction():
            cursor = [
                row["id"] async for row in first.cursor(f"SELECT id FROM {table} ORDER BY id", prefetch=50)
            ]
        assert cursor == list(range(1000))
        assert await second.fetchval(f"SELECT count(*) FROM {table}") == 1000
        await first.reset()
        await first.close()
        await second.close()

    asyncio.run(work())


def test_an_unnamed_statement_survives_another_clients(uri):
    asyncpg = pytest.importorskip("asyncpg")

    async def work() -> None:
        first = await asyncpg.connect(uri, statement_cache_size=0)
        second = await asyncpg.connect(uri, statement_cache_size=0)

        async def ask(connection: object, added: int) -> list[int]:
            return [await connection.fetchval(f"SELECT $1::int + {added}", n) for n in range(50)]

        answers = await asyncio.gather(ask(first, 1), ask(second, 100))
        assert answers == [[n + 1 for n in range(50)], [n + 100 for n in range(50)]]
        await first.close()
        await second.close()

    asyncio.run(work())


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql_describes_a_table(uri, table):
    done = subprocess.run(
        ["psql", uri, "-c", f"\\d {table}"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "bigint" in done.stdout


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!ii", 8, 196608),
        struct.pack("!ii", 3, 0),
        struct.pack("!i", -5) + b"xxxx",
        b"\0" * 100,
        struct.pack("!ii", 1000, 196608),
    ],
    ids=["HTTP", "empty startup", "short length", "negative length", "zeros", "half a packet"],
)
def test_a_client_that_speaks_nonsense_harms_no_one(uri, connect, run, bytes_sent):
    directory = uri.partition("host=")[2].partition("&")[0]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{directory}/.s.PGSQL.5432")
        client.sendall(bytes_sent)
        client.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            client.recv(1000)
    assert run(connect(), "SELECT 1") == [(1,)]
