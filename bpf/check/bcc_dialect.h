/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* bcc's dialect, spelt for plain clang, so that tools/check_c.py can compile the programs with
 * every warning on, without bcc, root or kernel headers. Never loaded into a kernel: the functions
 * here have no body.
 */
#pragma once
#include <linux/bpf.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)
#undef __always_inline /* linux/stddef.h has it without the attribute */
#define __always_inline inline __attribute__((always_inline))
#define PIN_DIRECTORY ""

/* A table is a variable with methods; bcc rewrites their calls to helpers. */
#define BPF_F_TABLE(type, key_type, value_type, name, entries, flags) \
	extern struct {                                               \
		value_type *(*lookup)(key_type *);                    \
		int (*update)(key_type *, value_type *);              \
		int (*delete)(key_type *);                            \
	} name

int bpf_skb_load_bytes(void *skb, int offset, void *to, u32 bytes);
int bpf_skb_store_bytes(void *skb, unsigned long long offset, void *from, unsigned long long bytes,
			unsigned long long flags);
int bpf_skb_change_type(void *skb, u32 type);
u32 bpf_get_hash_recalc(void *skb);
int bpf_redirect(int device, u32 flags);
long bpf_redirect_peer(u32 device, u64 flags);
struct bpf_sock *bpf_skc_lookup_tcp(void *skb, struct bpf_sock_tuple *tuple, int bytes,
				    unsigned long long netns, unsigned long long flags);
int bpf_sk_assign(void *skb, void *socket, __u64 flags);
int bpf_sk_release(void *socket);
int bpf_tcp_check_syncookie(void *socket, void *ip, int ip_bytes, void *tcp, int tcp_bytes);
u64 bpf_ktime_get_ns(void);
int bpf_sock_ops_cb_flags_set(void *ops, int flags);
__u64 bpf_get_netns_cookie(void *ops);
u32 bpf_get_prandom_u32(void);
u16 bpf_htons(u16 value);
u32 bpf_ntohl(u32 value);

/* The programs, for -Wmissing-prototypes. */
int from_pod(struct __sk_buff *skb);
int to_pod(struct __sk_buff *skb);
int from_proxy(struct __sk_buff *skb);
int at_proxy(struct __sk_buff *skb);
int sockops(struct bpf_sock_ops *ops);
int sockops_without_netns(struct bpf_sock_ops *ops);
int connect4(struct bpf_sock_addr *address);
int connect6(struct bpf_sock_addr *address);
int getpeername4(struct bpf_sock_addr *address);
int getpeername6(struct bpf_sock_addr *address);
