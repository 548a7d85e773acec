"""Lease files as the clients write them: valid, expired, torn, hostile."""

import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.leases import (
    SIZE_LIMIT,
    Lease,
    LeaseError,
    address,
    parse_dhclient,
    parse_network_manager,
    parse_network_manager_device,
    parse_networkd,
)
from netagent.watch import LeaseFiles

NOW = 1_700_000_000.0  # 2023/11/14 22:13:20

LEASE = """lease {{
  interface "eth0";
  fixed-address 10.0.0.4;
  server-name "host01";
  option subnet-mask 255.255.255.0;
  option dhcp-lease-time 4294967295;
  option routers 10.0.0.1;
  option dhcp-message-type 5;
  option dhcp-server-identifier 168.63.129.16;
  option domain-name-servers 168.63.129.16;
  option domain-name "abc.internal.cloudapp.net";
  {option}
  renew 0 2160/12/13 23:59:59;
  rebind 0 2160/12/13 23:59:59;
  {expire}
}}
"""
VALID = "expire 0 2160/12/13 23:59:59;"
PAST = "expire 2 2023/11/14 22:13:19;"
HEX = "option unknown-245 a8:3f:81:10;"
OTHER = "option unknown-245 a:0:0:1;"

# As /run/systemd/netif/leases/2 of systemd 252 reads.
NETWORKD = """# This is private data. Do not parse.
ADDRESS=10.0.0.4
NETMASK=255.255.255.0
ROUTER=10.0.0.1
SERVER_ADDRESS=168.63.129.16
NEXT_SERVER=168.63.129.16
LIFETIME=4294967295
DNS=168.63.129.16
DOMAINNAME=abc.internal.cloudapp.net
CLIENTID=ff00000000
OPTION_245=a83f8110
"""
MANAGER = """# This is private data. Do not parse.
ADDRESS=10.0.0.4
LIFETIME=86400
OPTION_245=168.63.129.16
"""
WIRESERVER = "168.63.129.16"


def dhclient(*options: tuple[str, str]) -> bytes:
    return "".join(LEASE.format(option=option, expire=expire) for option, expire in options).encode()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (dhclient((HEX, VALID)), WIRESERVER),
        (dhclient(("option azure-wireserver 168.63.129.16;", VALID)), WIRESERVER),
        (dhclient(("option wireserver 168.63.129.16;", "expire never;")), WIRESERVER),
        (dhclient((HEX, "expire epoch 1700000001; # Tue Nov 14")), WIRESERVER),
        (dhclient((HEX, "expire epoch 1700000000; # Tue Nov 14")), None),
        (dhclient((HEX, "expire 2 2023/11/14 22:13:21;")), WIRESERVER),
        (dhclient((HEX, PAST)), None),
        (dhclient((HEX, "")), None),
        (dhclient((HEX, "expire 9 2023/13/45 99:99:99;")), None),
        (dhclient(("", VALID)), None),
        (dhclient((OTHER, VALID), (HEX, VALID)), WIRESERVER),
        (dhclient((HEX, VALID), (OTHER, PAST)), WIRESERVER),
        (dhclient((HEX, VALID), ("", VALID)), WIRESERVER),
        (b"", None),
        (b'default-duid "\\000\\001";\n' + dhclient((HEX, VALID)), WIRESERVER),
        (dhclient((HEX, VALID)).replace(b"\n", b"\r\n"), WIRESERVER),
        # Cut short while it was written: what was whole before is what is.
        (dhclient((HEX, VALID), (OTHER, VALID))[:-3], WIRESERVER),
        (dhclient((HEX, VALID), (OTHER, VALID))[: len(dhclient((HEX, VALID))) + 20], WIRESERVER),
        # What a server sends may look like the file's own words.
        (dhclient((HEX, VALID)).replace(b"abc.", b"a } b { expire never; "), WIRESERVER),
        (dhclient(("", VALID)).replace(b"abc.", b"lease {  option unknown-245 a:0:0:1; "), None),
        (dhclient((HEX, PAST)).replace(b"abc.", b"x expire never; "), None),
        (dhclient(("", VALID)).replace(b"abc.", b"x; option unknown-245 a:0:0:1; "), None),
    ],
)
def test_dhclient(data: bytes, found: str | None) -> None:
    assert wireserver(parse_dhclient(data, now=NOW)) == found


def wireserver(lease: Lease | None) -> str | None:
    """None: there is no lease, or it does not say."""
    return lease.wireserver or None if lease else None


