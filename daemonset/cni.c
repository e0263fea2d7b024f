/* SPDX-License-Identifier: Apache-2.0 */
/* nodeagent-cni: a CNI plugin (spec 0.3.0 to 1.1.0) behind those that make a pod's network.
 *
 * It asks this node's agent whether the pod may start. The agent answers when a pod of the mesh is
 * captured, so that not even its first packet passes in plain text. The runtime is told to try again
 * otherwise; it does, and the pod's events say what this program says.
 *
 *  ADD   no pod of Kubernetes, or its namespace is excluded   starts, nobody is asked
 *        the agent says 200: captured, or none of the mesh    starts
 *        the agent says anything else, nothing, or is away    held: code 11, try again later
 *        what the runtime or its configuration says is wrong  held: codes 1, 4, 5, 6, 7
 *  DEL, CHECK, GC, STATUS                                     well: there is nothing of ours to look at
 *  VERSION                                                    the versions
 *
 * STATUS is well also without an agent. Otherwise the node would not be ready, what is excluded (DNS)
 * could not start either, and after some minutes the pods that run here would be evicted.
 *
 * Its configuration: {"type": "nodeagent-cni", "socket": PATH, "excludeNamespaces": [NAME, ...]}.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_BYTES = 1 << 20, /* of a configuration with its result, and of an answer */
	MAX_REQUEST = 4096,  /* the agent takes 8192 */
	MAX_NAME = 512,	     /* of each value in a request; Kubernetes' own limit is 253 */
	ARRIVAL = 5,	     /* seconds: for an agent that starts again, or is replaced */
	ANSWER = 30,	     /* seconds: the agent takes 10 to know a pod, and 10 to capture it */
	PAUSE = 200000,	     /* microseconds between attempts */
	SUCCESS = 200,
};

/* Of the CNI spec, "Error". */
enum code {
	WRONG_VERSION = 1,
	WRONG_ENVIRONMENT = 4,
	NO_INPUT = 5,
	NOT_JSON = 6,
	WRONG_CONFIGURATION = 7,
	TRY_AGAIN = 11,
};

#define VERSIONS "\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
#define NEWEST "1.1.0"

/* A part of some JSON, as it was written. `at` is NULL where there is none. */
struct text {
	const char *at;
	size_t length;
};

static char version[MAX_NAME] = NEWEST;

/* Says why on standard output, as the spec has it, and ends. `check` is the inside of a JSON string, `words`
 * have nothing in them that JSON would escape.
 */
__attribute__((noreturn, format(printf, 3, 4))) static void fail(enum code code, struct text check,
								 const char *words, ...)
{
	va_list more;

	printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"", version, code);
	va_start(more, words);
	vprintf(words, more);
	va_end(more);
	if (check.at)
		printf("\",\"details\":\"%.*s", (int)check.length, check.at);
	printf("\"}\n");
	exit(1);
}

static const struct text nothing;

/* ---- JSON: where a value begins and ends, of text that the runtime or the agent has made -------------------- */

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && strchr(" \t\r\n", *at) && *at)
		at++;
	return at;
}

/* From the quote to what follows the other one; NULL when there is none. */
static const char *skip_string(const char *at, const char *end)
{
	for (at++; at < end; at++) {
		if (*at == '"')
			return at + 1;
		if (*at == '\\')
			at++;
	}
	return NULL;
}

/* What follows a value; NULL when it is not whole. Depth is counted, so no input makes the stack grow. */
static const char *skip_value(const char *at, const char *end)
{
	size_t depth = 0;

	do {
		const char *word = at = skip_space(at, end);

		if (at == end)
			return NULL;
		if (*at == '"') {
			at = skip_string(at, end);
			if (!at)
				return NULL;
		} else if (*at == '{' || *at == '[') {
			depth++;
			at++;
		} else if (depth && (*at == '}' || *at == ']')) {
			depth--;
			at++;
		} else if (depth && (*at == ',' || *at == ':')) {
			at++;
		} else {
			while (at < end && *at && !strchr(" \t\r\n,:[]{}\"", *at))
				at++;
			if (at == word)
				return NULL;
		}
	} while (depth);
	return at;
}

/* A value of an object by its key. */
static struct text member(struct text object, const char *key)
{
	const char *at = object.at, *end = object.at + object.length;

