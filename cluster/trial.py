"""A cluster of node processes on this one machine, to try things out: up, status, down."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.link import NAMESPACE, connect
from engine.errors import BackendError

_PATIENCE_S = 120.0
_TO_END_S = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A cluster that was brought up: its address and the processes that hold it."""

    address: str
    pids: tuple[int, ...]

    @property
    def running(self) -> tuple[int, ...]:
        """Those of its processes that still run (and are ours: a pid may be used again)."""
        return tuple(pid for pid in self.pids if _is_node(pid))


def state_file() -> Path:
    """Where a running trial is written down."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "biblioteca" / "cluster.json"


def find() -> Trial | None:
    """The trial that runs, if one does."""
    try:
        told = json.loads(state_file().read_text(encoding="utf-8"))
        trial = Trial(address=str(told["address"]), pids=tuple(map(int, told["pids"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return trial if trial.running else None


def up(nodes: int, cpus: int, port: int) -> Trial:
    """Start a head and more nodes on loopback; returns when all of them have joined.

    Raises:
        ClusterError: one runs already, Ray isn't installed, or a node didn't come.
    """
    if (running := find()) is not None:
        raise ClusterError(
            f"a cluster runs at {running.address}; `biblioteca cluster down` ends it"
        )
    if find_spec("ray") is None:
        raise ClusterError('Ray is not installed: pip install "biblioteca[cluster]"')
    address = f"127.0.0.1:{port or _free_port()}"
    head = ["--head", "--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}"]
    head += ["--include-dashboard=false", "--disable-usage-stats"]
    processes = [_node(head, cpus)]
    try:
        _wait(processes, address, 1)
        for number in range(1, nodes):
            processes.append(_node([f"--address={address}"], cpus))
            _wait(processes, address, number + 1)
    except ClusterError:
        _end([process.pid for process in processes])
        raise
    trial = Trial(address=address, pids=tuple(process.pid for process in processes))
    file = state_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"address": address, "pids": trial.pids}), encoding="utf-8")
    return trial


def status() -> dict[str, Any]:
    """The nodes of the cluster at hand, and the replicas on them.

    Raises:
        ClusterError: there is none.
    """
    trial = find()
    address = trial.address if trial is not None else os.environ.get("RAY_ADDRESS", "")
    if not address:
        raise ClusterError("no cluster runs here; `biblioteca cluster up` starts one to try")
    try:
        connect(address)
    except BackendError as error:
        raise ClusterError(str(error)) from error
    import ray

    nodes = [
        {
            "node": node["NodeID"],
            "address": node["NodeManagerAddress"],
            "alive": node["Alive"],
            "cpus": node["Resources"].get("CPU", 0.0),
            "gpus": node["Resources"].get("GPU", 0.0),
        }
        for node in ray.nodes()
    ]
    free = ray.available_resources()
    actors = ray.util.list_named_actors(all_namespaces=True)
    replicas = sorted(actor["name"] for actor in actors if actor["namespace"] == NAMESPACE)
    ray.shutdown()
    return {
        "address": address,
        "nodes": nodes,
        "free_cpus": free.get("CPU", 0.0),
        "free_gpus": free.get("GPU", 0.0),
        "replicas": replicas,
    }


def down() -> Trial:
    """End the trial's processes, and nobody else's.

    Raises:
        ClusterError: none runs.
    """
    trial = find()
    if trial is None:
        raise ClusterError("no cluster of ours runs here")
    _end(list(reversed(trial.running)))
    state_file().unlink(missing_ok=True)
    return trial


def _node(arguments: list[str], cpus: int) -> subprocess.Popen[bytes]:
    """A process that holds one node and ends it when it is told to end."""
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    command += [*arguments, f"--num-cpus={cpus}"]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it stays when this terminal closes
            env=environment,
        )
    except OSError as error:
        raise ClusterError(f"no node can be started: {error}") from error


def _wait(processes: list[subprocess.Popen[bytes]], address: str, num_nodes: int) -> None:
    """Return when so many nodes have joined."""
    limit_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < limit_s:
        if any(process.poll() is not None for process in processes):
            raise ClusterError("a node ended at its start; `ray start --head --block` says why")
        time.sleep(0.5)
        if _listens(address) and _num_nodes(address) >= num_nodes:
            return
    raise ClusterError(f"{num_nodes} nodes did not join within {_PATIENCE_S:g} s")


def _num_nodes(address: str) -> int:
    """How many have joined; 0 while the head listens and is not ready yet."""
    try:
        connect(address)
    except BackendError:
        return 0
    import ray

    try:
        return sum(bool(node["Alive"]) for node in ray.nodes())
    finally:
        ray.shutdown()


def _end(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    limit_s = time.monotonic() + _TO_END_S
    while any(_is_node(pid) for pid in pids) and time.monotonic() < limit_s:
        time.sleep(0.1)
    for pid in pids:
        if _is_node(pid):
            os.killpg(pid, signal.SIGKILL)


def _is_node(pid: int) -> bool:
    """Whether a process is alive and is one of those that `_node` starts."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "ray.scripts.scripts" in (
            process.cmdline()
        )
    except psutil.Error:
        return False


def _listens(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as knock:
        knock.settimeout(1.0)
        return knock.connect_ex((host, int(port))) == 0


def _free_port() -> int:
    with socket.socket() as knock:
        knock.bind(("127.0.0.1", 0))
        return int(knock.getsockname()[1])
