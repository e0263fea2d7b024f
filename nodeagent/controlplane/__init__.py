# SPDX-License-Identifier: Apache-2.0
"""The embedded control plane: a directory of Kubernetes and Istio YAML in, delta xDS and certificates out.

What happens to an edit, one file per step:

    watch -> files -> documents -> parse -> catalog -> translate -> encode -> snapshot -> delta -> serve

`documents` to `delta` are pure; `watch`, `files`, `state`, `serve` and `run` touch the machine. `ca` signs, `token`
says which node asks, `translate` also says which identities that node may have. Only model, errors and logs are
imported.
"""
