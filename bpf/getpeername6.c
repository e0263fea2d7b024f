/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* getpeername6: getpeername4 for IPv6 sockets, mapped IPv4 addresses among them.
 *
 *  #  socket, first row that fits                         what is told
 *  1  has dialled a Service (connect6)                    the Service
 *  2  else                                                its peer
 */
#include "service.h"

int getpeername6(struct bpf_sock_addr *address)
{
	struct endpoint *service = find_dialled(address);

	if (!service)
		return 1;
	write_ip6(address, &service->address);
	address->user_port = service->port;
	return 1;
}
