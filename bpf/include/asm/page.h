/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* bcc's ring buffer macro multiplies by it; see bpf/README.md. */
#pragma once
#define PAGE_SIZE 4096
