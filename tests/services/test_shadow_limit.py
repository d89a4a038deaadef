"""The gate asks how much a version has forecast as a shadow; the figure is read from the topic of forecasts."""

from __future__ import annotations

import hashlib

import pytest
from confluent_kafka import Producer

from data.models.registry import Registry, Version
from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.codec import encode
from data.stream.records import PREDICTIONS, End, Purpose, Shadow
from data.times import NS
from offline.checks.shadows import ShadowLimit, asked_shadows, shadow_horizons
from offline.promotion import gate
from offline.promotion.gate import judge
from tests.broker import Broker
from tests.fakes import FakeRegistry
from tests.models import NO_ROWS, SPEC, model_file
from tests.services.test_export import prediction

TWELFTH_NS = 5 * NS


def record(
    digest: str, twelfth: int, *, source: str = "a", product: str = "BTC-USD", purpose: Purpose = "replay",
    in_sample: bool = False,
) -> bytes:  # fmt: skip
    """Return a forecast in a twelfth of a horizon, with two shadows."""
    shadows = [
        Shadow("ml", "3", 2e-4, digest="0" * 64, in_sample=False),
        Shadow("ml", "4", 2e-4, digest=digest, in_sample=in_sample),
    ]
    time = (1_000_000 + twelfth) * TWELFTH_NS - NS
    return encode(prediction(source, product, purpose=purpose, event_time=time, shadow=shadows))


def test_horizons_of_a_shadow_are_counted_once_in_all_sources(broker: Broker) -> None:
    """BTC-USD has 24 twelfths, in two sources, and ETH-USD 12: three horizons. All else is a reason not to count."""
    digest = b"shadow".hex().ljust(64, "a")
    counted = [record(digest, i, source=source) for i in range(24) for source in ("a", "b")]
    counted += [record(digest, i, product="ETH-USD") for i in range(12)]
    others = [record(digest, 100 + i, purpose="drill") for i in range(12)]
    others += [record(digest, 200 + i, in_sample=True) for i in range(12)]
    others += [record("b" * 64, 300 + i) for i in range(12)]
    others += [encode(prediction("a", digest=digest)), b"no JSON " + digest.encode()]
    others.append(encode(End("a", "BTC-USD", "replay", 1, end=True)))
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for i, value in enumerate(counted + others):
        producer.produce(PREDICTIONS, value, partition=i % 12)
    assert producer.flush(30) == 0
    settings = KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers)
    assert shadow_horizons(settings, SPEC, digest) == 3
    assert shadow_horizons(settings, SPEC, "c" * 64) == 0
    asked = asked_shadows(4, settings, SPEC)
    assert asked is not None
    assert (asked.least, asked.count(digest)) == (4, 3)


def test_without_a_limit_no_broker_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:9")
    assert asked_shadows(0, nobody, SPEC) is None
    monkeypatch.setattr("data.stream.reader.PATIENCE_S", 0.2)
    asked = asked_shadows(1, nobody, SPEC)
    assert asked is not None
    with pytest.raises(NotRead):
        asked.count("c" * 64)


@pytest.mark.parametrize(("horizons", "is_met"), [(999, False), (1_000, True)])
def test_the_gate_refuses_with_figure_and_limit(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, horizons: int, is_met: bool
) -> None:
    file = model_file(version="5")
    registry.challengers = {file.name: file}
    asked: list[str] = []

    def count(digest: str) -> int:
        asked.append(digest)
        return horizons

    monkeypatch.setattr(gate, "history", lambda *_: [])
    wanted = Version(file.name, "5", {"digest": file.digest}, "")
    given = {"inputs": NO_ROWS, "spec": SPEC}
    verdict = judge(Registry(registry.uri), wanted, **given, shadows=ShadowLimit(1_000, count))  # type: ignore[arg-type]
    [found] = [each for each in verdict.conditions if each.name == "shadow horizons"]
    assert (found.is_met, found.found, found.allowed) == (is_met, f"{horizons:,}", "1,000 or more")
    assert verdict.evidence["condition shadow horizons"] == f"{horizons:,}; allowed is 1,000 or more"
    assert asked == [hashlib.sha256(file.model_bytes).hexdigest()]
    usual = judge(Registry(registry.uri), wanted, **given)  # type: ignore[arg-type]
    assert "shadow horizons" not in {each.name for each in usual.conditions}
