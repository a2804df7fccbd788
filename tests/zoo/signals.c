/* signals exit N | kill N | count N | quiet: programs that map nothing, to see what tracing does to signals.
 *
 *   exit N   exit with status N           kill N   die of signal N
 *   count N  print "ready", then wait for N times SIGRTMIN (sigqueue; the sum of their values is
 *            printed at the end: nothing may be lost, doubled, or lose its siginfo)
 *   quiet    print "ready", then wait for SIGTERM, whose handler prints "term"
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t seen, sum, ended;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    seen++;
    sum += info->si_value.sival_int;
}

static void on_term(int number)
{
    (void)number;
    ended = 1;
}

int main(int argc, char **argv)
{
    sigset_t blocked, old;
    const char *what = argc > 1 ? argv[1] : "";
    int number = argc > 2 ? atoi(argv[2]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "exit"))
        return number;
    if (!strcmp(what, "kill"))
        kill(getpid(), number);
    sigfillset(&blocked);
    sigprocmask(SIG_BLOCK, &blocked, &old);
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &action, NULL);
    struct sigaction term = {.sa_handler = on_term};
    sigaction(SIGTERM, &term, NULL);
    printf("ready\n");
    while (!ended && (!number || seen < number))
        sigsuspend(&old);
    printf(ended ? "term\n" : "seen %d sum %d\n", seen, sum);
    return 0;
}
