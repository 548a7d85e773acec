"""Writes docs/messages.md from the contract: names and types from the classes, words from their docstrings."""

import ast
import inspect
import sys
from pathlib import Path
from types import ModuleType

from ipc import errors
from ipc.contract import PROTOCOL, SPEAKERS

TARGET = Path(__file__).with_name("messages.md")

_HEAD = f"""# Messages

*Written from `ipc/contract/` by `make messages`; a test fails when it is stale.*

Protocol version {PROTOCOL[0]}.{PROTOCOL[1]}. Two MessagePack frames, header and body, over ZeroMQ `ipc://` sockets in
the run directory. Each component binds `<component>.requests` (ROUTER) and `<component>.events` (XPUB). Within a major
version only additions: unknown fields are ignored, unknown events passed over, unknown requests are refused as
`unsupported`, new fields have defaults, and an unknown word of an enumeration is read as the one named below. Whoever
speaks another major version is refused as `unsupported` with the reason, whatever it asks. The header never changes:
it tells how to refuse. [Decision 15](decisions/0015-skew.md) says why.
"""


def document() -> str:
    """The whole page."""
    refusals = ["## refusals", "", *_words(ast.parse(inspect.getsource(errors)))]
    return "\n".join([_HEAD, *refusals, *(_speaker(module) for module in SPEAKERS)])


def _speaker(module: ModuleType) -> str:
    tree = ast.parse(inspect.getsource(module))
    name = module.__name__.rpartition(".")[2]
    lines = [f"## {name}", "", inspect.getdoc(module) or "", ""]
    replies_to: dict[str, list[str]] = {}
    for kind in module.REQUESTS:
        replies_to.setdefault(kind.reply.__name__, []).append(f"`{kind.__name__}`")
    lines += _words(tree)
    roles = {kind.__name__: f"request, answered with `{kind.reply.__name__}`" for kind in module.REQUESTS}
    roles |= {kind.__name__: "event" for kind in module.EVENTS}
    roles |= {reply: f"reply to {', '.join(requests)}" for reply, requests in replies_to.items()}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            lines += _message(name, node, roles.get(node.name, "part of a message"))
    return "\n".join(lines)


def _words(tree: ast.Module) -> list[str]:
    """A line for each enumeration."""
    lines: list[str] = []
    for statement, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        match statement:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Subscript(slice=ast.Tuple(elts=[literal, ast.Call(func=ast.Name(id="unknown_is"))])),
            ):
                words = ", ".join(f"`{word!r}`" for word in ast.literal_eval(ast.unparse(literal)[len("Literal") :]))
                lines += [f"`{name}`: {words}. {_string(after)}", ""]
    return lines


def _string(statement: ast.stmt | None) -> str:
    """The docstring that follows a field or an enumeration; empty if none does."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str(words))):
            return " ".join(words.split())
    return ""


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
        found.append((statement.target.id, kind.replace("|", "\\|"), default, _string(after)))
    return found


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
    sys.stdout.write(f"{TARGET} written\n")
