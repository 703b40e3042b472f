import inspect
import re
import subprocess
import sys
from typing import Any

import pytest

import hytrec_clients
from hytrec.errors import HytrecError
from hytrec_clients import AsyncHytrecClient, HytrecClient, MissingPackageError, errors

PRESENT = "import sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"


def modules_after(code: str) -> set[str]:
    process = subprocess.run([sys.executable, "-c", f"{code}\n{PRESENT}"], capture_output=True, text=True, check=True)
    return set(process.stdout.split())


def test_neither_torch_nor_onnxruntime_nor_the_exporter_is_imported() -> None:
    code = "import hytrec_clients as c; import hytrec_clients.cli; c.HytrecClient().close(); c.AsyncHytrecClient()"
    loaded = modules_after(code)
    assert {"hytrec", "tritonclient", "grpc"} <= loaded
    assert not {"torch", "onnx", "onnxruntime", "hytrec_export"} & loaded


def test_tritonclient_is_imported_only_when_a_client_is_made() -> None:
    assert not {"tritonclient", "grpc", "rich"} & modules_after("import hytrec_clients.cli")


def test_the_exported_names_are_all_there_and_every_error_is_one() -> None:
    assert all(hasattr(hytrec_clients, name) for name in hytrec_clients.__all__)
    assert set(errors.__all__) < set(hytrec_clients.__all__)


def test_the_error_tree_in_the_docstring_is_the_one_in_the_code() -> None:
    drawn = re.findall(r"^( *)(\w+)(?:  |$)", str(errors.__doc__).partition("\n\n")[2], re.MULTILINE)
    parents: dict[int, str] = {}
    for indent, name in drawn:
        parents[len(indent)] = name
        if name != HytrecError.__name__:
            assert getattr(errors, name).__bases__[0].__name__ == parents[len(indent) - 2]
    assert {name for _, name in drawn} == {*errors.__all__, HytrecError.__name__}


def test_both_clients_have_the_same_calls_and_arguments() -> None:
    def calls(kind: type) -> dict[str, list[Any]]:
        public = {n: m for n, m in inspect.getmembers(kind, inspect.isfunction) if not n.startswith("_")}
        return {
            name: [(p.name, p.kind, p.default, p.annotation) for p in inspect.signature(method).parameters.values()]
            for name, method in (public | {"__init__": kind.__init__}).items()  # type: ignore[misc]
        }

    assert calls(HytrecClient) == calls(AsyncHytrecClient)


@pytest.mark.parametrize("kind", [HytrecClient, AsyncHytrecClient])
def test_without_tritonclient_the_pip_command_is_told(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "tritonclient":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    text = "tritonclient is not installed; run: pip install 'hytrec-export[client]'"
    with pytest.raises(MissingPackageError, match=re.escape(text)):
        kind()
