"""The published JSON Schema of the report document, made from its records."""

from __future__ import annotations

from typing import Any

import msgspec

from sdc_guard.document.schema import SCHEMA_VERSION, Report
from sdc_guard.document.verdicts import DEFAULT_POLICY, MEANINGS, WORDS
from sdc_guard.records import Value

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12.  A number that JSON cannot hold stands as a ``Value``, by its bits.
    ``x-verdicts`` holds the table of verdicts, what each tool's words map onto, and the default
    policy."""
    (root,), definitions = msgspec.json.schema_components(
        [Report], ref_template="#/$defs/{name}")
    (_,), values = msgspec.json.schema_components([Value], ref_template="#/$defs/{name}")
    by_bits = {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/Value"}]}
    return {
        "$schema": DIALECT,
        "title": f"sdc_guard report, schema_version {SCHEMA_VERSION}",
        **root,
        "$defs": {**values, **{name: _numbers(part, by_bits) for name, part in
                               definitions.items()}},
        "x-verdicts": {"meanings": MEANINGS, "words": WORDS, "default_policy": DEFAULT_POLICY},
    }


def _numbers(schema: Any, by_bits: dict[str, Any]) -> Any:
    """The schema with every float allowed to be written by its bits."""
    if isinstance(schema, list):
        return [_numbers(part, by_bits) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        rest = {key: value for key, value in schema.items() if key != "type"}
        return {**by_bits, **rest}
    return {key: _numbers(value, by_bits) for key, value in schema.items()}
