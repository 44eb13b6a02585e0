"""Everything in the schema says what it means."""

from typing import Any


def test_every_view_column_and_function_has_a_comment(tailnet: Any) -> None:
    without = tailnet.query(
        """
        SELECT c.relname || coalesce('.' || a.attname, '') AS name
        FROM pg_class AS c
        LEFT JOIN LATERAL (
            SELECT attname, attnum FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            UNION ALL
            SELECT NULL, 0
        ) AS a ON true
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm')
            AND c.relname NOT LIKE '%%yoyo%%'
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')
            AND CASE a.attnum
                WHEN 0 THEN obj_description(c.oid, 'pg_class')
                ELSE col_description(c.oid, a.attnum)
            END IS NULL
        UNION ALL
        SELECT p.oid::regprocedure::text
        FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
            AND obj_description(p.oid, 'pg_proc') IS NULL
        """
    )
    assert without == []
