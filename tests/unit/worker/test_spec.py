"""`module:worker` leads to a worker, or the sentence says where the road ends."""

from pathlib import Path

import pytest
from jobwire_worker import RegistrationError, SpecError, Worker
from jobwire_worker._spec import load_worker

MODULE = """
from jobwire_worker import Worker
worker = Worker(queues=["a"])
number = 7
class Place:
    inner = Worker(queues=["b"])
def make():
    return Worker(queues=["c"])
def fails():
    return {}["colour"]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"spec_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package_at_all\n")
    (tmp_path / f"{name}_odd.py").write_text("def worker(:\n")
    (tmp_path / f"{name}_refused.py").write_text("from jobwire_worker import Worker\nworker = Worker(queues=['a b'])\n")
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


@pytest.mark.parametrize(
    ("path", "kind"), [("_broken:worker", "ModuleNotFoundError: .*no_such_package_at_all"), ("_odd:worker", "SyntaxError"), (":fails", "KeyError: 'colour'")]
)
def test_an_error_inside_the_module_is_shown_from_there_on(module: str, path: str, kind: str) -> None:
    with pytest.raises(SpecError, match=kind) as raised:
        load_worker(module + path)
    said = str(raised.value)
    assert f'{module}{path.partition(":")[0]}.py", line' in said
    assert "_spec.py" not in said
    assert "importlib" not in said


def test_a_registration_that_cannot_work_is_told_as_such(module: str) -> None:
    with pytest.raises(RegistrationError, match="cannot be the name of a queue"):
        load_worker(f"{module}_refused:worker")
