# SPDX-License-Identifier: Apache-2.0
"""What the Kubernetes API says of this node's pods: followed by list and watch, judged, and answered by an annotation.

`reflector` (the conversation) and `node_pods` (who is wanted, what is written) are pure; `api` speaks HTTP, `follow`
puts them together. Which network namespace is a pod's, and what is captured, is not known here.
"""