	if (!at)
		return nothing;
	at = skip_space(at, end);
	if (at == end || *at != '{')
		return nothing;
	for (at++;; at++) {
		const char *name = at = skip_space(at, end), *value;
		size_t length;

		if (at == end || *at != '"')
			return nothing;
		at = skip_string(at, end);
		if (!at)
			return nothing;
		length = (size_t)(at - name) - 2;
		at = skip_space(at, end);
		if (at == end || *at != ':')
			return nothing;
		value = skip_space(at + 1, end);
		at = skip_value(value, end);
		if (!at)
			return nothing;
		if (length == strlen(key) && !memcmp(name + 1, key, length))
			return (struct text){value, (size_t)(at - value)};
		at = skip_space(at, end);
		if (at == end || *at != ',')
			return nothing;
	}
}

/* The inside of a string. */
static struct text inside(struct text value)
{
	if (!value.at || value.length < 2 || *value.at != '"')
		return nothing;
	return (struct text){value.at + 1, value.length - 2};
}

/* ---- what the runtime says ----------------------------------------------------------------------------------- */

/* Names, identifiers and paths: nothing that JSON or a URL would escape. */
static bool is_plain(struct text word)
{
	for (size_t i = 0; i < word.length; i++) {
		char byte = word.at[i];

		if (!(byte >= 'a' && byte <= 'z') && !(byte >= 'A' && byte <= 'Z') &&
		    !(byte >= '0' && byte <= '9') && !(byte && strchr("._-/", byte)))
			return false;
	}
	return word.at && word.length && word.length < MAX_NAME;
}

/* Of CNI_ARGS, such as K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop. */
static struct text argument(const char *name)
{
	const char *at = getenv("CNI_ARGS");
	size_t length = strlen(name);

	while (at) {
		if (!strncmp(at, name, length) && at[length] == '=')
			return (struct text){at + length + 1, strcspn(at + length + 1, ";")};
		at = strchr(at, ';');
		at = at ? at + 1 : NULL;
	}
	return nothing;
}

/* Seconds, of a clock that nobody sets: a node that boots is about to learn the time. */
static time_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec;
}

static struct text read_all(int from, time_t until)
{
	char *bytes = malloc(MAX_BYTES + 2);
	size_t length = 0;

	while (bytes && length <= MAX_BYTES) {
		struct pollfd wanted = {.fd = from, .events = POLLIN};
		time_t left = until - now();
		ssize_t got;

		if (left <= 0 || poll(&wanted, 1, (int)left * 1000) <= 0)
			break;
		got = read(from, bytes + length, MAX_BYTES + 1 - length);
		if (got < 0)
			break;
		if (!got) {
			bytes[length] = 0; /* for sscanf */
			return (struct text){bytes, length};
		}
		length += (size_t)got;
	}
	return nothing;
}

/* ---- what the agent says --------------------------------------------------------------------------------------- */

/* An agent that is not there now may be in a moment. -1 and errno when it is not. */
static int reach(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = ARRIVAL}; /* for one that takes nobody any more */
	time_t until = now() + ARRIVAL;

	memcpy(address.sun_path, path, strlen(path) + 1);
	for (;;) {
		int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		int error;

		if (agent >= 0)
			setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		if (agent < 0 || !connect(agent, (struct sockaddr *)&address, sizeof(address)))
			return agent;
		error = errno;
		close(agent);
		errno = error;
		if (now() >= until)
			return -1;
		usleep(PAUSE);
	}
}

/* Status of an HTTP answer, and its body. 0 when it is none. */
static int read_answer(int agent, struct text *body)
{
	struct text answer = read_all(agent, now() + ANSWER);
	const char *end;
	int status;

	if (!answer.at || answer.length < 12 || memcmp(answer.at, "HTTP/1.", 7))
		return 0;
	end = memmem(answer.at, answer.length, "\r\n\r\n", 4);
	if (!end || sscanf(answer.at + 8, "%3d", &status) != 1)
		return 0;
	body->at = end + 4;
	body->length = answer.length - (size_t)(body->at - answer.at);
	return status;
}

struct pod {
	struct text namespace, name, uid, netns;
};

