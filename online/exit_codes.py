"""What exit codes of our processes mean, and what an ingestor is told when it is started again."""

from __future__ import annotations

REFUSED = 2
"""No restart helps before a person has acted; the log says how."""
AGAIN = 75
"""The cause lies outside, and a new process goes on. EX_TEMPFAIL of sysexits.h."""

RESTARTED = {"INGESTOR_RESTARTED": "true"}
"""Environment of an ingestor in the place of a dead one: where that one had ended its source, nothing has failed."""
