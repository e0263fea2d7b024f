# SPDX-License-Identifier: Apache-2.0
"""Pods. Pure.

Files are written by people, so what only a kubelet writes may be missing: a Pod without phase runs, a Pod without
conditions is ready.
"""

import re
from collections.abc import Iterator

from nodeagent.controlplane.fields import Fields, parse_address
from nodeagent.controlplane.objects import Meta, Pod, PodPhase
from nodeagent.model.address import Ip, Port

_CRON_JOB = re.compile(r"(.+)-\d{8,10}", re.ASCII)
_ACCOUNT = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)


def parse_pod(fields: Fields, meta: Meta) -> Pod:
    spec, status, metadata = fields.within("spec"), fields.within("status"), fields.within("metadata")
    ports = list(_ports(spec)) if spec else []
    return Pod(
        meta=meta,
        uid=metadata.text("uid") if metadata else "",
        node=spec.text("nodeName") if spec else "",
        service_account=_service_account(spec) if spec else "default",
        is_host_network=bool(spec and spec.flag("hostNetwork")),
        ips=_ips(status) if status else (),
        phase=status.choice("phase", {str(phase): phase for phase in PodPhase}, PodPhase.RUNNING)
        if status
        else PodPhase.RUNNING,
        is_ready=_is_ready(status, metadata),
        named_ports={name: port for name, port in reversed(ports) if name},
        container_ports=tuple(dict.fromkeys(port for _, port in ports)),
        workload_name=_workload_name(meta, metadata) if metadata else meta.name,
    )


def _service_account(spec: Fields) -> str:
    # serviceAccount is the older name of the same field.
    name = spec.text("serviceAccountName") or spec.text("serviceAccount") or "default"
    if not _ACCOUNT.fullmatch(name):
        spec.wrong("serviceAccountName", f"{name!r} is not the name of a service account")
    return name


def _ips(status: Fields) -> tuple[Ip, ...]:
    texts = [(entry, entry.text("ip")) for entry in status.each("podIPs")]
    if not texts and status.has("podIP"):
        texts = [(status, status.text("podIP"))]
    found: list[Ip] = []
    for entry, text in texts:
        try:
            found.append(parse_address(text))
        except ValueError as error:
            entry.wrong("podIP" if entry is status else "ip", str(error))
    return tuple(dict.fromkeys(found))


def _is_ready(status: Fields | None, metadata: Fields | None) -> bool:
    if metadata and metadata.has("deletionTimestamp"):
        return False
    if status is None or not status.has("conditions"):
        return status is None or status.text("phase", PodPhase.RUNNING) == PodPhase.RUNNING
    return any(
        condition.text("type") == "Ready" and condition.text("status") == "True"
        for condition in status.each("conditions")
    )


def _ports(spec: Fields) -> Iterator[tuple[str, Port]]:
    """Names, which may be empty, and numbers of the TCP ports.

    Of containers first, then of sidecars that run beside them (init containers that restart always).
    """
    sidecars = [entry for entry in spec.each("initContainers") if entry.text("restartPolicy") == "Always"]
    for container in (*spec.each("containers"), *sidecars):
        for entry in container.each("ports"):
            port = entry.port("containerPort")
            if port and entry.text("protocol", "TCP") == "TCP":
                yield entry.text("name"), port


def _workload_name(meta: Meta, metadata: Fields) -> str:
    """As Istio guesses it, from names alone: nobody looks up the ReplicaSet."""
    if "service.istio.io/workload-name" in meta.labels:
        return meta.labels["service.istio.io/workload-name"]
    owner = next((owner for owner in metadata.each("ownerReferences") if owner.flag("controller")), None)
    if owner is None or not metadata.text("generateName"):
        return meta.name
    name = owner.text("name")
    match owner.text("kind"):
        case "ReplicaSet":
            # Of a Deployment, or of an Argo Rollout.
            hashes = (meta.labels.get(label) for label in ("pod-template-hash", "rollouts-pod-template-hash"))
            suffix = next((text for text in hashes if text and name.endswith(text)), "")
            return name.removesuffix(f"-{suffix}") if suffix else name
        case "ReplicationController":
            return meta.labels.get("deploymentconfig") or name
        case "Job":
            cron = _CRON_JOB.fullmatch(name)
            return cron.group(1) if cron else name
        case _:
            return name
