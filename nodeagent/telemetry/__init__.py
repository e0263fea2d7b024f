# SPDX-License-Identifier: Apache-2.0
"""What connections leave behind: metrics, access log, the table of open connections; and the set-up of logging.

Everything is made from ConnectionRecords and from readings that the agent gives; nothing here asks anyone else, decides
anything or is imported by a worker.
"""
