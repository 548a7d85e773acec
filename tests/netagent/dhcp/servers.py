"""ISC dhcpd, Kea and dnsmasq at the host's end of a cable, each told to say what Azure says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.netagent.dhcp.conftest import Cable

ROUTES = "000a00000120a83f81100a00000120a9fea9fe0a000001"
DOMAIN = "lab1.internal.cloudapp.net"


class Server(Protocol):
    """May be started again after it was stopped, and then knows what it gave to whom."""

    def start(self, first: str = "10.0.0.10", last: str = "10.0.0.20", seconds: int = 600) -> None: ...

    def stop(self) -> None: ...

    def leases(self) -> str:
        """Its own record."""


class Isc:
    def __init__(self, cable: Cable, folder: Path) -> None:
        self._cable, self._folder = cable, folder
        self._end: Callable[[], None] | None = None
        (folder / "leases").touch()

    def start(
        self,
        first: str = "10.0.0.10",
        last: str = "10.0.0.20",
        seconds: int = 600,
        network: str = "10.0.0.0",
    ) -> None:
        routes = ", ".join(str(one) for one in bytes.fromhex(ROUTES))
        (self._folder / "dhcpd.conf").write_text(f"""
            authoritative; ddns-update-style none; ping-check false;
            option rfc-routes code 121 = array of unsigned integer 8;
            option ms-routes code 249 = array of unsigned integer 8;
            option wireserver code 245 = ip-address;
            default-lease-time {seconds}; max-lease-time {seconds}; min-lease-time 1; min-secs 0;
            server-identifier 168.63.129.16;
            subnet {network} netmask 255.255.255.0 {{
                range {first} {last};
                option routers 10.0.0.1; option domain-name-servers 168.63.129.16; option domain-name "{DOMAIN}";
                option domain-search "{DOMAIN}", "cloudapp.net"; option interface-mtu 1400;
                option rfc-routes {routes}; option ms-routes {routes}; option wireserver 168.63.129.16;
            }}
        """)
        self._run()

    def serve(self, configuration: str) -> None:
        """With a configuration of the test's own."""
        (self._folder / "dhcpd.conf").write_text(configuration)
        self._run()

    def configuration(self) -> str:
        return (self._folder / "dhcpd.conf").read_text()

    def _run(self) -> None:
        command = ["dhcpd", "-f", "-4", "-cf", str(self._folder / "dhcpd.conf")]
        command += ["-lf", str(self._folder / "leases"), "--no-pid", "br0"]
        self._end = self._cable.serve(command, self._folder / "log", "Sending on   Socket")

    def stop(self) -> None:
        assert self._end is not None
        self._end()

    def leases(self) -> str:
        return (self._folder / "leases").read_text()


class Kea:
    """Its server identifier is its own address: it hears nothing that is sent to another one."""

    def __init__(self, cable: Cable, folder: Path) -> None:
        self._cable, self._folder = cable, folder
        self._end: Callable[[], None] | None = None

    def start(self, first: str = "10.0.0.10", last: str = "10.0.0.20", seconds: int = 600) -> None:
        data = [
            {"name": "routers", "data": "10.0.0.1"},
            {"name": "domain-name-servers", "data": "168.63.129.16"},
            {"name": "domain-name", "data": DOMAIN},
            {"name": "domain-search", "data": f"{DOMAIN}, cloudapp.net"},
            {"name": "interface-mtu", "data": "1400"},
            {"name": "rfc-routes", "data": ROUTES},
            {"name": "ms-routes", "data": ROUTES},
            {"name": "wireserver", "data": "168.63.129.16"},
        ]
        definitions = [
            {"name": "rfc-routes", "code": 121, "type": "binary"},
            {"name": "ms-routes", "code": 249, "type": "binary"},
            {"name": "wireserver", "code": 245, "type": "ipv4-address"},
        ]
        leases = {"type": "memfile", "persist": True, "name": str(self._folder / "leases.csv"), "lfc-interval": 0}
        subnet = {"id": 1, "subnet": "10.0.0.0/24", "pools": [{"pool": f"{first} - {last}"}]}
        server = {
            "interfaces-config": {"interfaces": ["br0"]},
            "lease-database": leases,
            "valid-lifetime": seconds,
            "calculate-tee-times": True,
            "authoritative": True,
            "option-def": definitions,
            "option-data": data,
            "subnet4": [subnet],
            "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
        }
        (self._folder / "kea.json").write_text(json.dumps({"Dhcp4": server}))
        environment = {"KEA_PIDFILE_DIR": str(self._folder), "KEA_LOCKFILE_DIR": "none"}
        command = ["kea-dhcp4", "-c", str(self._folder / "kea.json")]
        self._end = self._cable.serve(command, self._folder / "log", "DHCP4_STARTED", environment)

    def stop(self) -> None:
        assert self._end is not None
        self._end()
        for left in self._folder.glob("*.pid"):
            left.unlink()

    def leases(self) -> str:
        return (self._folder / "leases.csv").read_text()


class Dnsmasq:
    """Its shortest lease is 120 s; T1 and T2 may be shorter."""

    def __init__(self, cable: Cable, folder: Path) -> None:
        self._cable, self._folder = cable, folder
        self._end: Callable[[], None] | None = None

    def start(self, first: str = "10.0.0.10", last: str = "10.0.0.20", seconds: int = 600) -> None:
        routes = "0.0.0.0/0,10.0.0.1,168.63.129.16/32,10.0.0.1,169.254.169.254/32,10.0.0.1"
        (self._folder / "dnsmasq.conf").write_text(f"""
port=0
interface=br0
bind-interfaces
dhcp-authoritative
no-ping
log-dhcp
dhcp-range={first},{last},255.255.255.0,{max(seconds, 120)}
dhcp-leasefile={self._folder}/leases
dhcp-option=3,10.0.0.1
dhcp-option=6,168.63.129.16
dhcp-option=15,{DOMAIN}
dhcp-option=119,{DOMAIN},cloudapp.net
dhcp-option=26,1400
dhcp-option=58,{seconds // 2}
dhcp-option=59,{seconds * 7 // 8}
dhcp-option-force=121,{routes}
dhcp-option-force=249,{ROUTES}
dhcp-option-force=245,168.63.129.16
""")
        command = ["dnsmasq", "-d", "-C", str(self._folder / "dnsmasq.conf"), "-x", ""]
        self._end = self._cable.serve(command, self._folder / "log", "sockets bound exclusively")

    def stop(self) -> None:
        assert self._end is not None
        self._end()

    def leases(self) -> str:
        return (self._folder / "leases").read_text()


KINDS: dict[str, type[Isc] | type[Kea] | type[Dnsmasq]] = {"isc": Isc, "kea": Kea, "dnsmasq": Dnsmasq}
