"""What a lab is made of: names and addresses in, commands and configuration out. Nothing here acts."""

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import msgspec

from fabric.errors import FabricError

PLATFORM = ("168.63.129.16", "169.254.169.254")
"""WireServer (also DNS and the source of probes), and IMDS."""
PROBE_SOURCE = PLATFORM[0]
GATEWAY = "10.0.0.1"
GATEWAY_MAC = "12:34:56:78:9a:bc"
SUBNET = ipaddress.IPv4Network("10.0.0.0/24")
HOST = "host"
ZONE = "internal.cloudapp.net"

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?", re.ASCII)
_SECONDS = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(us|ms|s)", re.ASCII)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_RESERVED = 4
"""Azure keeps the first four addresses of a subnet, and the last."""

Direction = Literal["in", "out", "both"]
_FIRST_TENANT = "contoso"


class BadLab(FabricError):
    """A lab, a VM or a fault is asked for that cannot be."""

    exit_status = 2


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    """One VM with one NIC."""

    name: str
    tenant: str
    address: str
    mac: str
    number: int
    """Names its cable."""


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A network of its own: all tenants have the same addresses."""

    name: str
    number: int

    @property
    def domain(self) -> str:
        """What its VMs are named in."""
        return f"{self.name}.{ZONE}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole lab."""

    name: str
    tenants: tuple[Tenant, ...]
    vms: tuple[Vm, ...]
    static: bool = False
    """VMs have their address from the start, without DHCP."""
    host: bool = True
    """An `azfabric serve` answers at the platform's addresses."""

    def tenant(self, name: str) -> Tenant:
        """The one `host` or `host@TENANT` is of. Raises BadLab."""
        wanted = name.partition("@")[2]
        found = [one for one in self.tenants if wanted in {one.name, ""}]
        if len(found) != 1:
            raise BadLab(f"{name!r} is none of {', '.join(f'{HOST}@{one.name}' for one in self.tenants)}; say which")
        return found[0]

    def vm(self, name: str) -> Vm:
        """Raises BadLab."""
        for one in self.vms:
            if one.name == name:
                return one
        raise BadLab(f"lab {self.name} has no VM {name!r}; it has {', '.join(one.name for one in self.vms)}")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay does to the packets of one VM. Seconds, and shares of one."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    direction: Direction = "both"
    """`in` is towards the VM."""
    seed: int = 0


def make_plan(
    name: str, tenants: tuple[str, ...], vms: tuple[str, ...], *, static: bool = False, host: bool = True
) -> Plan:
    """Of `--tenant NAME` and `--vm NAME[@TENANT][=ADDRESS]`, in their order. Raises BadLab."""
    asked = [_taken_apart(one) for one in vms]
    # Who names no tenant is of the first: one that was named, or that there is anyway.
    first = tenants or (() if asked and all(tenant for _, tenant, _ in asked) else (_FIRST_TENANT,))
    names = list(dict.fromkeys([*first, *(tenant for _, tenant, _ in asked if tenant)]))
    if len(names) > 255:
        raise BadLab(f"{len(names)} tenants are more than the 255 a lab may have")
    for one in (name, *names):
        check_name(one)
    asked = [(vm, tenant or names[0], address) for vm, tenant, address in asked]
    if not asked:
        asked = [(f"vm{number}", tenant, "") for number, tenant in enumerate(names, 1)]
    made = [
        Vm(name=vm, tenant=tenant, address=address, mac=_mac(names.index(tenant) + 1, address), number=number)
        for number, (vm, tenant, address) in enumerate(_addressed(asked), 1)
    ]
    for which, count in Counter(one.name for one in made).items():
        if count > 1:
            raise BadLab(f"two VMs are called {which}: one lab's VMs differ in name, also those of different tenants")
    whole = tuple(Tenant(name=one, number=number) for number, one in enumerate(names, 1))
    return Plan(name=name, tenants=whole, vms=tuple(made), static=static, host=host)


def _taken_apart(text: str) -> tuple[str, str, str]:
    rest, equals, address = text.partition("=")
    name, at, tenant = rest.partition("@")
    check_name(name)
    if name == HOST:
        raise BadLab(f"a VM cannot be called {HOST!r}: that is what the host's side of a tenant is called")
    if at:
        check_name(tenant)
    return name, tenant, _usable(address) if equals else ""


def check_name(name: str) -> None:
    """Of a lab, a tenant or a VM. Raises BadLab."""
    if not _NAME.fullmatch(name):
        raise BadLab(f"{name!r} is no name: a letter, then letters, digits and '-', all small, at most 31")


def _usable(text: str) -> str:
    try:
        if (address := ipaddress.IPv4Address(text)) in _addresses():
            return str(address)
    except ValueError:
        # Said below.
        pass
    raise BadLab(f"{text!r} is no address a VM can have: {_addresses()[0]} to {_addresses()[-1]} are")


def _addresses() -> list[ipaddress.IPv4Address]:
    return list(SUBNET)[_RESERVED:-1]


