from __future__ import annotations

import socket

import jax
import pytest

from maskfeat_jax.distributed.collectives import agree, gather
from maskfeat_jax.distributed.compare import ProcessesDiffer, compare, facts_of
from maskfeat_jax.distributed.start import (
    BadStart,
    StartFailed,
    finish,
    is_lost_process,
    start,
)

HERE = {"num_processes": 2, "process_id": 1}


def test_a_single_process_needs_nobody():
    start()
    start(coordinator="node0:1", num_processes=1, process_id=0)
    assert gather({"a": (1, None)}) == [{"a": [1, None]}]
    assert agree(lambda: 5) == 5
    with pytest.raises(KeyError):
        agree(lambda: {}["a"])
    compare(facts_of({}, "a"))
    finish()
    finish(failed=True)
    assert not jax.distributed.is_initialized()
    assert jax.config.jax_enable_preemption_service is False  # SIGTERM has one owner: us


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"coordinator": "a:1"}, "--num_processes, --process_id missing"),
        ({"num_processes": 2, "process_id": 0}, "--coordinator missing"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        *(
            ({"coordinator": address, **HERE}, "expected host:port")
            for address in ("host", "host:", ":1", "host:0", "host:70000", "host:x", "")
        ),
    ],
)
def test_flags_that_do_not_say_how_to_find_the_others(flags, words):
    with pytest.raises(BadStart, match=words):
        start(**flags, timeout_seconds=1)


@pytest.fixture
def initialised(monkeypatch):
    """What `jax.distributed.initialize` was called with, last."""
    given = {}

    def initialize(*address, **options):
        given.update(options, address=address)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return given


@pytest.mark.parametrize("address", ["node0:1234", "[::1]:80"])
def test_jax_gets_the_flags_and_gives_up_after_its_service_has_named_the_missing(
    address, initialised
):
    start(coordinator=address, **HERE, timeout_seconds=300)
    assert initialised["address"] == (address, 2, 1)
    assert initialised["cluster_detection_method"] == "deactivate"
    assert initialised["heartbeat_timeout_seconds"] == 100
    assert initialised["initialization_timeout"] > 300


def test_another_number_of_processes_than_process_0_has_is_refused(initialised):
    with pytest.raises(ProcessesDiffer, match="--num_processes=3, but process 0 .* one of 2"):
        start(coordinator="node0:1", num_processes=3, process_id=1)


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StartFailed, match=f"cannot listen on port {port}"):
            start(coordinator=f"localhost:{port}", num_processes=2, process_id=0)


def test_an_error_of_jax_at_the_start_is_worth_another_try(monkeypatch):
    def fails(*_, **__):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: no route to host")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(StartFailed, match="no route to host"):
        start(coordinator="node0:1", **HERE)


def test_without_a_cluster_the_flags_are_asked_for(monkeypatch):
    def nothing_found(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nothing_found)
    with pytest.raises(BadStart, match=r"JAX finds no cluster here.*--coordinator"):
        start(distributed=True)


def test_errors_that_mean_that_a_process_was_lost(monkeypatch):
    gloo = jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection closed by peer")
    assert not is_lost_process(gloo)  # a single process
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert is_lost_process(gloo)
    assert is_lost_process(ValueError("UNKNOWN: Gloo AllGather failed: Read error: reset by peer"))
    wrapped = RuntimeError("the step could not be saved")
    wrapped.__cause__ = gloo
    assert is_lost_process(wrapped)
    behind = ProcessesDiffer("with this behind it")
    behind.__cause__ = gloo
    assert is_lost_process(behind)
    assert not is_lost_process(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"))
    assert not is_lost_process(ValueError("gloo"))
    assert not is_lost_process(ProcessesDiffer("this says itself what is wrong"))
