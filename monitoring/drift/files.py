"""Names of the files with which the drift process is called, and the process's exit code."""

REFERENCE, CURRENT = "reference.parquet", "current.parquet"
CALIBRATION, FINDINGS, HTML = "calibration.json", "findings.json", "drift.html"
BAD_FRAMES = 2
"""Exit code for frames that cannot be judged; the reason is the last line of the error output."""
