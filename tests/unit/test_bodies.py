"""Bodies of /predict: the quick reader and the one that reads field by field agree. What is refused: test_api.py."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.features.spec import CONTRACT
from online.http.bodies import BadBody, RequestRows, _read_by_field, read_rows

COLUMNS = ("n", "ret_mean", "ret_std", "ewma_variance_300")

good = st.one_of(st.integers(0, 2**70), st.floats(0, 1e300))
anything = st.one_of(good, st.none(), st.booleans(), st.text(max_size=3), st.floats(allow_nan=False), st.just([]))
rows = st.one_of(
    st.fixed_dictionaries({"n": st.integers(0, 3)}, optional=dict.fromkeys(COLUMNS[1:], good)),
    st.dictionaries(st.sampled_from([*COLUMNS, "other"]), anything),
    anything,
)
documents = st.one_of(
    st.fixed_dictionaries({"rows": st.lists(rows, max_size=3)}, optional={"more": anything}), st.just({}), anything
)


def outcome(read: Any, body: bytes) -> tuple[Any, ...]:
    try:
        found: RequestRows = read(body, COLUMNS)
    except BadBody as bad:
        return tuple(bad.errors)
    return (found.values.shape, found.values.tobytes(), found.ignored)


@given(documents)
def test_any_body_is_read_alike(document: Any) -> None:
    body = msgspec.json.encode(document)
    assert outcome(read_rows, body) == outcome(_read_by_field, body)


def test_a_plain_body_is_read_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the two would agree because they are one."""
    monkeypatch.setattr("online.http.bodies._read_by_field", None)
    first = b'{"n": 3.0, "ret_std": 2e-4, "ret_mean": -0.5}'
    second = b'{"ewma_variance_300": 1, "n": 2, "ret_mean": 0, "ret_std": 0}'
    found = read_rows(b'{"rows": [' + first + b", " + second + b"]}", COLUMNS)
    np.testing.assert_array_equal(found.values, [[3, -0.5, 2e-4, np.nan], [2, 0, 0, 1]])
    assert found.ignored == [[], []]


def test_trends_and_hours_may_be_below_0_and_variances_may_not() -> None:
    columns = (*CONTRACT, "mean_variance", "trend_20", "hour_cos")
    row = b'{"n": 2, "ret_mean": 0, "ret_std": 0, "mean_variance": %s, "trend_20": -0.5, "hour_cos": -1}'
    for read in (read_rows, _read_by_field):
        found = read(b'{"rows": [' + row % b"1" + b"]}", columns)
        np.testing.assert_array_equal(found.values, [[2, 0, 0, 1, -0.5, -1]])
        with pytest.raises(BadBody) as bad:
            read(b'{"rows": [' + row % b"-1" + b"]}", columns)
        assert [error.field for error in bad.value.errors] == ["rows[0].mean_variance"]
