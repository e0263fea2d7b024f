# SPDX-License-Identifier: Apache-2.0
"""The certificate service, over grpc.aio. Who may have what is decided in `authorize.py`, signed it is in `ca.py`.

A refused caller learns the words that istiod uses; the reason goes to the log.
"""

import datetime as dt
import logging
from typing import TypeAlias

import grpc
import grpc.aio

from nodeagent.controlplane.authorize import Refusal, decide
from nodeagent.controlplane.ca import CertificateAuthority, UnusableRequest
from nodeagent.controlplane.discovery import Publisher
from nodeagent.controlplane.gate import Gate, cluster_of
from nodeagent.controlplane.token import TokenRefused
from nodeagent.proto import ca_pb2, ca_pb2_grpc

_log = logging.getLogger(__name__)
_Request: TypeAlias = ca_pb2.IstioCertificateRequest
_Response: TypeAlias = ca_pb2.IstioCertificateResponse


class CertificateService(ca_pb2_grpc.IstioCertificateServiceServicer):
    def __init__(self, gate: Gate, publisher: Publisher, authority: CertificateAuthority) -> None:
        self._gate = gate
        self._publisher = publisher
        self._authority = authority

    async def CreateCertificate(  # noqa: N802 - gRPC's name; typed for aio
        self,
        request: _Request,
        context: "grpc.aio.ServicerContext[_Request, _Response]",
    ) -> _Response:
        try:
            node = self._gate.node_of(context.invocation_metadata())
        except TokenRefused as error:
            _log.warning("certificate refused for %s: %s", context.peer(), error)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
        fields = request.metadata.fields
        wanted = fields["ImpersonatedIdentity"].string_value if "ImpersonatedIdentity" in fields else ""
        verdict = decide(node, cluster_of(context.invocation_metadata()), wanted, self._publisher.snapshot.translation)
        if isinstance(verdict, Refusal):
            _log.warning("certificate refused for %s: %s", context.peer(), verdict.reason)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "request impersonation authentication failure")
        try:
            chain = self._authority.sign(
                request.csr, verdict, seconds=request.validity_duration, now=dt.datetime.now(dt.UTC)
            )
        except UnusableRequest as error:
            _log.warning("certificate for node %s not signed: %s", node, error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        _log.info("signed %s for node %s", verdict, node)
        return _Response(cert_chain=chain)
