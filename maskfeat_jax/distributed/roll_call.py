"""Who is there: a roll call over TCP, before JAX is started.

JAX aborts the process (SIGABRT, a stack of C++ frames, no names) when one of the others does not
come in time. So process 0 listens on the coordinator's port first, the others connect and say who
they are, and either all go on or all know who is missing. The port is free again when JAX takes it;
the connections stay, see `peers`.

One JSON object a line, of bounded length. Whoever reaches the port can take part, as with JAX's own
service on it: it belongs into a network of trusted hosts. What is not a line of ours is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

Message = dict[str, Any]

_MAX_BYTES = 8192  # of a line
_MAX_TEXT = 2000  # letters of a text that is passed on
_SEND_SECONDS = 5.0
_STRANGER_SECONDS = 10.0  # to say who one is
_MAX_STRANGERS = 64
_RETRY_SECONDS = 0.2


class MissingProcesses(RuntimeError):
    """Not all processes came in time; names the missing. Worth another try."""


class ProcessesDiffer(ValueError):
    """The processes were not started as parts of the same run; says in what they differ."""


class Wire:
    """Messages over a connection."""

    def __init__(self, connection: socket.socket):
        """Takes the connection over."""
        connection.settimeout(_SEND_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._received = b""

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Sends a message; raises OSError when the other side does not take it."""
        cut = {k: v[:_MAX_TEXT] if isinstance(v, str) else v for k, v in message.items()}
        self._socket.sendall(json.dumps(cut).encode() + b"\n")

    def receive(self) -> list[Message]:
        """What has arrived; to be called when `select` says that there is something.

        Raises:
          OSError: the connection is closed.
          ValueError: something else than messages came.
        """
        piece = self._socket.recv(_MAX_BYTES)
        if not piece:
            raise ConnectionResetError("the connection was closed")
        *lines, self._received = (self._received + piece).split(b"\n")
        if len(self._received) > _MAX_BYTES:
            raise ValueError(f"a line of more than {_MAX_BYTES} bytes")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a line that is no message")
        return messages

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


def readable(sources: Iterable[Wire | socket.socket], seconds: float) -> list[Any]:
    """Those from which something can be received, as soon as there is one."""
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(seconds)]


class Member(NamedTuple):
    """A process that said who it is."""

    process: int
    total: int
    host: str
    pid: int

    def __str__(self) -> str:
        """For messages: host names of others are shown as printable text of bounded length."""
        return f"process {self.process} ({self.host[:100]!r}, pid {self.pid})"


def myself(process: int, total: int) -> Member:
    """This process."""
    return Member(process, total, socket.gethostname(), os.getpid())


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
      ValueError: it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"coordinator {address!r}: expected host:port, such as node0:1234")
    return host.strip("[]"), int(port)


def call_roll(
    address: str, me: Member, timeout_seconds: float
) -> tuple[dict[int, Wire], dict[int, Member]]:
    """Waits until every process is there; all of them call it.

    Args:
      address: host and port of process 0.
      me: this process.
      timeout_seconds: how long to wait.

    Returns:
      Connections and names by process: in process 0 those of all others, elsewhere that of
      process 0.

    Raises:
      MissingProcesses: not all came in time.
      ProcessesDiffer: two have the same number, or they disagree on how many there are.
    """
    host, port = split_address(address)
    deadline = time.monotonic() + timeout_seconds
    if me.process:
        wire, first = _answer(host, port, me, deadline, timeout_seconds)
        return {0: wire}, {0: first}
    with _listen(port, deadline) as listener:
        register = _Register(listener, me)
        try:
            while len(register.wires) < me.total - 1 and time.monotonic() < deadline:
                register.wait(min(0.5, max(0.0, deadline - time.monotonic())))
            missing = sorted({*range(1, me.total)} - {*register.wires})
            if missing:
                raise MissingProcesses(
                    f"{me.total - len(missing)} of {me.total} processes after "
                    f"{timeout_seconds:g} s; missing: {', '.join(map(str, missing))}"
                )
        except (MissingProcesses, ProcessesDiffer) as error:
            register.tell({"refused": str(error), "differ": isinstance(error, ProcessesDiffer)})
            raise
        finally:
            register.drop_strangers()
    register.tell({"go": True, **me._asdict()})
    return register.wires, register.members


