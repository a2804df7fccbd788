/* Calls on a directory, timed where they are made: bench/control.py and others run it and read "name value"
 * lines. Nothing here knows whose directory it is. All times are in nanoseconds.
 *
 *     calls session DIR CLIENTS FILES    every call of the control path, CLIENTS threads, FILES files each
 *     calls fill DIR FILES PER_DIR       make that many empty files, PER_DIR in a directory
 *     calls list DIR CLIENTS             list DIR's files, every client all of them
 *     calls changes DIR COUNT            create, chmod, rename, unlink one file COUNT times: each one's median
 *     calls watch FILE                   stat FILE past all caches until stdin ends: how long calls took
 *     calls ask FILE                     stat FILE past all caches once
 *     calls pound FILE SECONDS           chmod FILE for that long: how long calls took
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 64, BLOCK = 2 << 20 };

static const char *dir;

static void die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", dir, what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* -- times of single calls ------------------------------------------------------------------------------ */

struct times {
    double *ns;
    size_t count, room;
};

static void note(struct times *times, double ns)
{
    if (times->count == times->room) {
        times->room = times->room ? times->room * 2 : 4096;
        times->ns = realloc(times->ns, times->room * sizeof *times->ns);
        if (!times->ns)
            die("realloc");
    }
    times->ns[times->count++] = ns;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double share(struct times *times, double which)
{
    qsort(times->ns, times->count, sizeof *times->ns, by_size);
    return times->count ? times->ns[(size_t)(which * (times->count - 1))] : 0;
}

static void tell(struct times *times, int failed)
{
    printf("count %zu\nfailed %d\n", times->count, failed);
    printf("median_ns %.0f\np99_ns %.0f\n", share(times, 0.5), share(times, 0.99));
    printf("longest_ns %.0f\n", share(times, 1));
}

/* statx(2) that may not be answered from a cache: FUSE asks the daemon, tmpfs knows anyway. */
static int stat_uncached(int dir_fd, const char *name)
{
    struct statx status;
    return statx(dir_fd, name, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &status);
}

/* -- session -------------------------------------------------------------------------------------------- */

enum { MAX_FDS = 1024 };
static int clients, files, client_of[MAX_FDS];
static pthread_barrier_t barrier;
static double begins[MAX_CLIENTS], ends[MAX_CLIENTS];

static int do_create(int d, const char *name, const char *other)
{
    (void)other;
    int fd = openat(d, name, O_CREAT | O_EXCL | O_RDWR, 0600);
    return fd < 0 ? -1 : close(fd);
}

static int do_open(int d, const char *name, const char *other)
{
    (void)other;
    int fd = openat(d, name, O_RDWR);
    return fd < 0 ? -1 : close(fd);
}

static int do_stat_cold(int d, const char *name, const char *other)
{
    (void)other;
    return stat_uncached(d, name);
}

static int do_stat_cached(int d, const char *name, const char *other)
{
    struct stat status;
    (void)other;
    return fstatat(d, name, &status, 0);
}

static int do_rename(int d, const char *name, const char *other) { return renameat(d, name, d, other); }

static int do_unlink(int d, const char *name, const char *other)
{
    (void)name;
    return unlinkat(d, other, 0);
}

static int do_truncate(int d, const char *name, const char *other)
{
    char path[4096];
    (void)name;
    /* truncate(2) takes no directory, and the way by /proc/self/fd would be part of what is timed */
    snprintf(path, sizeof path, "%s/client-%d/%s", dir, client_of[d % MAX_FDS], other);
    return truncate(path, BLOCK);
}

/* rarer: by how much less often than the others, as it takes memory; times: in a row, as it takes no time. */
static const struct {
    const char *name;
    int (*call)(int, const char *, const char *);
    int rarer, times;
} steps[] = {
    {"create", do_create, 1, 1},           {"open", do_open, 1, 1},
    {"stat_cold", do_stat_cold, 1, 1},     {"stat_cached", do_stat_cached, 1, 20},
    {"rename", do_rename, 1, 1},           {"truncate", do_truncate, 8, 1},
    {"unlink", do_unlink, 1, 1},
};
enum { STEPS = sizeof steps / sizeof *steps };

static double took[STEPS][MAX_CLIENTS][2];

static void *client(void *arg)
{
    int me = (int)(intptr_t)arg;
    char name[32], other[32];
    snprintf(name, sizeof name, "client-%d", me);
    int root = open(dir, O_PATH | O_DIRECTORY), d;
    if (root < 0 || (mkdirat(root, name, 0700) && errno != EEXIST) ||
        (d = openat(root, name, O_RDONLY | O_DIRECTORY)) < 0)
        die(name);
    client_of[d % MAX_FDS] = me;
    for (int s = 0; s < STEPS; s++) {
        pthread_barrier_wait(&barrier);
        took[s][me][0] = now();
        for (int i = 0; i < files / steps[s].rarer; i++) {
            snprintf(name, sizeof name, "f%d", i);
            snprintf(other, sizeof other, "g%d", i);
            for (int n = 0; n < steps[s].times; n++)
                if (steps[s].call(d, name, other))
                    die(steps[s].name);
        }
        took[s][me][1] = now();
    }
    close(d);
    close(root);
    return NULL;
}

static void session(void)
{
    pthread_t ids[MAX_CLIENTS];
    pthread_barrier_init(&barrier, NULL, clients);
    for (int i = 0; i < clients; i++)
        if (pthread_create(&ids[i], NULL, client, (void *)(intptr_t)i))
            die("pthread_create");
    for (int i = 0; i < clients; i++)
        pthread_join(ids[i], NULL);
    for (int s = 0; s < STEPS; s++) {
        double first = took[s][0][0], last = took[s][0][1];
        for (int i = 1; i < clients; i++) {
            first = took[s][i][0] < first ? took[s][i][0] : first;
            last = took[s][i][1] > last ? took[s][i][1] : last;
        }
        printf("%s %.1f\n", steps[s].name, (last - first) / ((double)clients * (files / steps[s].rarer) * steps[s].times));
    }
}

/* -- the others ----------------------------------------------------------------------------------------- */

static void fill(int count, int per_dir)
{
    char path[4096];
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/d%d", dir, i / per_dir);
        if (i % per_dir == 0 && mkdir(path, 0700) && errno != EEXIST)
            die(path);
        snprintf(path, sizeof path, "%s/d%d/file-%06d", dir, i / per_dir, i);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd < 0 || close(fd))
            die(path);
    }
}

