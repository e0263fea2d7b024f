/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* sockops: cgroup of this node's pods; called by the kernel's TCP when a socket below it changes.
 *
 * Reports the connections that from_pod let pass (rows 15 and 8) by their client's socket: opening
 * and end, once each. No packet waits for it, and a connection that is none of them costs a look-up
 * when it connects.
 *
 *  #  what happens to a client's socket                  what is done
 *  1  connects                                            note the Service that it has dialled
 *     connects to an enrolled pod of this node            note it, ask to be told of its states
 *  2  established, by a flow that the table allowed       tell the opening
 *     established otherwise                               forget it: the proxy tells
 *  3  FIN_WAIT2                                           note what was received by then
 *  4  end of what was never established, such a flow      tell the end: REFUSED, UNANSWERED
 *     the same, any other                                 forget it
 *  5  end                                                 tell the end: CLOSED, RESET
 *
 * "Tell" is an event in the ring. The end of a connection for which the ring has no room stays in
 * flow_reports. The agent compares `netns` with the pod's: addresses inside a namespace are
 * whatever its owner says.
 */
#include "flow.h"
#include "service.h"

enum report_state {
	REPORT_CONNECTING,
	REPORT_OPEN,
	REPORT_CLOSED,	   /* both ends were done, or the client was and the server's stack knew */
	REPORT_RESET,	   /* by either end, or given up by the kernel */
	REPORT_REFUSED,	   /* the SYN was answered with a reset */
	REPORT_UNANSWERED, /* the SYN was not answered; or the client did not wait for it */
};

/* Volatile: clang else reads two words at once, "invalid bpf_context access size=8". */
static __always_inline void read_ends(volatile struct bpf_sock_ops *ops, struct packet *ends)
{
	if (ops->family == FAMILY_IPV6) { /* IPv4 by such a socket has mapped addresses: our form */
		ends->source.word[0] = ops->local_ip6[0];
		ends->source.word[1] = ops->local_ip6[1];
		ends->source.word[2] = ops->local_ip6[2];
		ends->source.word[3] = ops->local_ip6[3];
		ends->destination.word[0] = ops->remote_ip6[0];
		ends->destination.word[1] = ops->remote_ip6[1];
		ends->destination.word[2] = ops->remote_ip6[2];
		ends->destination.word[3] = ops->remote_ip6[3];
	} else {
		ends->source = mapped(ops->local_ip4);
		ends->destination = mapped(ops->remote_ip4);
	}
	ends->source_port = bpf_htons(ops->local_port);
	ends->destination_port = bpf_htons(bpf_ntohl(ops->remote_port));
}

static __always_inline void count_loss(enum flow_loss what)
{
	u32 row = what;
	u64 *times = flow_losses.lookup(&row);

	if (times)
		*times += 1; /* per CPU: no other writer */
}

static __always_inline bool is_ours(const struct flow_report *report)
{
	struct packet ends = {
		.source = report->client,
		.destination = report->server,
		.source_port = report->client_port,
		.destination_port = report->server_port,
	};
	struct flow *flow = find_flow(&ends);

	return flow && flow->kind == FLOW_ALLOWED &&
	       (flow->from_second == is_second(&ends) || flow->from_second == OPENED_BY_EITHER);
}

/* Row 1. */
static __always_inline void begin(struct bpf_sock_ops *ops, u64 cookie, bool knows_netns)
{
	u64 netns = knows_netns ? bpf_get_netns_cookie(ops) : 0;
	struct flow_report report = {.cookie = cookie, .netns = netns};
	struct packet ends = {};

	read_ends(ops, &ends);
	note_service(&ends, cookie, netns);
	if (!pods.lookup(&ends.destination))
		return;
	if (bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		return; /* a socket without states: nothing is to be told of it */
	report.client = ends.source;
	report.server = ends.destination;
	report.client_port = ends.source_port;
	report.server_port = ends.destination_port;
	report.started = bpf_ktime_get_ns();
	if (flow_reports.update(&cookie, &report))
		count_loss(LOSS_OF_FLOW);
}

/* Row 2. */
static __always_inline void open(u64 cookie, struct flow_report *report)
{
	if (!is_ours(report)) {
		flow_reports.delete(&cookie);
		return;
	}
	report->state = REPORT_OPEN;
	if (flow_events.ringbuf_output(report, sizeof(*report), 0))
		count_loss(LOSS_OF_EVENT);
}

/* A SYN counts as a byte that was acknowledged, and a FIN of either end as a byte of its sender. */
static __always_inline void measure(struct bpf_sock_ops *ops, struct flow_report *report,
				    u32 former)
{
	u64 acknowledged = ops->bytes_acked, received = ops->bytes_received;
	bool is_done = former == BPF_TCP_LAST_ACK || former == BPF_TCP_CLOSING;
	bool has_fin = is_done || former == BPF_TCP_CLOSE_WAIT;
	bool is_fin_acknowledged = is_done && ops->snd_una == ops->snd_nxt;

	if (former == BPF_TCP_FIN_WAIT2) {
		is_fin_acknowledged = true;
		/* Of a client that leaves before the server is done the last bytes may be data. */
		has_fin = received > report->received;
	}
	report->state = is_fin_acknowledged ? REPORT_CLOSED : REPORT_RESET;
	acknowledged -= acknowledged > 0;
	acknowledged -= is_fin_acknowledged && acknowledged > 0;
	received -= has_fin && received > 0;
	report->sent = acknowledged;
	report->received = received;
	report->round_trip_us = ops->srtt_us >> 3;
}

/* Rows 4 and 5. */
static __always_inline void end(struct bpf_sock_ops *ops, u64 cookie, struct flow_report *report)
{
	if (report->state == REPORT_CONNECTING && !is_ours(report)) {
		flow_reports.delete(&cookie);
		return;
	}
	if (report->state == REPORT_CONNECTING)
		report->state = ops->segs_in ? REPORT_REFUSED : REPORT_UNANSWERED;
	else
		measure(ops, report, ops->args[0]);
	report->retransmissions = ops->total_retrans;
	report->ended = bpf_ktime_get_ns();
	if (flow_events.ringbuf_output(report, sizeof(*report), 0))
		count_loss(LOSS_OF_EVENT);
	else
		flow_reports.delete(&cookie);
}

static __always_inline int judge_socket(struct bpf_sock_ops *ops, bool knows_netns)
{
	u32 what = ops->op;
	u64 cookie;
	struct flow_report *report;

	if (what != BPF_SOCK_OPS_TCP_CONNECT_CB && what != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    what != BPF_SOCK_OPS_STATE_CB)
		return 1;
	cookie = get_cookie(ops);
	if (what == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		begin(ops, cookie, knows_netns);
		return 1;
	}
	report = flow_reports.lookup(&cookie);
	if (!report)
		return 1;
	if (what == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		open(cookie, report);
	else if (ops->args[1] == BPF_TCP_FIN_WAIT2)
		report->received = ops->bytes_received;
	else if (ops->args[1] == BPF_TCP_CLOSE)
		end(ops, cookie, report);
	return 1;
}

int sockops(struct bpf_sock_ops *ops)
{
	return judge_socket(ops, true);
}

/* For kernels before 5.15, whose verifier refuses bpf_get_netns_cookie here; the loader tries. */
int sockops_without_netns(struct bpf_sock_ops *ops)
{
	return judge_socket(ops, false);
}
