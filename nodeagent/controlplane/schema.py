# SPDX-License-Identifier: Apache-2.0
"""Fields that the APIs have, for the kinds of which only a part is read: whatever else is written is misspelt.

`Fields.refuse_others` does this for kinds that are read whole. Here are Kubernetes' (1.35) and the mesh's own settings,
down to where a field decides about the mesh: a pod's addresses, ports and account, a Service's ports and selector, an
object's metadata. What lies deeper, such as an affinity, is not looked at. Pure.
"""

from typing import TypeAlias

from nodeagent.controlplane.documents import Mapping, Sequence, Value
from nodeagent.controlplane.fields import join_field
from nodeagent.controlplane.finding import Report

Known: TypeAlias = "dict[str, Known | None]"
"""Names of a mapping, or of each mapping of a list; None: what is below is anything."""


def _names(text: str, **below: "Known | None") -> "Known":
    known: dict[str, Known | None] = dict.fromkeys(text.split())
    return known | below


_METADATA = _names(
    "name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp"
    " deletionGracePeriodSeconds labels annotations finalizers managedFields clusterName",
    ownerReferences=_names("apiVersion kind name uid controller blockOwnerDeletion"),
)
_CONDITIONS = _names("type status observedGeneration lastProbeTime lastTransitionTime lastUpdateTime reason message")
_PROBE = _names(
    "initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold terminationGracePeriodSeconds"
    " exec",
    httpGet=_names("path port host scheme httpHeaders protocol"),
    tcpSocket=_names("port host"),
    grpc=_names("port service mode"),
)
_CONTAINER = _names(
    "name image command args workingDir envFrom env resources resizePolicy restartPolicy restartPolicyRules"
    " volumeMounts volumeDevices lifecycle terminationMessagePath terminationMessagePolicy imagePullPolicy"
    " securityContext stdin stdinOnce tty targetContainerName",
    ports=_names("name hostPort containerPort protocol hostIP"),
    livenessProbe=_PROBE,
    readinessProbe=_PROBE,
    startupProbe=_PROBE,
)
_POD_SPEC = _names(
    "volumes restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy nodeSelector"
    " serviceAccountName serviceAccount automountServiceAccountToken nodeName hostNetwork hostPID hostIPC"
    " shareProcessNamespace securityContext imagePullSecrets hostname subdomain affinity schedulerName tolerations"
    " hostAliases priorityClassName priority dnsConfig readinessGates runtimeClassName enableServiceLinks"
    " preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates"
    " resourceClaims resources hostnameOverride workloadRef schedulingGroup evictionResponders",
    containers=_CONTAINER,
    initContainers=_CONTAINER,
    ephemeralContainers=_CONTAINER,
)
_POD_STATUS = _names(
    "observedGeneration phase message reason nominatedNodeName hostIP podIP startTime initContainerStatuses"
    " containerStatuses qosClass ephemeralContainerStatuses resize resourceClaimStatuses extendedResourceClaimStatus"
    " allocatedResources resources nodeAllocatableResourceClaimStatuses volumeHealth",
    conditions=_CONDITIONS,
    podIPs=_names("ip"),
    hostIPs=_names("ip"),
)
_SERVICE_SPEC = _names(
    "selector clusterIP clusterIPs type externalIPs sessionAffinity loadBalancerIP loadBalancerSourceRanges"
    " externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses sessionAffinityConfig"
    " topologyKeys ipFamily ipFamilies ipFamilyPolicy allocateLoadBalancerNodePorts loadBalancerClass"
    " internalTrafficPolicy trafficDistribution",
    ports=_names("name protocol appProtocol port targetPort nodePort"),
)
_ENDPOINT = _names(
    "addresses hostname deprecatedTopology nodeName zone",
    conditions=_names("ready serving terminating"),
    targetRef=_names("kind namespace name uid apiVersion resourceVersion fieldPath"),
    hints=_names("forZones forNodes"),
)
_MESH = _names(
    # Ours.
    "enrolment network cluster clusterDomain"
    # Istio's: mesh/v1alpha1/config.proto. Of these only some are read; parse_mesh.py warns of the others.
    " connectTimeout hboneIdleTimeout protocolDetectionTimeout ingressClass ingressService ingressControllerMode"
    " ingressSelector enableTracing accessLogFile accessLogFormat accessLogEncoding enableEnvoyAccessLogService"
    " disableEnvoyListenerLog defaultConfig outboundTrafficPolicy inboundTrafficPolicy configSources enableAutoMtls"
    " trustDomain trustDomainAliases caCertificates defaultServiceExportTo defaultVirtualServiceExportTo"
    " defaultDestinationRuleExportTo rootNamespace localityLbSetting dnsRefreshRate h2UpgradePolicy"
    " inboundClusterStatName outboundClusterStatName certificates serviceSettings serviceScopeConfigs"
    " enablePrometheusMerge verifyCertificateAtClient ca extensionProviders defaultProviders discoverySelectors"
    " pathNormalization defaultHttpRetryPolicy meshMTLS tlsDefaults tcpKeepalive proxyListenPort proxyHttpPort"
    " proxyInboundListenPort serviceEntryVisibility zoneAwareLbSetting defaultTrafficPolicy"
)
_SPECS: dict[str, Known] = {
    "Namespace": _names("spec status"),
    "Node": _names(
        "",
        spec=_names("podCIDR podCIDRs providerID unschedulable taints configSource externalID podPreemptionPolicy"),
        status=None,
    ),
    "Pod": _names("", spec=_POD_SPEC, status=_POD_STATUS),
    "Service": _names("", spec=_SERVICE_SPEC, status=_names("loadBalancer", conditions=_CONDITIONS)),
    "EndpointSlice": _names("addressType", endpoints=_ENDPOINT, ports=_names("name protocol port appProtocol")),
    "MeshConfig": {**_MESH, "spec": _MESH},
}
_ANY = _names("spec status")
_CHECK = "Is it misspelt, or of a newer Kubernetes or Istio? `--unknown-fields warn` takes such objects."


def check_fields(root: Mapping, kind: str, report: Report, *, is_refused: bool) -> None:
    """A finding for each field of the object that its API does not have."""
    known = _names("apiVersion kind", metadata=_METADATA) | _SPECS.get(kind, _ANY)
    _check(root, known, "", report, is_refused=is_refused)


def _check(mapping: Mapping, known: Known, path: str, report: Report, *, is_refused: bool) -> None:
    for name, value in mapping.entries.items():
        below = join_field(path, name)
        if name not in known:
            told = report.reject if is_refused else report.warn
            told(mapping.lines[name], "there is no such field", _CHECK, "MN0212", field=below)
            continue
        inner = known[name]
        if inner is not None:
            _check_below(value, inner, below, report, is_refused=is_refused)


def _check_below(value: Value, known: Known, path: str, report: Report, *, is_refused: bool) -> None:
    """A value of another type than expected is for whoever reads it."""
    if isinstance(value, Mapping):
        _check(value, known, path, report, is_refused=is_refused)
    elif isinstance(value, Sequence):
        for at, entry in enumerate(value.items):
            if isinstance(entry, Mapping):
                _check(entry, known, f"{path}[{at}]", report, is_refused=is_refused)
