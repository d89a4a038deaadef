"""Limits of recordings: a file of a few kilobytes may hold gigabytes, and a line may have no end."""

from __future__ import annotations

from typing import Final, NamedTuple, Self

from data.names import BeyondLimit
from data.settings import RecordingSettings

RATIO_FROM: Final = 64 * 10**6
"""Unpacked bytes from which the ratio counts: a small file may be all alike."""
MB, GB = 10**6, 10**9


class RecordingLimits(NamedTuple):
    """What a recording may hold; see `RecordingSettings`.

    Attributes:
        line_bytes: of a line, or of a JSON value.
        rows: lines of a text, rows of a Parquet file.
        unpacked_bytes: of a packed file.
        ratio: unpacked bytes for each byte of a packed file.
        products: different products, or names in their place.
    """

    line_bytes: int
    rows: int
    unpacked_bytes: int
    ratio: int
    products: int

    @classmethod
    def here(cls) -> Self:
        """Return the limits of the environment."""
        found = RecordingSettings()
        return cls(
            found.recording_max_line_mb * MB,
            found.recording_max_rows,
            found.recording_max_gb * GB,
            found.recording_max_ratio,
            found.recording_max_products,
        )

    def check_line(self, size: int, what: str = "a line", where: str = "from there on") -> None:
        """Raise BeyondLimit if a line, or a part of it, is too long."""
        if size > self.line_bytes:
            raise BeyondLimit(
                f"{what} has more than {self.line_bytes // MB} MB, the limit RECORDING_MAX_LINE_MB, so it is no "
                f"recording {where}"
            )

    def check_rows(self, rows: int) -> None:
        """Raise BeyondLimit if a file has too many rows."""
        if rows > self.rows:
            raise BeyondLimit(f"it has more than {self.rows:,} lines or rows, the limit RECORDING_MAX_ROWS")

    def check_products(self, products: int) -> None:
        """Raise BeyondLimit if a file names too many products."""
        if products > self.products:
            raise BeyondLimit(f"it names more than {self.products:,} products, the limit RECORDING_MAX_PRODUCTS")

    def check_unpacked(self, size: int, packed_size: int) -> None:
        """Raise BeyondLimit if a packed file of `packed_size` bytes has become too large.

        Args:
            size: unpacked bytes up to here.
        """
        if size > self.unpacked_bytes:
            raise BeyondLimit(f"it unpacks to more than {self.unpacked_bytes // GB} GB, the limit RECORDING_MAX_GB")
        if size > max(RATIO_FROM, self.ratio * packed_size):
            raise BeyondLimit(
                f"its {packed_size:,} bytes unpack to more than {self.ratio} times as many, the limit "
                "RECORDING_MAX_RATIO"
            )
