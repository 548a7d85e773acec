"""Where a scenario is played: its steps done at this host, by its requests and its clock."""

import asyncio
from typing import TYPE_CHECKING

from fabric.scenario import Play, Scenario, Step

if TYPE_CHECKING:
    from fabric.host import Host


class Stage:
    """One loop's object. The scenario is this worker's: it counts the requests that come in here."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._timer: asyncio.TimerHandle | None = None
        self.play: Play | None = None

    def start(self, scenario: Scenario) -> Play:
        """Instead of the one that runs. Raises FabricError."""
        self.stop()
        self.play = Play(scenario, self, self._host.clock.now())
        self._set_timer()
        return self.play

    def stop(self) -> None:
        """Take no more steps; what they did stays."""
        self.play = None
        self._set_timer()

    def tick(self) -> None:
        """Before a request is looked at."""
        if self.play is not None:
            self.play.tick(self._host.clock.now())

    def seen(self, vm: str, endpoint: str) -> None:
        """A request was answered."""
        if self.play is not None:
            self.play.seen(vm, endpoint, self._host.clock.now())

    def take(self, step: Step) -> None:
        """Raises FabricError."""
        if step.fault is not None:
            self._host.faults.add(step.fault)
            return
        if step.lift:
            self._host.faults.clear()
            return
        vm = self._host.vm(step.vm)
        if step.want is not None:
            vm.order(step.want)
        elif step.component is not None:
            vm.ask(step.component)
        elif step.remove:
            vm.remove(step.remove, vanish=False, fast_track=False)
        elif step.hold is not None:
            vm.hold(step.hold)
        elif step.fast_track is not None:
            vm.support_fast_track(step.fast_track)
        elif step.require is not None:
            vm.require(step.require)
        elif step.rotate:
            vm.rotate_certificate(elliptic=False)
        elif step.move:
            vm.move()

    def _set_timer(self) -> None:
        """A step that is due by time is taken also when no request comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.play.next_at() if self.play is not None else None
        if due is not None:
            pause = max(0.0, due - self._host.clock.now())
            self._timer = asyncio.get_running_loop().call_later(pause, self._timed)

    def _timed(self) -> None:
        self.tick()
        self._set_timer()
