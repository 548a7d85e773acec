"""The contract, by speaker: what each component answers and announces.

Within one major protocol version only additions: a new field has a default, a message is never removed or renamed,
an enumeration names what an unknown word is read as (docs/decisions/0015-skew.md).
Golden frames of every released minor version stand under tests/contract/ and are never edited.
"""

from ipc.contract import every, guestagent, netagent, rdagent, telemetry
from ipc.message import Event, Reply, Request

PROTOCOL = (1, 3)
"""Version of the contract (major, minor), apart from any component's."""

SPEAKERS = (every, rdagent, guestagent, netagent, telemetry)

REQUESTS: dict[str, type[Request[Reply]]] = {kind.wire_name(): kind for module in SPEAKERS for kind in module.REQUESTS}
EVENTS: dict[str, type[Event]] = {kind.wire_name(): kind for module in SPEAKERS for kind in module.EVENTS}
