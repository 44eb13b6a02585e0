"""The only place that talks to PostgreSQL: connect, write, read, schema, policies, upkeep."""
