# SPDX-License-Identifier: Apache-2.0
"""Responses of delta xDS -> answers with values of model/; and requests from commands.

A resource is decoded whole or rejected by name with a reason; it is never half used. The strictness is deliberate
where ztunnel is lenient: what it drops silently (a StringMatch without a type, an impossible block) widens a policy.
The rules are in decode_address.py, decode_policy.py and decode_extension.py, the common ones here: the bytes parse, the
type is the one asked for, and the name is the key of what is inside, because a removal will carry nothing but the name.
"""

from collections.abc import Callable
from typing import assert_never

from google.protobuf.message import DecodeError

from nodeagent.model.policy import Policy
from nodeagent.model.sharing import share_text
from nodeagent.model.workload import Service, Workload
from nodeagent.proto import xds_pb2
from nodeagent.xds.bad_resource import BadResource
from nodeagent.xds.decode_address import decode_address
from nodeagent.xds.decode_extension import decode_extension
from nodeagent.xds.decode_policy import decode_policy
from nodeagent.xds.delta import Acknowledge, Answer, Kind, Refuse, Rejected, Resource, Subscribe, Value

_DECODERS: dict[Kind, Callable[[bytes], Value]] = {
    Kind.EXTENSION: decode_extension,
    Kind.ADDRESS: decode_address,
    Kind.AUTHORIZATION: decode_policy,
}


def read_response(response: xds_pb2.DeltaDiscoveryResponse) -> Answer | None:
    """None for a type that nobody subscribed to. Bad resources are in `rejected`; this never raises."""
    try:
        kind = Kind(response.type_url)
    except ValueError:
        return None
    resources: list[Resource] = []
    rejected: list[Rejected] = []
    for message in response.resources:
        try:
            resources.append(_read_resource(kind, message))
        except BadResource as error:
            rejected.append(Rejected(error.name, error.reason))
    return Answer(kind, response.nonce, tuple(resources), tuple(rejected), tuple(response.removed_resources))


def _read_resource(kind: Kind, message: xds_pb2.Resource) -> Resource:
    if message.resource.type_url != kind.value:
        raise BadResource(message.name, f"is of type {message.resource.type_url!r}")
    decoded = decode_resource(kind, message.name, message.resource.value)
    # The name of what is inside, not its equal from the message: one text less for each.
    return Resource(_key_of(decoded), message.version, decoded)


def decode_resource(kind: Kind, name: str, value: bytes) -> Value:
    """Raises BadResource, with `name`, for bytes that are not a usable resource of this kind and name."""
    try:
        decoded = _DECODERS[kind](value)
    except DecodeError as error:
        raise BadResource(name, "cannot be parsed") from error
    except ValueError as error:
        raise BadResource(name, str(error)) from error
    key = _key_of(decoded)
    if key != name:
        raise BadResource(name, f"describes {key!r}")
    return decoded


def _key_of(decoded: Value) -> str:
    match decoded:
        case Workload():
            return decoded.uid
        case Service() | Policy():
            return share_text(decoded.key)  # made anew by each call, and the mesh keeps it too
        case _:
            return share_text(decoded.name)


def write_request(command: Subscribe | Acknowledge | Refuse, node: xds_pb2.Node) -> xds_pb2.DeltaDiscoveryRequest:
    """`node` goes with subscriptions only."""
    match command:
        case Subscribe():
            return xds_pb2.DeltaDiscoveryRequest(
                node=node, type_url=command.kind.value, initial_resource_versions=command.versions
            )
        case Acknowledge():
            return xds_pb2.DeltaDiscoveryRequest(type_url=command.kind.value, response_nonce=command.nonce)
        case Refuse():
            return xds_pb2.DeltaDiscoveryRequest(
                type_url=command.kind.value,
                response_nonce=command.nonce,
                error_detail=xds_pb2.Status(message=command.reason),
            )
        case unreachable:
            assert_never(unreachable)
