"""Why an extension is as it is: the way from the goal state to what the host was told, and whose fault it was. Pure."""

from typing import Literal

import msgspec

from guestagent.errors import FailureKind
from guestagent.operation import Found
from guestagent.record import Applied
from guestagent.report import ExtensionReport
from guestagent.runcommand.status import for_people
from ipc.contract.guestagent import Explanation, Link
from wire.extensions import Handler
from wire.manifest import DOCUMENT as MANIFEST

Verdict = Literal["well", "waiting", "platform", "network", "agent", "configuration", "extension"]

# A shell's word for a command that is not there: an interpreter the machine lacks.
_NOT_FOUND = 127
_EVIDENCE = 2000
_FAULT_OF: dict[FailureKind, Verdict] = {
    "package": "platform",
    "configuration": "configuration",
    "refused": "configuration",
    "extension": "extension",
    "platform": "platform",
    "unsupported": "platform",
    "interrupted": "platform",
}
# What a repository that answers says, as opposed to one that cannot be reached.
_ANSWERS = ("HTTP 4", "HTTP 5", f"{MANIFEST}:")
# How the text of a SignatureError begins.
_UNSIGNED = "unsigned: "
# Codes of a package that arrived whole and is no extension (protocol: codes).
_BAD_MANIFEST = frozenset({1002, 1003})


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one extension, and of the agent around it."""

    name: str
    handler: Handler | None
    """As the goal state wants it; None if it does not."""
    goal_state: str
    goal_state_at: float | None
    goal_state_problem: str
    report: ExtensionReport | None
    record: Applied | None
    operations: tuple[Found, ...] = ()
    """The newest last."""
    last_words: str = ""
    """The end of the newest operation's output."""
    package_lacks: str = ""
    """The newest operation's program, if it ought to lie in the handler's folder and does not."""
    missing_certificate: str = ""
    """A thumbprint its settings name and the host did not deliver."""
    status_file: str = ""
    status_file_at: float | None = None
    reported_at: float | None = None
    report_problem: str = ""
    agent_problem: str = ""
    depends_on: "Explanation | None" = None
    """Of what it waits for in vain."""
    depends_on_extension: str = ""
    """Which one that is of several."""


def explain(case: Case) -> Explanation:
    """The chain, a verdict and the next step."""
    chain = [_goal_state(case), *_package(case), *_commands(case), *_status(case), _report(case)]
    verdict, summary, step = _verdict(case)
    return Explanation(name=case.name, verdict=verdict, summary=summary, next_step=step, chain=chain)


# -- the chain ---------------------------------------------------------------------------------------------------------


def _goal_state(case: Case) -> Link:
    if case.handler is None:
        text = f"{case.goal_state or 'no goal state yet'}: it is not asked for"
        return Link(stage="goal state", ok=None if case.goal_state else False, text=text, at=case.goal_state_at)
    handler = case.handler
    numbers = [str(one.sequence_number) for one in handler.settings]
    text = f"{case.goal_state} asks for version {handler.version}, {handler.state}"
    text += f", sequence number {', '.join(numbers)}" if numbers else ", without settings"
    problem = handler.error or case.goal_state_problem
    return Link(stage="goal state", ok=not handler.error, text=text, at=case.goal_state_at, evidence=problem)


def _package(case: Case) -> list[Link]:
    record, report = case.record, case.report
    if case.handler is None or case.handler.error:
        return []
    if report is not None and report.step == "downloading":
        return [Link(stage="package", ok=None, text="is being downloaded", at=report.since)]
    if record is None:
        return [Link(stage="package", ok=None, text="its turn has not come")]
    if not record.ok and record.kind in {"transient", "package"}:
        text = f"version {case.handler.version} could not be had"
        if record.wanted:
            text += f"; {record.version} goes on"
        return [Link(stage="package", ok=False, text=text, at=record.at, evidence=record.message[:_EVIDENCE])]
    return [Link(stage="package", ok=True, text=f"version {record.version} is unpacked")]


def _commands(case: Case) -> list[Link]:
    return [_command(one, case.last_words if one is case.operations[-1] else "") for one in case.operations[-8:]]


