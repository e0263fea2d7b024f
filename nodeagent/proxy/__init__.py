# SPDX-License-Identifier: Apache-2.0
"""The worker process: accepts steered connections, tunnels them, applies policy. The only room with a hot loop.

It never imports asyncio, gRPC, pyroute2 or bcc; it learns everything from the agent through messages.py.
"""
