# SPDX-License-Identifier: Apache-2.0
"""Sidecar objects: which counts where two do, and that nothing reads one whose pods are captured. Pure.

But for its egress.hosts and its outboundTrafficPolicy, which agents are told (`sidecars.py`).
"""

from collections.abc import Iterable

from nodeagent.controlplane.objects import Key, Pod
from nodeagent.controlplane.view import View
from nodeagent.controlplane.written import WrittenObject


def analyze_sidecars(sidecars: Iterable[WrittenObject], view: View) -> None:
    """Findings go to the objects' reports."""
    of_namespace: dict[str, WrittenObject] = {}
    of_pod: dict[Key, WrittenObject] = {}
    for one in sidecars:
        selector = one.spec.within("workloadSelector")
        labels = selector.texts("labels") if selector is not None else {}
        selected = view.select(one.key.namespace, labels)
        if labels:
            _selecting(one, labels, selected, of_pod)
        else:
            first = of_namespace.setdefault(one.key.namespace, one)
            if first is not one:
                words = f"{first.key} has no workloadSelector either"
                one.report.error(
                    one.spec.mapping.line, words, "Only one of a namespace counts.", "IST0111", field="spec"
                )
        is_read = one.spec.has("outboundTrafficPolicy") or one.spec.has("egress")
        if selected and not is_read and all(view.is_captured(pod) for pod in selected):
            words = "its pods are captured, so no sidecar reads it"
            one.report.warn(one.spec.mapping.line, words, "Remove it.", "IST0167", field="spec")


def _selecting(
    one: WrittenObject, labels: dict[str, str], selected: list[Pod], of_pod: dict[Key, WrittenObject]
) -> None:
    line, field = one.spec.line("workloadSelector"), "spec.workloadSelector"
    if not selected:
        words = f"no pod has the labels {', '.join(f'{name}={value}' for name, value in labels.items())}"
        one.report.error(line, words, "Compare with the pods'.", "IST0101", field=field)
    others = [(pod.meta.key, of_pod.setdefault(pod.meta.key, one)) for pod in selected]
    shared = next(((pod, other) for pod, other in others if other is not one), None)
    if shared is not None:
        words = f"{shared[0]} is also selected by {shared[1].key}"
        one.report.error(line, words, "Only one of them counts.", "IST0110", field=field)