/* Returns when it may start. */
static void ask(const struct pod *pod, struct text socket_path)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)], request[MAX_REQUEST];
	char whose[2 * MAX_NAME + 32];
	struct text body = nothing, said;
	int length, agent, status;

	snprintf(whose, sizeof(whose), "pod %.*s/%.*s is held", (int)pod->namespace.length,
		 pod->namespace.at, (int)pod->name.length, pod->name.at);
	if (!is_plain(socket_path) || socket_path.length >= sizeof(path))
		fail(WRONG_CONFIGURATION, nothing, "%s: \\\"socket\\\" is no path", whose);
	snprintf(path, sizeof(path), "%.*s", (int)socket_path.length, socket_path.at);
	agent = reach(path);
	if (agent < 0)
		fail(TRY_AGAIN, nothing,
		     "%s until this node's nodeagent answers at %s (%s); if it was removed for "
		     "good, "
		     "take nodeagent-cni out of the node's CNI configuration",
		     whose, path, strerror(errno));
	length = snprintf(
		request, sizeof(request),
		"POST /pods/start?namespace=%.*s&name=%.*s&uid=%.*s&netns=%.*s HTTP/1.1\r\n"
		"Host: node\r\n\r\n",
		(int)pod->namespace.length, pod->namespace.at, (int)pod->name.length, pod->name.at,
		(int)pod->uid.length, pod->uid.at ? pod->uid.at : "", (int)pod->netns.length,
		pod->netns.at);
	status = send(agent, request, (size_t)length, MSG_NOSIGNAL) == length
			 ? read_answer(agent, &body)
			 : 0;
	if (status == SUCCESS)
		return;
	if (!status)
		fail(TRY_AGAIN, nothing, "%s: nodeagent at %s gave no answer", whose, path);
	said = inside(member(body, "error"));
	fail(TRY_AGAIN, inside(member(body, "check")), "%s: %.*s", whose,
	     said.at ? (int)said.length : 14, said.at ? said.at : "nodeagent says no more");
}

static void check_version(struct text configuration)
{
	struct text wanted = member(configuration, "cniVersion"), word = inside(wanted);

	if (!is_plain(word))
		fail(NOT_JSON, nothing, "the configuration is no JSON with a \\\"cniVersion\\\"");
	if (!memmem(VERSIONS, strlen(VERSIONS), wanted.at, wanted.length))
		fail(WRONG_VERSION, nothing, "CNI version %.*s is not known here", (int)word.length,
		     word.at);
	snprintf(version, sizeof(version), "%.*s", (int)word.length, word.at);
}

/* A pod of Kubernetes whose namespace is not excluded. */
static bool is_asked_about(const struct pod *pod, struct text configuration)
{
	struct text excluded = member(configuration, "excludeNamespaces");
	char quoted[MAX_NAME + 2];

	if (!pod->namespace.at || !pod->namespace.length)
		return false;
	if (!is_plain(pod->namespace) || !is_plain(pod->name) ||
	    (pod->uid.length && !is_plain(pod->uid)))
		fail(WRONG_ENVIRONMENT, nothing, "CNI_ARGS names no pod");
	snprintf(quoted, sizeof(quoted), "\"%.*s\"", (int)pod->namespace.length, pod->namespace.at);
	return !excluded.at || !memmem(excluded.at, excluded.length, quoted, strlen(quoted));
}

/* What nobody is asked about starts by any version: the result goes on as it came. */
static void add(struct text configuration)
{
	struct text result = member(configuration, "prevResult");
	const char *netns = getenv("CNI_NETNS");
	struct pod pod = {argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"),
			  argument("K8S_POD_UID"), nothing};
	bool is_asked = is_asked_about(&pod, configuration);

	if (is_asked || !result.at)
		check_version(configuration);
	if (!result.at || *result.at != '{')
		fail(WRONG_CONFIGURATION, nothing,
		     "nodeagent-cni must follow other plugins in their list");
	if (is_asked) {
		pod.netns = (struct text){netns, netns ? strlen(netns) : 0};
		if (!is_plain(pod.netns))
			fail(WRONG_ENVIRONMENT, nothing, "CNI_NETNS is no path");
		ask(&pod, inside(member(configuration, "socket")));
	}
	printf("%.*s\n", (int)result.length, result.at);
}

static bool is_among(const char *command, const char *const *names)
{
	while (*names && strcmp(command, *names))
		names++;
	return *names;
}

int main(void)
{
	static const char *const without_question[] = {"DEL", "CHECK", "GC", "STATUS", NULL};
	const char *command = getenv("CNI_COMMAND");
	struct text configuration;

	if (!command)
		fail(WRONG_ENVIRONMENT, nothing,
		     "CNI_COMMAND is not set: this program is a container runtime's");
	configuration = read_all(STDIN_FILENO, now() + ANSWER);
	if (!strcmp(command, "VERSION")) {
		printf("{\"cniVersion\":\"" NEWEST "\",\"supportedVersions\":[" VERSIONS "]}\n");
	} else if (!strcmp(command, "ADD")) {
		if (!configuration.at)
			fail(NO_INPUT, nothing, "the configuration could not be read");
		add(configuration);
	} else if (!is_among(command, without_question)) {
		fail(WRONG_ENVIRONMENT, nothing, "CNI_COMMAND is none of the CNI spec 1.1.0");
	}
	return fflush(stdout) ? 1 : 0;
}
