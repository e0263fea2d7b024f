/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments in, a line when the work begins and one JSON object out.
 *
 *     load serve PORT
 *     load exchange|upload|download|churn ADDRESS PORT CONNECTIONS SECONDS [BYTES]
 *     load hold ADDRESS PORT CONNECTIONS 0
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

double begin_work(void)
{
	puts("begun");
	fflush(stdout);
	return now();
}

/* A connection that is made, or, not blocking, one that is being made. */
int dial(const struct target *target, bool is_blocking)
{
	int kind = SOCK_STREAM | SOCK_CLOEXEC | (is_blocking ? 0 : SOCK_NONBLOCK);
	int fd = socket(target->address.ss_family, kind, 0), one = 1;

	if (fd < 0)
		fail("socket");
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		fail("TCP_NODELAY");
	if (connect(fd, (const struct sockaddr *)&target->address, target->length) &&
	    (is_blocking || errno != EINPROGRESS))
		fail("connect");
	return fd;
}

void write_all(int fd, const void *bytes, size_t length)
{
	const char *from = bytes;

	while (length) {
		ssize_t sent = send(fd, from, length, MSG_NOSIGNAL);

		if (sent < 0)
			fail("send");
		from += sent;
		length -= (size_t)sent;
	}
}

void note(struct times *times, double seconds)
{
	if (times->count == times->room) {
		times->room = times->room ? 2 * times->room : 1 << 16;
		times->tenths_of_us =
			realloc(times->tenths_of_us, times->room * sizeof(*times->tenths_of_us));
		if (!times->tenths_of_us)
			fail("realloc");
	}
	times->tenths_of_us[times->count++] = (uint32_t)(seconds * 1e7);
}

static int compare(const void *a, const void *b)
{
	uint32_t first = *(const uint32_t *)a, second = *(const uint32_t *)b;

	return (first > second) - (first < second);
}

/* The usual limit is 1,024. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		fail("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		fail("setrlimit");
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void print_times(struct times *times, double elapsed, long failed)
{
	double cpu = cpu_seconds();

	if (!times->count) {
		errno = ETIME;
		fail("nothing was done in time");
	}
	qsort(times->tenths_of_us, times->count, sizeof(*times->tenths_of_us), compare);
	printf("{\"count\": %zu, \"failed\": %ld, \"rate\": %.1f, \"p50_us\": %.1f, \"p99_us\": "
	       "%.1f, "
	       "\"cpu_seconds\": %.3f}\n",
	       times->count, failed, (double)times->count / elapsed,
	       times->tenths_of_us[times->count / 2] / 10.0,
	       times->tenths_of_us[times->count * 99 / 100] / 10.0, cpu);
}

void print_bytes(uint64_t bytes, double elapsed)
{
	printf("{\"bytes\": %llu, \"rate\": %.1f, \"cpu_seconds\": %.3f}\n",
	       (unsigned long long)bytes, (double)bytes / elapsed, cpu_seconds());
}

static void parse_target(struct target *target, const char *address, int port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&target->address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&target->address;

	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		target->length = sizeof(*v4);
	} else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		target->length = sizeof(*v6);
	} else {
		errno = EINVAL;
		fail(address);
	}
}

int main(int argc, char **argv)
{
	struct target target = {.bytes = 1024};

	signal(SIGPIPE, SIG_IGN);
	raise_descriptor_limit();
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]));
	if (argc < 6) {
		fputs("load: see the comment at the top of main.c\n", stderr);
		return 2;
	}
	parse_target(&target, argv[2], atoi(argv[3]));
	target.connections = atoi(argv[4]);
	target.seconds = atof(argv[5]);
	if (argc > 6)
		target.bytes = (size_t)atol(argv[6]);
	if (target.connections < 1 || target.connections > MOST || target.bytes < 2 ||
	    target.bytes > CHUNK) {
		fputs("load: connections or bytes out of range\n", stderr);
		return 2;
	}
	if (!strcmp(argv[1], "exchange"))
		exchange(&target);
	else if (!strcmp(argv[1], "upload"))
		upload(&target);
	else if (!strcmp(argv[1], "download"))
		download(&target);
	else if (!strcmp(argv[1], "churn"))
		churn(&target);
	else if (!strcmp(argv[1], "hold"))
		hold(&target);
	else
		return 2;
	return 0;
}
