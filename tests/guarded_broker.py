"""A real Kafka broker with an authorizer: each user has the user's rights alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka.admin import (  # type: ignore[attr-defined] # its types forget these names
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from orchestration.local.kafka.broker import BrokerConfig
from tests.broker import Broker, free_ports

TYPES = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional id": ResourceType.TRANSACTIONAL_ID}


class Right(NamedTuple):
    """A permission of a user on a topic, a group or a transactional id.

    Attributes:
        name: a name that ends in `*` stands for all names with this prefix.
    """

    user: str
    resource: str
    name: str
    operation: str


def rights_in(document: Path) -> list[Right]:
    """Return the rights in the tables of a document: rows of user, resource, names and operations."""
    row = rf"^\| (\w+) \| ({'|'.join(TYPES)}) \| ([^|]+) \| ([^|]+) \|$"
    return [
        Right(user, resource, name, operation)
        for user, resource, names, operations in re.findall(row, document.read_text(), re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", names)
        for operation in operations.split(", ")
    ]


@dataclass(frozen=True)
class GuardedConfig(BrokerConfig):
    """Config of a broker with a second listener, for users with a password; the first listener has all rights."""

    users_port: int = 0
    users: tuple[str, ...] = field(default=())

    @property
    def users_servers(self) -> str:
        return f"127.0.0.1:{self.users_port}"

    def properties(self) -> str:
        lines = dict(line.split("=", 1) for line in super().properties().splitlines())
        address = f"SASL_PLAINTEXT://{self.users_servers}"
        known = " ".join(f'user_{user}="{password_of(user)}"' for user in self.users)
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        lines |= {
            "listeners": f"{lines['listeners']},{address}",
            "advertised.listeners": f"{lines['advertised.listeners']},{address}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{module} required {known};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # of the listeners without users
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())


def password_of(user: str) -> str:
    return f"{user}-password"


class GuardedBroker(Broker):
    """A broker whose `bootstrap_servers` may do everything; users have `login`."""

    config: GuardedConfig

    def __init__(self, folder: Path, jars: Sequence[Path], users: Iterable[str]) -> None:
        super().__init__(folder, jars)
        port, controller_port, (users_port,) = self.config.port, self.config.controller_port, free_ports(1)
        self.config = GuardedConfig(folder, port, controller_port, users_port, tuple(sorted(users)))

    def login(self, user: str) -> dict[str, str]:
        """Return the environment of a process of a user."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.config.users_servers,
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": user,
            "KAFKA_SASL_PASSWORD": password_of(user),
        }

    def allow(self, rights: Iterable[Right]) -> None:
        """Grant rights."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        for future in admin.create_acls([_entry(AclBinding, right) for right in rights]).values():
            future.result()

    @contextmanager
    def without(self, right: Right) -> Iterator[None]:
        """Take a right away in the block."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        for future in admin.delete_acls([_entry(AclBindingFilter, right)]).values():
            assert len(future.result()) == 1
        try:
            yield
        finally:
            self.allow([right])


def _entry(kind: type[AclBinding], right: Right) -> Any:
    """Return a right as the client's entry, or as the filter that finds the entry."""
    pattern = ResourcePatternType.PREFIXED if right.name.endswith("*") else ResourcePatternType.LITERAL
    name, operation = right.name.removesuffix("*"), AclOperation[right.operation.upper()]
    return kind(TYPES[right.resource], name, pattern, f"User:{right.user}", "*", operation, AclPermissionType.ALLOW)
