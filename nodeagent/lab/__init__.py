# SPDX-License-Identifier: Apache-2.0
"""Nodes and pods as network namespaces on one machine: for the demo, the tests and the benchmarks alike.

Start reading in lab.py. What is made stands in a journal first (journal.py), so that a run that died is cleaned by
the next one. Nothing here touches what it did not make; which pods are enrolled is the mesh's business, not the lab's.
"""
