"""One component repository for all workers of a host, with a real PostgreSQL between them."""

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from tuf.api.exceptions import BadVersionNumberError

from tests.fabric.conftest import PATIENCE, SERVERS, RunningHost, run_azfabric, until, vm_of
from tests.fabric.test_repository import COMPONENT, agent_urls, layer, package, publish, updater

WORKERS = 3


@pytest.fixture
def fleet(fleet: list[RunningHost]) -> Iterator[list[RunningHost]]:
    """Without versions, faults and wishes afterwards."""
    yield fleet
    one, _ = fleet
    one.api("DELETE", "/api/faults")
    one.api("DELETE", "/api/components")
    for found in one.api("GET", "/api/repository"):
        one.api("DELETE", f"/api/repository/packages/{found['component']}/{found['version']}")


@pytest.fixture
def fresh(database: str, tmp_path: Path) -> Iterator[tuple[list[RunningHost], list[str]]]:
    """Workers of a host that has no repository yet, and the options they start with."""
    name = f"fresh{tmp_path.name.encode().hex()[-40:]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    shared = ["--database", database.replace("/postgres?", f"/{name}?"), "--blobs", str(tmp_path / "blobs")]
    workers: list[RunningHost] = []
    for number in range(WORKERS):
        worker = RunningHost(tmp_path / str(number))
        worker.start(*shared, *same_ports(workers))
        workers.append(worker)
    yield workers, [*shared, *same_ports(workers)]
    for worker in workers:
        assert (worker.stop(), worker.bugs()) == (0, [])


def same_ports(workers: list[RunningHost]) -> list[str]:
    return [f"--{server}-port={workers[0].address(server)[1]}" for server in SERVERS] if workers else []


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """All begin when all are ready."""
    ready = threading.Barrier(len(acts))

    def act(one: Callable[[], Any]) -> Any:
        ready.wait(PATIENCE)
        return one()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(act, acts))


def versions(worker: RunningHost) -> list[str]:
    return [one["version"] for one in worker.api("GET", "/api/repository")]


def target(version: str) -> str:
    return f"packages/{COMPONENT}/{COMPONENT}-{version}.zip"


def test_what_one_worker_publishes_the_other_has(fleet: list[RunningHost], tmp_path: Path) -> None:
    one, two = fleet
    digest, content = layer()
    one.api("PUT", f"/api/repository/layers/{digest}", data=content)
    sent = package(layers=(digest,))
    released = publish(two, sent)
    assert one.api("GET", "/api/repository") == two.api("GET", "/api/repository") == [released]
    assert one.api("GET", "/api/repository/root") == two.api("GET", "/api/repository/root")
    base = one.endpoints["repository"]
    # Each on a connection of its own: both workers answer.
    roots = {requests.get(f"{base}/metadata/1.root.json", timeout=PATIENCE).content for _ in range(32)}
    assert len(roots) == 1
    reader = updater(one, tmp_path / "c")
    info = reader.get_targetinfo(released["target"])
    assert info is not None
    assert Path(reader.download_target(info)).read_bytes() == sent
    for worker in fleet:
        assert list(agent_urls(worker)) == ["0.2.0"]


def test_what_one_worker_withdraws_the_other_has_no_more(fleet: list[RunningHost], tmp_path: Path) -> None:
    one, two = fleet
    publish(one, package("0.2.0"))
    publish(one, package("0.3.0"))
    run_azfabric(two.root, "publish", "--withdraw", COMPONENT, "0.3.0")
    assert versions(one) == versions(two) == ["0.2.0"]
    assert updater(one, tmp_path / "c").get_targetinfo(target("0.3.0")) is None
    assert list(agent_urls(one)) == ["0.2.0"]
    again = run_azfabric(one.root, "publish", "--withdraw", COMPONENT, "0.3.0", check=1)
    assert "there is no telemetry 0.3.0" in again.stderr


def test_what_one_worker_published_the_other_may_want(fleet: list[RunningHost]) -> None:
    one, two = fleet
    publish(one, package("0.2.0"))
    run_azfabric(two.root, "want", COMPONENT, "0.2.0")
    until(lambda: one.api("GET", "/api/components"), "the wish at the first")
    (asked,) = one.api("GET", "/api/components")
    assert (asked["component"], asked["version"]) == (COMPONENT, "0.2.0")
    (family,) = [one for one in vm_of(one).config().iter("GAFamily") if one.findtext("Name") == COMPONENT]
    assert (family.findtext("Version"), family.findtext("IsVersionFromRSM")) == ("0.2.0", "true")


