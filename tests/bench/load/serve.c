/* SPDX-License-Identifier: Apache-2.0 */
/* The server: one loop, level-triggered; a connection is its order and a count. */
#define _GNU_SOURCE /* accept4 */
#include "load.h"

#include <endian.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
	char order; /* 0: not told yet */
	uint64_t bytes;
} connections[MOST];
static char buffer[CHUNK];
static int loop;

static void watch(int fd, uint32_t events, int change)
{
	struct epoll_event event = {.events = events, .data.fd = fd};

	if (epoll_ctl(loop, change, fd, &event))
		fail("epoll_ctl");
}

static void accept_all(int listener)
{
	for (;;) {
		int one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return;
		if (fd >= MOST) {
			close(fd);
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		connections[fd].order = 0;
		connections[fd].bytes = 0;
		watch(fd, EPOLLIN, EPOLL_CTL_ADD);
	}
}

/* False when it is over. Peers of an echo wait for their answers, so a send may block. */
static bool answer(int fd, ssize_t length)
{
	uint64_t told;

	switch (connections[fd].order) {
	case ORDER_ECHO:
		return send(fd, buffer, (size_t)length, MSG_NOSIGNAL) == length;
	case ORDER_UPLOAD:
		connections[fd].bytes += (uint64_t)length;
		if (length)
			return true;
		told = htobe64(connections[fd].bytes);
		send(fd, &told, sizeof(told), MSG_NOSIGNAL);
		return false;
	default:
		return false;
	}
}

static bool read_order(int fd)
{
	char *order = &connections[fd].order;

	ssize_t length = recv(fd, order, 1, MSG_DONTWAIT);

	if (length != 1)
		return length < 0 && errno == EAGAIN;
	if (!*order)
		return false; /* of no client of ours: it would be told again for each byte */
	if (*order == ORDER_ONE) {
		send(fd, order, 1, MSG_NOSIGNAL);
		return false;
	}
	if (*order == ORDER_DOWNLOAD)
		watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
	return true;
}

static bool go_on(int fd)
{
	ssize_t length;

	if (!connections[fd].order)
		return read_order(fd);
	if (connections[fd].order == ORDER_DOWNLOAD)
		return send(fd, buffer, sizeof(buffer), MSG_NOSIGNAL | MSG_DONTWAIT) > 0 ||
		       errno == EAGAIN;
	length = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	if (length < 0)
		return errno == EAGAIN;
	if (!length && connections[fd].order == ORDER_ECHO)
		return false;
	return answer(fd, length);
}

int serve(int port)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	int one = 1, listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct epoll_event events[256];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 4096))
		fail("listen");
	loop = epoll_create1(EPOLL_CLOEXEC);
	watch(listener, EPOLLIN, EPOLL_CTL_ADD);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(loop, events, 256, -1);

		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd;

			if (fd == listener)
				accept_all(listener);
			else if (!go_on(fd))
				close(fd);
		}
	}
}
