"""Where the host is: configuration, lease, route, or where it always is."""

from hypothesis import given
from hypothesis import strategies as st

from ipc.contract.netagent import Route
from netagent.leases import Lease
from netagent.wireserver import choose_wireserver

DEFAULT = Route(destination="default", gateway="10.0.0.1", link="eth0", metric=100, protocol=16)
KNOWN = Route(destination="168.63.129.16/32", gateway="10.0.0.1", link="eth0", metric=0, protocol=16)
ON_LINK = Route(destination="168.63.129.16/32", gateway="", link="eth1", metric=0, protocol=3)
LEASES = {
    "/run/systemd/netif/leases/2": Lease(address="10.0.0.4/24"),
    "/var/lib/dhcp/a": Lease(wireserver="10.0.0.9"),
    "/var/lib/dhcp/b": Lease(wireserver="10.0.0.10"),
}


def test_the_configuration_wins() -> None:
    found = choose_wireserver("http://127.0.0.1:8080/", LEASES, [KNOWN])
    assert (found.url, found.found_in) == ("http://127.0.0.1:8080", "configuration")


def test_then_the_first_lease() -> None:
    found = choose_wireserver("", LEASES, [KNOWN])
    assert (found.url, found.found_in, found.detail) == ("http://10.0.0.9", "lease", "/var/lib/dhcp/a")


def test_then_a_route_to_the_well_known_address() -> None:
    found = choose_wireserver("", {}, [DEFAULT, KNOWN])
    assert (found.url, found.found_in) == ("http://168.63.129.16", "route")
    assert found.detail == "168.63.129.16/32 via 10.0.0.1 dev eth0"
    assert choose_wireserver("", {}, [ON_LINK]).detail == "168.63.129.16/32 via no gateway dev eth1"


def test_then_where_it_always_is() -> None:
    for routes in ([], [DEFAULT]):
        found = choose_wireserver("", {}, routes)
        assert (found.url, found.found_in) == ("http://168.63.129.16", "default")


@given(
    st.sampled_from(["", "http://h", "http://h:1/"]),
    st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from(list(LEASES.values())), max_size=3),
    st.lists(st.sampled_from([DEFAULT, KNOWN, ON_LINK]), max_size=4),
)
def test_there_is_always_one_and_it_is_a_base_url(
    configured: str, leases: dict[str, Lease], routes: list[Route]
) -> None:
    found = choose_wireserver(configured, leases, routes)
    assert found.url.startswith("http://")
    assert not found.url.endswith("/")
    assert found.detail
    assert found == choose_wireserver(configured, leases, routes)
