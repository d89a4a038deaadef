"""The table of proofs, where other processes run the tests."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


def test_a_proof_in_another_process_has_its_line(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["tests.proofs"]')
    pytester.makepyfile(
        """
        def test_good(proof):
            proof.disturbs("nothing")
            proof.saw(rows=6000)
            proof.equal([1, 2], [1, 2], "rows")
        """
    )
    result = pytester.runpytest_inprocess("-n", "1", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    lines = [line for line in result.outlines if line.startswith("│")]
    text = " ".join(" ".join(lines).split())
    assert "good │ nothing │ rows 6,000 │ passed" in text
    assert "rows equal" in text