def _command(found: Found, last_words: str) -> Link:
    operation, ended = found.operation, found.exit
    text = f"{operation.kind} {operation.version}: {operation.command}"
    if found.pid:
        text += f" [pid {found.pid}]"
    told = [f"{name}={operation.environment[name]}" for name in SHOWN if name in operation.environment]
    text += f" ({', '.join(told)})" if told else ""
    if found.state == "running":
        return Link(stage="command", ok=None, text=f"{text} runs, limit {operation.timeout_seconds:g} s")
    if ended is None:
        return Link(stage="command", ok=False, text=f"{text} was interrupted", evidence=last_words)
    if ended.error:
        return Link(stage="command", ok=False, text=f"{text} was not started", at=ended.began, evidence=ended.error)
    seconds = ended.ended - ended.began
    how = f"was killed after {seconds:.1f} s" if ended.timed_out else f"ended with {ended.code} after {seconds:.1f} s"
    well = ended.code == 0 and not ended.timed_out
    return Link(stage="command", ok=well, text=f"{text} {how}", at=ended.began, evidence="" if well else last_words)


SHOWN = ("ConfigSequenceNumber", "ConfigExtensionName", "AZURE_GUEST_AGENT_UPDATING_FROM_VERSION", "VERSION")
"""Variables that tell one run from another."""


def _status(case: Case) -> list[Link]:
    report = case.report
    if report is None or report.settings is None or case.handler is None or case.handler.state != "enabled":
        return []
    if not case.operations or case.operations[-1].operation.kind != "enable":
        return []
    if case.status_file_at is None:
        return [Link(stage="status file", ok=None, text=f"{case.status_file} was not written")]
    word = report.status.status if report.status else ""
    message = for_people((report.status.message if report.status else None) or "")
    return [
        Link(
            stage="status file",
            ok={"success": True, "warning": True, "error": False}.get(word),
            text=f"{case.status_file} says {word}",
            at=case.status_file_at,
            evidence=message[:_EVIDENCE],
        )
    ]


def _report(case: Case) -> Link:
    report = case.report
    if case.report_problem:
        return Link(stage="report", ok=False, text="the host has not accepted it", evidence=case.report_problem)
    if report is None:
        return Link(stage="report", ok=None, text="nothing is told of it")
    text = f"the host was told {report.handler_status}, code {report.code}"
    if report.status is not None:
        text += f", {report.status.status}"
    return Link(stage="report", ok=True if case.reported_at else None, text=text, at=case.reported_at)


# -- the verdict -------------------------------------------------------------------------------------------------------


def _verdict(case: Case) -> tuple[Verdict, str, str]:
    """Whose fault, why, and what to do about it."""
    name, handler, record, report = case.name, case.handler, case.record, case.report
    if handler is None:
        if not case.goal_state:
            step = "agentctl status shows how the host answers; agentctl net show, where it was looked for"
            return "network", case.goal_state_problem or "the host has not been reached yet", step
        return "well", "the goal state does not ask for it", "nothing is to be done"
    if handler.error:
        return "configuration", handler.error, "mend the request: deploy the extension anew with the right settings"
    if record is not None and not record.ok:
        return _failure(case, record)
    if report is not None and report.step == "waiting":
        return "waiting", report.message, "nothing yet: it begins by itself"
    if case.depends_on is not None:
        dependency = case.depends_on
        step = f"agentctl explain {dependency.name}"
        if case.depends_on_extension:
            step += f" --extension {case.depends_on_extension}"
        if dependency.next_step.startswith("agentctl explain "):
            # It waits itself, in vain: the cause lies where that leads.
            step = dependency.next_step
        return _word(dependency.verdict), f"{report.message if report else ''}: {dependency.summary}", step
    if report is not None and report.status is not None and report.status.status == "error":
        return _told_error(case, report)
    if case.report_problem:
        text = f"it is well, but the host does not accept the status: {case.report_problem}"
        return "network", text, "agentctl status"
    if report is not None and report.handler_status == "Unresponsive":
        step = f"its process may be gone: agentctl ext logs {name}"
        return "extension", f"its heartbeat stopped: {report.message}", step
    if report is not None and (report.step or (report.status and report.status.status == "transitioning")):
        return "waiting", report.message or "it is under way", f"agentctl ext logs -f {name}"
    if report is None and handler.state == "enabled":
        return "waiting", "nothing is known of it yet: its turn has not come, or it has only begun", "agentctl ext list"
    if case.agent_problem:
        return "agent", case.agent_problem, "agentctl logs guestagent"
    return "well", "it is as the goal state wants it", "nothing is to be done"


