"""Which mode is in force: nothing is written where nothing says that it may be."""

import itertools
from typing import get_args

import pytest

from ipc.contract.netagent import Link, Route
from netagent.leases import Lease
from netagent.modes import Circumstances, Configured, Mode, choose_mode, evidence, unaddressed
from netagent.nics import choose_nics, choose_primary

AZURE = "its asset tag is Azure's"


def circumstances(
    *,
    may_write: bool = True,
    host_elsewhere: bool = False,
    azure: str = AZURE,
    managers: dict[str, str] | None = None,
    bare: frozenset[str] = frozenset(),
    nics: tuple[str, ...] = ("eth0",),
) -> Circumstances:
    return Circumstances(
        may_write=may_write,
        host_elsewhere=host_elsewhere,
        azure=azure,
        nics=nics,
        managers=managers or {},
        unaddressed=bare,
    )


@pytest.mark.parametrize(
    ("found", "mode"),
    [
        (circumstances(managers={"eth0": "systemd-networkd"}), "repair"),
        (circumstances(managers={"eth0": "dhclient"}, bare=frozenset({"eth0"})), "repair"),
        (circumstances(), "repair"),
        (circumstances(bare=frozenset({"eth0"})), "own"),
        # Its lease has to say that this is Azure.
        (circumstances(bare=frozenset({"eth0"}), azure=""), "own"),
        (circumstances(bare=frozenset({"eth0"}), nics=("eth0", "eth1")), "repair"),
        (circumstances(azure=""), "observe"),
        (circumstances(managers={"eth0": "NetworkManager"}, azure=""), "observe"),
        (circumstances(host_elsewhere=True), "observe"),
        (circumstances(may_write=False), "observe"),
        (circumstances(nics=()), "observe"),
    ],
)
def test_auto(found: Circumstances, mode: Mode) -> None:
    chosen = choose_mode("auto", found)
    assert chosen.mode == mode
    assert chosen.why
    assert not chosen.refused


def test_own_is_refused_beside_a_manager_and_says_what_to_do() -> None:
    chosen = choose_mode("own", circumstances(managers={"eth0": "NetworkManager"}))
    assert (chosen.mode, chosen.refused) == (
        "observe",
        "NetworkManager configures eth0: take it off that NIC first, or choose repair",
    )
    assert choose_mode("own", circumstances(managers={"eth9": "NetworkManager"})).mode == "own"


def test_without_leave_nothing_is_written_whatever_is_configured() -> None:
    for configured, azure, elsewhere in itertools.product(get_args(Configured), (AZURE, ""), (True, False)):
        found = circumstances(may_write=False, azure=azure, host_elsewhere=elsewhere)
        chosen = choose_mode(configured, found)
        assert chosen.mode in {"observe", "off"}
        assert bool(chosen.refused) == (configured in {"repair", "delegate", "own"})


def test_what_is_evidence() -> None:
    route = Route(destination="168.63.129.16/32", gateway="10.0.0.1", link="eth0", metric=0, protocol=16)
    assert evidence({}, [], "7783-7084-3265-9085-8269-3286-77\n", remembered=False, configured=False) == AZURE
    assert "route" in evidence({}, [route], "", remembered=False, configured=False)
    lease = {"a": Lease(wireserver="168.63.129.16")}
    assert "lease a" in evidence(lease, [], "", remembered=False, configured=False)
    assert evidence({"a": Lease(address="10.0.0.4/24")}, [], "other", remembered=False, configured=False) == ""
    assert evidence({}, [], "", remembered=True, configured=False)
    assert evidence({}, [], "", remembered=False, configured=True)


def link(name: str, index: int, *, mac: str = "", kind: str = "", master: int = 0, carrier: bool = True) -> Link:
    mac = mac or f"00:0d:3a:00:00:{index:02x}"
    return Link(index=index, name=name, mac=mac, mtu=1500, up=True, carrier=carrier, kind=kind, master=master)


def test_which_links_are_nics() -> None:
    links = [
        link("lo", 1, mac="00:00:00:00:00:00"),
        link("eth0", 2),
        link("vf0", 3, mac="00:0d:3a:00:00:02", master=2),
        link("docker0", 4, kind="bridge"),
        link("veth1", 5, kind="veth", master=4),
        link("eth1", 6, kind="veth"),
        link("tun0", 7, mac=""),
        link("wg0", 8, kind="wireguard"),
    ]
    links[6] = Link(index=7, name="tun0", mac="", mtu=1500, up=True, carrier=True)
    assert [one.name for one in choose_nics(links)] == ["eth0", "eth1"]
    assert [one.name for one in choose_nics(links, only=["eth1"])] == ["eth1"]
    # Before it is enslaved, an accelerated NIC has the MAC of its synthetic one and nothing else to know it by.
    early = [link("eth0", 2), link("enP1", 3, mac="00:0d:3a:00:00:02")]
    assert [one.name for one in choose_nics(early, synthetic=["eth0"])] == ["eth0"]
    assert unaddressed([link("eth0", 2), link("eth1", 3, carrier=False)], []) == {"eth0"}


def test_which_nic_is_primary() -> None:
    nics = [link("eth0", 2), link("eth1", 3)]
    default = Route(destination="default", gateway="10.0.0.1", link="eth0", metric=100, protocol=16)
    host = Route(destination="168.63.129.16/32", gateway="10.1.0.1", link="eth1", metric=0, protocol=16)
    chosen = choose_primary(nics, {"a": Lease(link="eth1", wireserver="168.63.129.16")}, [default])
    assert chosen is not None
    assert chosen.name == "eth1"
    for routes, name in (([default, host], "eth1"), ([default], "eth0"), ([], "eth0")):
        chosen = choose_primary(nics, {}, routes)
        assert chosen is not None
        assert chosen.name == name
    assert choose_primary([], {}, [default]) is None
