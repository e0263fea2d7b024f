# SPDX-License-Identifier: Apache-2.0
"""This node's kernel: loader (bcc, in a child process), maps, attachments, reconcile, the proxy namespace.

Foreign types (pyroute2's dicts, bcc's tables) stop here; policy and routing are never decided here.
"""
