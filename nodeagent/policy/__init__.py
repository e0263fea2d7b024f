# SPDX-License-Identifier: Apache-2.0
"""Pure L4 authorization: policies and the facts of a connection in, a verdict out, with its working when asked.

The proxy, the kernel's verdict table, `explain` and the tests call the same functions. Nothing here does I/O.
"""