class _Register:
    """Process 0's list of those who are there."""

    def __init__(self, listener: socket.socket, me: Member):
        self._listener, self._me = listener, me
        self._strangers: dict[Wire, float] = {}  # until when they may say who they are
        self.wires: dict[int, Wire] = {}
        self.members: dict[int, Member] = {}

    def wait(self, seconds: float) -> None:
        """Takes what comes within so long."""
        for source in readable([self._listener, *self._strangers, *self.wires.values()], seconds):
            if isinstance(source, Wire):
                self._hear(source)
                continue
            with contextlib.suppress(OSError):  # gone before it was taken
                wire = Wire(self._listener.accept()[0])
                self._strangers[wire] = time.monotonic() + _STRANGER_SECONDS
        late = [wire for wire, until in self._strangers.items() if time.monotonic() > until]
        for wire in [*late, *[*self._strangers][:-_MAX_STRANGERS]]:
            self._drop(wire)

    def tell(self, message: Message) -> None:
        for wire in self.wires.values():
            with contextlib.suppress(OSError):
                wire.send(message)

    def drop_strangers(self) -> None:
        for wire in [*self._strangers]:
            self._drop(wire)

    def _hear(self, wire: Wire) -> None:
        try:
            messages = wire.receive()
            members = [_member(message) for message in messages]
        except (OSError, ValueError, RecursionError):
            return self._drop(wire)
        for member in members:
            self._enter(wire, member)

    def _enter(self, wire: Wire, member: Member) -> None:
        self._strangers.pop(wire, None)
        known = self._me if member.process == 0 else self.members.get(member.process)
        self.wires.setdefault(member.process if known is None else -1, wire)
        if known is not None:
            raise ProcessesDiffer(
                f"{known} and another at {member.host[:100]!r}, pid {member.pid}, have the same "
                "number; give each process a --process_id of its own"
            )
        if member.total != self._me.total or member.process >= member.total:
            raise ProcessesDiffer(
                f"{self._me} was started as one of {self._me.total} processes, {member} as one of "
                f"{member.total}; give all the same --num_processes"
            )
        self.members[member.process] = member

    def _drop(self, wire: Wire) -> None:
        self._strangers.pop(wire, None)
        for process in [p for p, known in self.wires.items() if known is wire]:
            del self.wires[process], self.members[process]
        wire.close()


def _member(message: Message) -> Member:
    """Who a message says its sender is.

    Raises:
      ValueError: it does not say.
    """
    values = [message.get(name) for name in Member._fields]
    kinds = [type(value) for value in values]
    if kinds != [int, int, str, int] or values[0] < 0:  # type: ignore[operator]
        raise ValueError("no introduction")
    return Member(*values)  # type: ignore[arg-type]


def _listen(port: int, deadline: float) -> socket.socket:
    """Listens on the port, as soon as it is free."""
    while True:
        try:
            if socket.has_dualstack_ipv6():
                family = socket.AF_INET6
                return socket.create_server(("", port), family=family, dualstack_ipv6=True)
            return socket.create_server(("", port))
        except OSError as error:
            if time.monotonic() > deadline:
                raise MissingProcesses(
                    f"process 0 cannot listen on port {port} ({error.strerror}); another run on "
                    "this host? Choose another port in --coordinator"
                ) from error
            time.sleep(_RETRY_SECONDS)


def _answer(
    host: str, port: int, me: Member, deadline: float, timeout_seconds: float
) -> tuple[Wire, Member]:
    """Says to process 0 that we are there, and waits for what it says."""
    problem = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            wire = Wire(socket.create_connection((host, port), timeout=min(left, 5.0)))
        except OSError as error:
            problem = str(error)
            time.sleep(_RETRY_SECONDS)
            continue
        try:
            wire.send(me._asdict())
            # Process 0 may have started later than we: its patience ends later too.
            answer = _first_message(wire, deadline + timeout_seconds)
            if "refused" in answer:
                kind = ProcessesDiffer if answer.get("differ") else MissingProcesses
                raise kind(str(answer["refused"]))
            return wire, _member(answer)
        except (OSError, RecursionError) as error:
            problem = str(error)  # process 0 ended, and may be started again
        except ValueError as error:
            if isinstance(error, ProcessesDiffer):
                raise
            problem = f"something else answers there ({error})"
        wire.close()
        time.sleep(_RETRY_SECONDS)
    raise MissingProcesses(
        f"process {me.process} did not reach process 0 at {host}:{port} within "
        f"{timeout_seconds:g} s ({problem}); missing: 0"
    )


def _first_message(wire: Wire, deadline: float) -> Message:
    while (left := deadline - time.monotonic()) > 0:
        if readable([wire], left) and (messages := wire.receive()):
            return messages[0]
    raise TimeoutError("no answer")