def test_networkd_and_network_manager() -> None:
    assert wireserver(parse_networkd(NETWORKD.encode())) == WIRESERVER
    assert wireserver(parse_networkd(NETWORKD.replace("OPTION_245", "#OPTION_245").encode())) is None
    assert wireserver(parse_networkd(NETWORKD.replace("DOMAINNAME=", "DOMAINNAME=OPTION_245=").encode())) == WIRESERVER
    assert parse_networkd(b"") is None
    assert wireserver(parse_network_manager(MANAGER.encode())) == WIRESERVER
    assert wireserver(parse_network_manager(NETWORKD.encode())) == WIRESERVER
    # It writes the address alone; that is no lease of a single address.
    assert parse_network_manager(b"ADDRESS=10.0.0.4\n") == Lease()


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "leases").iterdir()), ids=lambda path: path.name)
def test_what_the_three_wrote_in_a_real_vm(path: Path) -> None:
    data = path.read_bytes()
    if path.name.startswith("dhclient"):
        lease = parse_dhclient(data, now=NOW)
    elif path.name.startswith("networkd"):
        lease = parse_networkd(data)
    elif path.name.endswith("device"):
        lease = parse_network_manager_device(data)
    else:
        assert parse_network_manager(data) == Lease()
        return
    assert lease is not None
    assert (lease.wireserver, lease.address) == ("168.63.129.16", "10.0.0.4/24")
    for destination in ("0.0.0.0/0", "168.63.129.16/32", "169.254.169.254/32"):
        assert lease.gateway(destination) == "10.0.0.1"


def test_address_and_routes() -> None:
    """As the three write them: option 121 before 249 before option 3."""
    routes = (("0.0.0.0/0", "10.0.0.1"), ("168.63.129.16/32", "10.0.0.1"), ("10.9.0.0/16", ""))
    classless = "0,10,0,0,1,32,168,63,129,16,10,0,0,1,16,10,9,0,0,0,0"
    hexadecimal = "0:a:0:0:1:20:a8:3f:81:10:a:0:0:1:10:a:9:0:0:0:0"
    for option in (
        f"option rfc3442-classless-static-routes {classless};",
        f"option unknown-121 {hexadecimal};",
        f"option unknown-249 {hexadecimal};",
        f"option ms-classless-static-routes {classless};\n  option unknown-121 {hexadecimal};",
    ):
        lease = parse_dhclient(dhclient((option, VALID)), now=NOW)
        assert lease is not None
        assert (lease.link, lease.address, lease.routes) == ("eth0", "10.0.0.4/24", routes)
        assert lease.gateway("168.63.129.16/32") == lease.gateway("169.254.169.254/32") == "10.0.0.1"
    plain = parse_dhclient(dhclient(("", VALID)), now=NOW)
    networkd = parse_networkd(NETWORKD.encode())
    assert plain is not None
    assert networkd is not None
    assert plain.routes == networkd.routes == (("0.0.0.0/0", "10.0.0.1"),)
    listed = parse_networkd(
        NETWORKD.encode() + b"ROUTES=0.0.0.0/0,10.0.0.1 168.63.129.16/32,10.0.0.1 10.9.0.0/16,0.0.0.0\n"
    )
    assert listed is not None
    assert listed.routes == routes


@pytest.mark.parametrize(
    "option",
    [
        "option unknown-121 21:a8:3f:81:10:a:0:0:1;",
        "option unknown-121 20:a8:3f:81:10:a:0:0;",
        "option unknown-121 20:a8:3f;",
        "option unknown-121 300,1;",
        "option unknown-121 x;",
        "option subnet-mask 255.0.255.0;",
        "option routers 10.0.0;",
    ],
)
def test_a_lease_that_cannot_be_right_is_refused(option: str) -> None:
    text = LEASE.format(option="", expire=VALID)
    kept = [line for line in text.splitlines() if line.strip().split()[1:2] != option.split()[1:2]]
    kept.insert(1, f"  {option}")
    with pytest.raises(LeaseError):
        parse_dhclient("\n".join(kept).encode() + b"\n", now=NOW)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a8:3f:81:10", "168.63.129.16"),
        ("a:0:0:1", "10.0.0.1"),
        ("a83f8110", "168.63.129.16"),
        ("A83F8110", "168.63.129.16"),
        ("168.63.129.16", "168.63.129.16"),
        (' "168.63.129.16" ', "168.63.129.16"),
        ("169.254.169.254", "169.254.169.254"),
    ],
)
def test_forms_of_an_address(text: str, found: str) -> None:
    assert address(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a8:3f:81",
        "a8:3f:81:10:00",
        "a8:3f:81:xx",
        "a83f81",
        "168.63.129",
        "168.63.129.999",
        "168.63.129.16/32",
        "168.63.129.16:80",
        "1.2.3.4@evil",
        "0.0.0.0",  # noqa: S104
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "ff:ff:ff:ff",
        "::1",
        "fd00::4",
        "evil.example",
        "١٦٨.63.129.16",
    ],
)
def test_what_is_no_hosts_address_is_refused(text: str) -> None:
    with pytest.raises(LeaseError, match="option 245"):
        address(text)


def test_a_file_of_any_size_is_bounded() -> None:
    with pytest.raises(LeaseError, match="larger than"):
        parse_dhclient(b"x" * (SIZE_LIMIT + 1), now=NOW)


