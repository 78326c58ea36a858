"""A JSON schema as it is given, checked for what the engine would let pass: keys that JSON Schema has not, and objects
that hold themselves without an end."""

import json
from collections.abc import Iterator
from typing import Any

from ssft.errors import GenerationError, nearest
from ssft.files import parse_json
from ssft.schema import shown

_OF_ONE = (
    *("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else", "contentSchema"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_OF_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
_OF_NAMES = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_OTHERS = (
    *("$schema", "$id", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$comment", "$vocabulary", "id"),
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("type", "enum", "const", "format", "pattern", "minLength", "maxLength", "contentEncoding", "contentMediaType"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"),
    *("uniqueItems", "minContains", "maxContains", "minProperties", "maxProperties", "required", "dependencies"),
    "dependentRequired",
)
_KNOWN = {*_OF_ONE, *_OF_SEVERAL, *_OF_NAMES, *_OTHERS}
_DEEPEST = 100
"""Schemas in schemas; the engine's own bound is a little higher."""


def schema_text(schema: dict[str, Any] | str) -> str:
    """The schema as JSON text; raises `GenerationError` for one that is no JSON or has a key that is no keyword."""
    try:
        value = parse_json(schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False))
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise GenerationError(f"json_schema is no JSON ({error}); give a schema as a dict or as JSON text") from error
    if not isinstance(value, dict):
        raise GenerationError(
            f"json_schema is {shown(value)}, expected a JSON object; give one, such as {{}} for any JSON"
        )
    _check_keys(value, "json_schema", _DEEPEST)
    _check_ends(value)
    return text


def _check_keys(schema: Any, place: str, depth: int) -> None:
    if not isinstance(schema, dict):
        return
    if not depth:
        raise GenerationError(f"json_schema has schemas in more than {_DEEPEST} schemas; make it flatter with $ref")
    for key in schema:
        if key not in _KNOWN:
            hint = nearest(key, _KNOWN) or "leave it out"
            raise GenerationError(f"{place} has the key {shown(key)}, which JSON Schema does not know; {hint}")
    for name, inner in _inner(schema):
        _check_keys(inner, f"{place}.{name}", depth - 1)


def _inner(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas right inside one, by the path that leads to them."""
    for key, value in schema.items():
        if key in _OF_ONE:
            yield key, value
        if key in (*_OF_SEVERAL, "items") and isinstance(value, list):
            yield from ((f"{key}[{i}]", inner) for i, inner in enumerate(value))
        if key in _OF_NAMES and isinstance(value, dict):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())


def _check_ends(root: Any) -> None:
    """Raise `GenerationError` where a value of the schema would have to hold itself: no text of it has an end."""
    known: set[str] = set()
    targets = _references(root)
    while found := {name for name, target in targets.items() if name not in known and _ends(target, known)}:
        known |= found
    if not _ends(root, known):
        raise GenerationError(
            "json_schema asks for a value that holds itself without an end; leave one key out of a `required`, or "
            "allow another form with `anyOf`"
        )


def _ends(schema: Any, known: set[str]) -> bool:
    """Whether a value may be finite, if those of the references in `known` may."""
    if not isinstance(schema, dict) or "enum" in schema or "const" in schema:
        return True
    inner = [*(schema.get("allOf") or [])]
    if schema.get("type", "object") == "object" and isinstance(schema.get("properties"), dict):
        inner += [schema["properties"].get(name) for name in schema.get("required") or []]
    if schema.get("type") == "array" and schema.get("minItems"):
        inner += [*(schema.get("prefixItems") or []), schema.get("items")]
    choices = [options for key in ("anyOf", "oneOf") if (options := schema.get(key))]
    return (
        schema.get("$ref", "") in {*known, ""}
        and all(_ends(part, known) for part in inner)
        and all(any(_ends(option, known) for option in options) for options in choices)
    )


def _references(root: Any) -> dict[str, Any]:
    """What every local `$ref` of the schema points to; the engine complains of those that point to nothing."""
    found: dict[str, Any] = {}

    def look(schema: Any) -> None:
        if isinstance(schema, dict):
            if isinstance(name := schema.get("$ref"), str) and name not in found:
                found[name] = target = _target(root, name)
                look(target)
            for _, inner in _inner(schema):
                look(inner)

    look(root)
    return found


def _target(root: Any, reference: str) -> Any:
    value = root
    for part in reference.removeprefix("#").strip("/").split("/") if reference.strip("#/") else ():
        value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value
