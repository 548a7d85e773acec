"""Intent: the `[netagent]` table, read once."""

import msgspec

from netagent.modes import Configured


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What netagent may do."""

    mode: Configured = "auto"
    """`observe` writes nothing. `repair` puts back what Azure needs, beside a manager. `delegate` does that, and gives
    the VM its further addresses. `own` is the DHCP client. `off` takes back all of ours. `auto` chooses."""
    nics: tuple[str, ...] = ()
    """Only these; empty: all that are NICs."""
    default_route: bool = True
    """Whether `repair` also puts back a lost default route."""
    azure: bool = False
    """Take this machine for Azure's, though nothing on it says so."""
    firewall: bool = True
    """Only root may open connections to the WireServer; not in `observe`."""
    probe: bool = True
    """Answer the load balancer on the goal state's probe ports, 200 while Ready."""
    dns: bool = True
    """In `own`: configure name servers. Elsewhere: ask one now and then whether it answers."""
    arp_probe: bool = False
    """In `own`: ask the network whether somebody has the address already, which takes 0.6 s."""
    address_grace: float = 10.0
    """Seconds a manager has to bring back a lost address, before `repair` does."""
    full_look_period: float = 60.0
    """Seconds after which everything is read anew, whatever was announced."""
