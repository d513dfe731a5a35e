"""What the workers of a node are told: who they are, who their peers are, where modules come from."""

from __future__ import annotations

import math
import os
import shlex
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from skyward.cloud.order import FleetOrder
from skyward.cloud.partitions import partitioning, worker_env
from skyward.cloud.project import own_paths
from skyward.contracts.provider import Provider
from skyward.model.event import WarningRaised
from skyward.model.instance import Endpoint, Instance
from skyward.model.instance_info import VARIABLE, InstanceInfo, Peer
from skyward.model.offer import Offer
from skyward.model.plan import is_interruptible
from skyward.remote.environment import Environment
from skyward.remote.link import Link, WorkerSettings
from skyward.remote.probe import Probe

if TYPE_CHECKING:
    from skyward.remote.bundle import Archive

HEAD_PORT = 29500
"""Where the head listens for its peers; what torchrun and others use."""


class Node(Protocol):
    """As much of a node as has to be known here."""

    @property
    def index(self) -> int: ...
    @property
    def instance(self) -> Instance: ...
    @property
    def provider(self) -> Provider: ...
    @property
    def link(self) -> Link | None: ...


class Briefing:
    """What all nodes of one pool are told. They are told the same of each other."""

    def __init__(self, order: FleetOrder) -> None:
        self._order = order
        self._lock = threading.Lock()
        self._packing = threading.Lock()
        self._peers: list[Peer] = []
        self._head_port = 0
        self._archive: Archive | None = None

    def settings(
        self, node: Node, nodes: Sequence[Node], probe: Probe, environment: Environment
    ) -> WorkerSettings:
        """How the workers of a node start. By now every machine that runs has an address."""
        order = self._order
        own = {
            name: value
            for name, value in order.plugins.task_env(None, node.instance).items()
            if name not in order.image.env
        }
        peers = self._told(node, nodes)
        workers = tuple(
            {
                **own,
                **worker_env(node.instance, worker),
                VARIABLE: self._info(node, peers, probe, worker).to_json(),
            }
            for worker in range(self.workers_per_node)
        )
        settings = WorkerSettings(
            python=environment.python,
            env=environment.env,
            workers=workers,
            concurrency=order.concurrency,
        )
        return replace(settings, **self._sources(node, environment))

    def _sources(self, node: Node, environment: Environment) -> dict[str, Any]:
        """Where modules come from: this machine's own paths, or archives."""
        from skyward.remote.bundle import import_paths, project_archive, runtime_archive

        if node.link is not None and node.link.endpoint.kind == "local":
            if environment.python == sys.executable:
                return {"sys_path": tuple(path or os.getcwd() for path in sys.path), "cwd": os.getcwd()}
            return {"runtime": runtime_archive(), "sys_path": own_paths(), "cwd": os.getcwd()}
        project: Path | None = self._order.project
        if project is None:
            return {"runtime": runtime_archive()}
        with self._packing:  # nodes get here together: one packs, and the others get the same
            archive = project_archive(project)
        self._tell_of_what_stays(archive, project)
        return {"runtime": runtime_archive(), "project": archive, "sys_path": import_paths(project)}

    def _tell_of_what_stays(self, archive: Archive, project: Path) -> None:
        """Once: which files of the project should have come along and cannot."""
        with self._lock:
            is_told, self._archive = self._archive is archive, archive
        if is_told or not archive.skipped:
            return
        first, count = archive.skipped[0].partition(": ")[0], len(archive.skipped)
        more = f"; and {count - 3} more" if count > 3 else ""
        self._order.emit(
            WarningRaised(
                message=f"{archive.label}: left here: {'; '.join(archive.skipped[:3])}{more}",
                hint=f"echo {shlex.quote(f'/{first}')} >> {shlex.quote(str(project / '.skywardignore'))}",
            )
        )

    @property
    def workers_per_node(self) -> int:
        """One, or one for each partition of each accelerator where a MIG profile was asked for."""
        cut = partitioning(self._order.plan.requirements.accelerator, self._order.plugins.accelerators())
        return cut.workers if cut else 1

    def _info(self, node: Node, peers: tuple[Peer, ...], probe: Probe, worker: int) -> InstanceInfo:
        instance, offer = node.instance, node.instance.offer
        model = self._order.plugins.accelerators().resolve(offer.accelerator) if offer.accelerator else None
        return InstanceInfo(
            node=node.index,
            total_nodes=self._order.plan.nodes,
            worker=worker,
            workers_per_node=self.workers_per_node,
            job_id=self._order.pool,
            head_addr=peers[0].address or "127.0.0.1",
            head_port=self._head_port,
            peers=peers,
            id=instance.id,
            provider=instance.provider,
            region=instance.region or offer.region,
            ip=peers[node.index].ip,
            private_ip=instance.private_address,
            ssh_port=node.link.endpoint.port if node.link and node.link.endpoint.kind == "ssh" else None,
            instance_type=offer.instance_type,
            spot=instance.spot or is_interruptible(offer),
            hourly_rate=offer.usd_per_hour,
            on_demand_rate=self._on_demand_rate(offer),
            accelerators=offer.accelerator_count,
            gpu_count=math.ceil(offer.accelerator_count),
            gpu_model=offer.accelerator,
            gpu_vendor=model.vendor if model else None,
            gpu_vram_gb=offer.accelerator_memory_gib,
            vcpus=offer.vcpus or probe.cpus,
            memory_gb=offer.memory_gib or round(probe.memory_bytes / 2**30, 2),
        )

    def _told(self, me: Node, nodes: Sequence[Node]) -> tuple[Peer, ...]:
        """Every node's addresses; mine may be another one than the others were told."""
        with self._lock:
            if not self._head_port:
                ends = [_end_of(node) for node in nodes]
                self._head_port = _free_port() if all(end.kind == "local" for end in ends) else HEAD_PORT
                self._peers = list(map(_peer, nodes, ends))
            self._peers[me.index] = _peer(me, _end_of(me))
            return tuple(self._peers)

    def _on_demand_rate(self, offer: Offer) -> float | None:
        if not is_interruptible(offer):
            return offer.usd_per_hour
        other = self._order.plan.counterpart(offer)
        return None if other is None else other.usd_per_hour


def _end_of(node: Node) -> Endpoint:
    return node.link.endpoint if node.link is not None else node.provider.connect(node.instance)


def _peer(node: Node, endpoint: Endpoint) -> Peer:
    here = "127.0.0.1" if endpoint.kind == "local" else endpoint.host or None
    return Peer(
        node=node.index, ip=node.instance.public_address or here, private_ip=node.instance.private_address
    )


def _free_port() -> int:
    """A port nobody listens on now; several pools may live on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
