"""Datasette over a table in memory."""

from datasette.app import Datasette

app = Datasette(memory=True, settings={"sql_time_limit_ms": 5000}).app()
