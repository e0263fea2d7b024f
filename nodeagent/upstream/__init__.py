# SPDX-License-Identifier: Apache-2.0
"""What the xDS and the CA client share: the gRPC channel to the control plane, and how long to wait after a failure.

No protocol is spoken here, and no secret is kept: token and roots are read from their files for each use.
"""
