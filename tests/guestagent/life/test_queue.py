"""More handlers than are worked on at once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

Make = Callable[..., bytes]
WAITING = 'until [ -f "$go" ]; do sleep 0.1; done; status success "went on"'


@pytest.fixture(scope="module")
def machine(make_machine: Callable[[], Any]) -> Iterator[Any]:
    machine = make_machine()
    machine.configure("[guestagent]\nconcurrent_handlers = 1\n")
    yield machine
    machine.close()


def test_whose_turn_has_not_come_is_reported_from_the_first_report_on(life: Any, make_package: Make) -> None:
    """After a restart the host must not take it for gone."""
    for name in (life.name, life.other):
        life.publish(make_package({"enable": WAITING}), name=name)
    life.goal({"settings": {}}, {"name": life.other, "settings": {}})
    life.start_agent()
    life.until(life.handlers, "the first report")
    assert {one["handlerName"]: one["status"] for one in life.handlers()} == {
        life.name: "Installing",
        life.other: "Installing",
    }
    life.until(lambda: life.calls("begin enable"), "the first one's turn")
    life.go.touch()
    (life.root / f"{life.other}.go").touch()
    life.ready()
    life.ready(name=life.other)
