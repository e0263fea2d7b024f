/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The shapes of map keys and values: the only declaration, for C and for Python
 * (nodeagent/kernel/layout.py).
 *
 * Grammar: u8 to u64, be16, be32, a struct declared above, and arrays of these; one field per line;
 * padding is a named field that is always zero. This file and maps.h are hashed into the pin
 * directory's name: a change is a new generation of maps. Addresses and ports are in network order
 * everywhere; IPv4 is ::ffff:a.b.c.d.
 */
#pragma once

typedef __be16 be16;
typedef __be32 be32;

struct address {
	be32 word[4];
};
_Static_assert(sizeof(struct address) == 16, "address");

struct settings {
	u64 secret;	  /* random: by it from_pod knows what from_proxy has sent; 0: none yet */
	u32 proxy_device; /* ifindex of na0 */
	u32 proxy_namespace; /* id of the proxy namespace as the node's namespace counts */
	u32 generation;	     /* of the policies behind the flow table */
	u32 slots;	     /* 0 to SLOTS: listener slots in use, from 0 on */
	u32 registry_only;   /* 1: unknown destinations are dropped, whoever asks for them */
	u32 is_settling;     /* 1: flows of a former layout are still being brought over */
	u32 sources; /* random: another one after each row of sources that was taken away; 0 from
		      * before that until then */
	u32 is_changing; /* 1: another table of verdicts is on its way; the proxy decides what is new */
};
_Static_assert(sizeof(struct settings) == 40, "settings");

struct source_key {
	u32 device; /* ifindex of the pod's device on the node */
	struct address address;
};
_Static_assert(sizeof(struct source_key) == 20, "source_key");

struct source {
	u64 adopt_until;   /* nanoseconds of CLOCK_MONOTONIC: end of the adoption window */
	u32 number;	   /* of the pod, in the table of verdicts */
	u32 registry_only; /* 1: unknown destinations are dropped */
};
_Static_assert(sizeof(struct source) == 16, "source");

struct pod {
	u32 device;	   /* ifindex of the pod's device on the node */
	u8 gateway_mac[6]; /* what the pod sends to: the bridge's, or the device's own */
	u8 pod_mac[6];	   /* its eth0's */
	u32 number;	   /* of the pod, in the table of verdicts */
};
_Static_assert(sizeof(struct pod) == 20, "pod");

struct pod_count {
	u64 outbound; /* connections of the pod that were steered */
	u64 inbound;  /* connections to the pod that were steered */
	u64 dropped;  /* packets from and to the pod that were dropped */
	u64 admitted; /* SYNs that we let into the pod and whose answer belongs to no flow of ours */
	u64 unasked;  /* SYN-ACKs of the pod that belong to nothing that we let in or hold */
};
_Static_assert(sizeof(struct pod_count) == 40, "pod_count");

struct exclusion_key { /* a row of an LPM trie: the first prefix_bits bits of the rest count */
	u32 prefix_bits;
	be16 port; /* 0: every port */
	u16 zero;
	struct address address;
};
_Static_assert(sizeof(struct exclusion_key) == 24, "exclusion_key");

struct verdict_key {
	u32 generation;	 /* of the settings; other rows are being written, or are left-overs */
	u32 destination; /* number of the pod that is connected to */
	be16 port;	 /* 0: every port without a row of its own */
	u16 zero;
};
_Static_assert(sizeof(struct verdict_key) == 12, "verdict_key");

struct verdict { /* bit n % 8 of byte n / 8: the pod of number n may connect */
	u8 sources[128];
	u32 is_pending; /* 1: a policy is on its way; who is connected may go on, and nobody new */
};
_Static_assert(sizeof(struct verdict) == 132, "verdict");

struct endpoint { /* an address and a port: of a Service, or of one of its endpoints */
	struct address address;
	be16 port;
	u16 zero;
};
_Static_assert(sizeof(struct endpoint) == 20, "endpoint");

struct service {
	u32 id;	   /* of the draws in force; another one after each change */
	u32 draws; /* how many there are: 1 and more */
};
_Static_assert(sizeof(struct service) == 8, "service");

struct draw_key {
	u32 service; /* id */
	u32 number;  /* 0 to draws - 1 */
};
_Static_assert(sizeof(struct draw_key) == 8, "draw_key");

struct dialled {
	u64 netns; /* cookie of the socket's network namespace */
	struct endpoint service;
	u32 zero;
};
_Static_assert(sizeof(struct dialled) == 32, "dialled");

struct dial_key {  /* a connection as its client has it */
	u64 netns; /* of the client: in another namespace anybody can have any address */
	struct address client;
	struct address server;
	be16 client_port;
	be16 server_port;
	u32 zero;
};
_Static_assert(sizeof(struct dial_key) == 48, "dial_key");

struct flow_key { /* see flow.h for which end is the first */
	struct address first;
	struct address second;
	be16 first_port;
	be16 second_port;
};
_Static_assert(sizeof(struct flow_key) == 36, "flow_key");

struct flow {
	u32 generation; /* of the settings when it was last judged */
	u8 kind;	/* enum flow_kind */
	u8 from_second; /* 1: opened by the second end; 2: not known by which, see flow.h */
	u8 held; /* of FLOW_TAKEN: bits of the ends (1: first, 2: second) for whose packets the proxy
			 * was seen to have a socket */
	u8 zero;
	u64 first_checked;  /* check_of() a packet of the first end whose source was its device's */
	u64 second_checked; /* the same for the second end */
};
_Static_assert(sizeof(struct flow) == 24, "flow");

struct flow_report { /* of a direct connection between two pods of this node, by its client's socket */
	u64 cookie;   /* of the socket: SO_COOKIE, and what sock_diag calls it */
	u64 netns;    /* cookie of the socket's network namespace; 0: this kernel does not tell */
	u64 started;  /* nanoseconds of CLOCK_MONOTONIC: when it began to connect */
	u64 ended;    /* the same; 0 while it is open */
	u64 sent;     /* bytes of the client that the server's stack has acknowledged */
	u64 received; /* bytes of the server; while open, what had come when the client was done */
	struct address client;
	struct address server;
	be16 client_port;
	be16 server_port;
	u32 round_trip_us; /* smoothed */
	u32 retransmissions;
	u32 state; /* enum report_state */
};
_Static_assert(sizeof(struct flow_report) == 96, "flow_report");
