"""The server's counters and gauges, as a reply and in Prometheus' text format."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from protocol.administration import GatewayInfo, StatsReply, StatsRequest
from protocol.errors import Code, Refusal
from protocol.messages import Body
from protocol.operation import MetricsReply
from protocol.service import Peer, Request, Service

_COUNTERS = {
    "requests",
    "refused",
    "bad_frames",
    "deltas",
    "coalesced",
    "published",
    "restarts",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "adapter_hits",
    "adapter_misses",
    "adapter_evictions",
}


SERVER = Peer(session="", role="admin", user="server")  # who asks when the server itself does


class Observed:
    """A service whose `stats` carry the gateway's own figures, and which offers `metrics`."""

    def __init__(self, service: Service, gateway: Callable[[], GatewayInfo]) -> None:
        self._service, self._gateway = service, gateway

    def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        """Answer one request."""
        if request.type in ("stats", "metrics"):
            return self._observe(peer, request)
        return self._service.handle(peer, request)

    async def _observe(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        stats = await self.stats(peer, request.key)
        yield stats if request.type == "stats" else MetricsReply(text=exposition(stats))

    async def stats(self, peer: Peer = SERVER, key: str = "stats") -> StatsReply:
        """The service's figures and the gateway's.

        Raises:
            Refusal: the service could not tell.
        """
        stats = StatsReply()
        try:
            async for body in self._service.handle(peer, Request(key, "stats", StatsRequest())):
                if isinstance(body, StatsReply):
                    stats = body
        except Refusal as refusal:
            if refusal.code not in (Code.UNSUPPORTED, Code.UNKNOWN_TYPE):
                raise  # a service without figures of its own still has the gateway's
        return stats.model_copy(update={"gateway": self._gateway()})


def exposition(stats: StatsReply) -> str:
    """The figures in Prometheus' text format; engines are told apart by the label `tier`."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

    registry = CollectorRegistry()
    metrics: dict[str, Counter | Gauge] = {}

    def add(owner: str, figures: dict[str, object], tier: str | None = None) -> None:
        for field, value in figures.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            name = f"biblioteca_{owner}_{field}"
            if name not in metrics:
                kind = Counter if field in _COUNTERS else Gauge
                labels = ["tier"] if tier else []
                metrics[name] = kind(name, f"{owner} {field}", labels, registry=registry)
            metric = metrics[name].labels(tier) if tier else metrics[name]
            metric.inc(float(value))

    add("gateway", stats.gateway.model_dump())
    for engine in stats.engines:
        ready = {"ready": int(engine.state == "ready")}
        add("engine", {**ready, **engine.model_dump()}, engine.tier)
    return generate_latest(registry).decode()
