"""A cluster of node processes on this one machine, to try things out: up, status, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import ClusterError
from cluster.link import LOOPBACK_ONLY, NAMESPACE, connect
from engine.errors import BackendError

_TO_END_S = 30.0
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # On a busy machine Ray's own processes start slowly; by default it gives up after seconds.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_niceness": "0",  # Ray's 15 is for batch work: engines would wait for anything else
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A cluster that was brought up.

    Attributes:
        pid: of the process that holds its nodes (cluster/nodes.py).
        began_s: when that process began; a pid may be used again by another one.
    """

    address: str
    pid: int
    began_s: float


def find() -> Trial | None:
    """The trial that runs, if one does."""
    try:
        told = json.loads(_state_file().read_text(encoding="utf-8"))
        trial = Trial(**told)
    except (OSError, ValueError, TypeError):
        return None
    return trial if _runs(trial) else None


def up(nodes: int, cpus: int) -> Trial:
    """Start so many nodes on loopback; returns when all of them have joined.

    Raises:
        ClusterError: one runs already, Ray isn't installed, or a node didn't come.
    """
    if (running := find()) is not None:
        raise ClusterError(
            f"a cluster runs at {running.address}; `biblioteca cluster down` ends it"
        )
    if find_spec("ray") is None:
        raise ClusterError('Ray is not installed: pip install "biblioteca[cluster]"')
    file = _state_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    told = file.with_suffix(".log")
    with told.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.nodes", str(nodes), str(cpus)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # it stays when this terminal closes
            env={**os.environ, **LOOPBACK_ONLY, **_SETTINGS},
        )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        raise ClusterError(f"the nodes did not start; {told} says why")
    began_s = psutil.Process(process.pid).create_time()
    trial = Trial(address=address, pid=process.pid, began_s=began_s)
    file.write_text(json.dumps(asdict(trial)), encoding="utf-8")
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
    ray.shutdown()
    return {
        "address": address,
        "nodes": nodes,
        "free_cpus": free.get("CPU", 0.0),
        "free_gpus": free.get("GPU", 0.0),
        "replicas": sorted(one["name"] for one in actors if one["namespace"] == NAMESPACE),
    }


def down() -> Trial:
    """End the trial's processes, and nobody else's.

    Raises:
        ClusterError: none runs.
    """
    trial = find()
    if trial is None:
        raise ClusterError("no cluster of ours runs here")
    os.kill(trial.pid, signal.SIGTERM)
    limit_s = time.monotonic() + _TO_END_S
    while _runs(trial) and time.monotonic() < limit_s:
        time.sleep(0.1)
    if _runs(trial):
        os.killpg(trial.pid, signal.SIGKILL)
    _state_file().unlink(missing_ok=True)
    return trial


def _state_file() -> Path:
    """Where a running trial is written down."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "biblioteca" / "cluster.json"


def _runs(trial: Trial) -> bool:
    try:
        process = psutil.Process(trial.pid)
        same = abs(process.create_time() - trial.began_s) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
