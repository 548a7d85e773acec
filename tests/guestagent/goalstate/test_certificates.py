"""How long a certificate stays: as long as the host, or anybody's settings on disk, names it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestagent.certificates import GRACE, Keyring
from tests.guestagent.goalstate.conftest import Fabric
from wire.errors import HostError
from wire.extensions import ExtensionsGoalState, Handler, Settings
from wire.http import HttpClient
from wire.wireserver import WireServer


class Machine:
    """A library directory, and a clock that stands until it is moved."""

    def __init__(self, root: Path, fabric: Fabric, client: HttpClient) -> None:
        self.lib, self.state, self.now = root / "lib", root / "state", 1_900_000_000.0
        self.lib.mkdir()
        self.fabric = fabric
        self._wireserver = WireServer(client, fabric.wireserver)

    def keyring(self) -> Keyring:
        """As after a restart."""
        return Keyring(self.lib, self.state, clock=lambda: self.now)

    def fetch(self, keyring: Keyring) -> tuple[str, ...]:
        keyring.fetch(self._wireserver, self._wireserver.goal_state().certificates_url)
        return keyring.thumbprints

    def rotate(self) -> None:
        self.fabric.api("POST", "/api/certificates/rotate", {})

    def settings_name(self, thumbprint: str, folder: str = "Contoso.Tools.Greeter-1.0.0") -> Path:
        inner = {"publicSettings": {}, "protectedSettings": "MIIB", "protectedSettingsCertThumbprint": thumbprint}
        path = self.lib / folder / "config" / "3.settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"runtimeSettings": [{"handlerSettings": inner}]}))
        return path

    def has(self, thumbprint: str) -> bool:
        found = {(self.lib / f"{thumbprint}.{end}").exists() for end in ("crt", "prv")}
        assert len(found) == 1
        return found.pop()


@pytest.fixture
def machine(tmp_path: Path, fabric: Fabric) -> Iterator[Machine]:
    client = HttpClient("test")
    yield Machine(tmp_path, fabric, client)
    client.close()


def test_a_rotated_certificate_goes_after_a_grace_and_only_if_nobody_names_it(machine: Machine) -> None:
    # Somebody else's, which nobody told us of.
    foreign = "F" * 40
    for end in ("crt", "prv"):
        (machine.lib / f"{foreign}.{end}").write_bytes(b"")
    keyring = machine.keyring()
    (named,) = machine.fetch(keyring)
    settings = machine.settings_name(named)
    machine.rotate()
    (unnamed,) = machine.fetch(keyring)
    machine.rotate()
    keyring = machine.keyring()
    (listed,) = machine.fetch(keyring)
    machine.now += GRACE - 1
    assert keyring.remove_retired([]) == []
    machine.now += 2
    # The clock of retirement runs through a restart.
    keyring = machine.keyring()
    assert keyring.remove_retired([]) == [unnamed]
    assert [machine.has(one) for one in (named, unnamed, listed, foreign)] == [True, False, True, True]
    settings.write_bytes(b"")
    assert keyring.remove_retired([]) == [named]
    assert [machine.has(one) for one in (named, listed, foreign)] == [False, True, True]
    machine.now += 100 * GRACE
    assert machine.keyring().remove_retired([]) == []


def test_a_goal_state_names_certificates_too_and_a_file_that_cannot_be_read_names_all(machine: Machine) -> None:
    keyring = machine.keyring()
    (old,) = machine.fetch(keyring)
    machine.rotate()
    machine.fetch(keyring)
    machine.now += GRACE + 1
    settings = Settings(sequence_number=0, protected="MIIB", thumbprint=old)
    handler = Handler(name="a.b", version="1", state="enabled", settings=(settings,))
    goal_state = ExtensionsGoalState(id="x", source="Fabric", handlers=(handler,))
    assert keyring.remove_retired([goal_state]) == []
    unreadable = machine.lib / "a.b-1" / "config" / "0.settings"
    unreadable.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        keyring.remove_retired([])
    assert machine.has(old)
    unreadable.rmdir()
    assert keyring.remove_retired([]) == [old]


def test_a_certificate_that_is_listed_again_is_not_retired(machine: Machine) -> None:
    keyring = machine.keyring()
    (one,) = machine.fetch(keyring)
    assert keyring.fetch(WireServer(HttpClient("test"), ""), "") == ()
    assert keyring.thumbprints == ()
    assert machine.fetch(keyring) == (one,)
    machine.now += 2 * GRACE
    assert keyring.remove_retired([]) == []
    assert keyring.is_whole()
    (machine.lib / f"{one}.crt").unlink()
    assert not keyring.is_whole()


def test_what_protected_settings_lack_is_certificate_and_key(machine: Machine) -> None:
    keyring = machine.keyring()
    (one,) = machine.fetch(keyring)

    def lacking(thumbprint: str, protected: str | None = "MIIB") -> list[str]:
        settings = Settings(sequence_number=0, protected=protected, thumbprint=thumbprint)
        handler = Handler(name="a.b", version="1", state="enabled", settings=(settings,))
        return keyring.lacking(ExtensionsGoalState(id="x", source="FastTrack", handlers=(handler,)))

    assert lacking(one) == []
    assert lacking("A" * 40) == ["A" * 40]
    assert lacking("../" * 5) == ["../" * 5]
    assert lacking("A" * 40, protected=None) == []
    (machine.lib / f"{one}.prv").unlink()
    assert lacking(one) == [one]


def test_a_failure_leaves_what_was_listed(machine: Machine) -> None:
    keyring = machine.keyring()
    before = machine.fetch(keyring)
    machine.fabric.fault("certificates", "status", 503, count=2)
    with pytest.raises(HostError, match="503"):
        machine.fetch(keyring)
    assert keyring.thumbprints == before


def test_a_damaged_memory_removes_nothing(machine: Machine) -> None:
    (old,) = machine.fetch(machine.keyring())
    (machine.state / "certificates.json").write_bytes(b"{")
    machine.rotate()
    keyring = machine.keyring()
    machine.fetch(keyring)
    machine.now += 2 * GRACE
    assert keyring.remove_retired([]) == []
    assert machine.has(old)