def _addressed(asked: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """With the lowest free address of its tenant for each VM that named none."""
    taken = {(tenant, address) for _, tenant, address in asked if address}
    if len(taken) < sum(1 for _, _, address in asked if address):
        raise BadLab("two VMs of one tenant ask for the same address")
    found = []
    for name, tenant, wanted in asked:
        free = (one for one in map(str, _addresses()) if (tenant, one) not in taken)
        address = wanted or next(free, "")
        if not address:
            raise BadLab(f"tenant {tenant} has no address left for VM {name}: {len(_addresses())} are the most")
        taken.add((tenant, address))
        found.append((name, tenant, address))
    return found


def _mac(tenant: int, address: str) -> str:
    return f"00:0d:3a:{tenant:02x}:00:{int(address.rpartition('.')[2]):02x}"


def panel_lines(plan: Plan, namespaces: Mapping[str, str]) -> list[str]:
    """For `ip -batch` in the panel: a bridge per tenant, and each cable's other end in its namespace.

    `namespaces` has a path for each tenant (as `host@TENANT`) and each VM.
    """
    lines = []
    for one in plan.tenants:
        bridge, port = f"br{one.number}", f"t{one.number}"
        lines += [
            f"link add {bridge} type bridge",
            f"link set {bridge} up",
            f"link add {port} type veth peer name lan0 address {GATEWAY_MAC} netns {namespaces[f'{HOST}@{one.name}']}",
            *_plugged(port, bridge),
        ]
    for vm in plan.vms:
        lines += [
            f"link add w{vm.number} type veth peer name eth0 address {vm.mac} netns {namespaces[vm.name]}",
            *_plugged(f"w{vm.number}", bridge_of(plan, vm)),
        ]
    return lines


def bridge_of(plan: Plan, vm: Vm) -> str:
    """The bridge this VM's cable ends in."""
    return next(f"br{one.number}" for one in plan.tenants if one.name == vm.tenant)


def _plugged(port: str, bridge: str) -> list[str]:
    return [f"link set {port} master {bridge}", f"link set {port} up"]


def relay_pieces(vm: Vm) -> list[str]:
    """A piece of cable that only the relay will cross; not yet in any bridge."""
    _, there = relay_ends(vm)
    return [
        f"link add {there} type veth peer name {_piece(vm)}",
        f"link set {there} up",
        f"link set {_piece(vm)} up",
    ]


def relay_in(plan: Plan, vm: Vm) -> list[str]:
    """The piece takes the cable's place in the bridge."""
    return [f"link set {relay_ends(vm)[0]} nomaster", f"link set {_piece(vm)} master {bridge_of(plan, vm)}"]


def relay_out(plan: Plan, vm: Vm) -> list[str]:
    """The cable takes its place back."""
    here, there = relay_ends(vm)
    return [f"link set {_piece(vm)} nomaster", f"link set {here} master {bridge_of(plan, vm)}", f"link delete {there}"]


def relay_ends(vm: Vm) -> tuple[str, str]:
    """The VM's side and the bridge's side."""
    return f"w{vm.number}", f"w{vm.number}a"


def _piece(vm: Vm) -> str:
    return f"w{vm.number}b"


def host_lines() -> list[str]:
    """For `ip -batch` in a tenant's host namespace."""
    return [
        "link set lo up",
        *(f"address add {one}/32 dev lo" for one in PLATFORM),
        f"address add {GATEWAY}/{SUBNET.prefixlen} dev lan0",
        "link set lan0 up",
    ]


def vm_lines(plan: Plan, vm: Vm) -> list[str]:
    """For `ip -batch` in a VM."""
    lines = ["link set lo up", "link set eth0 up"]
    if plan.static:
        lines += [
            f"address add {vm.address}/{SUBNET.prefixlen} dev eth0",
            f"route add default via {GATEWAY}",
            *(f"route add {one}/32 via {GATEWAY}" for one in PLATFORM),
        ]
    return lines


def resolver(plan: Plan, vm: Vm) -> str:
    """A VM's first /etc/resolv.conf."""
    return f"search {vm.tenant}.{ZONE}\nnameserver {PLATFORM[0]}\n" if plan.static else ""


def dnsmasq_configuration(plan: Plan, tenant: Tenant) -> str:
    """DHCP and DNS of one tenant: it knows its own names, and of others that they do not exist."""
    routes = ",".join(f"{to},{GATEWAY}" for to in ("0.0.0.0/0", *(f"{one}/32" for one in PLATFORM)))
    lines = [
        "bind-dynamic",
        "interface=lan0",
        "except-interface=lo",
        f"listen-address={PLATFORM[0]}",
        "no-resolv",
        "no-hosts",
        f"domain={tenant.domain}",
        "address=/#/",
        "dhcp-authoritative",
        f"dhcp-range={SUBNET.network_address},static,{SUBNET.netmask},infinite",
        f"dhcp-option=3,{GATEWAY}",
        f"dhcp-option=6,{PLATFORM[0]}",
        "dhcp-option=26,1500",
        f"dhcp-option=119,{tenant.domain},{ZONE}",
        f"dhcp-option=121,{routes}",
        f"dhcp-option=249,{routes}",
        # Azure sends it also to who does not ask.
        f"dhcp-option-force=245,{PLATFORM[0]}",
        *(f"dhcp-host={one.mac},{one.address},infinite" for one in plan.vms if one.tenant == tenant.name),
        "log-dhcp",
    ]
    return "\n".join(lines) + "\n"


def dnsmasq_leases(plan: Plan, tenant: Tenant) -> str:
    """What dnsmasq starts with: all names are in DNS at once; a VM that sends another (option 12) has that instead."""
    return "".join(f"0 {one.mac} {one.address} {one.name} *\n" for one in plan.vms if one.tenant == tenant.name)


def seconds(text: str) -> float:
    """`25ms`, `1.5s`, `300us`. Raises BadLab."""
    found = _SECONDS.fullmatch(text)
    if not found:
        raise BadLab(f"{text!r} is no time: say 25ms, 1.5s or 300us")
    return float(found[1]) * _UNITS[found[2]]


def share(text: str) -> float:
    """`20%` is 0.2. Raises BadLab."""
    found = _PERCENT.fullmatch(text)
    if not found or float(found[1]) > 100:
        raise BadLab(f"{text!r} is no share: say 20% (0% to 100%)")
    return float(found[1]) / 100
