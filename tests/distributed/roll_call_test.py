from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
import time

import pytest

from maskfeat_jax.distributed import roll_call
from maskfeat_jax.distributed.roll_call import Member, MissingProcesses, ProcessesDiffer, call_roll


@pytest.fixture
def port() -> int:
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


def call(port, members, seconds=20.0):
    """Calls the roll as each of the members, in threads; results or errors in their order."""
    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        answers = [pool.submit(call_roll, f"localhost:{port}", m, seconds) for m in members]
    return [answer.exception() or answer.result() for answer in answers]


def members(*numbers, total):
    return [Member(number, total, f"host{i}", 100 + i) for i, number in enumerate(numbers)]


def close(results):
    for wires, _ in results:
        for wire in wires.values():
            wire.close()


def test_all_are_there_and_know_each_other_and_the_port_is_free_again(port):
    results = call(port, members(0, 1, 2, total=3))
    with socket.create_server(("", port)):
        pass
    (wires, known), *others = results
    assert {process: member.host for process, member in known.items()} == {1: "host1", 2: "host2"}
    for _, first in others:
        assert str(first[0]) == "process 0 ('host0', pid 100)"
    wires[2].send({"hello": 2})
    assert others[1][0][0].receive() == [{"hello": 2}]
    close(results)


def test_the_missing_are_named_everywhere(port):
    errors = call(port, members(0, 1, 3, total=4), seconds=1.0)
    assert [type(error) for error in errors] == [MissingProcesses] * 3
    assert {str(error) for error in errors} == {"3 of 4 processes after 1 s; missing: 2"}


def test_without_process_0_the_others_say_so(port):
    (error,) = call(port, members(1, total=2), seconds=0.5)
    assert isinstance(error, MissingProcesses)
    assert f"did not reach process 0 at localhost:{port}" in str(error)


def test_a_number_given_twice_is_refused_with_both_names(port):
    errors = call(port, members(0, 1, 1, total=3), seconds=5.0)
    assert [type(error) for error in errors] == [ProcessesDiffer] * 3
    assert all("host1" in str(error) and "host2" in str(error) for error in errors)


def test_different_numbers_of_processes_are_refused(port):
    errors = call(port, [Member(0, 3, "a", 1), Member(1, 2, "b", 2)], seconds=5.0)
    assert [type(error) for error in errors] == [ProcessesDiffer] * 2
    assert "one of 3 processes, process 1 ('b', pid 2) as one of 2" in str(errors[0])


def test_a_port_in_use_is_named(port):
    with socket.create_server(("", port)):
        (error,) = call(port, members(0, total=2), seconds=0.3)
    assert isinstance(error, MissingProcesses)
    assert f"cannot listen on port {port}" in str(error)


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\xff\xfe\x00" * 100,
    b'{"process": 1}\n',
    b'{"process": -1, "total": 2, "host": "x", "pid": 1}\n',
    b'{"process": true, "total": 2, "host": "x", "pid": 1}\n',
    b"[]\n",
    b"[" * 8000 + b"\n",
    b"a" * 1_000_000,
    b"",
]


def test_strangers_on_the_port_neither_stop_nor_hang_it(port):
    strangers = []

    def disturb() -> None:
        for words in GARBAGE:
            with contextlib.suppress(OSError):  # a stranger may be dropped while it speaks
                stranger = socket.create_connection(("localhost", port), timeout=5)
                strangers.append(stranger)
                stranger.sendall(words)

    first, second = members(0, 1, total=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(call_roll, f"localhost:{port}", first, 20.0)
        time.sleep(0.3)
        disturb()
        assert len(strangers) == len(GARBAGE)
        results = [call_roll(f"localhost:{port}", second, 20.0), waiting.result()]
    assert list(results[1][0]) == [1]
    close(results)
    for stranger in strangers:
        stranger.close()


def test_something_else_that_answers_on_the_port_is_not_taken_for_process_0(port):
    with socket.create_server(("localhost", port)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        (error,) = call(port, members(1, total=2), seconds=0.5)
    assert isinstance(error, MissingProcesses)
    assert "something else answers there" in str(error)


def test_a_process_that_dies_while_it_waits_may_come_again(port):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call_roll, f"localhost:{port}", Member(0, 3, "a", 1), 20.0)
        time.sleep(0.3)
        dying = roll_call.Wire(socket.create_connection(("localhost", port)))
        dying.send(Member(1, 3, "b", 2)._asdict())
        time.sleep(0.3)
        dying.close()
        others = call(port, [Member(1, 3, "b", 3), Member(2, 3, "c", 4)])
        results = [waiting.result(), *others]
    assert results[0][1][1].pid == 3
    close(results)


@pytest.mark.parametrize("address", ["host", "host:", ":1", "host:0", "host:70000", "host:x", ""])
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match="expected host:port"):
        roll_call.split_address(address)


def test_addresses():
    assert roll_call.split_address("node0:1234") == ("node0", 1234)
    assert roll_call.split_address("[::1]:80") == ("::1", 80)


def test_a_line_without_end_is_not_kept(port):
    with socket.create_server(("localhost", port)) as server:
        stranger = socket.create_connection(("localhost", port))
        wire = roll_call.Wire(server.accept()[0])
        stranger.sendall(b"a" * 20_000)
        with pytest.raises(ValueError, match="a line of more than"):
            [wire.receive() for _ in range(3)]
        stranger.close()
        wire.close()
