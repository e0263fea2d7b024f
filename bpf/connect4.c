/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* connect4: cgroup of this node's pods; connect(2) of an IPv4 socket below it, before its SYN.
 *
 *  #  socket, first row that fits                         what is done
 *  1  not TCP, or not of an enrolled pod's namespace      nothing
 *  2  to a Service that is drawn here                     to the endpoint drawn, wherever that runs
 *  3  else                                                nothing
 *
 * Whether it may connect is from_pod's to decide, as of every SYN: what is done here saves the way
 * through the proxy, and an application that gets round it is steered as before.
 */
#include "service.h"

int connect4(struct bpf_sock_addr *address)
{
	struct endpoint wanted = {.port = (be16)address->user_port}, drawn = {};

	wanted.address = mapped(address->user_ip4);
	if (!redirect(address, &wanted, &drawn))
		return 1;
	address->user_ip4 = drawn.address.word[3];
	address->user_port = drawn.port;
	return 1;
}
