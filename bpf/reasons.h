/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Every outcome of the programs, once: its name, its TC verdict and its words. Python reads this
 * table too (nodeagent/kernel/reasons.py), so `status`, metrics and `explain` say the same.
 *
 * One row per line of the truth tables on top of the programs. Rows are appended and never
 * renumbered, because the counters outlive an upgrade; a retired row keeps its place.
 */
#pragma once

enum {
	TC_ACT_UNSPEC = -1,
	TC_ACT_OK = 0,
	TC_ACT_SHOT = 2,
	TC_ACT_REDIRECT = 7
}; /* linux/pkt_cls.h */

/* UNSPEC: pass, and later filters of the CNI run. OK: pass, inside the proxy namespace, where there
 * are none. SHOT: drop. REDIRECT: to the proxy, into a pod or into the node's stack, as the words
 * say.
 */
/* clang-format off */
#define REASONS(ROW) \
	/* read by every program */ \
	ROW(NOT_IP, UNSPEC, "neither IPv4 nor IPv6") \
	ROW(NOT_TCP, UNSPEC, "IP, but not TCP") \
	ROW(CUT_SHORT, SHOT, "shorter than its headers") \
	ROW(IP_OPTIONS, SHOT, "TCP behind IPv4 options or a bad header length") \
	ROW(FRAGMENT, SHOT, "a fragment that may hold TCP") \
	ROW(EXTENSION_HEADERS, SHOT, "TCP behind IPv6 extension headers, or too many of them") \
	/* from_pod */ \
	ROW(PROXY_PASSAGE, UNSPEC, "the proxy's packet enters the node's stack by this pod's device") \
	ROW(SPOOFED_SOURCE, SHOT, "source address is not this pod's") \
	ROW(PROXY_ANSWERED, REDIRECT, "the pod accepts a connection of the proxy") \
	ROW(LOCAL_FLOW, UNSPEC, "packet of a direct connection") \
	ROW(PROXY_FLOW, REDIRECT, "packet of a connection that the proxy holds, or has lost: its stack resets it") \
	ROW(NODE_FLOW, UNSPEC, "packet of a connection with the node itself") \
	ROW(FLOW_RENEWED, UNSPEC, "packet of a direct connection, confirmed after a policy change") \
	ROW(REVOKED, REDIRECT, "direct connection no longer allowed; the proxy resets it") \
	ROW(OUTSIDE_FLOW, UNSPEC, "packet of a connection with an address that the mesh does not know") \
	ROW(ADOPTED, UNSPEC, "connection that was open before the pod was enrolled") \
	ROW(UNKNOWN_FLOW, REDIRECT, "packet of a connection that nobody holds; the proxy resets it") \
	ROW(NODE_ADDRESS, UNSPEC, "connection to the node itself") \
	ROW(EXCLUDED, UNSPEC, "connection to an excluded address or port") \
	ROW(LOCAL_ALLOWED, UNSPEC, "connection to a pod of this node, allowed by the verdict table") \
	ROW(LOCAL_STEERED, REDIRECT, "connection to a pod of this node, steered to the proxy") \
	ROW(STEERED, REDIRECT, "connection to the mesh, steered to the proxy") \
	ROW(UNKNOWN_DESTINATION, UNSPEC, "connection to an address that the mesh does not know") \
	ROW(NOT_REGISTERED, SHOT, "connection to an unknown address; only registered ones pass") \
	/* to_pod */ \
	ROW(ICMP_ERROR, REDIRECT, "ICMP error about a connection that the proxy holds") \
	ROW(LOCAL_DELIVERED, UNSPEC, "packet that from_pod let through reaches the other pod") \
	ROW(NODE_PROBE, UNSPEC, "connection made by the node itself, such as a kubelet probe") \
	ROW(INBOUND, REDIRECT, "connection to the pod, steered to the proxy") \
	ROW(INBOUND_FLOW, REDIRECT, "packet to the pod of a connection that the proxy holds") \
	ROW(NODE_ANSWER, UNSPEC, "packet made by the node itself, of a running connection") \
	ROW(SYN_COOKIE, REDIRECT, "ACK that ends a SYN-cookie handshake with the proxy") \
	ROW(INBOUND_OTHER, UNSPEC, "packet to the pod of a connection that the proxy does not hold") \
	/* from_proxy */ \
	ROW(PROXY_NOT_TCP, SHOT, "the proxy sent something other than TCP") \
	ROW(INTO_POD, REDIRECT, "the proxy's packet, delivered to a pod of this node") \
	ROW(INTO_NODE, REDIRECT, "the proxy's packet, on the device of the pod whose address it carries") \
	ROW(FOREIGN_SOURCE, SHOT, "the proxy sent with an address of no enrolled pod, to none") \
	/* at_proxy */ \
	ROW(NOT_FOR_PROXY, SHOT, "neither TCP nor an ICMP error came to the proxy") \
	ROW(PROXY_ICMP, OK, "ICMP error, for the proxy's stack to place") \
	ROW(PROXY_SYN, OK, "SYN of a connection that the proxy's stack knows") \
	ROW(PROXY_PACKET, OK, "packet for a socket of the proxy; one that has gone is reset by the stack") \
	ROW(NOBODYS_RESET, SHOT, "reset for a connection that nobody holds") \
	ROW(ASSIGNED_OUTBOUND, OK, "given to a worker's outbound listener") \
	ROW(ASSIGNED_HBONE, OK, "given to a worker's HBONE listener") \
	ROW(ASSIGNED_PLAINTEXT, OK, "given to a worker's inbound plaintext listener") \
	ROW(PROXY_AWAY, SHOT, "no worker is listening") \
	ROW(ASSIGN_REFUSED, SHOT, "the kernel refused to give the packet to a listener") \
	/* from_proxy */ \
	ROW(INTO_PROXY, REDIRECT, "the proxy's tunnel between two pods of this node, back to the proxy") \
	/* read by every program */ \
	ROW(TAGGED_TWICE, SHOT, "behind more than one VLAN tag, where IP can hide") \
	ROW(MAPPED_ADDRESS, SHOT, "TCP over IPv6 with an IPv4-mapped address") \
	/* from_pod */ \
	ROW(FLOW_RESTORED, UNSPEC, "packet of a direct connection that had been forgotten and is allowed") \
	/* from_pod, from_proxy */ \
	ROW(SETTLING, SHOT, "of a connection that an upgrade is still bringing over; it is sent again") \
	/* to_pod */ \
	ROW(FORGED_FLOW, SHOT, "in a direct connection, but not sent by its pod") \
	/* from_pod */ \
	ROW(EXCLUDED_FLOW, UNSPEC, "packet of a connection to an excluded address or port") \
	/* to_pod */ \
	ROW(UNKNOWN_TUNNEL, REDIRECT, "packet of a tunnel that nobody holds; the proxy resets it")
/* clang-format on */

#define NUMBER(name, verdict, words) \
	REASON_##name, /* prefixed: libc's linux/in.h has an IP_OPTIONS too */
enum reason { UNDECIDED, REASONS(NUMBER) REASON_COUNT };
#undef NUMBER

enum { REASON_ROOM = 64 }; /* entries of reason_counts; fixed, so that a new row is no new layout */
_Static_assert(REASON_COUNT <= REASON_ROOM, "reason_counts is full");

#define RETURN(name, verdict, words) \
	case REASON_##name:          \
		return TC_ACT_##verdict;
static __always_inline int verdict_of(enum reason why)
{
	switch (why) {
		REASONS(RETURN)
	case UNDECIDED:
	case REASON_COUNT:
		break;
	}
	return TC_ACT_SHOT; /* only a bug leads here: fail closed */
}
#undef RETURN
