# SPDX-License-Identifier: Apache-2.0
"""What the names of the mesh mean: endpoints that are known by a DNS name alone, asked for and renewed in time.

`book.py` decides when without clock or I/O and says what is to be told, `resolver.py` asks as the node's own programs
would, `keeper.py` ties them together. The agent asks, for all of its workers: a connection waits for the first answer
of a name alone, and no unprivileged process needs a way to a resolver.
"""
