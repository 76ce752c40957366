"""What is compiled for tenement-native: `make test` runs the tests beside this one with it."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import NATIVE

ROOT = Path(__file__).parents[3]


def listed() -> list[str]:
    """The modules that the Makefile has compiled."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    ((first, rest),) = re.findall(r"^NATIVE_MODULES = (\S+) \$\(addprefix (.*)\)$", makefile, re.MULTILINE)
    prefix, _, names = rest.partition(",")
    return [first, *(prefix + name for name in names.split())]


@pytest.mark.parametrize("path", listed())
def test_no_module_that_is_compiled_has_coroutines(path: str) -> None:
    """mypyc loses the cancellation of one that awaits another."""
    assert not re.search(r"^\s*async |\bawait ", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.skipif(not NATIVE.is_dir(), reason="nothing is compiled: make test")
@pytest.mark.parametrize("path", listed())
def test_what_is_shipped_compiled_is_tested_compiled(path: str) -> None:
    module = import_module(path.removesuffix(".py").replace("/", "."))
    assert str(module.__file__).endswith(".so")
