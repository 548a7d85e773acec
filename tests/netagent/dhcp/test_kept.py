"""The lease on disk: what a file is worth after a restart, a reboot, an accident."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.dhcp.kept import Kept, forget_kept, read_kept, write_kept
from netagent.dhcp.lease import Lease, StaticRoute

LEASE = Lease(
    mac="00:0d:3a:01:02:03",
    address="10.0.0.7",
    prefix=24,
    server="168.63.129.16",
    started=900.0,
    boot_id="boot",
    seconds=3600,
    renew_after=1800,
    rebind_after=3150,
    routes=(StaticRoute(destination="0.0.0.0/0", gateway="10.0.0.1"),),
    wireserver="168.63.129.16",
)


def read(path: Path, *, mac: str = LEASE.mac, boot_id: str = "boot", now: float = 1000.0) -> Kept:
    return read_kept(path, mac=mac, boot_id=boot_id, now=now)


def changed(**fields: object) -> Lease:
    return msgspec.structs.replace(LEASE, **fields)


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "dhcp" / "eth0.json"
    assert read(path) == Kept()
    write_kept(path, LEASE)
    assert read(path) == Kept(address="10.0.0.7", lease=LEASE)
    forget_kept(path)
    forget_kept(path)
    assert read(path) == Kept()


def test_of_another_boot_only_the_address_counts(tmp_path: Path) -> None:
    write_kept(tmp_path / "lease", LEASE)
    kept = read(tmp_path / "lease", boot_id="another")
    assert (kept.address, kept.lease) == ("10.0.0.7", None)
    assert "earlier boot" in kept.why_not


@pytest.mark.parametrize("now", [4500.0, 899.0])
def test_nor_of_one_that_ran_out_or_begins_in_the_future(tmp_path: Path, now: float) -> None:
    write_kept(tmp_path / "lease", LEASE)
    kept = read(tmp_path / "lease", now=now)
    assert (kept.address, kept.lease) == ("10.0.0.7", None)


def test_an_infinite_one_does_not_run_out(tmp_path: Path) -> None:
    write_kept(tmp_path / "lease", changed(seconds=None, renew_after=None, rebind_after=None))
    assert read(tmp_path / "lease", now=1e12).lease is not None


def test_another_interface_s_is_none_of_ours(tmp_path: Path) -> None:
    write_kept(tmp_path / "lease", LEASE)
    kept = read(tmp_path / "lease", mac="00:0d:3a:0a:0b:0c")
    assert (kept.address, kept.lease) == ("", None)
    assert "the interface is 00:0d:3a:0a:0b:0c" in kept.why_not


@pytest.mark.parametrize(
    "lease",
    [
        changed(address="10.0.0"),
        changed(address="127.0.0.1"),
        changed(address="10.0.0.7; reboot"),
        changed(prefix=0),
        changed(prefix=33),
        changed(seconds=0),
        changed(seconds=-1),
        changed(server=""),
        changed(nameservers=("224.0.0.1",)),
        changed(wireserver="x"),
        changed(routes=(StaticRoute(destination="0.0.0.0/33", gateway=""),)),
        changed(routes=(StaticRoute(destination="10.0.0.0/8", gateway="evil"),)),
    ],
)
def test_what_we_would_not_have_written_is_not_believed(tmp_path: Path, lease: Lease) -> None:
    write_kept(tmp_path / "lease", lease)
    kept = read(tmp_path / "lease")
    assert (kept.address, kept.lease) == ("", None)
    assert kept.why_not


@given(st.binary(max_size=60), st.integers(0, 500))
def test_whatever_is_in_the_file_there_is_a_server_to_ask(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, where: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    data = msgspec.json.encode(LEASE)
    for content in (data[:where], data[:where] + noise + data[where:], noise):
        path.write_bytes(content)
        kept = read(path)
        assert kept.lease is None or kept.address == kept.lease.address


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "lease").mkdir()
    assert read(tmp_path / "lease").why_not
