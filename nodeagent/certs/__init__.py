# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates of the identities that run on this node: asked for, checked, renewed in time.

`rotation.py` decides when without clock or I/O, `chain.py` judges what the CA answered, `client.py` asks the CA,
`keeper.py` ties them together. Private keys are made here and exist in memory only: never on disk, in a log or in a
`repr`. Python cannot overwrite them: `bytes` are immutable, and what a collected object held stays in the process's
memory until that is used again. What is done instead is not to let them out (the process is not dumpable), not to keep
them (a replaced or forgotten key has no reference left here) and to use each for one certificate only.
"""
