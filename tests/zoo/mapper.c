/* Maps a file the way the arguments say and prints what it sees: the tracer's everyday customer.
 *
 *   mapper [flags] FILE OFFSET LENGTH
 *     w  writable (else read-only)    p  MAP_PRIVATE (else MAP_SHARED)
 *     o  open read-only               f  MAP_FIXED over a reserved, aligned range (as QEMU does)
 *     n  MAP_FIXED_NOREPLACE on an occupied range
 *     b  fork before mapping, the child maps     a  fork after mapping, the child looks
 *     t  four threads map at once     s  a timer fires all the while, 50 times over
 *     u  become nobody before mapping c  chroot to where no region is before mapping
 *     r  check that the call leaves every register and descriptor as it was
 *     k  keep the mapping, print "ready", pause
 *
 * Output: one line per mapping, "mapped ALIGNED VMAS TAG TAG ...": whether the address is 2M aligned, how
 * many mappings of that file /proc/self/maps shows, and the first 8 bytes of every 2 MiB. Or "error NAME".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define PAGE (2UL << 20)

static const char *flags;
static const char *path;
static off_t offset;
static size_t length;
static volatile sig_atomic_t ticks;

static int has(char flag) { return strchr(flags, flag) != NULL; }

static void on_tick(int number) { (void)number; ticks++; }

static int descriptors(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return -1;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* mmap without libc, and proof that nothing but rax, rcx and r11 changes. */
static void *checked_mmap(void *address, size_t bytes, int prot, int how, int fd, off_t at)
{
    sigset_t before, after;
    int open_before = descriptors();
    memset(&before, 0, sizeof before);
    memset(&after, 0, sizeof after);
    sigprocmask(SIG_SETMASK, NULL, &before);
    /* From here to the instruction no function may be called: these are caller-saved. */
    register unsigned long r10 __asm__("r10") = how;
    register unsigned long r8 __asm__("r8") = fd;
    register unsigned long r9 __asm__("r9") = at;
    unsigned long rdi = (unsigned long)address, rsi = bytes, rdx = prot, rax = SYS_mmap;
    __asm__ volatile("syscall"
                     : "+a"(rax), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8), "+r"(r9)
                     :
                     : "rcx", "r11", "memory");
    unsigned long got10 = r10, got8 = r8, got9 = r9;
    if (rdi != (unsigned long)address || rsi != bytes || rdx != (unsigned long)prot ||
        got10 != (unsigned long)how || got8 != (unsigned long)fd || got9 != (unsigned long)at)
        printf("registers changed\n");
    sigprocmask(SIG_SETMASK, NULL, &after);
    if (memcmp(&before, &after, sizeof before))
        printf("signal mask changed\n");
    if (descriptors() != open_before)
        printf("descriptors changed\n");
    if (rax > -4096UL) {
        errno = -rax;
        return MAP_FAILED;
    }
    return (void *)rax;
}

static void *map(int fd)
{
    int how = has('p') ? MAP_PRIVATE : MAP_SHARED;
    int prot = PROT_READ | (has('w') ? PROT_WRITE : 0);
    void *at = NULL;
    if (has('f') || has('n')) {
        char *room = mmap(NULL, length + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        at = (void *)(((unsigned long)room + PAGE - 1) & -PAGE);
        how |= has('f') ? MAP_FIXED : MAP_FIXED_NOREPLACE;
    }
    return has('r') ? checked_mmap(at, length, prot, how, fd, offset) : mmap(at, length, prot, how, fd, offset);
}

/* Mappings that lie inside the range, or (range empty) mappings with a name that ends in "/region". */
static int vmas(unsigned long from, unsigned long to)
{
    char line[4096];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps)
        return -1;
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) != 2)
            continue;
        count += to ? start >= from && end <= to : strstr(line, "/region\n") != NULL;
    }
    fclose(maps);
    return count;
}

static void print_tags(const char *at)
{
    char out[8192];
    int used = sprintf(out, "mapped %s %d", (unsigned long)at % PAGE ? "odd" : "aligned",
                       vmas((unsigned long)at, (unsigned long)at + length));
    for (size_t i = 0; i < length; i += PAGE)
        used += snprintf(out + used, sizeof out - used, " %.8s", at + i);
    printf("%s\n", out);
}

static int map_and_print(int fd)
{
    char *at = map(fd);
    if (at == MAP_FAILED) {
        printf("error %s, %d left\n", strerrorname_np(errno), vmas(0, 0));
        return 1;
    }
    if (has('w'))
        for (size_t i = 0; i < length; i += PAGE)
            memcpy(at + i + 4, "!wr!", 4);
    if (has('a')) {
        pid_t child = fork();
        if (child == 0) {
            print_tags(at);
            fflush(stdout);
            _exit(0);
        }
        waitpid(child, NULL, 0);
        return 0;
    }
    print_tags(at);
    if (has('k')) {
        printf("ready\n");
        fflush(stdout);
        pause();
    }
    return 0;
}

static void *in_thread(void *fd)
{
    return (void *)(long)map_and_print((int)(long)fd);
}

static int often(int fd)
{
    struct itimerval every = {{0, 300}, {0, 300}};
    struct sigaction action = {.sa_handler = on_tick};
    int failed = 0, wrong = 0;
    char first[9] = "";
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < 50; i++) {
        char *at = map(fd);
        if (at == MAP_FAILED) {
            failed++;
            continue;
        }
        if (!first[0])
            memcpy(first, at, 8);
        wrong += memcmp(first, at, 8) != 0;
        munmap(at, length);
    }
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
    printf("often failed %d wrong %d interrupted %s\n", failed, wrong, ticks > 5 ? "yes" : "no");
    return 0;
}

int main(int argc, char **argv)
{
    int failed = 0;
    flags = argc == 5 ? argv[1] : "";
    argv += argc == 5;
    path = argv[1];
    offset = strtoll(argv[2], NULL, 0);
    length = strtoull(argv[3], NULL, 0);
    int fd = open(path, has('o') ? O_RDONLY : O_RDWR);
    if (fd < 0) {
        perror(path);
        return 2;
    }
    if (has('c') && (chroot("/dev") || chdir("/")))
        return 3;
    if (has('u') && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
        return 3;
    if (has('b') && fork() > 0) {
        int status;
        wait(&status);
        return WEXITSTATUS(status);
    }
    if (has('s'))
        return often(fd);
    if (!has('t'))
        return map_and_print(fd);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, in_thread, (void *)(long)fd);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        failed |= (int)(long)result;
    }
    return failed;
}