@pytest.mark.parametrize("piece", [b"\n", b" ", b"lease {", b"lease {\n", b"}\n", b"  option ", b"OPTION_245=a\n"])
def test_no_content_takes_longer_than_its_length(piece: bytes) -> None:
    """A pattern that looks back over what it has seen would take hours for a megabyte."""
    data = piece * ((SIZE_LIMIT - 100) // len(piece))
    assert parse_dhclient(b"lease {\n" + data + b"\n}\n", now=NOW) is None
    for parse in (parse_networkd, parse_network_manager):
        if b"245" in piece:
            with pytest.raises(LeaseError):
                parse(data)
        else:
            assert parse(data) is None


OPTIONS = [
    "dhcp4.ip_address=",
    "dhcp4.private_245=",
    "option ",
    "unknown-245 ",
    "wireserver ",
    "a8:3f:81:10",
    "168.63.129.16",
    "OPTION_245=",
    "ADDRESS_245=",
]
TIMES = ["expire ", "never", "epoch ", "9999999999", "0 2160/12/13 23:59:59"]
MARKS = ["lease {", "}", "\n", "\r", "  ", ";", '"', "\0", "é"]
words = st.sampled_from(OPTIONS + TIMES + MARKS)


@given(st.lists(words | st.text(max_size=3), max_size=40).map("".join), st.floats(0, 1e12))
def test_any_text_gives_an_address_or_nothing_or_a_lease_error(text: str, now: float) -> None:
    for parse in (
        lambda data: parse_dhclient(data, now=now),
        parse_networkd,
        parse_network_manager,
        parse_network_manager_device,
    ):
        try:
            lease = parse(text.encode())
        except LeaseError:
            continue
        assert lease is None or not lease.wireserver or ipaddress.IPv4Address(lease.wireserver)


@given(st.binary(max_size=200))
def test_any_bytes_too(data: bytes) -> None:
    for parse in (
        lambda data: parse_dhclient(data, now=NOW),
        parse_networkd,
        parse_network_manager,
        parse_network_manager_device,
    ):
        try:
            parse(b"lease {\noption wireserver " + data + b";\nexpire never;\n}\nOPTION_245=" + data)
        except LeaseError:
            continue


# -- where they lie ----------------------------------------------------------------------------------------------------


def put(root: Path, name: str, content: bytes) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def test_all_clients_are_read_in_order(tmp_path: Path) -> None:
    manager = put(tmp_path, "var/lib/NetworkManager/internal-1-eth0.lease", MANAGER.encode())
    networkd = put(tmp_path, "run/systemd/netif/leases/2", NETWORKD.encode())
    redhat = put(tmp_path, "var/lib/dhclient/dhclient-eth0.leases", dhclient((HEX, VALID)))
    debian = put(tmp_path, "var/lib/dhcp/dhclient.eth0.leases", dhclient((OTHER, VALID)))
    put(tmp_path, "var/lib/dhcp/dhclient.eth1.leases", dhclient((HEX, PAST)))
    put(tmp_path, "var/lib/dhcp/other", dhclient((HEX, VALID)))
    found, problems = LeaseFiles(root=tmp_path).read({2: "eth0"}, now=NOW)
    assert list(found) == [debian, redhat, networkd, manager]
    assert found[debian].wireserver == "10.0.0.1"
    assert found[networkd].link == "eth0"
    assert problems == []


def test_what_cannot_be_read_is_passed_over_and_said(tmp_path: Path) -> None:
    good = put(tmp_path, "var/lib/dhcp/dhclient.zzz.leases", dhclient((HEX, VALID)))
    bad = put(tmp_path, "var/lib/dhcp/dhclient.bad.leases", dhclient(("option unknown-245 1:2;", VALID)))
    large = put(tmp_path, "var/lib/dhcp/dhclient.big.leases", b" " * (SIZE_LIMIT + 1))
    folder = tmp_path / "run/systemd/netif/leases/7"
    folder.mkdir(parents=True)
    gone = tmp_path / "run/systemd/netif/leases/8"
    gone.symlink_to("nowhere")
    found, problems = LeaseFiles(root=tmp_path).read({2: "eth0"}, now=NOW)
    assert list(found) == [good]
    assert problems == [
        f"lease file {bad} is passed over: option 245 is '1:2', no IPv4 address",
        f"lease file {large} is passed over: is larger than 1048576 bytes",
        f"lease file {folder} is passed over: Is a directory",
        f"lease file {gone} is passed over: No such file or directory",
    ]


def test_a_file_name_may_be_any_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/dhcp"
    folder.mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(folder) + b"/dhclient.\xff.leases")).write_bytes(dhclient((HEX, VALID)))
    found, _ = LeaseFiles(root=tmp_path).read({2: "eth0"}, now=NOW)
    (name,) = found
    assert name.encode().endswith("dhclient.\ufffd.leases".encode())


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert LeaseFiles(root=tmp_path / "nowhere").read({2: "eth0"}, now=NOW) == ({}, [])
