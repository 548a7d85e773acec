"""What came and what went, told in one line."""

from hypothesis import given
from hypothesis import strategies as st

from ipc.contract.netagent import Address, Link, Resolver, Route
from netagent.leases import Lease
from netagent.watch import Picture, difference

NOBODY = Resolver(manager="none", nameservers=[], search=[])
ETH0 = Link(index=2, name="eth0", mac="00:0d:3a:01:02:03", mtu=1500, up=True, carrier=True)


def route(number: int) -> Route:
    return Route(destination=f"route-{number}.", gateway="10.0.0.1", link="eth0", metric=0, protocol=3)


def picture(
    *,
    links: list[Link] | None = None,
    addresses: list[Address] | None = None,
    routes: list[Route] | None = None,
    resolver: Resolver = NOBODY,
    leases: dict[str, Lease] | None = None,
    problems: list[str] | None = None,
) -> Picture:
    return Picture(
        links=links or [],
        addresses=addresses or [],
        routes=routes or [],
        resolver=resolver,
        leases=leases or {},
        problems=problems or [],
    )


def test_each_kind_of_change_is_named() -> None:
    before = picture(links=[ETH0], addresses=[Address(link="eth0", address="10.0.0.4/24")], problems=["old"])
    after = picture(
        links=[Link(index=2, name="wan0", mac="00:0d:3a:01:02:03", mtu=1500, up=True, carrier=True)],
        routes=[route(1)],
        resolver=Resolver(manager="file", nameservers=["1.1.1.1", "::1"], search=[]),
        leases={"a": Lease(wireserver="10.0.0.9")},
        problems=["old", "new"],
    )
    told = difference(before, after).split("; ")
    assert told[0].startswith("- link index=2, name='eth0'")
    assert told[1].startswith("+ link index=2, name='wan0'")
    assert told[2:] == [
        "- address link='eth0', address='10.0.0.4/24'",
        "+ route destination='route-1.', gateway='10.0.0.1', link='eth0', metric=0, protocol=3",
        "resolver file 1.1.1.1 ::1",
        "1 leases: a",
        "new",
    ]


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True))
def test_what_stayed_is_not_named_and_the_rest_is_counted(old: list[int], new: list[int]) -> None:
    told = difference(picture(routes=[route(one) for one in old]), picture(routes=[route(one) for one in new]))
    changed = set(old) ^ set(new)
    named = {one for one in changed if f"'route-{one}.'" in told}
    assert len(named) == min(len(changed), 20)
    assert (f"and {len(changed) - 20} changes more" in told) is (len(changed) > 20)
    assert not any(f"'route-{one}.'" in told for one in set(old) & set(new))


def test_one_change_among_very_many_routes() -> None:
    """Each of these compared with each would take minutes, and nobody would be answered meanwhile."""
    many = [route(number) for number in range(60_000)]
    told = difference(picture(routes=many), picture(routes=many[1:]))
    assert told == "- route destination='route-0.', gateway='10.0.0.1', link='eth0', metric=0, protocol=3"
