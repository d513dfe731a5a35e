"""What a task can know of the machine it runs on and of its peers; travels to workers as one JSON variable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

VARIABLE = "SKYWARD_INSTANCE_INFO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One node of the pool, as the others reach it."""

    node: int
    ip: str | None = None
    private_ip: str | None = None

    @property
    def address(self) -> str | None:
        """The private address, where there is one."""
        return self.private_ip or self.ip


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceInfo:
    """Where a task runs. None is unknown; money is US dollars per hour for the whole machine."""

    node: int
    total_nodes: int
    """Nodes that were asked for; with `min_nodes` some may be missing, or come later."""
    worker: int
    """Index on the node."""
    workers_per_node: int
    job_id: str
    """The pool's id."""
    head_addr: str
    """Where the first node listens for its peers."""
    head_port: int
    peers: tuple[Peer, ...] = ()
    """Every node of the pool, this one included, in order."""
    id: str = ""
    """The provider's id of the machine."""
    provider: str = ""
    region: str = ""
    ip: str | None = None
    private_ip: str | None = None
    ssh_port: int | None = None
    instance_type: str = ""
    spot: bool = False
    hourly_rate: float | None = None
    on_demand_rate: float | None = None
    accelerators: float = 0.0
    """Accelerators of the machine; fractions exist."""
    gpu_count: int = 0
    """Whole accelerators of the machine, a fraction counted as one."""
    gpu_model: str | None = None
    gpu_vendor: str | None = None
    gpu_vram_gb: float | None = None
    """Memory of one accelerator, GiB."""
    vcpus: float | None = None
    memory_gb: float | None = None
    """Memory of the machine, GiB."""
    network_interface: str | None = None
    """The interface other nodes are reached through."""

    @property
    def rank(self) -> int:
        """Index of the worker in the pool."""
        return self.node * self.workers_per_node + self.worker

    @property
    def world_size(self) -> int:
        """Workers of the whole pool."""
        return self.total_nodes * self.workers_per_node

    @property
    def is_head(self) -> bool:
        return self.rank == 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> InstanceInfo:
        """Fields that a newer client sends and this version does not know are passed over."""
        values = json.loads(text)
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        known["peers"] = tuple(
            Peer(**{key: peer.get(key) for key in ("node", "ip", "private_ip")})
            for peer in known.get("peers", ())
        )
        return cls(**known)
