"""rdagent and the local host's repository: a real package, published, withdrawn, and every fault the host can play."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import msgspec
import pytest
from defusedxml.ElementTree import fromstring

from fabric.client import Client
from ipc.places import Places
from rdagent.update.fetch import fetch_by_url, layer_url
from rdagent.update.source import Answer, Kind, Order, SourceError, layer_target
from release.build import Built, build
from release.unpack import this_machine, unpack, unpack_layer
from tests.conftest import LocalHost
from tests.rdagent.update.conftest import Blocking
from tests.release.product import CHECKOUT, KEY, TRUST
from wire.deadline import Deadline
from wire.http import HttpClient

COMPONENT = "rdagent"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(CHECKOUT, COMPONENT, tmp_path_factory.mktemp("dist"), [KEY])


@pytest.fixture(scope="module")
def published(module_host: LocalHost, built: Built) -> LocalHost:
    module_host.start()
    azfabric(module_host, "publish", built.path)
    return module_host


@pytest.fixture
def repository(published: LocalHost, local_host: LocalHost, places: Places) -> Blocking:
    """The module's host without faults, and a machine that trusts it."""
    places.trust.mkdir(parents=True)
    trust = Client(local_host.root).get("/api/repository/root")
    (places.trust / "root.json").write_text(json.dumps(trust))
    return Blocking(endpoints(local_host)["repository"], places)


def azfabric(host: LocalHost, *words: str | Path) -> None:
    command = [sys.executable, "-P", "-m", "fabric", *words, "--root", host.root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def endpoints(host: LocalHost) -> dict[str, str]:
    found: dict[str, str] = json.loads((host.root / "fabric" / "endpoints.json").read_text())
    return found


def package_url(host: LocalHost, version: str) -> str:
    """As a VM finds it: goal state, configuration, the family's manifest."""
    goal = fromstring(got(f"{host.wireserver}/machine/?comp=goalstate"))
    config = fromstring(got(goal.findtext(".//ExtensionsConfig") or ""))
    (family,) = [one for one in config.iter("GAFamily") if one.findtext("Name") == COMPONENT]
    manifest = fromstring(got(family.findtext("Uris/Uri") or ""))
    (uri,) = [one.findtext("Uris/Uri") for one in manifest.iter("Plugin") if one.findtext("Version") == version]
    return uri or ""


def got(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"x-ms-version": "2012-11-30", "x-ms-agent-name": "test"})
    content: bytes = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).read()
    return content


def test_from_the_repository_to_a_version_on_disk(
    repository: Blocking, published: LocalHost, places: Places, built: Built, tmp_path: Path
) -> None:
    (offered,) = repository.look().offered
    assert (offered.version, offered.digest) == (built.manifest.version, built.digest)
    assert set(offered.layers) == {one.sha256 for one in built.manifest.layers}
    installed = tmp_path / "opt"
    installed.mkdir()
    wanted = {layer_target(one): tmp_path / f"{one}.zip" for one in offered.layers}
    repository.fetch_all({**wanted, offered.target: tmp_path / "package.zip"})
    for layer in built.manifest.layers:
        unpack_layer(tmp_path / f"{layer.sha256}.zip", installed, layer)
    package = unpack(tmp_path / "package.zip", installed, COMPONENT, TRUST, this_machine())
    assert package.digest == offered.digest
    # And that version, with nothing but its layers, can look for the next one.
    tree = installed / "components" / COMPONENT / "versions" / offered.version
    imports = [tree, *(installed / "deps" / one for one in offered.layers)]
    order = Order(
        url=endpoints(published)["repository"],
        root=str(places.trust / "root.json"),
        state=str(tmp_path / "state"),
        seconds=30,
        components=(COMPONENT,),
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", tree / "ipc" / "child.py", "rdagent.update.tufchild"],
        input=msgspec.json.encode(order),
        capture_output=True,
        timeout=60,
        env={"AZVMAGENT_IMPORTS": ":".join(map(str, imports))},
    )
    answer = msgspec.json.decode(done.stdout, type=Answer)
    assert (answer.kind, answer.offered) == (None, (offered,)), done.stderr


def test_the_hosts_way_brings_the_same_with_its_layers(
    repository: Blocking, published: LocalHost, built: Built, tmp_path: Path
) -> None:
    url = package_url(published, built.manifest.version)
    client, target = HttpClient("test"), tmp_path / "x.zip"
    limit, deadline = 32 << 20, Deadline.after(60)
    fetch_by_url(client, [url], target, limit=limit, deadline=deadline)
    assert target.read_bytes() == built.path.read_bytes()
    for layer in built.manifest.layers[:3]:
        fetch_by_url(client, [layer_url(url, layer.sha256)], target, limit=limit, deadline=deadline)
        assert target.read_bytes() == built.layers[layer.sha256].read_bytes()


@pytest.mark.parametrize(
    ("fault", "value", "metadata", "targets"),
    [
        ("status", 503, "unreachable", "unreachable"),
        ("throttle", 60, "unreachable", "unreachable"),
        ("slow", 60, "unreachable", "unreachable"),
        ("drip", 20, "unreachable", "unreachable"),
        ("truncate", None, "damaged", "damaged"),
        ("reset", None, "unreachable", "unreachable"),
        ("wrong-bytes", None, "damaged", "damaged"),
        ("html-page", None, "damaged", "damaged"),
        ("endless", None, "damaged", "damaged"),
        ("expired", None, "unreachable", "unreachable"),
        ("replayed", None, "untrusted", ""),
        ("expired-metadata", None, "expired", ""),
    ],
)
def test_each_fault_of_the_host_costs_one_line_and_no_more_time_than_there_is(
    repository: Blocking,
    local_host: LocalHost,
    tmp_path: Path,
    fault: str,
    value: float | None,
    metadata: Kind,
    targets: Kind | None,
) -> None:
    (offered,) = repository.look().offered
    for endpoint, kind in (("repositorymetadata", metadata), ("repositorytargets", targets)):
        if not kind:
            continue
        local_host.fault(endpoint, fault, value)
        began = time.monotonic()
        seconds = 3.0 if fault in {"slow", "drip"} else 30.0
        with pytest.raises(SourceError) as caught:
            repository.fetch(offered.target, tmp_path / "x.zip", seconds=seconds)
        # A connection that is cut without an answer, or in it, is one or the other.
        allowed = {kind, "damaged"} if fault == "reset" else {kind}
        assert caught.value.kind in allowed, caught.value
        assert time.monotonic() - began < 15.0
        assert not (tmp_path / "x.zip").exists()
        local_host.lift()
    repository.fetch(offered.target, tmp_path / "x.zip")


def test_withdrawn_is_offered_no_more(repository: Blocking, published: LocalHost, built: Built, tmp_path: Path) -> None:
    (offered,) = repository.look().offered
    azfabric(published, "publish", "--withdraw", COMPONENT, offered.version)
    with pytest.raises(SourceError) as caught:
        repository.fetch(offered.target, tmp_path / "x.zip")
    assert caught.value.kind == "missing"
    assert repository.look().offered == ()
    azfabric(published, "publish", built.path)
    (again,) = repository.look().offered
    assert again == offered
