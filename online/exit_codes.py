"""How a process ends, for whoever supervises it."""

from __future__ import annotations

REFUSED = 2
"""No restart helps before a person has acted; the log says how."""
AGAIN = 75
"""The cause lies outside, and a new process goes on. EX_TEMPFAIL of sysexits.h."""