def test_faults_of_the_repository_are_faults_of_all(fleet: list[RunningHost], tmp_path: Path) -> None:
    one, two = fleet
    publish(one, package("0.2.0"))
    publish(two, package("0.3.0"))
    updater(one, tmp_path / "c").refresh()
    one.fault("repository", "status", 503, count=5)
    until(lambda: two.api("GET", "/api/faults"), "the fault at the other")
    url = f"{one.endpoints['repository']}/metadata/timestamp.json"
    found = Counter(requests.get(url, timeout=PATIENCE).status_code for _ in range(40))
    assert found == {503: 5, 200: 35}

    def timestamps() -> set[int]:
        return {requests.get(url, timeout=PATIENCE).json()["signed"]["version"] for _ in range(16)}

    (newest,) = timestamps()
    two.fault("repositorymetadata", "replayed")
    until(lambda: newest not in timestamps(), "both to give out the one from before")
    with pytest.raises(BadVersionNumberError):
        updater(one, tmp_path / "c").refresh()


def publications(workers: list[RunningHost], major: int) -> list[Callable[[], dict[str, Any]]]:
    """One version by each worker."""
    return [partial(publish, worker, package(f"{major}.{minor}.0")) for minor, worker in enumerate(workers)]


def test_the_first_publications_of_several_workers_at_once_are_all_there(
    fresh: tuple[list[RunningHost], list[str]], tmp_path: Path
) -> None:
    """They also make the repository, and a role for the component, at the same moment."""
    workers, _ = fresh
    published = [one for major in range(6) for one in at_once(*publications(workers, major))]
    expected = [f"{major}.{minor}.0" for major in range(6) for minor in range(WORKERS)]
    for worker in workers:
        assert versions(worker) == expected
        assert list(agent_urls(worker)) == expected
    reader = updater(workers[0], tmp_path / "c")
    for one in published:
        info = reader.get_targetinfo(one["target"])
        assert info is not None
        assert len(Path(reader.download_target(info)).read_bytes()) == one["size"]


def test_of_two_contents_for_one_number_one_is_taken(fleet: list[RunningHost]) -> None:
    contents = [package("0.2.0", code=b"1"), package("0.2.0", code=b"2")]
    for _ in range(5):
        answers = at_once(
            *(
                partial(worker.call, "portal", "PUT", "/api/repository/packages", data=content)
                for worker, content in zip(fleet, contents, strict=True)
            )
        )
        assert sorted(one.status_code for one in answers) == [200, 409]
        taken = contents[[one.status_code for one in answers].index(200)]
        # The family has what the repository has.
        assert fleet[0].call("blob", "GET", agent_urls(fleet[0])["0.2.0"]).content == taken
        fleet[0].api("DELETE", f"/api/repository/packages/{COMPONENT}/0.2.0")


def test_a_worker_that_is_killed_while_it_publishes_costs_nobody_a_version(
    fresh: tuple[list[RunningHost], list[str]], tmp_path: Path
) -> None:
    (one, two, three), options = fresh
    acknowledged: list[str] = []

    def are(count: int) -> bool:
        return len(acknowledged) >= count

    def publish_on() -> None:
        for number in range(len(acknowledged), 1000):
            try:
                publish(two, package(f"2.{number}.0"))
            except requests.RequestException:
                return
            acknowledged.append(f"2.{number}.0")

    for life in range(3):
        enough = len(acknowledged) + life + 1
        with ThreadPoolExecutor(1) as pool:
            doing = pool.submit(publish_on)
            until(partial(are, enough), "publications")
            two.kill()
            publish(one, package(f"1.{life}.0"))
            doing.result(PATIENCE)
        acknowledged.append(f"1.{life}.0")
        two.start(*options)
        for worker in (one, two, three):
            assert set(acknowledged) <= set(versions(worker))
    reader = updater(three, tmp_path / "c")
    for version in acknowledged:
        assert reader.get_targetinfo(target(version)) is not None


def test_a_worker_that_starts_leaves_alone_what_the_others_are_writing(
    fresh: tuple[list[RunningHost], list[str]],
) -> None:
    (one, two, _), options = fresh
    content = package()
    head = f"PUT /api/repository/packages HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    folder = Path(options[3]) / "packages"
    with socket.create_connection(one.address("portal"), PATIENCE) as connection:
        connection.sendall(one.named("portal", head) + content[:100])
        until(lambda: any(file.stat().st_size == 100 for file in folder.glob(".*.tmp")), "half of the package")
        two.kill()
        left = folder / ".of-a-killed-worker.tmp"
        left.write_bytes(b"half")
        two.start(*options)
        assert not left.exists()
        connection.sendall(content[100:])
        with connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 200")
    assert versions(two) == ["0.2.0"]
