"""The jobs that people launch: replay, ingest, simulate, backfill, promote, rollback.

In: a run's config. Out: one call of `offline`, or one ingestor process.
"""
