/* Memory through a mapping of one file, timed where the work is: bench/memory.py runs it, one operation a
 * process, and reads "name value" lines. Nothing here knows whose file it is.
 *
 *     memory mmap|populate|repopulate|faults|read|write|random|coverage PATH BYTES THREADS REPEAT
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { ALIGN = 2 << 20, MAX_THREADS = 64 };

static size_t length, page;
static char *base;
static int threads, repeat, fd;
static const char *path;

static void die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", path, what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *samples, int count)
{
    qsort(samples, count, sizeof *samples, by_size);
    return samples[count / 2];
}

/* An aligned place for the file, as VMMs choose one: reserved first, mapped over by map(). */
static void reserve(void)
{
    char *at = mmap(NULL, length + ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        die("mmap");
    base = (char *)(((uintptr_t)at + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1));
}

static void map(void)
{
    if (mmap(base, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        die("mmap");
}

static void unmap(void)
{
    if (mmap(base, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        die("munmap");
}

/* -- work that several threads share, each in a part of its own ----------------------------------------- */

static pthread_barrier_t barrier;
static uint64_t sums[MAX_THREADS];
static void (*part)(char *from, size_t bytes, uint64_t *sum);

static size_t part_of(int i) { return length / page * i / threads * page; }

/* Each thread looks at the clock itself: who waits for them may be woken when they are long done. */
static double begins[MAX_THREADS], ends[MAX_THREADS];

static void *run_part(void *arg)
{
    int i = (int)(intptr_t)arg;
    if (threads > 1)
        pthread_barrier_wait(&barrier);
    begins[i] = now();
    part(base + part_of(i), part_of(i + 1) - part_of(i), &sums[i]);
    ends[i] = now();
    return NULL;
}

static double in_parts(void (*work)(char *, size_t, uint64_t *))
{
    pthread_t ids[MAX_THREADS];
    part = work;
    if (threads > 1) {
        pthread_barrier_init(&barrier, NULL, threads);
        for (int i = 0; i < threads; i++)
            if (pthread_create(&ids[i], NULL, run_part, (void *)(intptr_t)i))
                die("pthread_create");
        for (int i = 0; i < threads; i++)
            pthread_join(ids[i], NULL);
        pthread_barrier_destroy(&barrier);
    } else {
        run_part(0);
    }
    double first = begins[0], last = ends[0];
    for (int i = 1; i < threads; i++) {
        first = begins[i] < first ? begins[i] : first;
        last = ends[i] > last ? ends[i] : last;
    }
    return last - first;
}

static void populate(char *from, size_t bytes, uint64_t *sum)
{
    (void)sum;
    if (bytes && madvise(from, bytes, MADV_POPULATE_WRITE))
        die("MADV_POPULATE_WRITE");
}

/* Empty the tables, then one store a page: every one of them is a fault. Again and again, for so long that
 * it does not matter when each thread got its CPU. Counts faults. */
static void fault(char *from, size_t bytes, uint64_t *sum)
{
    static const double enough_ns = 50e6;
    double began = now();
    do {
        if (madvise(from, bytes, MADV_DONTNEED))
            die("MADV_DONTNEED");
        for (size_t at = 0; at < bytes; at += page)
            *(volatile char *)(from + at) = 1;
        *sum += bytes / page;
    } while (bytes && now() - began < enough_ns);
}

static void read_all(char *from, size_t bytes, uint64_t *sum)
{
    const uint64_t *words = (const uint64_t *)from;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < bytes / 8; i += 4) {
        a += words[i];
        b += words[i + 1];
        c += words[i + 2];
        d += words[i + 3];
    }
    *sum += a + b + c + d;
}

static void write_all(char *from, size_t bytes, uint64_t *sum)
{
    memset(from, (int)*sum & 0x7f, bytes);
    *sum += 1;
}

/* -- operations ----------------------------------------------------------------------------------------- */

static void op_mmap(void)
{
    double *map_ns = calloc(repeat, sizeof *map_ns), *unmap_ns = calloc(repeat, sizeof *unmap_ns);
    for (int i = 0; i < repeat; i++) {
        double began = now();
        map();
        map_ns[i] = now() - began;
        began = now();
        if (munmap(base, length))
            die("munmap");
        unmap_ns[i] = now() - began;
        unmap();
    }
    printf("mmap_ns %.1f\nmunmap_ns %.1f\n", median(map_ns, repeat), median(unmap_ns, repeat));
}

static void op_populate(void)
{
    map();
    printf("populate_ns %.0f\n", in_parts(populate));
}

static void op_repopulate(void)
{
    double *ns = calloc(repeat, sizeof *ns);
    map();
    in_parts(populate);
    for (int i = 0; i < repeat; i++) {
        unmap();
        map();
        ns[i] = in_parts(populate);
    }
    printf("repopulate_ns %.0f\n", median(ns, repeat));
}

static void op_faults(void)
{
    double rate = 0;
    map();
    in_parts(populate);
    in_parts(fault);
    for (int i = 0; i < threads; i++)
        rate += sums[i] / ((ends[i] - begins[i]) / 1e9);
    printf("faults_per_s %.1f\n", rate);
}

static void op_bandwidth(void (*work)(char *, size_t, uint64_t *), const char *name)
{
    double *rate = calloc(repeat, sizeof *rate);
    map();
    in_parts(populate);
    in_parts(work);
    for (int i = 0; i < repeat; i++)
        rate[i] = length / (in_parts(work) / 1e9);
    printf("%s_bytes_per_s %.0f\n", name, median(rate, repeat));
}

/* Every load decides where the next one goes, so none of them overlap: what counts is latency, and the
 * misses of the TLB with it. The file's own words are whatever they are; they only mix into the walk. */
static void op_random(void)
{
    enum { ACCESSES = 2000000 };
    double *ns = calloc(repeat, sizeof *ns);
    uint64_t at = 88172645463325252ull, words = length / 8;
    map();
    in_parts(populate);
    volatile const uint64_t *file = (const uint64_t *)base;
    for (int i = 0; i < repeat; i++) {
        double began = now();
        for (int n = 0; n < ACCESSES; n++) {
            at = at * 6364136223846793005ull + 1442695040888963407ull;
            uint64_t index = (uint64_t)(((unsigned __int128)at * words) >> 64);
            at += file[index] & 1;
        }
        ns[i] = (now() - began) / ACCESSES;
    }
    printf("random_ns %.3f\n", median(ns, repeat));
}

/* How much of what this mapping has in memory is mapped by PMD entries (or is hugetlb anyway). */
static void op_coverage(void)
{
    char line[512];
    unsigned long from = 0, to = 0, kib, resident = 0, huge = 0, hugetlb = 0;
    map();
    in_parts(populate);
    FILE *smaps = fopen("/proc/self/smaps", "r");
    if (!smaps)
        die("smaps");
    while (fgets(line, sizeof line, smaps)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            continue;
        if (to <= (uintptr_t)base || from >= (uintptr_t)base + length)
            continue;
        if (sscanf(line, "Rss: %lu", &kib) == 1)
            resident += kib;
        else if (sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1 || sscanf(line, "FilePmdMapped: %lu", &kib) == 1)
            huge += kib;
        else if (sscanf(line, "Shared_Hugetlb: %lu", &kib) == 1 || sscanf(line, "Private_Hugetlb: %lu", &kib) == 1)
            hugetlb += kib;
    }
    fclose(smaps);
    resident += hugetlb;
    huge += hugetlb;
    printf("huge_fraction %.6f\n", resident ? (double)huge / resident : 0.0);
    printf("small_bytes %lu\n", (resident - huge) << 10);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return fprintf(stderr, "usage: %s OP PATH BYTES THREADS REPEAT\n", argv[0]), 2;
    const char *op = argv[1];
    path = argv[2];
    length = strtoull(argv[3], NULL, 10);
    threads = atoi(argv[4]);
    repeat = atoi(argv[5]);
    fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) || threads < 1 || threads > MAX_THREADS || repeat < 1)
        die("open");
    /* What one fault brings in: told by the caller through the environment, as FUSE shows no page size. */
    page = getenv("BENCH_PAGE_BYTES") ? strtoull(getenv("BENCH_PAGE_BYTES"), NULL, 10) : 4096;
    reserve();
    if (!strcmp(op, "mmap"))
        op_mmap();
    else if (!strcmp(op, "populate"))
        op_populate();
    else if (!strcmp(op, "repopulate"))
        op_repopulate();
    else if (!strcmp(op, "faults"))
        op_faults();
    else if (!strcmp(op, "read"))
        op_bandwidth(read_all, "read");
    else if (!strcmp(op, "write"))
        op_bandwidth(write_all, "write");
    else if (!strcmp(op, "random"))
        op_random();
    else if (!strcmp(op, "coverage"))
        op_coverage();
    else
        return fprintf(stderr, "no operation %s\n", op), 2;
    return 0;
}
