"""`make audit` asks for each locked package, and does not call silence a good answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.audit import BATCH, Package, locked_packages, main, vulnerabilities


def database(vulnerable: dict[str, list[str]], asked: list[Any]) -> httpx.Client:
    """Return a client of a database that knows vulnerabilities by the name of a package, and notes each request."""

    def answer(request: httpx.Request) -> httpx.Response:
        queries = json.loads(request.content)["queries"]
        asked.append(queries)
        known = [vulnerable.get(each["package"]["name"], []) for each in queries]
        return httpx.Response(
            200, json={"results": [{"vulns": [{"id": i} for i in each]} if each else {} for each in known]}
        )

    return httpx.Client(transport=httpx.MockTransport(answer))


def test_every_lock_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []
    assert main(database({}, asked)) == 0
    (queries,) = asked
    names = {(each["package"]["ecosystem"], each["package"]["name"]) for each in queries}
    assert {("PyPI", "fastapi"), ("PyPI", "uvicorn"), ("PyPI", "uv"), ("PyPI", "bytewax"), ("npm", "uplot")} <= names
    assert ("Maven", "org.apache.kafka:kafka_2.13") in names
    assert all(each["version"][0].isdigit() for each in queries)
    assert len(queries) == len(locked_packages()) > 200
    assert capsys.readouterr().out.endswith(" locked packages, 0 with a known vulnerability\n")


def test_a_vulnerable_package_is_named_with_its_lock(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(database({"uplot": ["GHSA-1", "CVE-2"]}, [])) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("uplot 1.")
    assert said[0].endswith("(online/http/static/package-lock.json): GHSA-1, CVE-2")


def test_many_packages_are_asked_for_in_several_requests() -> None:
    asked: list[Any] = []
    packages = [Package("PyPI", f"p{number}", "1.0", "lock") for number in range(BATCH + 1)]
    found = vulnerabilities(packages, database({"p0": ["A"], f"p{BATCH}": ["B"]}, asked))
    assert [len(each) for each in asked] == [BATCH, 1]
    assert found == {packages[0]: ["A"], packages[-1]: ["B"]}


@pytest.mark.parametrize(
    "answer",
    ["away", httpx.Response(503), httpx.Response(200, text="{"), httpx.Response(200, json={}),
     httpx.Response(200, json={"results": []})],
)  # fmt: skip
def test_a_database_that_does_not_answer_is_said_in_a_sentence(
    answer: httpx.Response | str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, str):
            raise httpx.ConnectError("no such host", request=request)
        return answer

    assert main(httpx.Client(transport=httpx.MockTransport(fail))) == 0
    said = capsys.readouterr().out
    assert said.startswith("nothing was checked: the database of known vulnerabilities gives no answer")
    assert said.count("\n") == 1
