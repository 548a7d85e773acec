"""The component repository of a real host, judged by the reference client of The Update Framework."""

import contextlib
import datetime
import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.exceptions import BadVersionNumberError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater

from fabric import roles
from fabric.componentpackage import component_package, layer_digest
from fabric.errors import BadPackage
from fabric.packagecheck import shortcomings
from tests.fabric.conftest import RunningHost, parsed, run_azfabric, running, vm_of

COMPONENT = "telemetry"


def spelled(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def layer(name: str = "msgpack") -> tuple[str, bytes]:
    """Its digest and its zip."""
    listing = spelled({"format": 1, "name": name, "version": "1.1", "files": {}})
    return hashlib.sha256(listing).hexdigest(), zipped({".layer": listing, f"{name}.py": b"x"})


def package(version: str = "0.2.0", layers: tuple[str, ...] = (), code: bytes = b"1", **more: Any) -> bytes:
    manifest = {
        "format": 1,
        "component": COMPONENT,
        "version": version,
        "floor": "0.1.0",
        "layers": [{"name": "n", "version": "1", "sha256": one} for one in layers],
        "files": {"telemetry/__init__.py": {"sha256": hashlib.sha256(code).hexdigest(), "size": len(code)}},
        **more,
    }
    return zipped({".manifest": spelled(manifest), ".signatures": b"{}", "telemetry/__init__.py": code})


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def manifest_digest(content: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return hashlib.sha256(archive.read(".manifest")).hexdigest()


def publish(host: RunningHost, content: bytes, **query: str) -> dict[str, Any]:
    found: dict[str, Any] = host.api("PUT", "/api/repository/packages", data=content, params=query)
    return found


def updater(host: RunningHost, folder: Path) -> Updater:
    """Told by this host whom to trust."""
    base = host.endpoints["repository"]
    folder.mkdir(exist_ok=True)
    trust = host.call("portal", "GET", "/api/repository/root").content
    return Updater(
        str(folder), f"{base}/metadata/", target_dir=str(folder), target_base_url=f"{base}/targets/", bootstrap=trust
    )


def agent_urls(host: RunningHost) -> dict[str, str]:
    """Of the family called like the component."""
    for one in vm_of(host).config().findall("GuestAgentExtension/GAFamilies/GAFamily"):
        if one.findtext("Name") == COMPONENT:
            content = host.call("blob", "GET", one.findtext("Uris/Uri") or "").content
            plugins = parsed(content).findall("Plugins/Plugin")
            return {plugin.findtext("Version") or "": plugin.findtext("Uris/Uri") or "" for plugin in plugins}
    return {}


@pytest.fixture
def empty(host: RunningHost) -> Iterator[RunningHost]:
    """The module's host, without versions."""
    yield host
    host.api("DELETE", "/api/faults")
    for one in host.api("GET", "/api/repository"):
        host.api("DELETE", f"/api/repository/packages/{one['component']}/{one['version']}")


def test_a_package_is_a_target_that_says_what_it_is(empty: RunningHost, tmp_path: Path) -> None:
    digest, content = layer()
    empty.api("PUT", f"/api/repository/layers/{digest}", data=content)
    sent = package(layers=(digest,))
    released = publish(empty, sent, ring="2", channel="edge")
    assert released["target"] == "packages/telemetry/telemetry-0.2.0.zip"
    assert empty.api("GET", "/api/repository") == [released]
    client = updater(empty, tmp_path / "client")
    info = client.get_targetinfo(released["target"])
    assert info is not None
    assert info.custom == {
        "component": COMPONENT,
        "version": "0.2.0",
        "channel": "edge",
        "ring": 2,
        "digest": manifest_digest(sent),
        "layers": [digest],
        "floor": "0.1.0",
    }
    assert Path(client.download_target(info)).read_bytes() == sent
    found = client.get_targetinfo(f"layers/{digest}.zip")
    assert found is not None
    assert Path(client.download_target(found)).read_bytes() == content


def test_it_is_a_version_of_the_family_with_its_layers_beside_it(empty: RunningHost) -> None:
    digest, content = layer("beside")
    empty.api("PUT", f"/api/repository/layers/{digest}", data=content)
    publish(empty, package("0.3.0", (digest,)))
    url = agent_urls(empty)["0.3.0"]
    folder, _, rest = url.rpartition("/")
    beside = f"{folder}/layers/{digest}.zip?{rest.partition('?')[2]}"
    assert empty.call("blob", "GET", beside).content == content
    plugin = {**vm_of(empty).plugin, "x-ms-artifact-location": beside}
    assert empty.call("hostgaplugin", "GET", "/extensionArtifact", headers=plugin).content == content
    # Read only, and nothing else is free with it.
    written = empty.call("blob", "PUT", beside, data=b"x", headers={"x-ms-blob-type": "BlockBlob"})
    assert written.status_code == 403
    assert empty.call("blob", "GET", url.partition("?")[0]).status_code == 403


def test_withdrawn_is_gone_by_both_ways(empty: RunningHost, tmp_path: Path) -> None:
    publish(empty, package("0.2.0"))
    publish(empty, package("0.10.0"))
    assert [one["version"] for one in empty.api("GET", "/api/repository")] == ["0.2.0", "0.10.0"]
    url = agent_urls(empty)["0.10.0"]
    empty.api("DELETE", "/api/repository/packages/telemetry/0.10.0")
    assert updater(empty, tmp_path / "c").get_targetinfo("packages/telemetry/telemetry-0.10.0.zip") is None
    assert list(agent_urls(empty)) == ["0.2.0"]
    assert empty.call("blob", "GET", url).status_code == 404
    again = empty.call("portal", "DELETE", "/api/repository/packages/telemetry/0.10.0")
    assert again.status_code == 404


def test_one_number_has_one_content_and_may_change_its_ring(empty: RunningHost, tmp_path: Path) -> None:
    publish(empty, package(code=b"1"), ring="0")
    assert publish(empty, package(code=b"1"), ring="1")["ring"] == 1
    other = empty.call("portal", "PUT", "/api/repository/packages", data=package(code=b"2"))
    assert (other.status_code, "One number has one content" in other.text) == (409, True)
    info = updater(empty, tmp_path / "c").get_targetinfo("packages/telemetry/telemetry-0.2.0.zip")
    assert info is not None
    assert info.custom["ring"] == 1


def test_one_number_has_one_content_however_it_is_spelled(empty: RunningHost) -> None:
    publish(empty, package("0.9.0"))
    for other in ("0.9", "0.9.0.0"):
        refused = empty.call("portal", "PUT", "/api/repository/packages", data=package(other))
        assert (refused.status_code, "published as 0.9.0 with another content" in refused.text) == (409, True)
    assert [one["version"] for one in empty.api("GET", "/api/repository")] == ["0.9.0"]
    assert list(agent_urls(empty)) == ["0.9.0"]


def test_a_published_file_is_not_replaced_by_another_with_its_manifest(empty: RunningHost, tmp_path: Path) -> None:
    sent = package()
    released = publish(empty, sent)
    files = unzipped(sent)
    for more in ({"telemetry/__init__.py": b"2"}, {"telemetry/added.py": b""}, {".signatures": b"junk"}):
        other = empty.call("portal", "PUT", "/api/repository/packages", data=zipped({**files, **more}))
        assert (other.status_code, "Withdraw" in other.text) == (409, True)
    client = updater(empty, tmp_path / "client")
    info = client.get_targetinfo(released["target"])
    assert info is not None
    assert Path(client.download_target(info)).read_bytes() == sent
    assert empty.call("blob", "GET", agent_urls(empty)["0.2.0"]).content == sent
    empty.api("DELETE", "/api/repository/packages/telemetry/0.2.0")
    publish(empty, zipped({**files, ".signatures": b"junk"}))  # a drill that is wrong on purpose


def test_two_spellings_from_an_earlier_release_are_told_apart(own_host: RunningHost) -> None:
    """It took both."""
    folder = own_host.root / "fabric" / "repository"
    publish(own_host, package("0.9.0"))
    kept = roles.Roles(folder)
    target = kept.entries()[COMPONENT]["packages/telemetry/telemetry-0.9.0.zip"]
    earlier = TargetFile(target.length, target.hashes, "packages/telemetry/telemetry-0.9.zip")
    earlier.unrecognized_fields["custom"] = {**target.custom, "version": "0.9"}
    kept.put(COMPONENT, earlier)
    kept.save()
    own_host.api("PUT", f"/api/families/{COMPONENT}", data=package("0.9"), params={"version": "0.9"})
    for version in ("0.9.0", "0.9"):
        order = {"component": COMPONENT, "version": version}
        assert own_host.api("POST", "/api/components", json=order)["version"] == version
    own_host.api("DELETE", "/api/repository/packages/telemetry/0.9.0")
    assert [one["version"] for one in own_host.api("GET", "/api/repository")] == ["0.9"]
    # The one that is there.
    assert own_host.api("DELETE", "/api/repository/packages/telemetry/0.9.0")["version"] == "0.9"


def test_a_package_without_its_layers_is_refused(empty: RunningHost) -> None:
    missing = empty.call("portal", "PUT", "/api/repository/packages", data=package(layers=("ab" * 32,)))
    assert (missing.status_code, "--layers" in missing.text) == (409, True)
    digest, _ = layer("one")
    other = empty.call("portal", "PUT", f"/api/repository/layers/{digest}", data=layer("other")[1])
    assert other.status_code == 400
    assert empty.api("GET", "/api/repository") == []


WRONG = {
    "no zip": b"PK but no zip",
    "no manifest": zipped({"HandlerManifest.json": b"[]"}),
    "no signatures": zipped({".manifest": spelled({"component": "a", "version": "1.0", "files": {}})}),
    "spelled otherwise": zipped({".manifest": b'{ "component": "a"}', ".signatures": b""}),
    "nested": zipped({".manifest": b"[" * 100_000, ".signatures": b""}),
    "another name": package(component="../x"),
    "a name of the roles": package(component="snapshot"),
    "a pre-release": package("0.2.0-rc1"),
    "no version": package(version=None),  # type: ignore[arg-type]
    "layers": package(layers=("../../etc/passwd",)),
    "a file is missing": package(files={"a.py": {}}),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_what_is_no_package_is_refused(empty: RunningHost, content: bytes) -> None:
    answer = empty.call("portal", "PUT", "/api/repository/packages", data=content)
    assert answer.status_code == 400, answer.text
    assert empty.api("GET", "/api/repository") == []


@given(st.binary(max_size=200), st.sampled_from([".manifest", ".layer"]))
def test_no_content_breaks_the_reader(content: bytes, name: str) -> None:
    for data in (content, zipped({name: content, ".signatures": b""})):
        for read in (component_package, layer_digest, shortcomings):
            with contextlib.suppress(BadPackage):
                read(io.BytesIO(data))


def test_a_killed_host_keeps_what_it_acknowledged(own_host: RunningHost, tmp_path: Path) -> None:
    trust = own_host.api("GET", "/api/repository/root")
    for version in ("0.1.0", "0.2.0", "0.3.0"):
        publish(own_host, package(version))
    own_host.kill()
    # What was not finished: a version of snapshot that no timestamp names.
    folder = own_host.root / "fabric" / "repository" / "metadata"
    newest = max(int(one.name.split(".")[0]) for one in folder.glob("*.snapshot.json"))
    (folder / f"{newest + 1}.snapshot.json").write_bytes(b"torn")
    own_host.start()
    assert own_host.api("GET", "/api/repository/root") == trust
    assert [one["version"] for one in own_host.api("GET", "/api/repository")] == ["0.1.0", "0.2.0", "0.3.0"]
    publish(own_host, package("0.4.0"))
    assert updater(own_host, tmp_path / "c").get_targetinfo("packages/telemetry/telemetry-0.4.0.zip") is not None


def test_it_is_made_when_somebody_asks_and_its_keys_are_the_hosts_alone(own_host: RunningHost) -> None:
    folder = own_host.root / "fabric" / "repository"
    assert own_host.api("GET", "/api/repository") == []
    assert not folder.exists()
    root = own_host.api("GET", "/api/repository/root")
    assert root["signed"]["roles"]["root"]["threshold"] == 2
    assert len(root["signed"]["roles"]["root"]["keyids"]) == 3
    keys = list((folder / "keys").iterdir())
    assert len(keys) == 6
    assert {stat.S_IMODE(one.stat().st_mode) for one in keys} == {0o600}
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    for path in ("../keys/root-1.pem", "keys/root-1.pem", "targets/..%2f..%2fkeys/root-1.pem", "metadata/%2e%2e/x"):
        assert own_host.call("blob", "GET", f"/repository/{path}").status_code == 404
    assert own_host.call("blob", "PUT", "/repository/metadata/timestamp.json", data=b"x").status_code == 405


def test_a_damaged_repository_is_said_and_the_host_serves_on(own_host: RunningHost) -> None:
    publish(own_host, package())
    folder = own_host.root / "fabric" / "repository"
    (folder / "metadata" / "timestamp.json").write_bytes(b"{")
    answer = own_host.call("portal", "GET", "/api/repository")
    assert (answer.status_code, "Move" in answer.json()["reason"]) == (400, True)
    assert own_host.call("portal", "PUT", "/api/repository/packages", data=package("0.3.0")).status_code == 400
    assert own_host.call("blob", "GET", "/repository/metadata/timestamp.json").status_code == 400
    assert own_host.api("GET", "/api/vms")


def test_a_timestamp_is_renewed_for_who_asks(
    own_host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(own_host, package())
    monkeypatch.setattr(roles, "TIMESTAMP_LASTS", datetime.timedelta(hours=-1))
    roles.Roles(own_host.root / "fabric" / "repository").renew()
    signed = own_host.call("blob", "GET", "/repository/metadata/timestamp.json").json()["signed"]
    left = datetime.datetime.fromisoformat(signed["expires"]) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=23) < left <= datetime.timedelta(days=1)
    updater(own_host, tmp_path / "c").refresh()


def test_faults_that_only_a_repository_has(empty: RunningHost, tmp_path: Path) -> None:
    publish(empty, package("0.2.0"))
    publish(empty, package("0.3.0"))
    updater(empty, tmp_path / "c").refresh()
    empty.fault("repositorymetadata", "replayed")
    with pytest.raises(BadVersionNumberError):
        updater(empty, tmp_path / "c").refresh()
    empty.api("DELETE", "/api/faults")
    empty.fault("repositorymetadata", "expired-metadata")
    with pytest.raises(ExpiredMetadataError):
        updater(empty, tmp_path / "c").refresh()
    empty.api("DELETE", "/api/faults")
    empty.fault("repository", "html-page")
    with pytest.raises(RepositoryError):
        updater(empty, tmp_path / "c").refresh()
    empty.api("DELETE", "/api/faults")
    updater(empty, tmp_path / "c").refresh()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """Not even half of a publication."""
    with running(tmp_path / "root") as host:
        publish(host, package("0.1.0"))
        folder = host.root / "fabric" / "repository" / "targets"
        moved = folder.rename(folder.with_name("away"))
        folder.write_bytes(b"a file where a folder should be")
        refused = host.call("portal", "PUT", "/api/repository/packages", data=package("0.2.0"))
        assert refused.status_code == 507
        folder.unlink()
        moved.rename(folder)
        assert [one["version"] for one in host.api("GET", "/api/repository")] == ["0.1.0"]
        publish(host, package("0.2.0"))


SIGNED = b'{"signatures":{"key":"00"}}'
TAMPERED = {
    "changed": {"telemetry/__init__.py": b"2"},
    "longer": {"telemetry/__init__.py": b"1" * 100_000},
    "added": {"telemetry/added.py": b""},
    "outside": {"../../etc/x": b""},
    "junk signatures": {".signatures": b"junk"},
    "nobody's signatures": {".signatures": b'{"signatures":{}}'},
}


@pytest.mark.parametrize("wrong", TAMPERED.values(), ids=TAMPERED)
def test_what_no_agent_takes_is_seen(wrong: dict[str, bytes]) -> None:
    files = {**unzipped(package()), ".signatures": SIGNED}
    assert shortcomings(io.BytesIO(zipped(files))) == []
    (found,) = shortcomings(io.BytesIO(zipped({**files, **wrong})))
    assert {name for name in wrong if repr(name) in found} or "signatures" in found or found == "nobody signed it"


def test_a_manifest_that_says_nonsense_of_its_files_is_seen() -> None:
    zeros = "0" * 64
    nonsense: list[Any] = [{}, [], *({"sha256": a, "size": b} for a, b in (("x", 1), (zeros, -1), (zeros, 1)))]
    for said in nonsense:
        content = unzipped(package(files={"telemetry/__init__.py": said}))
        (found,) = shortcomings(io.BytesIO(zipped({**content, ".signatures": SIGNED})))
        assert "'telemetry/__init__.py'" in found
    content = unzipped(package(files={"../x": {}, "telemetry/__init__.py": {}}))
    assert "leads out" in " ".join(shortcomings(io.BytesIO(zipped({**content, "../x": b"", ".signatures": SIGNED}))))
    many = {f"telemetry/{number}.py": b"" for number in range(9)}
    assert shortcomings(io.BytesIO(zipped({**unzipped(package()), **many})))[3:] == ["7 more of that kind"]


def test_the_command(own_host: RunningHost, tmp_path: Path) -> None:
    digest, content = layer()
    (tmp_path / "layers").mkdir()
    file = tmp_path / "telemetry-0.2.0.zip"
    file.write_bytes(package(layers=(digest,)))
    done = run_azfabric(own_host.root, "publish", file, check=1)
    assert "--layers DIR" in done.stderr
    (tmp_path / "layers" / f"msgpack-1.1-{digest[:16]}.zip").write_bytes(content)
    done = run_azfabric(own_host.root, "publish", file, "--ring", "0", "--json")
    assert json.loads(done.stdout)["ring"] == 0
    assert "telemetry 0.2.0" in run_azfabric(own_host.root, "publish", file, "--channel", "edge").stdout
    assert "Warning: no agent takes telemetry 0.2.0: its .signatures cannot be read." in done.stderr
    (one,) = json.loads(run_azfabric(own_host.root, "publish", "--list", "--json").stdout)
    assert (one["channel"], one["ring"], one["layers"]) == ("edge", 1, [digest])
    assert "edge" in run_azfabric(own_host.root, "publish", "--list").stdout
    run_azfabric(own_host.root, "publish", check=2)
    # As the agent reads it: a release for ring 1 is for ring 0, too (rdagent/update/obstacles.py).
    assert "rings 0 to this one" in " ".join(run_azfabric(own_host.root, "publish", "--help").stdout.split())
    run_azfabric(own_host.root, "publish", file, "--list", check=2)
    said = run_azfabric(own_host.root, "want", COMPONENT, "0.2").stdout  # 0.2 and 0.2.0 are one version
    assert f"{COMPONENT} 0.2.0 is asked for" in said
    refused = run_azfabric(own_host.root, "want", COMPONENT, "0.3.0", check=1).stderr
    assert "azfabric publish PACKAGE.zip" in refused
    run_azfabric(own_host.root, "publish", "--withdraw", COMPONENT, "0.2")
    assert "there is no" in run_azfabric(own_host.root, "publish", "--withdraw", COMPONENT, "0.2.0", check=1).stderr
