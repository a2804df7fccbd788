/* PID 1 of the benchmark's guest: built statically, the only program in its initramfs (bench/initramfs.py).
 *
 * Says `up`, then what memory inside the guest is like ("name value" lines), fills FILL_PERCENT of its RAM
 * with words that are all different, says `ready` and counts, ten times a second. The kernel hands options it
 * does not know, such as fill_percent=75, to init as environment.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static char *memory(size_t bytes)
{
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        puts("broken: no memory");
        for (;;)
            pause();
    }
    return at;
}

static void measure(size_t bytes)
{
    enum { ACCESSES = 500000 };
    char *area = memory(bytes);
    volatile uint64_t *words = (volatile uint64_t *)area;
    uint64_t count = bytes / 8, sum = 0, at = 88172645463325252ull;
    double began = now();
    memset(area, 1, bytes);
    printf("touch_bytes_per_s %.0f\n", bytes / ((now() - began) / 1e9));
    began = now();
    memset(area, 2, bytes);
    printf("write_bytes_per_s %.0f\n", bytes / ((now() - began) / 1e9));
    began = now();
    for (uint64_t i = 0; i < count; i++)
        sum += words[i];
    printf("read_bytes_per_s %.0f\n", bytes / ((now() - began) / 1e9));
    began = now();
    for (int n = 0; n < ACCESSES; n++) {
        at = at * 6364136223846793005ull + 1442695040888963407ull;
        at += words[(at >> 20) % count] & 1;
    }
    printf("random_ns %.2f\n", (now() - began) / ACCESSES);
    munmap(area, bytes);
    if (sum == at) /* so that neither is left out */
        puts("-");
}

static void fill(size_t bytes)
{
    uint64_t *words = (uint64_t *)memory(bytes);
    /* one different word in each half kilobyte: no page is zero, none like another, and it is quick */
    for (size_t i = 0; i < bytes / 8; i += 64)
        words[i] = i * 0x9e3779b97f4a7c15ull + 1;
}

int main(void)
{
    struct sysinfo info;
    const char *percent = getenv("fill_percent");
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("up");
    sysinfo(&info);
    size_t ram = (size_t)info.totalram * info.mem_unit, some = ram / 4;
    measure((some < (128u << 20) ? some : 128u << 20) & ~(size_t)4095);
    if (percent && atoi(percent) > 0)
        fill(ram / 100 * atoi(percent) & ~(size_t)4095);
    puts("ready");
    for (unsigned long count = 1;; count++) {
        printf("count %lu\n", count);
        usleep(100000);
    }
}
