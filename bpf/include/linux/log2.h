/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Opened by bcc's helpers.h, which has what we need of it built in; see bpf/README.md. */
#pragma once
