# SPDX-License-Identifier: Apache-2.0
"""Pure data: addresses, identities, workloads, services, policies, the mesh as a node knows it, and connection records.

Values are frozen msgspec structs, because the same values cross the Unix socket to the workers. Nothing here does I/O,
reads a clock or logs; nothing here knows protobuf, YAML or the kernel.

`gc=False`: values never refer back to what holds them, and a worker whose collector walked twenty thousand workloads
would stand still for forty milliseconds.
"""
