"""The part of SARIF 2.1.0 that a report uses, object by object as the OASIS schema names them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field

SCHEMA_URI = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base: camelCase names, and what has its default is left out."""


class Message(_Object, frozen=True, kw_only=True):
    """Text for a person, in plain form and in Markdown."""

    text: str
    markdown: str | None = None


class ArtifactLocation(_Object, frozen=True, kw_only=True):
    """A file: a percent-encoded URI relative to the base."""

    uri: str
    uri_base_id: str | None = None


class Region(_Object, frozen=True, kw_only=True):
    """A line, counted from 1.  GitHub asks for columns too, and which are meant is not known."""

    start_line: int
    start_column: int
    end_line: int
    end_column: int


class PhysicalLocation(_Object, frozen=True, kw_only=True):
    """A line of a file."""

    artifact_location: ArtifactLocation
    region: Region


class LogicalLocation(_Object, frozen=True, kw_only=True):
    """A layer of the model, or an operator."""

    name: str
    kind: str


class Location(_Object, frozen=True, kw_only=True):
    """Where a result is shown."""

    physical_location: PhysicalLocation
    logical_locations: list[LogicalLocation] = field(default_factory=list)
    message: Message | None = None


class Configuration(_Object, frozen=True, kw_only=True):
    """The level of a rule's results unless a result says another."""

    level: str


class Rule(_Object, frozen=True, kw_only=True):
    """A reportingDescriptor."""

    id: str
    name: str
    short_description: Message
    full_description: Message
    help: Message
    default_configuration: Configuration
    properties: dict[str, Any] = field(default_factory=dict)


class Driver(_Object, frozen=True, kw_only=True):
    """The tool, and the rules that its results name."""

    name: str
    version: str
    semantic_version: str
    rules: list[Rule]


class Tool(_Object, frozen=True, kw_only=True):
    """The tool that made the run."""

    driver: Driver


class Descriptor(_Object, frozen=True, kw_only=True):
    """A reference to a kind of notification."""

    id: str


class Notification(_Object, frozen=True, kw_only=True):
    """Something about the run itself."""

    level: str
    message: Message
    descriptor: Descriptor


class Invocation(_Object, frozen=True, kw_only=True, omit_defaults=False):
    """How the report ended."""

    execution_successful: bool
    exit_code: int
    exit_code_description: str
    tool_execution_notifications: list[Notification]


class Result(_Object, frozen=True, kw_only=True):
    """One divergence."""

    rule_id: str
    rule_index: int = field()
    kind: str
    level: str
    message: Message
    locations: list[Location]
    partial_fingerprints: dict[str, str]
    occurrence_count: int
    baseline_state: str | None = None
    related_locations: list[Location] = field(default_factory=list)
    properties: dict[str, Any] = field(default_factory=dict)


class AutomationDetails(_Object, frozen=True, kw_only=True):
    """The category under which GitHub compares uploads with one another."""

    id: str


class Run(_Object, frozen=True, kw_only=True):
    """All results of a report: GitHub refuses several runs of one tool and category."""

    tool: Tool
    results: list[Result] = field()
    invocations: list[Invocation]
    original_uri_base_ids: dict[str, dict[str, Any]]
    automation_details: AutomationDetails
    column_kind: str
    properties: dict[str, Any] = field(default_factory=dict)


class Log(_Object, frozen=True, kw_only=True):
    """The file."""

    schema: str = field(name="$schema")
    version: str
    runs: list[Run]
