"""The host's own life: what survives its end, whatever the end; and one host a root."""

import contextlib
import json
import re
import signal
import socket
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fabric.conftest import (
    NAME,
    PATIENCE,
    RunningHost,
    Transport,
    Vm,
    handler_status,
    received,
    run_azfabric,
    status_blob,
    until,
    vm_of,
)

ENDS = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL]


def what_is_wanted(host: RunningHost, transport: Transport) -> dict[str, Any]:
    """Everything a VM could compare."""
    vm = vm_of(host)
    settings = vm.vm_settings()
    config = vm.config()
    headers = {
        **Vm.WIRE,
        "x-ms-cipher-name": "AES128_CBC",
        "x-ms-guest-agent-public-x509-cert": transport.header,
    }
    (plugin,) = config.findall(f"Plugins/Plugin[@name='{NAME}']")
    manifest = host.call("blob", "GET", plugin.get("location", ""))
    (package,) = re.findall("<Uri>([^<]+)</Uri>", manifest.text)
    return {
        "goal state": [vm.incarnation, vm.container_id, vm.instance_id, vm.config_name, vm.urls],
        "vmSettings": settings,
        "plugins": [dict(one.attrib) for one in config.iter("Plugin")],
        "settings": [one.text for one in config.iter("RuntimeSettings")],
        "status url": vm.status_url(),
        "certificates": host.call("wireserver", "GET", vm.urls["Certificates"], headers=headers).status_code,
        "package": host.call("blob", "GET", str(package).replace("&amp;", "&")).content,
    }


@pytest.mark.parametrize("end", ENDS)
def test_everything_survives_each_end(host: RunningHost, transport: Transport, end: signal.Signals) -> None:
    vm = vm_of(host)
    assert vm.health().status_code == 200
    assert vm.report(status_blob(handler_status(message=end.name))).status_code == 200
    told = host.told()
    host.add(settings={"a": 1}, protected={"b": 2})
    host.add("Contoso.Tools.Other", settings={"c": 3}, fast_track=True)
    wanted = what_is_wanted(host, transport)
    if end == signal.SIGKILL:
        # What was told is written down a moment later.
        saved = f"file:{host.root / 'fabric' / 'state.sqlite'}?mode=ro"

        def written() -> bool:
            with contextlib.closing(sqlite3.connect(saved, uri=True)) as database:
                row = database.execute("SELECT status FROM told WHERE vm = 'vm1'").fetchone()
            return row is not None and end.name.encode() in row[0]

        until(written, "a save")
    # What is wanted is not: the order that was acknowledged last, and no moment more.
    host.add(settings={"a": 2}, fast_track=True)
    wanted |= {"vmSettings": vm_of(host).vm_settings()}
    host.signalled(end)
    assert host.ended() == (-signal.SIGKILL if end == signal.SIGKILL else 0)
    host.start()
    assert what_is_wanted(host, transport) == wanted
    assert {**host.told(), "requests": None} == {**told, "requests": None}
    assert host.told()["requests"]["status"] >= told["requests"]["status"]


def test_a_vm_goes_on_at_the_same_addresses_as_if_nothing_had_been(host: RunningHost) -> None:
    vm = vm_of(host)
    url = vm.status_url()
    host.kill()
    host.start()
    assert vm.report(status_blob(), url=url).status_code == 200
    assert vm_of(host).incarnation == vm.incarnation


def test_at_another_address_the_goal_state_is_a_new_one(host: RunningHost) -> None:
    host.add(settings={"a": 1}, fast_track=True)
    before = vm_of(host)
    ticks = before.vm_settings()["extensionsLastModifiedTickCount"]
    taken = host.address("blob")
    host.kill()
    with socket.create_server(taken):
        host.start()
        vm = vm_of(host)
        assert host.address("blob") != taken
        # The VM holds URLs that lead nowhere now: nothing else would make it ask again.
        assert vm.incarnation != before.incarnation
        assert vm.vm_settings()["extensionsLastModifiedTickCount"] > ticks
        assert vm.status_url().startswith(host.endpoints["blob"])
        (plugin,) = vm.config().findall(f"Plugins/Plugin[@name='{NAME}']")
        manifest = host.call("blob", "GET", plugin.get("location", "")).text
        assert host.endpoints["blob"] in manifest


def test_the_endpoints_file_and_the_faults_go_with_the_host(host: RunningHost) -> None:
    file = host.root / "fabric" / "endpoints.json"
    assert set(json.loads(file.read_text())) == {
        "pid",
        "wireserver",
        "hostgaplugin",
        "imds",
        "blob",
        "portal",
        "repository",
    }
    host.fault("versions", "status", 500)
    host.stop()
    assert not file.exists()
    host.start()
    assert host.api("GET", "/api/faults") == []


