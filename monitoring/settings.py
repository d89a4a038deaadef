"""Settings of the exporter."""

from __future__ import annotations

from data.models.settings import RegistrySettings
from data.settings import KafkaSettings, Port, ProcessSettings


class ExporterSettings(ProcessSettings, KafkaSettings, RegistrySettings):
    """Hold the settings of the exporter."""

    exporter_port: Port = 8004
