"""The OpenAPI 3.1 document, made from the declared operations."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from tenement import __version__
from tenement.api import answers
from tenement.api.operation import Need, Operation
from tenement.api.problems import CONTENT_TYPE

_REFS: Final = "#/components/schemas/{name}"
_TENANT: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_DOMAIN: Final = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
_LABEL: Final = r"^(?!..--)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_PATH_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "tenant": {
        "description": "The tenant, as SERVICE:ID.",
        "schema": {"type": "string", "pattern": _TENANT, "maxLength": 127, "examples": ["notes:alice"]},
    },
    "service": {
        "description": "The service.",
        "schema": {"type": "string", "pattern": _LABEL, "maxLength": 63},
    },
    "domain": {
        "description": "The domain.",
        "schema": {"type": "string", "pattern": _DOMAIN, "maxLength": 253},
    },
    "token": {
        "description": "The token's id.",
        "schema": {"type": "string", "pattern": "^[a-z2-7]{8}$"},
    },
}
_NEEDS: Final = {
    Need.ADMIN: "Needs an administrator's token.",
    Need.OWN: "Needs an administrator's token, or the tenant's own.",
    Need.METRICS: "Needs a token made for metrics or an administrator's, unless `metrics_allow` names the "
    "caller's address.",
    Need.PUBLIC: "Needs no token.",
}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The document for all operations that are not pages."""
    public = [each for each in operations if not each.hidden]
    types: list[Any] = [answers.Problem]
    for each in public:
        types += [kind for kind in (each.query, each.body, each.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFS)
    by_type = {str(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for each in public:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, by_type, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tenement",
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, by_type: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    summary = (operation.handler.__doc__ or "").strip().partition("\n")[0]
    found: dict[str, Any] = {
        "operationId": _identifier(operation),
        "summary": summary,
        "description": _NEEDS[operation.need],
        "responses": _responses(operation, by_type),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        parameters += _query_parameters(components[operation.query.__name__])
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        schema = by_type[str(operation.body)]
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if operation.need is Need.PUBLIC:
        found["security"] = []
    return found


def _responses(operation: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase}
    if operation.status != 204:
        schema = by_type[str(operation.answer)] if operation.answer is not None else {"type": "string"}
        good["content"] = {operation.media_type: {"schema": schema}}
    refused = () if operation.need is Need.PUBLIC else (401, 403, 429, 503)
    problem = {"content": {CONTENT_TYPE: {"schema": by_type[str(answers.Problem)]}}}
    return {str(operation.status): good} | {
        str(status): {"description": HTTPStatus(status).phrase, **problem}
        for status in sorted({*operation.problems, *refused})
    }


def _query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(kind)}
        for name, kind in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: a parameter is there, or it is not."""
    found = {key: value for key, value in schema.items() if not (key == "default" and value is None)}
    if "anyOf" in found:
        (only,) = [each for each in found.pop("anyOf") if each != {"type": "null"}]
        found |= only
    if None in found.get("enum", ()):
        found["enum"] = [each for each in found["enum"] if each is not None]
    return found


def _identifier(operation: Operation) -> str:
    module = operation.handler.__module__.rpartition(".")[2]
    return f"{module}_{operation.handler.__name__.strip('_')}"
