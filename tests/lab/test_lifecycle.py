"""A lab's life: it stays until it is ended, and however it ends, nothing of it is left."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fabric.client import Client
from fabric.errors import FabricError, NoHost
from fabric.lab import orders
from fabric.lab.control import CannotBuild, Lab, LabRuns, NoLab, names
from fabric.lab.namespaces import new_network
from fabric.lab.plan import Fault, make_plan
from fabric.lab.probe import Probe
from tests.lab.conftest import MARK, PATIENCE, REPOSITORY, TestedLab, command_line, left, marked_processes, until

NOBODY = 65534


def nothing_is_left(lab: Lab, before: list[str]) -> None:
    assert not lab.folder.exists()
    until(lambda: sorted(left()) == before, "all processes to be gone")
    assert str(lab.folder) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def before() -> list[str]:
    """What other labs of this run are made of."""
    return sorted(left())


def keeper(lab: Lab) -> int:
    (pid,) = (
        pid
        for pid, line in marked_processes()
        if line.endswith(f"-m fabric.lab.keeper {lab.folder} ") and "unshare" not in line
    )
    return pid


def free(folder: Path) -> bool:
    """Whether nobody holds it: a process that ends lets go last of all."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_down_leaves_nothing_of_all_there_is(lab: TestedLab, before: list[str]) -> None:
    lab.up("a", "b@red", host=True)
    lab.fault("a", Fault(delay=0.001))
    lab.lab.ask(orders.SetProbe("a", Probe(port=80, interval=0.1)))
    lab.said("a", "sh", "-c", f"LAB_MARK={MARK} setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
    running = " ".join(left())
    for part in ("keeper", "dnsmasq", "fabric serve", "fabric.lab.relay", "sleep infinity", "sleep 1000"):
        assert part in running
    assert lab.lab.down()
    nothing_is_left(lab.lab, before)
    assert not lab.lab.down()
    with pytest.raises(NoLab, match="no lab .* runs here. Start one with: azfabric lab up"):
        lab.lab.ask(orders.Show())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_keeper_takes_all_with_it(lab: TestedLab, before: list[str], number: signal.Signals) -> None:
    lab.up("a", host=True)
    os.kill(keeper(lab.lab), number)
    until(lambda: sorted(left()) == before, "all processes to be gone")
    assert names(lab.lab.folder.parent.parent).count(lab.lab.name) == 1
    assert lab.lab.down()
    nothing_is_left(lab.lab, before)


def test_a_keeper_that_does_not_answer_is_killed(lab: TestedLab, before: list[str]) -> None:
    lab.up("a")
    os.kill(keeper(lab.lab), signal.SIGSTOP)
    assert lab.lab.down()
    nothing_is_left(lab.lab, before)


def test_a_lab_that_was_killed_is_built_anew(lab: TestedLab) -> None:
    lab.up("a")
    os.kill(keeper(lab.lab), signal.SIGKILL)
    until(lambda: free(lab.lab.folder), "the keeper to be gone")
    lab.up("b")
    assert lab.said("b", "hostname") == "b"


def test_the_same_name_runs_once(lab: TestedLab) -> None:
    lab.up("a")
    with pytest.raises(LabRuns, match="choose another --name"):
        lab.up("a")
    assert lab.said("a", "hostname") == "a"


def test_several_labs_side_by_side(lab: TestedLab, folder: Path) -> None:
    other = TestedLab(Lab(folder, "beside"))
    lab.up("a", "b")
    other.up("a", "c")
    try:
        assert lab.said("b", "hostname") == "b"
        assert other.said("c", "hostname") == "c"
        other.fault("c", Fault(loss=1))
        assert lab.pings("a", "10.0.0.5")
        assert not other.pings("a", "10.0.0.5")
        lab.lab.down()
        other.fault("c", None)
        assert other.pings("a", "10.0.0.5")
    finally:
        other.lab.down()


def test_an_interrupted_up_leaves_nothing(lab: TestedLab, before: list[str]) -> None:
    """Killed at its first word, when the keeper has begun to build."""
    root = lab.lab.folder.parent.parent
    code = (
        "import os, sys; from pathlib import Path; from fabric.lab.control import Lab;"
        "from fabric.lab.plan import make_plan;"
        f"Lab(Path({str(root)!r}), {lab.lab.name!r}).up(make_plan('x', (), ('a', 'b')), rootless=False,"
        " said=lambda _: os.kill(os.getpid(), 9))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: sorted(left()) == before, "all processes to be gone")
    assert lab.lab.down()
    nothing_is_left(lab.lab, before)


def test_a_lab_whose_maker_is_gone_before_it_said_stay_ends(folder: Path) -> None:
    place = folder / "unwanted"
    place.mkdir()
    new = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--map-root-user", "--user"]
    words = [*new, sys.executable, "-P", "-m", "fabric.lab.keeper", str(place)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(msgspec.json.encode(make_plan("unwanted", (), (), host=False)) + b"\n")
        keeper.stdin.flush()
        assert any(msgspec.json.decode(line, type=orders.Progress).ready for line in keeper.stdout)
        keeper.stdin.close()
        assert keeper.wait(PATIENCE) == 1


def test_a_part_that_does_not_start_is_named_and_nothing_stays(
    lab: TestedLab, before: list[str], tmp_path: Path
) -> None:
    fake = tmp_path / "dnsmasq"
    fake.write_text("#!/bin/sh\necho 'cannot dance today' >&2\nexit 2\n")
    fake.chmod(0o755)
    command = command_line("up", "--root", lab.lab.folder.parent.parent, "--name", lab.lab.name)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == ("azfabric: dnsmasq of contoso did not start: cannot dance today")
    nothing_is_left(lab.lab, before)


def test_a_missing_program_is_named_with_its_package(lab: TestedLab, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    code = (
        "from fabric.lab import control; from fabric.lab.plan import make_plan; from pathlib import Path;"
        "control._ADMINISTRATION = '/nowhere';"
        f"control.Lab(Path({str(tmp_path)!r}), 'x').up(make_plan('x', (), ()), rootless=False, said=print)"
    )
    environment = {**os.environ, "PATH": str(tmp_path / "bin")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert "ip, mount, nsenter, setpriv, unshare, dnsmasq is missing; as root: apt-get install " in done.stderr
    assert "dnsmasq-base iproute2 mount util-linux" in done.stderr
    assert not (tmp_path / "lab").exists()


def test_a_root_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FabricError, match="Not a directory"):
        TestedLab(Lab(tmp_path / "file", "x")).up("a")


def test_a_very_deep_root(tmp_path: Path) -> None:
    """Deeper than a socket's name may be long."""
    lab = TestedLab(Lab(tmp_path / ("deep/" * 40), "x"))
    with contextlib.ExitStack() as stack:
        stack.callback(lab.lab.down)
        lab.up("a")
        assert lab.said("a", "hostname") == "a"


def test_the_host_knows_its_vms_by_tenant_and_address(lab: TestedLab) -> None:
    lab.up("a@blue", "b@red", host=True)
    script = (
        "curl -s -H 'x-ms-version: 2012-11-30' -H 'x-ms-agent-name: t' 'http://168.63.129.16/machine/?comp=goalstate'"
    )
    goals = [lab.said(vm, "sh", "-c", script) for vm in "ab"]
    containers = {goal.partition("<ContainerId>")[2].partition("<")[0] for goal in goals}
    assert len(containers) == 2
    metadata = "curl -s -H 'Metadata: true' 'http://169.254.169.254/metadata/instance?api-version=2021-02-01'"
    assert [json.loads(lab.said(vm, "sh", "-c", metadata))["compute"]["name"] for vm in "ab"] == ["a", "b"]


def test_a_host_that_was_killed_comes_back_by_the_command_that_is_shown(lab: TestedLab) -> None:
    lab.up("a", host=True)
    metadata = "curl -sf -H 'Metadata: true' 'http://169.254.169.254/metadata/instance?api-version=2021-02-01'"
    before = lab.said("a", "sh", "-c", metadata)
    (host,) = (pid for pid, line in marked_processes() if f" -m fabric serve --root {lab.lab.folder} " in line)
    os.kill(host, signal.SIGKILL)
    until(lambda: lab.lab.ask(orders.Show())["host"] == "ended with -9", "the keeper to have seen it")
    root = lab.lab.folder.parent.parent
    shown = subprocess.run(command_line("show", "--root", root, "--name", lab.lab.name), stdout=-1, text=True).stdout
    command = re.sub(r"\s*\n\s*", " ", shown).partition("Start it again with: azfabric lab ")[2].split()
    with pytest.raises(NoHost, match=re.escape(f"azfabric lab {' '.join(command)}")):
        Client(lab.lab.folder).get("/api/vms")
    done = subprocess.run(command_line(*command), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"The host of lab {lab.lab.name} runs.\n"), done.stderr
    assert lab.said("a", "sh", "-c", metadata) == before
    assert [one["name"] for one in Client(lab.lab.folder).get("/api/vms")] == ["a"]
    # One that runs is started anew.
    assert subprocess.run(command_line(*command), stdout=-1, check=False).returncode == 0
    assert lab.said("a", "sh", "-c", metadata) == before


def test_a_lab_without_a_host_restarts_none(pair: TestedLab) -> None:
    with pytest.raises(FabricError, match="built with --no-host"):
        pair.lab.ask(orders.Restart())


class AsNobody:
    """`azfabric lab` run by a user with no rights at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        packages = [one for one in sys.path if one.endswith("site-packages")]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *packages])}

    def __call__(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Its own Python may be in a folder that is closed to nobody.
        words = ["/usr/bin/python3", "-P", "-B", "-m", "fabric", "lab", command, "--root", str(self.root), *arguments]
        rights = (
            ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"] if os.geteuid() == 0 else []
        )
        return subprocess.run(
            [*rights, *words], capture_output=True, text=True, env=self._environment, cwd="/", timeout=60, check=False
        )

    def said(self, command: str, *arguments: str) -> str:
        done = self(command, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def nobody(folder: Path) -> Iterator[AsNobody]:
    one = AsNobody(folder / "nobody")
    one.root.mkdir(mode=0o777, exist_ok=True)
    one.root.chmod(0o777)
    yield one
    one("down")


def test_a_user_with_no_rights_has_a_whole_lab(nobody: AsNobody, before: list[str]) -> None:
    nobody.said("up", "--vm", "a@blue", "--vm", "b@blue", "--vm", "c@red")
    asks = "dhclient -1 eth0 2>/dev/null; dig +noall +comments +answer +search b"
    nobody.said("exec", "b", "--", "dhclient", "-1", "eth0")
    writes = "for folder in etc root var/lib; do echo mine >/$folder/mine; done"
    said = nobody.said("exec", "a", "--", "sh", "-ec", f"{asks}; ping -c 1 -W 5 10.0.0.5; {writes}")
    assert "b.blue.internal.cloudapp.net." in said
    assert "1 received" in said
    said = nobody.said("exec", "c", "--", "sh", "-ec", f"{asks}; curl -s 'http://168.63.129.16/?comp=versions'")
    assert "NXDOMAIN" in said
    assert "2012-11-30" in said
    nobody.said("fault", "a", "--loss", "100%", "--seed", "3")
    assert nobody("exec", "a", "--", "ping", "-c", "1", "-W", "1", "10.0.0.5").returncode == 1
    nobody.said("fault", "a", "--lift")
    nobody.said("probe", "a", "22", "--interval", "0.1")
    until(lambda: json.loads(nobody.said("show", "--json"))["vms"][0]["probes"][0]["state"] == "down", "the probe")
    # Whoever looks in, is who it belongs to.
    seen = TestedLab(Lab(nobody.root, "lab"))
    assert seen.said("a", "cat", "/etc/mine") == "mine"
    assert seen.said("a", "id", "-u") == "0"
    seen.said("a", "sh", "-c", "echo yours >/etc/mine")
    assert nobody.said("down") == "Lab lab is gone."
    nothing_is_left(Lab(nobody.root, "lab"), before)


def test_a_lab_of_another_user_is_said_to_be(nobody: AsNobody, lab: TestedLab) -> None:
    lab.up("a")
    nobody.root = lab.lab.folder.parent.parent
    done = nobody("show", "--name", lab.lab.name)
    if os.geteuid() == 0:
        assert "belongs to another user; be that user, or root" in done.stderr


def test_without_the_right_to_namespaces_it_says_what_to_do(folder: Path) -> None:
    root = folder / "without"
    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--no-new-privs"]
    command = [*drop, *command_line("up", "--root", root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Operation not permitted. Try --rootless" in done.stderr
    assert not (root / "lab").exists()


def test_a_namespace_lives_as_long_as_its_descriptor() -> None:
    namespace = new_network()
    number = os.fstat(namespace).st_ino
    assert number != Path("/proc/self/ns/net").stat().st_ino
    os.close(namespace)


def test_an_order_that_is_none_is_refused_and_the_keeper_goes_on(pair: TestedLab) -> None:
    for rubbish in (
        b"\n",
        b"{}\n",
        b"[" * 5000 + b"\n",
        b"\xff\n",
        b'{"type":"SetLink","vm":3}\n',
        b"x" * 200_000 + b"\n",
    ):
        with pair.lab._connected() as one:
            one.sendall(rubbish)
            assert b'"error":"not an order' in one.makefile("rb").readline()
    with pair.lab._connected():
        # Who says nothing holds up nobody.
        assert pair.shown("a")["state"] == "running"


def test_cannot_build_is_a_fabric_error() -> None:
    assert issubclass(CannotBuild, FabricError)
