"""`module:worker` leads to a worker, or the sentence says where the road ends."""

from pathlib import Path

import pytest
from jobwire_worker import SpecError, Worker
from jobwire_worker._spec import load_worker

MODULE = """
from jobwire_worker import Worker
worker = Worker(queues=["a"])
number = 7
class Place:
    inner = Worker(queues=["b"])
def make():
    return Worker(queues=["c"])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"spec_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return name


@pytest.mark.parametrize(("path", "queue"), [("", "a"), (":worker", "a"), (":Place.inner", "b"), (":make", "c")])
def test_a_spec_leads_to_a_worker_or_to_what_makes_one(module: str, path: str, queue: str) -> None:
    worker = load_worker(module + path)
    assert isinstance(worker, Worker)
    assert worker.options.queues == (queue,)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (":nothing", "has no 'nothing'; it has .*:worker"),
        (":number", "is a int; it must be a Worker"),
        (":a b", "is not 'module:worker'"),
        ("_not_there:worker", "there is no module"),
        (".sub:worker", "there is no module"),
    ],
)
def test_a_spec_that_leads_nowhere_says_so(module: str, path: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load_worker(module + path)


def test_an_error_inside_the_module_rises_as_it_is(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        load_worker(f"{module}_broken:worker")
