# SPDX-License-Identifier: Apache-2.0
"""The Service by which a connection came to the endpoint that was drawn in connect(2), for its record.

The kernel notes it when the connection begins, under the namespace of the socket: what a pod says of itself names no
other pod's connections. Worker and kernel see the endpoint's address only; with the note their records say what the
application had dialled.
"""

import logging

from nodeagent.agent.service_connect import ServiceConnect
from nodeagent.agent.state import NodeState
from nodeagent.errors import KernelError
from nodeagent.kernel.service_codings import DialKey
from nodeagent.kernel.steering import Steering
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.routing.lookup import find_service
from nodeagent.telemetry.open_connections import Dialled

log = logging.getLogger(__name__)


class ServiceNames:
    """DialledServices of telemetry/open_connections.py, by the kernel's table."""

    def __init__(self, network: str, state: NodeState, steering: Steering, connect: ServiceConnect) -> None:
        self._network, self._state, self._steering, self._connect = network, state, steering, connect

    @property
    def is_ready(self) -> bool:
        return self._connect.cookies is not None

    def find(self, record: ConnectionRecord) -> Dialled | None:
        if not self._connect.has_notes:
            return None
        cookie = (self._connect.cookies or {}).get(record.source_ip)
        if cookie is None or record.service or record.direction is not Direction.OUTBOUND:
            return None
        key = DialKey(cookie, record.source_ip, record.original_ip, record.source_port, record.original_port)
        try:
            found = self._steering.dialled(key)
        except KernelError as error:
            log.debug("%s", error)
            return None
        if found is None:
            return None
        mesh = self._state.mesh
        source = mesh.workload_at(self._network, record.source_ip)
        service = find_service(mesh, self._network, found.ip, source.namespace) if source is not None else None
        return Dialled(found.ip, found.port, service.key if service is not None else "", key)

    def forget(self, dialled: Dialled) -> None:
        assert isinstance(dialled.note, DialKey)
        try:
            self._steering.forget_dialled(dialled.note)
        except KernelError as error:
            log.debug("%s", error)  # it is pushed out by others some day
