"""Writes docs/messages.md from the contract: names and types from the classes, words from their docstrings."""

import ast
import inspect
import sys
from pathlib import Path
from types import ModuleType

from ipc.contract import PROTOCOL, SPEAKERS

TARGET = Path(__file__).with_name("messages.md")

_HEAD = f"""# Messages

*Written from `ipc/contract/` by `make messages`; a test fails when it is stale.*

Protocol version {PROTOCOL[0]}.{PROTOCOL[1]}. Two MessagePack frames, header and body, over ZeroMQ `ipc://` sockets in
the run directory. Each component binds `<component>.requests` (ROUTER) and `<component>.events` (XPUB). Within a major
version only additions: unknown fields are ignored, unknown requests are refused as `unsupported`, new fields have
defaults.
"""


def document() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_speaker(module) for module in SPEAKERS)])


def _speaker(module: ModuleType) -> str:
    tree = ast.parse(inspect.getsource(module))
    name = module.__name__.rpartition(".")[2]
    lines = [f"## {name}", "", inspect.getdoc(module) or "", ""]
    replies_to: dict[str, list[str]] = {}
    for kind in module.REQUESTS:
        replies_to.setdefault(kind.reply.__name__, []).append(f"`{kind.__name__}`")
    roles = {kind.__name__: f"request, answered with `{kind.reply.__name__}`" for kind in module.REQUESTS}
    roles |= {kind.__name__: "event" for kind in module.EVENTS}
    roles |= {reply: f"reply to {', '.join(requests)}" for reply, requests in replies_to.items()}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            lines += _message(name, node, roles.get(node.name, "part of a message"))
    return "\n".join(lines)


def _message(speaker: str, node: ast.ClassDef, role: str) -> list[str]:
    lines = [f"### `{speaker}.{node.name}` ({role})", "", ast.get_docstring(node) or "", ""]
    fields = list(_fields(node))
    if fields:
        lines += ["| field | type | default | |", "|---|---|---|---|"]
        lines += [f"| `{name}` | `{kind}` | {default} | {words} |" for name, kind, default, words in fields]
        lines.append("")
    return lines


def _fields(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = []
    for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        kind = ast.unparse(statement.annotation)
        if kind.startswith("ClassVar"):
            continue
        default = f"`{ast.unparse(statement.value)}`" if statement.value else ""
        words = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            words = " ".join(after.value.value.split())
        found.append((statement.target.id, kind.replace("|", "\\|"), default, words))
    return found


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
    sys.stdout.write(f"{TARGET} written\n")
