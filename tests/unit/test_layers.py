"""Imports point one way, and each package knows only what it may know. Imports under `if TYPE_CHECKING` count as well."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

ROOTS = {
    "jobwire_broker": "broker",
    "jobwire_gateway": "gateway",
    "jobwire_worker": "worker_sdk/python",
    "jobwire_client": "clients/python",
    "jobwire_cli": "clients/cli",
}

# What each package may import beside the standard library, the contract and itself.
OUTSIDE = {
    "jobwire_broker": {"grpc", "google", "redis", "hiredis", "uvloop", "grpc_health", "grpc_reflection", "prometheus_client", "jwt", "cryptography", "yaml"},
    "jobwire_gateway": {"grpc", "google", "starlette", "sse_starlette", "uvicorn", "uvloop", "httptools", "prometheus_client", "limits", "websockets"}
    | {"httpcore", "yaml", "jobwire_worker"},  # of webhooks alone, see below
    "jobwire_worker": {"grpc", "google"},
    "jobwire_client": {"grpc", "google"},
    "jobwire_cli": {"grpc", "typer", "rich", "structlog", "yaml", "jobwire_broker", "jobwire_gateway", "jobwire_worker", "jobwire_client"},
}

# The layers of the broker, from the top down: a module imports from its own layer and from those below. What is in none is shared by all.
BROKER_LAYERS = ("services", "rules", "store")


def modules(package: str) -> Iterator[tuple[str, Path]]:
    folder = REPOSITORY / ROOTS[package] / package
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(module: str, path: Path) -> Iterator[str]:
    """The absolute names of everything that a module imports, wherever the import stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            yield from (f"{source}.{name.name}" for name in node.names)


def under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", ROOTS)
def test_a_package_imports_only_what_it_may_know(package: str) -> None:
    allowed = OUTSIDE[package] | {package, "jobwire"} | set(sys.stdlib_module_names)
    wrong = [f"{module}: {name}" for module, path in modules(package) for name in imports(module, path) if name.split(".")[0] not in allowed]
    assert wrong == []


def test_only_the_store_package_knows_redis() -> None:
    wrong = [
        f"{module}: {name}"
        for package in ROOTS
        for module, path in modules(package)
        if not under(module, "jobwire_broker.store")
        for name in imports(module, path)
        if under(name, "redis") or under(name, "hiredis")
    ]
    assert wrong == []


def test_a_gateway_without_webhooks_needs_nothing_of_theirs() -> None:
    wrong = [
        f"{module}: {name}"
        for module, path in modules("jobwire_gateway")
        if not under(module, "jobwire_gateway.webhooks")
        for name in imports(module, path)
        if any(under(name, theirs) for theirs in ("httpcore", "yaml", "jobwire_worker", "jobwire_gateway.webhooks"))
    ]
    assert wrong == []


def test_imports_in_the_broker_point_down() -> None:
    wrong = []
    for module, path in modules("jobwire_broker"):
        above = BROKER_LAYERS[: layer_of(module)]
        wrong += [f"{module}: {name}" for name in imports(module, path) if any(under(name, f"jobwire_broker.{layer}") for layer in above)]
    assert wrong == []


def layer_of(module: str) -> int:
    """The number of a module's layer. The entry points stand above all; what is shared by all, below all: it may import no layer."""
    for number, layer in enumerate(BROKER_LAYERS):
        if under(module, f"jobwire_broker.{layer}"):
            return number
    return 0 if module in ("jobwire_broker", "jobwire_broker.server", "jobwire_broker.__main__") else len(BROKER_LAYERS)


@pytest.mark.parametrize("package", ["jobwire_worker", "jobwire_client"])
def test_a_package_of_users_uses_the_google_namespace_for_protobuf_alone(package: str) -> None:
    found = {name for module, path in modules(package) for name in imports(module, path) if under(name, "google")}
    assert all(under(name, "google.protobuf") for name in found)
