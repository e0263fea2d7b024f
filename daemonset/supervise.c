/* SPDX-License-Identifier: Apache-2.0 */
/* supervise [--takeover] COMMAND...: the first process of the agent's container.
 *
 * A container ends with its first process, and everything in it. So that process is this one, which
 * does next to nothing: it starts the agent, adopts the workers that an agent leaves when it dies,
 * and buries the dead. With --takeover the command's first start has that word at its end, and no
 * later one: an agent that is started again must not take the node back from a successor.
 *
 *  the agent ended       and left    what happens
 *  told to stop, by us   -           workers are told, too; the end when all are gone
 *  by itself, with 0     -           a successor in another container has taken over: nothing, until
 *                                    we are told to stop
 *  by itself, otherwise  workers     started again after a pause: they hold connections
 *  by itself, otherwise  nobody      the end with its status: the kubelet tells it, and starts the
 *                                    container again
 *
 * Told to stop is SIGTERM or SIGINT; SIGHUP is passed on. What of these it was told to ignore by who
 * started it is not ignored, neither here nor by the agent.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	LONGEST_PAUSE = 30, /* seconds; the first is 1, each is twice the one before */
	LASTING = 60, /* an agent that lived so many seconds begins with the first pause again */
	NOT_STARTED = 127, /* as a shell says it */
	BY_SIGNAL = 128,   /* the same, and the signal's number */
};

struct agent {
	pid_t pid;
	bool has_ended;
	bool has_left_children;
	int status;
};

static sigset_t awaited;

static struct agent start(char **command)
{
	struct agent agent = {.pid = fork(), .status = NOT_STARTED};

	if (agent.pid == 0) {
		sigprocmask(SIG_UNBLOCK, &awaited, NULL);
		execvp(command[0], command);
		fprintf(stderr, "supervise: %s: %s\n", command[0], strerror(errno));
		_exit(NOT_STARTED);
	}
	agent.has_ended = agent.pid < 0;
	return agent;
}

static void bury(struct agent *agent)
{
	int status;
	pid_t dead;

	while ((dead = waitpid(-1, &status, WNOHANG)) > 0) {
		if (dead != agent->pid)
			continue;
		agent->has_ended = true;
		agent->status =
			WIFSIGNALED(status) ? BY_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
	}
	agent->has_left_children = dead == 0;
}

/* Workers became our children when their agent died. Without CONFIG_PROC_CHILDREN they are not
 * told, and end with the container.
 */
static void tell_children(int number)
{
	char path[64];
	FILE *file;
	int child;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	file = fopen(path, "r");
	if (!file)
		return;
	while (fscanf(file, "%d", &child) == 1)
		kill(child, number);
	fclose(file);
}

/* The next signal; 0 when none came for so many seconds (0: for ever). */
static int await(time_t seconds)
{
	struct timespec limit = {.tv_sec = seconds};
	int number = seconds ? sigtimedwait(&awaited, NULL, &limit) : sigwaitinfo(&awaited, NULL);

	return number < 0 ? 0 : number;
}

static bool is_stop(int number)
{
	return number == SIGTERM || number == SIGINT;
}

/* Until the agent has ended; true when that is since we were told to stop. */
static bool watch(struct agent *agent)
{
	bool is_told = false;

	while (!agent->has_ended) {
		int number = await(0);

		if (is_stop(number))
			is_told = true;
		if (is_stop(number) || number == SIGHUP)
			kill(agent->pid, is_stop(number) ? SIGTERM : number);
		bury(agent);
	}
	return is_told;
}

/* Buries for so many seconds (0: for ever); true when we were told to stop, and at once then. */
static bool rest(struct agent *agent, time_t seconds)
{
	time_t until = time(NULL) + seconds;

	while (!seconds || time(NULL) < until) {
		if (is_stop(await(seconds ? until - time(NULL) : 0)))
			return true;
		bury(agent);
	}
	return false;
}

static void end_children(struct agent *agent)
{
	bury(agent);
	tell_children(SIGTERM);
	while (agent->has_left_children) {
		await(1);
		bury(agent);
	}
}

/* `once`: the place of a word in `command` that only the first start has. */
static int supervise(char **command, char **once)
{
	time_t pause = 1;

	for (;;) {
		time_t began = time(NULL);
		struct agent agent = start(command);
		bool is_told = watch(&agent);

		*once = NULL;
		if (!is_told && agent.status == 0) {
			fprintf(stderr, "supervise: a successor has taken over\n");
			is_told = rest(&agent, 0);
		} else if (!is_told && agent.has_left_children) {
			if (time(NULL) - began >= LASTING)
				pause = 1;
			fprintf(stderr,
				"supervise: the agent ended with %d and left workers; "
				"it is started again in %ld s\n",
				agent.status, (long)pause);
			is_told = rest(&agent, pause);
			pause = pause * 2 < LONGEST_PAUSE ? pause * 2 : LONGEST_PAUSE;
		} else if (!is_told) {
			return agent.status;
		}
		if (is_told) {
			end_children(&agent);
			return agent.status;
		}
	}
}

int main(int count, char **words)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD};
	bool takes_over = count > 1 && strcmp(words[1], "--takeover") == 0;
	char **command = calloc((size_t)count + 1, sizeof(*command));
	int first = takes_over ? 2 : 1;

	if (!command || count <= first) {
		fprintf(stderr, "usage: supervise [--takeover] COMMAND...\n");
		return 2;
	}
	memcpy(command, words + first, (size_t)(count - first) * sizeof(*command));
	if (takes_over)
		command[count - first] = words[1];
	sigemptyset(&awaited);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		sigaddset(&awaited, numbers[i]);
		/* An ignored signal stays so across exec, and with SIGCHLD ignored the dead bury
		 * themselves and nobody hears of it.
		 */
		signal(numbers[i], SIG_DFL);
	}
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* with hostPID we are not process 1 */
	return supervise(command, &command[count - first]);
}