def _failure(case: Case, record: Applied) -> tuple[Verdict, str, str]:
    name, kind = case.name, record.kind
    first = record.message.partition("\n")[0]
    again = "" if record.retry_at is None else "; it is tried again by itself"
    retry = f"agentctl ext retry {name}"
    if kind == "transient":
        answered = any(word in record.message for word in _ANSWERS)
        step = f"see that the repository can be read{again}, or at once: {retry}"
        if not answered:
            step = f"see that this machine reaches the repository{again}, or at once: {retry}"
        return "platform" if answered else "network", first, step
    if kind == "package" and _UNSIGNED in first:
        step = "have it deployed with its signature, or allow packages without one: signature_check of [guestagent] in"
        step += f" the configuration, signatureRequired in the extension policy; then: {retry}"
        return "configuration", first, step
    if kind == "package" and record.code in _BAD_MANIFEST:
        return "extension", first, "its publisher must mend HandlerManifest.json"
    if kind == "package":
        return "platform", first, f"see what the repository delivers{again}, or at once: {retry}"
    if kind == "configuration":
        return "configuration", first, "mend the request: deploy the extension anew with the right settings"
    if kind == "refused":
        return "configuration", first, f"allow it in the extension policy of this machine; then: {retry}"
    if kind == "unsupported":
        return "platform", f"{first}: it does not support this machine", "ask its publisher what it needs"
    if kind == "interrupted":
        return "platform", first, f"it is not run twice by itself; if it may be: {retry}"
    if case.missing_certificate:
        step = f"the host must deliver the certificate again; then: {retry}"
        return "platform", f"{first}: the certificate {case.missing_certificate} its secrets need is not here", step
    last = case.operations[-1].exit if case.operations else None
    if last is not None and last.code == _NOT_FOUND and case.package_lacks:
        step = f"its publisher must mend the package or its manifest; then: {retry}"
        return "extension", f"{first}: its package has no {case.package_lacks}", step
    if last is not None and last.code == _NOT_FOUND:
        return "platform", f"{first}: a program it needs is not on this machine", f"install it; then: {retry}"
    if kind == "platform":
        return "platform", first, f"mend that{again}, or at once: {retry}"
    if kind:
        # The way back ran after it: the last command's output is not the one to look at.
        every = " --all" if record.wanted and record.wanted != record.version else ""
        return _FAULT_OF[kind], first, f"agentctl ext logs {name}{every}; once mended: {retry}"
    return "agent", first, "agentctl logs guestagent"


def _told_error(case: Case, report: ExtensionReport) -> tuple[Verdict, str, str]:
    """Its commands went well and its status does not."""
    status = report.status
    message = for_people(status.message or "").partition("\n")[0][:500] if status else ""
    logs = f"agentctl ext logs {case.name}"
    if status is not None and status.code == 1012:
        return "extension", f"it wrote a status file nobody can read: {message}", logs
    if message.startswith("interrupted:"):
        return "platform", message, f"agentctl ext retry {case.name}"
    if case.missing_certificate:
        text = f"{message}: the certificate {case.missing_certificate} its secrets need is not here"
        return "platform", text, "the host must deliver the certificate again"
    return "extension", f"it says of itself: {message or 'error'}", logs


def _word(text: str) -> Verdict:
    known: dict[str, Verdict] = {
        "platform": "platform",
        "network": "network",
        "agent": "agent",
        "configuration": "configuration",
    }
    return known.get(text, "extension")
