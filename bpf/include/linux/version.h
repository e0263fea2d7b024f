/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The oldest kernel we claim, 5.10, whatever kernel compiles: the verifier input is the same
 * everywhere. */
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)
