# SPDX-License-Identifier: Apache-2.0
"""The demo: a mesh on one machine, and the tour that proves each promise.

Evidence comes from the wire, from the applications or from the kernel, never from the code under test alone.
"""
