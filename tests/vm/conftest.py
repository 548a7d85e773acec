"""VMs that live for one test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm import rootfs
from tests.vm.machine import Lease, Machine, Manager

MakeMachine = Callable[..., Machine]


@pytest.fixture(scope="session")
def base() -> Path:
    """The VMs' root folder."""
    folder = rootfs.place()
    assert folder.exists(), "the VMs have no root folder yet: make test-vm makes it, as root, within two minutes"
    return folder


@pytest.fixture
def boot(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeMachine]:
    made: list[Machine] = []

    def one(manager: Manager, lease: Lease = "endless", **more: bool) -> Machine:
        # A short name: sockets go there.
        made.append(Machine(base, tmp_path_factory.mktemp("vm"), manager, lease, **more))
        return made[-1]

    yield one
    for machine in made:
        machine.end()
