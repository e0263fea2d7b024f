# SPDX-License-Identifier: Apache-2.0
"""Protocol buffers and their generated modules (made by `make proto`); read only by xds/, certs/ and controlplane/."""
