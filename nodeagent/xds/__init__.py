# SPDX-License-Identifier: Apache-2.0
"""Delta xDS: what the control plane says about workloads, services and policies, as values of model/.

`delta.py` is the protocol without I/O, `decode*.py` turn bytes into values, `client.py` is the gRPC skin, `store.py`
keeps the last good state on disk. Protobuf does not leave this room, and nothing is judged here: what a policy means is
policy/'s.
"""
