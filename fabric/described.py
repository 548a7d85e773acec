"""The control API's description, as far as FastAPI cannot see it: msgspec reads the bodies and writes the answers."""

from typing import Annotated, Any

import fastapi
import msgspec

NAMES = Annotated[str, fastapi.Path(max_length=200)]
"""A name in a path."""

_REASONS = {
    400: "The order cannot be carried out, or the body cannot be read",
    403: "The order comes from another site's page",
    404: "There is no such thing",
    409: "There is one already",
    413: "The body is too large",
    415: "The body is not announced as JSON",
    422: "A parameter in the path or the query is not what it should be",
    503: "Another worker of the host is at it",
    507: "The disk or the database takes no more",
}
_REFUSAL: dict[str, Any] = {
    "type": "object",
    "title": "Refusal",
    "properties": {"reason": {"type": "string", "minLength": 1}},
    "required": ["reason"],
    "additionalProperties": False,
}

ORDER = (400, 403, 404, 413, 415)
"""How an order with a JSON body may be refused."""

Responses = dict[int | str, dict[str, Any]]


def schema(kind: Any) -> dict[str, Any]:
    """JSON schema of a type, whole in itself."""
    (whole,), parts = msgspec.json.schema_components((kind,))
    found: dict[str, Any] = _inlined(whole, parts)
    return found


def order(kind: Any) -> dict[str, Any]:
    """For `openapi_extra`: the JSON body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema(kind)}}}}


def package() -> dict[str, Any]:
    """For `openapi_extra`: a body of bytes."""
    content: dict[str, Any] = {"application/zip": {"schema": {}}, "application/octet-stream": {"schema": {}}}
    return {"requestBody": {"required": True, "description": "The zip", "content": content}}


def answers(kind: Any, *refusals: int, more: dict[str, Any] | None = None) -> Responses:
    """For `responses`: what is answered (`more`: further fields), and with which statuses it may be refused."""
    found = schema(kind)
    for name, one in (more or {}).items():
        found["properties"][name] = schema(one)
        found["required"] = [*found.get("required", []), name]
    return {200: {"content": {"application/json": {"schema": found}}}, **refused(*refusals)}


def refused(*statuses: int) -> Responses:
    """`{"reason": ...}` for each."""
    content = {"application/json": {"schema": _REFUSAL}}
    return {one: {"description": _REASONS[one], "content": content} for one in statuses}


def _inlined(part: Any, parts: dict[str, Any]) -> Any:
    """Without references: none of our types holds itself."""
    if isinstance(part, list):
        return [_inlined(one, parts) for one in part]
    if not isinstance(part, dict):
        return part
    if isinstance(reference := part.get("$ref"), str):
        rest = {key: value for key, value in part.items() if key != "$ref"}
        return _inlined({**parts[reference.rpartition("/")[2]], **rest}, parts)
    if (each := part.get("prefixItems")) and all(one == each[0] for one in each):
        # A pair of numbers as a list of two: this all readers of descriptions understand.
        part = {**{key: value for key, value in part.items() if key != "prefixItems"}, "items": each[0]}
    return {key: _inlined(value, parts) for key, value in part.items()}
