"""Jobs for a person to launch: replay, ingest, simulate, backfill, promote, rollback.

In: the config of a run. Out: a call of `offline`, or an ingestor process.
"""
