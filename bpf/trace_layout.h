/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What passes between a trace's programs and the agent, in layout.h's grammar. Apart from it, because
 * a change here is no new generation of maps: these live as long as one trace.
 */
#pragma once
#include "layout.h"

struct trace_filter {
	u32 device;    /* ifindex of the pod's device on the node */
	u32 has_peers; /* 1: of the pod's packets only those with an end that trace_peers has */
	u32 is_every;  /* 1: each packet, be it as the one before or not the mesh's affair */
	u32 zero;
};
_Static_assert(sizeof(struct trace_filter) == 16, "trace_filter");

struct trace_key { /* packets that are alike: the first one is told */
	struct address source;
	struct address destination;
	be16 source_port;
	be16 destination_port;
	u8 hook;     /* enum hook */
	u8 why;	     /* enum reason */
	u8 kind;     /* enum trace_kind */
	u8 protocol; /* of IP; 0: not IP */
};
_Static_assert(sizeof(struct trace_key) == 40, "trace_key");

struct trace_event {
	struct trace_key key;
	u64 at;	    /* nanoseconds of CLOCK_MONOTONIC */
	u32 bytes;  /* of the application; of what is no TCP all behind the IP header */
	u32 device; /* ifindex, in the namespace of the hook */
	u32 flags;  /* of TCP */
	u32 zero;
};
_Static_assert(sizeof(struct trace_event) == 64, "trace_event");