static void *list_all(void *arg)
{
    int me = (int)(intptr_t)arg, found = 0;
    pthread_barrier_wait(&barrier);
    begins[me] = now();
    DIR *stream = opendir(dir);
    if (!stream)
        die("opendir");
    while (readdir(stream))
        found++;
    closedir(stream);
    ends[me] = now();
    files = found;
    return NULL;
}

static void list(void)
{
    pthread_t ids[MAX_CLIENTS];
    pthread_barrier_init(&barrier, NULL, clients);
    for (int i = 0; i < clients; i++)
        if (pthread_create(&ids[i], NULL, list_all, (void *)(intptr_t)i))
            die("pthread_create");
    for (int i = 0; i < clients; i++)
        pthread_join(ids[i], NULL);
    double first = begins[0], last = ends[0];
    for (int i = 1; i < clients; i++) {
        first = begins[i] < first ? begins[i] : first;
        last = ends[i] > last ? ends[i] : last;
    }
    printf("readdir %.0f\nentries %d\n", (last - first) / clients, files);
}

static void changes(int count)
{
    enum { CREATE, CHMOD, RENAME, UNLINK, KINDS };
    static const char *const names[] = {"create", "chmod", "rename", "unlink"};
    struct times times[KINDS] = {0};
    int d = open(dir, O_RDONLY | O_DIRECTORY);
    if (d < 0)
        die("open");
    for (int i = 0; i < count; i++) {
        double t[KINDS + 1];
        t[0] = now();
        int fd = openat(d, "bench-a", O_CREAT | O_EXCL | O_WRONLY, 0600);
        t[1] = now();
        if (fd < 0 || close(fd))
            die("create");
        double closed = now();
        if (fchmodat(d, "bench-a", 0640, 0))
            die("chmod");
        t[2] = now();
        if (renameat(d, "bench-a", d, "bench-b"))
            die("rename");
        t[3] = now();
        if (unlinkat(d, "bench-b", 0))
            die("unlink");
        t[4] = now();
        note(&times[CREATE], t[1] - t[0]);
        note(&times[CHMOD], t[2] - closed);
        note(&times[RENAME], t[3] - t[2]);
        note(&times[UNLINK], t[4] - t[3]);
    }
    for (int k = 0; k < KINDS; k++)
        printf("%s %.0f\n", names[k], share(&times[k], 0.5));
}

static void watch(void)
{
    struct times times = {0};
    struct pollfd end = {.fd = 0, .events = POLLIN};
    int failed = 0;
    puts("watching");
    fflush(stdout);
    do {
        double began = now();
        failed += stat_uncached(AT_FDCWD, dir) != 0;
        note(&times, now() - began);
    } while (poll(&end, 1, 1) == 0); /* a millisecond in between leaves the CPUs to what is watched */
    tell(&times, failed);
}

static void pound(double seconds)
{
    struct times times = {0};
    double stop = now() + seconds * 1e9, began;
    int failed = 0;
    while ((began = now()) < stop) {
        failed += chmod(dir, times.count % 2 ? 0640 : 0600) != 0;
        note(&times, now() - began);
    }
    tell(&times, failed);
}

int main(int argc, char **argv)
{
    const char *op = argc > 2 ? argv[1] : "";
    double first = argc > 3 ? atof(argv[3]) : 0, second = argc > 4 ? atof(argv[4]) : 0;
    dir = argc > 2 ? argv[2] : "";
    if (!strcmp(op, "session") && first >= 1 && first <= MAX_CLIENTS && second >= 8) {
        clients = first;
        files = second;
        session();
    } else if (!strcmp(op, "fill") && second >= 1) {
        fill(first, second);
    } else if (!strcmp(op, "list") && first >= 1 && first <= MAX_CLIENTS) {
        clients = first;
        list();
    } else if (!strcmp(op, "changes") && first >= 1) {
        changes(first);
    } else if (!strcmp(op, "watch")) {
        watch();
    } else if (!strcmp(op, "ask")) {
        if (stat_uncached(AT_FDCWD, dir))
            die("stat");
    } else if (!strcmp(op, "pound") && first > 0) {
        pound(first);
    } else {
        return fprintf(stderr, "usage: %s session|fill|list|changes|watch|ask|pound ...\n", argv[0]), 2;
    }
    return 0;
}
