/* SPDX-License-Identifier: Apache-2.0 */
/* Bulk in one direction. Of an upload the server tells what it got, and it must be what was sent. */
#include "load.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[CHUNK];

static int open_streams(const struct target *target, char order, uint32_t events, int *fds)
{
	int loop = epoll_create1(EPOLL_CLOEXEC);

	for (int i = 0; i < target->connections; i++) {
		struct epoll_event event = {.events = events, .data.u32 = (uint32_t)i};

		fds[i] = dial(target, true);
		write_all(fds[i], &order, 1);
		if (epoll_ctl(loop, EPOLL_CTL_ADD, fds[i], &event))
			fail("epoll_ctl");
	}
	return loop;
}

static uint64_t received(int fd)
{
	uint64_t told;

	if (shutdown(fd, SHUT_WR) || recv(fd, &told, sizeof(told), MSG_WAITALL) != sizeof(told))
		fail("the server's count");
	return be64toh(told);
}

void upload(const struct target *target)
{
	int *fds = calloc((size_t)target->connections, sizeof(*fds));
	int loop = open_streams(target, ORDER_UPLOAD, EPOLLOUT, fds);
	uint64_t sent = 0, arrived = 0;
	struct epoll_event events[64];
	double began = begin_work();

	while (now() < began + target->seconds) {
		int count = epoll_wait(loop, events, 64, 100);

		for (int at = 0; at < count; at++) {
			ssize_t some = send(fds[events[at].data.u32], buffer, sizeof(buffer),
					    MSG_DONTWAIT | MSG_NOSIGNAL);

			if (some < 0 && errno != EAGAIN)
				fail("send");
			sent += some > 0 ? (uint64_t)some : 0;
		}
	}
	for (int i = 0; i < target->connections; i++)
		arrived += received(fds[i]);
	if (arrived != sent) {
		errno = EBADMSG;
		fail("bytes were lost");
	}
	print_bytes(arrived, now() - began);
}

void download(const struct target *target)
{
	int *fds = calloc((size_t)target->connections, sizeof(*fds));
	int loop = open_streams(target, ORDER_DOWNLOAD, EPOLLIN, fds);
	struct epoll_event events[64];
	double began = begin_work();
	uint64_t arrived = 0;

	while (now() < began + target->seconds) {
		int count = epoll_wait(loop, events, 64, 100);

		for (int at = 0; at < count; at++) {
			ssize_t some = recv(fds[events[at].data.u32], buffer, sizeof(buffer),
					    MSG_DONTWAIT);

			if (some == 0)
				errno = ECONNRESET;
			if (some <= 0 && errno != EAGAIN)
				fail("recv");
			arrived += some > 0 ? (uint64_t)some : 0;
		}
	}
	print_bytes(arrived, now() - began);
}
