"""What a package exports is what its `__all__` says: sorted, there, and complete."""

import importlib
import pkgutil
import types

import pytest

PACKAGES = ["jobwire_broker", "jobwire_cli", "jobwire_client", "jobwire_gateway", "jobwire_worker"]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_every_name_in_it_is_there(name: str) -> None:
    package = importlib.import_module(name)
    exported = getattr(package, "__all__", [])
    assert list(exported) == sorted(set(exported), key=str)
    assert [export for export in exported if not hasattr(package, export)] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_of_a_package_is_in_all(name: str) -> None:
    package = importlib.import_module(name)
    submodules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    public = {
        attribute
        for attribute, value in vars(package).items()
        if not attribute.startswith("_") and attribute not in submodules and not isinstance(value, types.ModuleType) and attribute != "annotations"
    }
    assert public - set(getattr(package, "__all__", [])) == set()


@pytest.mark.parametrize("name", ["jobwire_client", "jobwire_worker"])
def test_a_package_of_users_has_private_modules_and_errors_alone(name: str) -> None:
    package = importlib.import_module(name)
    open_modules = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    assert open_modules <= {"errors"}
