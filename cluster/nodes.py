"""The process that holds a trial's nodes: `python -m cluster.nodes NODES CPUS`.

It prints the head's address once every node has joined, and ends them all when it is told to end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def main() -> None:
    """Start the nodes, wait for SIGTERM or SIGINT."""
    from ray.cluster_utils import Cluster

    num_nodes, cpus = int(sys.argv[1]), int(sys.argv[2])
    head = {"num_cpus": cpus, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(num_nodes - 1):
        cluster.add_node(num_cpus=cpus)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(cluster.address, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on
    stop.wait()
    cluster.shutdown()


if __name__ == "__main__":
    main()
