"""The table of proofs: each has its line, whatever became of it, and the exit code stays pytest's."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


def test_each_proof_has_a_line_and_a_failure_shows_as_such(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["tests.proofs"]')
    pytester.makepyfile(
        """
        import pytest

        def test_good(proof):
            proof.disturbs("nothing")
            proof.saw(back_after_s=1.23456, rows=6000)
            proof.equal([1, 2], [1, 2], "rows")

        def test_bad(proof):
            proof.saw(rows=7)
            proof.equal([1, 2], [1, 3, 4], "rows")

        @pytest.fixture
        def absent():
            pytest.skip("no mount here")

        def test_away(absent, proof): ...

        def test_no_proof(): ...
        """
    )
    result = pytester.runpytest_inprocess("-m", "proof", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1, skipped=1, deselected=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = [line for line in result.outlines if line.startswith("│")]
    text = " ".join(" ".join(lines).split())
    assert "good │ nothing │ back_after_s 1.23 │ passed" in text
    assert "rows 6,000 │ rows equal" in text
    assert "bad │ │ rows 7 │ FAILED" in text
    assert "rows NOT EQUAL" in text
    assert "away │ │ │ skipped:" in text
    assert "no proof" not in text
    assert any("2 found, 3 expected; the first that differs is number 1: found 2" in line for line in result.outlines)


def test_an_interrupted_proof_has_not_passed(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["tests.proofs"]')
    pytester.makepyfile("import pytest\n\ndef test_long(proof):\n    pytest.exit('stopped by a person')")
    result = pytester.runpytest_inprocess("-m", "proof", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert [line.split("│")[4].strip() for line in result.outlines if line.startswith("│")] == ["unfinished"]
