/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* getpeername4: cgroup of this node's pods; getpeername(2) of an IPv4 socket below it.
 *
 *  #  socket, first row that fits                         what is told
 *  1  has dialled a Service (connect4)                    the Service
 *  2  else                                                its peer
 */
#include "service.h"

int getpeername4(struct bpf_sock_addr *address)
{
	struct endpoint *service = find_dialled(address);

	if (!service)
		return 1;
	address->user_ip4 = service->address.word[3];
	address->user_port = service->port;
	return 1;
}
