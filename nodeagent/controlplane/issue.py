# SPDX-License-Identifier: Apache-2.0
"""The certificate service, over grpc.aio. Who may have what is decided in `authorize.py`, signed it is in `ca.py`.

A refused caller learns the words that istiod uses; the reason goes to the audit line, one for each request.
"""

import datetime as dt
import time
from collections.abc import Callable
from typing import NoReturn, TypeAlias

import grpc
import grpc.aio

from nodeagent.controlplane import audit
from nodeagent.controlplane.authorize import Refusal, decide
from nodeagent.controlplane.ca import AuthorityNotValid, CertificateAuthority, Issued, UnusableRequest
from nodeagent.controlplane.gate import Gate, cluster_of
from nodeagent.controlplane.publisher import Publisher
from nodeagent.controlplane.quota import PER_SECOND, Quota
from nodeagent.controlplane.token import TokenRefused
from nodeagent.proto import ca_pb2, ca_pb2_grpc

_Request: TypeAlias = ca_pb2.IstioCertificateRequest
_Response: TypeAlias = ca_pb2.IstioCertificateResponse
_Context: TypeAlias = "grpc.aio.ServicerContext[_Request, _Response]"
NoteIssued: TypeAlias = Callable[[CertificateAuthority, Issued], None]
"""Is told of each certificate before the caller has it."""


class CertificateService(ca_pb2_grpc.IstioCertificateServiceServicer):
    def __init__(
        self,
        gate: Gate,
        publisher: Publisher,
        authority: Callable[[], CertificateAuthority],
        note_issued: NoteIssued | None = None,
    ) -> None:
        """`authority` gives the one in use; it may be another one at each request."""
        self._gate = gate
        self._publisher = publisher
        self._authority = authority
        self._note_issued = note_issued
        self._quota = Quota()

    async def CreateCertificate(  # noqa: N802 - gRPC's name; typed for aio
        self, request: _Request, context: _Context
    ) -> _Response:
        fields = request.metadata.fields
        wanted = fields["ImpersonatedIdentity"].string_value if "ImpersonatedIdentity" in fields else ""
        call = _Call(context, wanted)
        try:
            call.node = self._gate.node_of(context.invocation_metadata())
        except TokenRefused as error:
            await call.refuse(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure", "token", str(error))
        if not self._quota.allows(call.node, time.monotonic()):
            words = f"node {call.node} asks for more than {PER_SECOND:.0f} certificates a second"
            await call.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, words, "quota", words)
        cluster = cluster_of(context.invocation_metadata())
        verdict = decide(call.node, cluster, wanted, self._publisher.snapshot.translation)
        if isinstance(verdict, Refusal):
            words = "request impersonation authentication failure"
            await call.refuse(grpc.StatusCode.UNAUTHENTICATED, words, verdict.why, verdict.reason)
        authority = self._authority()
        try:
            certificate = authority.sign(
                request.csr, verdict, seconds=request.validity_duration, now=dt.datetime.now(dt.UTC)
            )
        except UnusableRequest as error:
            await call.refuse(grpc.StatusCode.INVALID_ARGUMENT, str(error), "request", str(error))
        except AuthorityNotValid as error:
            await call.refuse(grpc.StatusCode.UNAVAILABLE, str(error), "authority", str(error))
        if self._note_issued is not None:
            self._note_issued(authority, certificate)
        audit.issued(node=call.node, peer=call.peer, identity=str(verdict), certificate=certificate)
        return _Response(cert_chain=certificate.chain)


class _Call:
    """One request, as the audit line tells of it."""

    def __init__(self, context: _Context, wanted: str) -> None:
        self._context, self._wanted = context, wanted
        self.peer = context.peer()
        self.node = ""

    async def refuse(self, code: grpc.StatusCode, details: str, reason: str, why: str) -> NoReturn:
        audit.refused(node=self.node, peer=self.peer, identity=self._wanted, reason=reason, why=why)
        await self._context.abort(code, details)
        raise AssertionError("abort() has raised")