def test_what_a_killed_host_left_half_written_is_gone(host: RunningHost) -> None:
    host.add()
    host.kill()
    folder = host.root / "fabric"
    left = [folder / ".endpoints.json.x.tmp", folder / "blobs" / "packages" / ".a.zip.y.tmp"]
    for one in left:
        one.write_text("half")
    host.start()
    assert not any(one.exists() for one in left)


def test_a_second_host_on_the_same_root_is_refused_and_harms_nothing(host: RunningHost) -> None:
    endpoints = (host.root / "fabric" / "endpoints.json").read_bytes()
    done = run_azfabric(host.root, "serve", check=1)
    assert "already serves" in done.stderr
    assert "--root" in done.stderr
    assert (host.root / "fabric" / "endpoints.json").read_bytes() == endpoints
    vm_of(host)


def test_a_port_that_is_taken_is_refused_with_its_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_azfabric(tmp_path / "root", "serve", "--blob-port", str(port), check=1)
    assert f"127.0.0.1 port {port}" in done.stderr
    assert not (tmp_path / "root" / "fabric" / "endpoints.json").exists()


@pytest.mark.parametrize("content", [b"{" * 5000, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_state_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "root" / "fabric" / "state.sqlite"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert f"{file} is damaged. Move it away" in run_azfabric(tmp_path / "root", "serve", check=1).stderr
    assert file.read_bytes() == content


def test_a_vm_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    host = RunningHost(tmp_path / "root")
    host.start()
    host.stop()
    with contextlib.closing(sqlite3.connect(host.root / "fabric" / "state.sqlite")) as database:
        database.execute("UPDATE vm SET document = ?", (b'{"identity": 5}',))
        database.commit()
    assert "what is kept of VM vm1 cannot be read" in run_azfabric(host.root, "serve", check=1).stderr


def test_secrets_are_for_the_owner_only(host: RunningHost) -> None:
    assert (host.root / "fabric" / "state.sqlite").stat().st_mode & 0o077 == 0


def test_it_ends_whoever_is_still_connected(host: RunningHost) -> None:
    vm = vm_of(host)
    host.fault("pluginhealth", "slow", 3600)
    host.fault("versions", "drip", 1)
    known = f"{Vm.WIRE['x-ms-version']}\r\nx-ms-agent-name: a\r\nIf-None-Match: {vm.incarnation}"
    waiting = f"GET /machine/?comp=goalstate HTTP/1.1\r\nHost: a\r\nPrefer: wait=60\r\nx-ms-version: {known}\r\n\r\n"
    clients = [
        ("wireserver", waiting),
        ("wireserver", "GET /?comp=versions HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("hostgaplugin", "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("hostgaplugin", "GET /health HTT"),
        ("hostgaplugin", ""),
        ("wireserver", "POST /HealthService HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"),
        ("portal", "PUT /api/packages HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"),
    ]
    with ExitStack() as stack:
        connections = []
        for server, data in clients:
            connection = stack.enter_context(socket.create_connection(host.address(server), PATIENCE))
            connection.sendall(data.encode())
            connections.append(connection)
        # It has begun to answer the slow ones when it has answered one that came after them.
        host.told()
        assert host.stop() == 0
        # Who waited for a change is answered.
        assert b"<GoalState>" in received(connections[0])
        for connection in connections[1:]:
            received(connection)
    host.start()


def test_ctrl_c_in_a_terminal_ends_it_with_0(tmp_path: Path) -> None:
    """As the command a person runs: nothing is printed that would alarm."""
    host = RunningHost(tmp_path / "root")
    host.start()
    host.signalled(signal.SIGINT)
    assert host.ended() == 0
    assert host.log.read_text() == ""


def test_two_roots_side_by_side(host: RunningHost, tmp_path: Path) -> None:
    other = RunningHost(tmp_path / "other")
    other.start()
    try:
        other.add("Contoso.Tools.Elsewhere")
        assert "Contoso.Tools.Elsewhere" not in [one["name"] for one in host.api("GET", "/api/extensions")]
        assert vm_of(other).container_id != vm_of(host).container_id
        # One host's signature opens nothing at another.
        url = vm_of(other).status_url().replace(other.endpoints["blob"], host.endpoints["blob"])
        assert host.call("blob", "GET", url).status_code == 403
    finally:
        assert other.stop() == 0


def test_a_root_nobody_can_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_azfabric(tmp_path / "file" / "root", "serve", check=1)
    assert "cannot be used" in done.stderr
