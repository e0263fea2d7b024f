/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Put in front of the programs by recording.py: what has no effect in BPF_PROG_TEST_RUN (redirects,
 * bpf_sk_assign) or cannot be arranged there (the flow hash, SYN cookies) is replaced by a record of
 * what was asked, or by what the test gives. Everything else is the product's source.
 *
 *  priority  given: the ingress_ifindex, which Linux 5.10 does not let a test give
 *  cb[0]     given: the flow hash; its highest bit: bpf_sk_assign is to refuse
 *  cb[1]     a redirect: its device; from bit 28 on its flags, from bit 30 on which helper
 *  cb[4]     port of the listener that was assigned; above it, the packet's type plus one
 *
 * The programs use none of these themselves. What is recorded is added, so that twice is not once.
 * Redirects have no skb among their arguments: the macros take the one in sight.
 */
#pragma once

enum {
	RECORDED_FLAGS_SHIFT = 28,
	RECORDED_CALL_SHIFT = 30,
	RECORDED_REDIRECT = 1,
	RECORDED_REDIRECT_PEER = 2,
	RECORDED_TYPE_SHIFT = 16,
};
#define RECORDED_REFUSAL 0x80000000u

/* A SYN cookie of a listener, as far as the test build believes: these bytes, then its port. */
enum { COOKIE_FIRST = 0xc0, COOKIE_SECOND = 0x0c };

static __always_inline int recorded_redirect(struct __sk_buff *skb, u32 call, u32 device, u32 flags)
{
	asm volatile("" : "+r"(skb));
	skb->cb[1] += device + (flags << RECORDED_FLAGS_SHIFT) + (call << RECORDED_CALL_SHIFT);
	return 7; /* TC_ACT_REDIRECT */
}

static __always_inline int recorded_sk_assign(struct __sk_buff *skb, struct bpf_sock *listener,
					      u64 flags)
{
	u32 port = listener->src_port;

	asm volatile("" : "+r"(skb));
	skb->cb[4] += port;
	return flags || skb->cb[0] & RECORDED_REFUSAL ? -1 : 0;
}

static __always_inline int recorded_skb_change_type(struct __sk_buff *skb, u32 type)
{
	asm volatile("" : "+r"(skb));
	skb->cb[4] += (type + 1) << RECORDED_TYPE_SHIFT;
	return bpf_skb_change_type(skb, type);
}

static __always_inline u32 recorded_hash(struct __sk_buff *skb)
{
	asm volatile("" : "+r"(skb));
	return skb->cb[0] & ~RECORDED_REFUSAL;
}

/* The kernel's own rules about its arguments, and one of ours for the cookie. */
static __always_inline int recorded_check_syncookie(struct bpf_sock *listener, const u8 *ip,
						    u32 ip_bytes, const u8 *tcp, u32 tcp_bytes)
{
	u32 port = (u32)tcp[10] << 8 | tcp[11];

	if (tcp_bytes != 20 || ip_bytes != (ip[0] == 0x45 ? 20 : 40))
		return -1;
	return tcp[8] == COOKIE_FIRST && tcp[9] == COOKIE_SECOND && port == listener->src_port ? 0
											       : -1;
}

#define ingress_ifindex priority
#define bpf_redirect(device, flags) recorded_redirect(skb, RECORDED_REDIRECT, device, flags)
#define bpf_redirect_peer(device, flags) \
	recorded_redirect(skb, RECORDED_REDIRECT_PEER, device, flags)
#define bpf_sk_assign(packet, listener, flags) recorded_sk_assign(packet, listener, flags)
#define bpf_skb_change_type(packet, type) recorded_skb_change_type(packet, type)
#define bpf_get_hash_recalc(packet) recorded_hash(packet)
#define bpf_tcp_check_syncookie(listener, ip, ip_bytes, tcp, tcp_bytes) \
	recorded_check_syncookie(listener, (const u8 *)(ip), ip_bytes, (const u8 *)(tcp), tcp_bytes)
