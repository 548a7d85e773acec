"""Several workers of one host behind one address, with a real PostgreSQL between them."""

import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from fabric.replay import replay
from fabric.store import Store, database_url
from tests.fabric.conftest import (
    NAME,
    PATIENCE,
    SERVERS,
    RunningHost,
    Vm,
    answered,
    handler_status,
    run_azfabric,
    status_blob,
    until,
    vm_of,
)
from tests.fabric.test_told import keeps_the_rest


def worker_of(connection: socket.socket, fleet: list[RunningHost]) -> int | None:
    """Which of them the kernel gave a connection to: who has its other end. None: it was not taken yet."""
    port = connection.getsockname()[1]
    for number, worker in enumerate(fleet):
        for line in Path(f"/proc/{worker.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].partition(":")[2], 16) == port:
                inode = f"socket:[{fields[9]}]"
                if inode in open_files(worker):
                    return number
    return None


def open_files(worker: RunningHost) -> set[str]:
    """What its descriptors are; some are closed while one looks."""
    found = set()
    for one in Path(f"/proc/{worker.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(one.readlink()))
    return found


def test_they_listen_at_one_address_and_share_the_work(fleet: list[RunningHost]) -> None:
    one, two = fleet
    assert {name: one.endpoints[name] for name in SERVERS} == {name: two.endpoints[name] for name in SERVERS}
    assert one.endpoints["portal"] != two.endpoints["portal"]
    counts: Counter[int | None] = Counter()
    for _ in range(64):
        with socket.create_connection(one.address("wireserver"), PATIENCE) as connection:
            connection.sendall(b"GET /?comp=versions HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            counts[worker_of(connection, fleet)] += 1
    # The kernel spreads them by hash: that one gets all 64 has a chance of two in 2^64.
    assert set(counts) == {0, 1}


def test_an_order_at_one_worker_is_heard_at_the_other(fleet: list[RunningHost]) -> None:
    one, two = fleet
    for orders, asks in ((one, two), (two, one)):
        before = vm_of(asks)
        orders.add(NAME, settings={"by": orders.root.name})
        wait_for_news(asks, before.incarnation)
        assert [row["public"] for row in asks.api("GET", "/api/extensions")] == [{"by": orders.root.name}]


def wait_for_news(worker: RunningHost, incarnation: str) -> None:
    until(lambda: vm_of(worker).incarnation != incarnation, "the news")


def test_who_waits_at_any_worker_is_woken(fleet: list[RunningHost]) -> None:
    one, _ = fleet
    vm = vm_of(one)
    headers = {**Vm.WIRE, "If-None-Match": vm.incarnation, "Prefer": "wait=30"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with ExitStack() as stack:
        waiting = []
        for _ in range(16):
            connection = stack.enter_context(socket.create_connection(one.address("wireserver"), PATIENCE))
            connection.sendall(f"GET /machine/?comp=goalstate HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
            waiting.append(connection)
        until(lambda: {worker_of(connection, fleet) for connection in waiting} == {0, 1}, "both to be asked")
        one.add(NAME, settings={"woken": True})
        for connection in waiting:
            assert f"<Incarnation>{int(vm.incarnation) + 1}</Incarnation>".encode() in answered(connection)


def test_what_is_told_to_any_worker_adds_up(fleet: list[RunningHost]) -> None:
    one, two = fleet
    vm = vm_of(one)
    before = one.told()
    for _ in range(40):
        assert vm.health().status_code == 200
    assert vm.report(status_blob(handler_status(message="by one of them"))).status_code == 200

    def told(worker: RunningHost) -> Any:
        found = worker.told()
        counted = found["heartbeats"] == before["heartbeats"] + 40
        return found if counted and "by one of them" in str(found["status"]) else None

    assert until(lambda: told(one), "all heartbeats at one")["ready"] is True
    assert until(lambda: told(two), "all heartbeats at two")["ready"] is True


def test_a_fault_is_spent_once_among_them(fleet: list[RunningHost]) -> None:
    one, two = fleet
    one.fault("versions", "status", 418, count=5)
    until(lambda: two.api("GET", "/api/faults"), "the fault at the other")
    found: Counter[int] = Counter()
    for _ in range(40):
        found[requests.get(one.endpoints["wireserver"] + "/?comp=versions", timeout=PATIENCE).status_code] += 1
    assert found == {418: 5, 200: 35}
    assert two.api("GET", "/api/faults") == []


def test_names_and_vms_are_agreed_upon(fleet: list[RunningHost]) -> None:
    one, two = fleet
    run_azfabric(one.root, "vm", "add", "other", "--address", "127.0.0.7")
    until(lambda: "other" in str(two.api("GET", "/api/vms")), "the VM at the other worker")
    again = run_azfabric(two.root, "vm", "add", "other", "--address", "127.0.0.8", check=1)
    assert "there is a VM 'other' already" in again.stderr
    run_azfabric(two.root, "vm", "remove", "other")
    until(lambda: "other" not in str(one.api("GET", "/api/vms")), "its end at the first")


def test_when_one_worker_is_killed_the_others_go_on(fleet: list[RunningHost], database: str) -> None:
    one, two = fleet
    before = one.told()["heartbeats"]
    two.kill()
    vm = vm_of(one)
    assert vm.health().status_code == 200
    one.add(NAME, settings={"alone": True})
    two.start(
        "--database", database, "--blobs", str(two.root.parent / "blobs"),
        *(f"--{server}-port={one.address(server)[1]}" for server in SERVERS),
    )  # fmt: skip
    assert [row["public"] for row in two.api("GET", "/api/extensions")] == [{"alone": True}]
    until(lambda: two.told()["heartbeats"] == before + 1, "what was told to the first")


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run_azfabric(
        tmp_path / "root", "serve", "--database", f"postgresql://azfabric@/postgres?host={tmp_path}", check=1
    )
    assert "postgresql" in done.stderr
    assert "No such file" in done.stderr
    wrong = run_azfabric(tmp_path / "root", "serve", "--database", "mysql://x", check=1)
    assert "--database takes postgresql://" in wrong.stderr


def test_a_name_with_a_nul_is_refused_and_stops_nothing(fleet: list[RunningHost]) -> None:
    one, two = fleet
    for name, status in (("a\0b", 400), ("whole", 200)):
        report = {"Observations": [{"ObservationName": name, "IsHealthy": True}]}
        assert one.call("wireserver", "POST", "/HealthService", json=report).status_code == status
    until(lambda: "whole" in one.told()["observations"], "the name that is one")
    until(lambda: "whole" in two.told()["observations"], "the name at the other")


@pytest.mark.parametrize("number", range(3))
def test_workers_that_start_at_once_agree_on_the_first_vm(database: str, tmp_path: Path, number: int) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE first{number}")
    url = database.replace("/postgres?", f"/first{number}?")
    workers = [RunningHost(tmp_path / name) for name in ("one", "two", "three")]
    with ThreadPoolExecutor(len(workers)) as pool:
        # Each fails here if its host does not start.
        list(pool.map(lambda one: one.start("--database", url, "--blobs", str(tmp_path / "blobs")), workers))
    found = {tuple(vm["container_id"] for vm in one.api("GET", "/api/vms")) for one in workers}
    for one in workers:
        assert (one.stop(), one.bugs()) == (0, [])
    assert len(found) == 1
    assert len(found.pop()) == 1


def test_an_address_is_given_once_also_at_two_workers_at_once(fleet: list[RunningHost]) -> None:
    for number in range(5):
        order = {"address": f"127.0.3.{number + 1}"}

        def add(worker: RunningHost, order: dict[str, str] = order) -> tuple[str, int]:
            name = f"{worker.root.name}{order['address'][-1]}"
            return name, worker.call("portal", "POST", "/api/vms", json={**order, "name": name}).status_code

        with ThreadPoolExecutor(2) as pool:
            found = dict(pool.map(add, fleet))
        assert sorted(found.values()) == [200, 409]
        (added,) = (name for name, status in found.items() if status == 200)
        run_azfabric(fleet[0].root if added.startswith("one") else fleet[1].root, "vm", "remove", added)


def test_a_recording_begins_with_the_faults_in_force(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE DATABASE recorded")
    shared = ["--database", database.replace("/postgres?", "/recorded?"), "--blobs", str(tmp_path / "blobs")]
    host, file = RunningHost(tmp_path / "one"), tmp_path / "recording.jsonl"
    host.start(*shared)
    host.fault("versions", "status", 418, count=3)
    assert host.call("wireserver", "GET", "/?comp=versions").status_code == 418
    assert host.stop() == 0
    host.start(*shared, "--record", str(file))
    found = [host.call("wireserver", "GET", "/?comp=versions").status_code for _ in range(4)]
    assert (found, host.stop()) == ([418, 418, 200, 200], 0)
    again = replay(file, tmp_path / "again", lambda _, __: None)
    assert (again.requests, again.differences) == (4, [])


def test_what_the_database_never_takes_costs_only_itself(database: str, tmp_path: Path) -> None:
    """No endpoint lets such a name through; if one ever does, the worker must go on."""
    keeps_the_rest(Store(database_url(tmp_path, database)), "a\0b")
