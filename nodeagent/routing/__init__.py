# SPDX-License-Identifier: Apache-2.0
"""Pure decision where a connection goes: source, target and mesh in, a Route out, before any I/O.

Randomness is an argument, names are not resolved here, and nothing is remembered but by a `Balancer`.
"""
