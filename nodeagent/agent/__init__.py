# SPDX-License-Identifier: Apache-2.0
"""The agent process: wiring only.

It owns what must outlive a worker (listening sockets, pinned maps, the proxy namespace) and feeds the workers; every
decision is made in a room below.
"""
