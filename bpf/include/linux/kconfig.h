/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* One of the few kernel headers that bcc opens for every program; see bpf/README.md. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
