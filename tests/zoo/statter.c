/* statter FILE: what statfs and fstatfs say of it: "statfs MAGIC BSIZE FRSIZE BYTES", twice. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/vfs.h>

static void print(const struct statfs *found)
{
    printf("%lx %ld %ld %ld\n", (long)found->f_type, (long)found->f_bsize, (long)found->f_frsize,
           (long)(found->f_blocks * found->f_frsize));
}

int main(int argc, char **argv)
{
    struct statfs found;
    int fd = open(argv[argc - 1], O_RDONLY);
    if (fstatfs(fd, &found) == 0)
        print(&found);
    if (statfs(argv[argc - 1], &found) == 0)
        print(&found);
    return 0;
}
