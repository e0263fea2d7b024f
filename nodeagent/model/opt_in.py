# SPDX-License-Identifier: Apache-2.0
"""Istio's rules for which pods are captured. Pure, and the only copy: the control plane and the agent ask here.

  1  a namespace that is excluded has no captured pods, whatever its labels say
  2  a pod in the node's network namespace is not captured: its packets pass no device of its own
  3  a pod with a sidecar is not captured a second time
  4  the pod's label `istio.io/dataplane-mode: ambient` enrols it, and `none` leaves it out, whatever its namespace says
  5  otherwise the label of its namespace decides; a value that is not Istio's is not heard. Of a namespace that is not
     known it is not known either: that is no reason to capture a pod, nor to let it go

Source: istio-cni, enablementSelectors and excludeNamespaces of its chart, util.PodRedirectionEnabled.
"""

import enum
from collections.abc import Container, Mapping

from nodeagent.model.pod import CaptureReason

MODE_LABEL = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
"""Annotation of a pod by which its enroller says that its traffic is captured: with `enabled`."""
ENABLED = "enabled"
SIDECAR = "sidecar.istio.io/status"
_AMBIENT, _NONE = "ambient", "none"


class Standing(enum.StrEnum):
    """What a pod's objects say; all but the first are reasons why it is not captured."""

    OPTED_IN = ""
    EXCLUDED_NS = CaptureReason.EXCLUDED_NS.value
    HOST_NETWORK = CaptureReason.HOST_NETWORK.value
    SIDECAR = CaptureReason.SIDECAR.value
    OPTED_OUT = CaptureReason.OPTED_OUT.value
    NOT_LABELLED = CaptureReason.NOT_LABELLED.value
    NAMESPACE_UNKNOWN = CaptureReason.NAMESPACE_UNKNOWN.value


def standing(
    namespace: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    namespace_labels: Mapping[str, str] | None,
    *,
    is_host_network: bool,
    excluded: Container[str] = (),
) -> Standing:
    """Of a pod with these labels and annotations in a namespace with those; None: they are not known."""
    if namespace in excluded:
        return Standing.EXCLUDED_NS
    if is_host_network:
        return Standing.HOST_NETWORK
    if SIDECAR in annotations:
        return Standing.SIDECAR
    mode = labels.get(MODE_LABEL)
    if mode == _AMBIENT:
        return Standing.OPTED_IN
    if mode == _NONE:
        return Standing.OPTED_OUT
    if namespace_labels is None:
        return Standing.NAMESPACE_UNKNOWN
    return Standing.OPTED_IN if enrols(namespace_labels) else Standing.NOT_LABELLED


def enrols(namespace_labels: Mapping[str, str]) -> bool:
    return namespace_labels.get(MODE_LABEL) == _AMBIENT


def is_redirected(annotations: Mapping[str, str]) -> bool:
    return annotations.get(REDIRECTION) == ENABLED
