"""A hostile tenant tries everything it should not be able to do; each attack also runs unconfined, and works."""

import platform
from collections.abc import Iterator

import pytest

from .conftest import Box
from .hostile import Results, Scene, scene

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are x86-64's")


@pytest.fixture(scope="module")
def scenery(box: Box) -> Iterator[Scene]:
    with scene(box) as found:
        yield found


def succeeded(results: Results) -> dict[str, str]:
    return {name: got for name, (got, _) in results.items() if got is not None}


def test_a_hostile_tenant_gets_nothing_of_others_and_of_the_host(scenery: Scene) -> None:
    tried = scenery.attack()
    broken = succeeded(tried)
    for name, (got, error) in tried.items():
        print(f"{'GOT IT ' if got else 'refused'}  {name}: {got or error}")
    print(f"attacks from inside a tenant: {len(tried)} tried, {len(tried) - len(broken)} refused")
    assert not broken
