"""`provision me --on NODE`: a person's own seat on a node, from their computer, through their own ssh."""

import webbrowser
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from rich.text import Text

from provisioner.adapters import node_client, openssh
from provisioner.adapters.openssh import Ran
from provisioner.cli.exit_codes import BUG, DEFERRED, DONE, FAILED, INTERRUPTED, USAGE
from provisioner.cli.output import Output
from provisioner.console.own_seat import own_seat_view
from provisioner.console.text import safe_block, safe_line
from provisioner.domain.rollout.own_seat import (
    INCLUDE,
    ME_SCHEMA,
    PROBLEMS_SCHEMA,
    MeAnswer,
    OwnSeat,
    SshEntry,
    alias_of,
    known_host,
    long_alias_of,
    parse_document,
    parse_me_answer,
    stanza,
    token_url,
)
from provisioner.domain.values.problem import Problem, ProblemError

T = TypeVar("T")
_SSH_FAILED, _NOT_FOUND = 255, 127  # see ssh(1), and the shells
_CODES = (DONE, FAILED, USAGE, DEFERRED, INTERRUPTED, BUG)


class Up(NamedTuple):
    """What was asked for: the words for the node, and what to do on this computer."""

    node: str
    words: Sequence[str]
    opens: bool
    prints: bool
    yes: bool


def relay(node: str, words: Sequence[str], output: Output) -> int:
    """Ask a node, print its answer with control characters escaped, and return its exit code."""
    ran = _run(node, [*words, *(["--json"] if output.as_json else [])], "", output)
    if output.as_json:
        found = _checked(node, lambda: parse_document(ran.stdout))
        output.document(found["schema"], found)
    else:
        output.show(Text(safe_block(ran.stdout.removesuffix("\n"))))
    return _code(ran)


def up(asked: Up, output: Output) -> int:
    """Start a seat on a node, make it known to ssh, and show how to reach it."""
    keys = _key_pairs(output)
    writes = not asked.prints and _may_write(output, yes=asked.yes)
    stdin = "".join(f"{key.public}\n" for key in keys)
    ran = _run(asked.node, [*asked.words, "--json", "--keys-from-stdin"], stdin, output)
    answer = _checked(asked.node, lambda: parse_me_answer(ran.stdout))
    if not isinstance(answer, MeAnswer):  # the node has printed them, too
        output.document(PROBLEMS_SCHEMA, {"problems": [problem.model_dump() for problem in answer]})
        return _code(ran) or FAILED
    entry = _checked(asked.node, lambda: _entry(asked.node, answer.seat, keys))
    _show(answer, entry, output, writes=writes)
    return _open(entry, output) or _code(ran) if asked.opens else _code(ran)


def _entry(node: str, seat: OwnSeat, keys: Sequence[node_client.KeyPair]) -> SshEntry:
    """Return the seat as ssh is to find it: by a short name, or a long one where that is taken. Raises ValueError."""
    jump, identities = not openssh.is_reachable(seat.ssh.host, seat.ssh.port), tuple(key.name for key in keys)

    def named(alias: str) -> SshEntry:
        return SshEntry(alias=alias, node=node, login=seat.ssh, jump=jump, identities=identities)

    entry = named(alias_of(node, seat.name))
    return named(long_alias_of(node, seat.name)) if openssh.is_taken(entry) else entry


def _key_pairs(output: Output) -> tuple[node_client.KeyPair, ...]:
    """Return the user's keys; who has none gets one."""
    folder = openssh.ssh_folder()
    if not node_client.key_pairs(folder):
        path = node_client.make_key(folder)
        output.note(Text(f"You had no SSH key. A new one was made, without a passphrase: {safe_line(str(path))}"))
    return node_client.key_pairs(folder)


def _may_write(output: Output, *, yes: bool) -> bool:
    """Return whether ssh's configuration may be extended: it is already, or the user agrees now."""
    if yes or openssh.is_included():
        return True
    output.require_terminal(_not_agreed())
    return output.confirm(f"Add the line `Include {INCLUDE}` at the top of ~/.ssh/config, so that ssh knows your seat?")


def _run(node: str, words: Sequence[str], stdin: str, output: Output) -> Ran:
    def note(line: str) -> None:
        output.note(Text(safe_line(line)))

    ran = openssh.run_on(node, ["provision", "me", *words], stdin, note)
    if ran.code == _SSH_FAILED:
        raise ProblemError(_ssh_failed(node))
    if ran.code == _NOT_FOUND:
        raise ProblemError(_no_client(node))
    return ran


def _checked(node: str, read: Callable[[], T]) -> T:
    """Return what `read` returns. Raises ProblemError where the node has answered something else."""
    try:
        return read()
    except ValueError as error:
        raise ProblemError(_bad_answer(node, str(error))) from None


def _code(ran: Ran) -> int:
    return ran.code if ran.code in _CODES else FAILED


def _show(answer: MeAnswer, entry: SshEntry, output: Output, *, writes: bool) -> None:
    if writes:
        if openssh.write_entry(entry):
            output.note(Text(f"The host key of {entry.alias} is another one than before: the seat was made anew."))
    else:
        output.show(Text(openssh.entry_text(entry)))
    output.show(own_seat_view(answer, entry, datetime.now().astimezone() + timedelta(seconds=answer.seat.left_s)))
    ssh = {"alias": entry.alias, "ssh_config": stanza(entry), "known_hosts": known_host(entry)}
    output.document(ME_SCHEMA, {"act": "up", "node": entry.node, **answer.model_dump(mode="json"), **ssh})


def _open(entry: SshEntry, output: Output) -> int:
    """Open Jupyter in the browser, and keep the tunnel to it until the user ends it. Return the exit code."""
    port = openssh.free_port()
    with openssh.tunnel(entry.alias, port) as process:
        url = token_url(openssh.read_token_url(entry.alias), port)
        if url is None:
            raise ProblemError(_no_token(entry.alias))
        if not webbrowser.open(url):
            output.note(Text(f"No browser was found. Open this address, which holds your token: {url}"))
        output.note(Text("Jupyter is open in the browser as long as this command runs; ^C ends it."))
        try:
            return FAILED if process.wait() else DONE
        except KeyboardInterrupt:
            return DONE


def _not_agreed() -> Problem:
    return Problem(
        "ssh_config_not_agreed",
        "~/.ssh/config does not include the lines for your seat yet, and there is no terminal to ask on",
        "ssh and editors find your seat by its name there",
        "--yes agrees to one more line in it; --print-only prints what to add",
    )


def _ssh_failed(node: str) -> Problem:
    return Problem(
        "ssh_failed",
        f"ssh could not connect to {node}, or the connection was lost; it has printed why",
        "your seat is asked for on the node, as your account there",
        f"try: ssh {node}; a seat that was being started there goes on",
    )


def _no_client(node: str) -> Problem:
    return Problem(
        "no_client",
        f"{node} has no command `provision`",
        "it is there on nodes with self-service only",
        "use another node, or ask the admin of the lab",
    )


def _bad_answer(node: str, why: str) -> Problem:
    return Problem(
        "bad_answer",
        f"the answer of {node} cannot be used: {why}",
        "nothing of it is written into the configuration of ssh",
        "the program there may be of another release: ask the admin of the lab",
    )


def _no_token(alias: str) -> Problem:
    return Problem(
        "no_token", f"{alias} did not print the address of Jupyter", "its token is needed", f"ssh {alias} provision-url"
    )
