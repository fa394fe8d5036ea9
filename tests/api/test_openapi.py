"""The API's description: valid, whole, and honest about its problems."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Server

METHODS = {"get", "put", "post", "delete", "head", "patch"}


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    """What /openapi.json answers to anybody."""
    client = server.client()
    del client.headers["authorization"]
    return client.get("/openapi.json").json()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named
    assert named <= set(schemas)


def test_operations_have_ids_of_their_own_and_words(document: dict[str, Any]) -> None:
    operations = [o for path in document["paths"].values() for m, o in path.items() if m in METHODS]
    ids = [o["operationId"] for o in operations]
    assert len(ids) == len(set(ids)) > 60
    assert [o["operationId"] for o in operations if not o.get("description")] == []


def test_errors_are_documented_as_problems(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if status[0] == "4":
                    content = answer["content"]["application/problem+json"]["schema"]
                    assert content == {"$ref": "#/components/schemas/Problem"}, f"{method} {path} {status}"


def test_every_operation_but_health_names_the_key(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert bool(operation.get("security")) == (path not in ("/livez", "/readyz")), path


def test_the_pages_of_the_documentation_are_open(server: Server) -> None:
    client = server.client()
    del client.headers["authorization"]
    assert client.get("/docs").status_code == 200
