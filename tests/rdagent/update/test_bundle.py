"""Bundles into a machine: what is signed and fit lies on the disk then, the rest is refused in one line each."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ipc.contract.rdagent import ImportedBundle
from ipc.places import Places
from rdagent.config import UpdateSettings
from rdagent.update.bundle import BundleError, Bundles
from rdagent.update.install import Installer
from rdagent.update.memory import Memory
from rdagent.update.shelf import Shelf
from release.build import Built, build
from release.bundle import pack_bundle
from release.manifest import Layer
from release.signing import SecretKey, Thresholds, trust_for
from tests.release.product import KEY, OTHER_KEY, checkout, third_party
from wire.http import HttpClient


class Machine:
    """What of rdagent takes bundles, on an empty root."""

    def __init__(self, root: Path) -> None:
        self.places = Places.under(root)
        self.places.trust.mkdir(parents=True)
        (self.places.trust / "release.pub").write_bytes(msgspec.json.encode(KEY.public()))
        self.shelf = Shelf(self.places, lambda name: trust_for(name, self.places.trust, Thresholds()))
        self.memory = Memory(self.places)
        self.floor = "0.0.0"
        client = HttpClient("test")
        self.installer = Installer(self.places, UpdateSettings(), self.shelf, client, set)

    def bundles(self) -> Bundles:
        return Bundles(self.places, self.installer, self.memory, lambda _: self.floor)

    def take(self, path: Path | str) -> ImportedBundle:
        found = asyncio.run(self.bundles().take(str(path)))
        assert not (self.places.state_of("rdagent") / "bundle").exists()
        return found

    def versions(self, component: str = "telemetry") -> list[str]:
        return [one.version for one in self.shelf.on_disk(component)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Built]:
    """A tiny package of a component."""

    def make(component: str, version: str, *, main: str = "pass", key: SecretKey = KEY, out: str = "dist") -> Built:
        source = checkout(tmp_path / f"source-{component}-{version}-{out}", version, main)
        if component != "probe":
            (source / "probe").rename(source / component)
        return build(source, component, tmp_path / out, [key])

    return make


def bundle(path: Path, *packages: Built) -> Path:
    def find(package: Path, layer: Layer) -> Path:
        return next(one for one in packages if one.path == package).layers[layer.sha256]

    path.write_bytes(pack_bundle([one.path for one in packages], find)[0])
    return path


def test_what_is_signed_is_taken_and_the_rest_told(
    machine: Machine, made: Callable[..., Built], tmp_path: Path
) -> None:
    good, other = made("telemetry", "1.0.0"), made("netagent", "1.0.0", key=OTHER_KEY)
    found = machine.take(bundle(tmp_path / "all.zip", good, other, made("probe", "1.0.0")))
    assert found.versions == ["telemetry 1.0.0"]
    netagent, probe = found.refused
    assert netagent.startswith("netagent 1.0.0: not for us: signed by 0 of the keys we know")
    assert probe == "probe 1.0.0: is none of rdagent, guestagent, netagent, telemetry"
    assert (machine.versions(), machine.versions("netagent")) == (["1.0.0"], [])
    assert machine.memory.now.imported == {"telemetry": ["1.0.0"]}
    # Once more: nothing is done, and nothing is wrong.
    assert machine.take(tmp_path / "all.zip").versions == ["telemetry 1.0.0"]


def test_layers_come_along(machine: Machine, made: Callable[..., Built], tmp_path: Path) -> None:
    with third_party(tmp_path / "site", "azvmimportedlayer"):
        built = made("telemetry", "1.0.0", main="import azvmimportedlayer")
    assert machine.take(bundle(tmp_path / "all.zip", built)).refused == []
    (layer,) = built.manifest.layers
    assert (machine.shelf.root / "deps" / layer.sha256).is_dir()


def test_nothing_below_the_floor_and_no_second_content(
    machine: Machine, made: Callable[..., Built], tmp_path: Path
) -> None:
    machine.floor = "1.1.0"
    (line,) = machine.take(bundle(tmp_path / "old.zip", made("telemetry", "1.0.0"))).refused
    assert "is below 1.1.0" in line
    machine.take(bundle(tmp_path / "new.zip", made("telemetry", "1.1.0")))
    other = made("telemetry", "1.1.0", main="1", out="other")
    (line,) = machine.take(bundle(tmp_path / "other.zip", other)).refused
    assert "one number has one content" in line
    assert machine.versions() == ["1.1.0"]


def test_what_is_no_bundle(machine: Machine, made: Callable[..., Built], tmp_path: Path) -> None:
    whole = bundle(tmp_path / "whole.zip", made("telemetry", "1.0.0"))
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-40])
    cases = {"relative.zip": "no absolute path", "/no/such.zip": "No such file", str(tmp_path): "is no file"}
    cases[str(tmp_path / "cut.zip")] = "is no zip, or is cut short"
    for path, reason in cases.items():
        with pytest.raises(BundleError, match=reason):
            machine.take(path)
    assert machine.versions() == []


def test_one_at_a_time(machine: Machine, made: Callable[..., Built], tmp_path: Path) -> None:
    path = str(bundle(tmp_path / "all.zip", made("telemetry", "1.0.0")))

    async def twice() -> tuple[ImportedBundle | BaseException, ImportedBundle | BaseException]:
        bundles = machine.bundles()
        return await asyncio.gather(bundles.take(path), bundles.take(path), return_exceptions=True)

    first, second = asyncio.run(twice())
    assert isinstance(first, ImportedBundle)
    assert isinstance(second, BundleError)
    assert "wait for its end" in str(second)


def test_the_last_ones_a_bundle_brought_are_kept(machine: Machine, made: Callable[..., Built], tmp_path: Path) -> None:
    built = [made("telemetry", f"1.{number}.0") for number in range(6)]
    machine.take(bundle(tmp_path / "all.zip", *built))
    assert machine.memory.now.imported["telemetry"] == ["1.2.0", "1.3.0", "1.4.0", "1.5.0"]
