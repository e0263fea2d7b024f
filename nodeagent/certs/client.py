# SPDX-License-Identifier: Apache-2.0
"""Asks istiod's certificate service (nodeagent/proto/ca.proto) for one certificate of one identity."""

from collections.abc import Callable
from datetime import UTC, datetime

import grpc
from google.protobuf.struct_pb2 import Struct
from grpc import aio

from nodeagent.certs.bundle import CertificateBundle
from nodeagent.certs.chain import read_answer
from nodeagent.certs.csr import make_request
from nodeagent.config import Config
from nodeagent.model.identity import Identity
from nodeagent.proto import ca_pb2
from nodeagent.proto.ca_pb2_grpc import IstioCertificateServiceStub
from nodeagent.upstream.channel import ca_upstream, failure, open_channel, read_metadata, read_roots

CALL_SECONDS = 10.0
"""Deadline of one request, connecting included; the next try is a matter of rotation.py."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class CaClient:
    """Keeps one channel for as long as it works and the root file is the same."""

    def __init__(self, config: Config, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Raises ConfigError for an address that is none, or is not https."""
        self._upstream = ca_upstream(config)
        self._seconds, self._clock = config.certificate_seconds, clock
        self._channel: aio.Channel | None = None
        self._roots = b""

    async def fetch(self, identity: Identity) -> CertificateBundle:
        """Raises ControlPlaneError when there is no answer, a refusal, or an answer that cannot be used."""
        request = make_request(identity)
        # A replaced channel closes itself (grpc.aio's __del__) when the last call that holds it here has ended.
        channel = self._open()
        metadata = Struct()
        metadata.update({"ImpersonatedIdentity": str(identity)})
        message = ca_pb2.IstioCertificateRequest(
            csr=request.csr_pem.decode("ascii"), validity_duration=self._seconds, metadata=metadata
        )
        try:
            answer = await IstioCertificateServiceStub(channel).CreateCertificate(
                message, metadata=read_metadata(self._upstream), timeout=CALL_SECONDS
            )
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and self._channel is channel:
                self._channel = None  # gRPC would wait up to two minutes before it connects again
            raise failure(self._upstream, error.code(), error.details()) from error
        return read_answer(request, answer.cert_chain, self._clock())

    def _open(self) -> aio.Channel:
        roots = read_roots(self._upstream)
        if self._channel is None or roots != self._roots:
            self._channel, self._roots = open_channel(self._upstream, roots), roots
        return self._channel
