/* A filesystem that hands every call on to a directory: the least a FUSE server in C can do, written against
 * libfuse's low-level interface as its passthrough example is, with the loop it has by default (several
 * threads). bench/control.py compares with it. Attributes and names may be cached for a year, as ours.
 *
 *     passthrough SOURCE MOUNTPOINT      serves in the foreground until unmounted
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 312
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUCKETS = 1 << 16 };
static const double YEAR_S = 365 * 86400.0;

struct inode {
    struct inode *next;
    ino_t ino;
    uint64_t lookups;
    int fd;
};

static struct inode root, *table[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct inode *of(fuse_ino_t ino) { return ino == FUSE_ROOT_ID ? &root : (struct inode *)ino; }

static void by_fd(char path[32], int fd) { snprintf(path, 32, "/proc/self/fd/%d", fd); }

static int enter(fuse_ino_t parent, const char *name, struct fuse_entry_param *e)
{
    memset(e, 0, sizeof *e);
    e->attr_timeout = e->entry_timeout = YEAR_S;
    int fd = openat(of(parent)->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    if (fstatat(fd, "", &e->attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) {
        int error = errno;
        close(fd);
        return error;
    }
    pthread_mutex_lock(&lock);
    struct inode **bucket = &table[e->attr.st_ino % BUCKETS], *found = *bucket;
    while (found && found->ino != e->attr.st_ino)
        found = found->next;
    if (found) {
        close(fd);
    } else if ((found = calloc(1, sizeof *found))) {
        *found = (struct inode){.next = *bucket, .ino = e->attr.st_ino, .fd = fd};
        *bucket = found;
    } else {
        close(fd);
        pthread_mutex_unlock(&lock);
        return ENOMEM;
    }
    found->lookups++;
    pthread_mutex_unlock(&lock);
    e->ino = (uintptr_t)found;
    return 0;
}

static void drop(fuse_ino_t ino, uint64_t lookups)
{
    struct inode *inode = of(ino);
    if (inode == &root)
        return;
    pthread_mutex_lock(&lock);
    if (inode->lookups -= lookups) {
        pthread_mutex_unlock(&lock);
        return;
    }
    struct inode **at = &table[inode->ino % BUCKETS];
    while (*at != inode)
        at = &(*at)->next;
    *at = inode->next;
    pthread_mutex_unlock(&lock);
    close(inode->fd);
    free(inode);
}

static void reply_entry(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e;
    int error = enter(parent, name, &e);
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, &e);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e;
    int error = enter(parent, name, &e);
    if (error && error != ENOENT)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, &e); /* inode 0: there is none, and that may be cached too */
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    drop(ino, lookups);
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *all)
{
    for (size_t i = 0; i < count; i++)
        drop(all[i].ino, all[i].nlookup);
    fuse_reply_none(req);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat attr;
    (void)fi;
    if (fstatat(of(ino)->fd, "", &attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
        fuse_reply_err(req, errno);
    else
        fuse_reply_attr(req, &attr, YEAR_S);
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int what, struct fuse_file_info *fi)
{
    char path[32];
    by_fd(path, of(ino)->fd);
    if (((what & FUSE_SET_ATTR_MODE) && chmod(path, attr->st_mode)) ||
        ((what & FUSE_SET_ATTR_SIZE) && truncate(path, attr->st_size)))
        fuse_reply_err(req, errno);
    else
        do_getattr(req, ino, fi);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    if (mkdirat(of(parent)->fd, name, mode))
        fuse_reply_err(req, errno);
    else
        reply_entry(req, parent, name);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, unlinkat(of(parent)->fd, name, 0) ? errno : 0);
}

static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, unlinkat(of(parent)->fd, name, AT_REMOVEDIR) ? errno : 0);
}

static void do_rename(fuse_req_t req, fuse_ino_t from, const char *name, fuse_ino_t to, const char *other,
                      unsigned flags)
{
    fuse_reply_err(req, renameat2(of(from)->fd, name, of(to)->fd, other, flags) ? errno : 0);
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct fuse_entry_param e;
    int fd = openat(of(parent)->fd, name, (fi->flags | O_CREAT | O_CLOEXEC) & ~O_NOFOLLOW, mode), error;
    if (fd < 0 || (error = enter(parent, name, &e))) {
        error = fd < 0 ? errno : error;
        if (fd >= 0)
            close(fd);
        fuse_reply_err(req, error);
        return;
    }
    fi->fh = fd;
    fuse_reply_create(req, &e, fi);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    char path[32];
    by_fd(path, of(ino)->fd);
    int fd = open(path, fi->flags & ~O_NOFOLLOW);
    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    fi->fh = fd;
    fuse_reply_open(req, fi);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    close(fi->fh);
    fuse_reply_err(req, 0);
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t at, off_t length, struct fuse_file_info *fi)
{
    (void)ino;
    fuse_reply_err(req, fallocate(fi->fh, mode, at, length) ? errno : 0);
}

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    char path[32];
    by_fd(path, of(ino)->fd);
    DIR *stream = opendir(path);
    if (!stream) {
        fuse_reply_err(req, errno);
        return;
    }
    fi->fh = (uintptr_t)stream;
    fuse_reply_open(req, fi);
}

static void read_entries(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, DIR *stream, int plus)
{
    char *buffer = malloc(size), *at = buffer;
    struct dirent *entry;
    seekdir(stream, offset);
    while ((entry = readdir(stream))) {
        struct fuse_entry_param e = {.attr = {.st_ino = entry->d_ino, .st_mode = DTTOIF(entry->d_type)}};
        int is_dot = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
        if (plus && !is_dot && enter(ino, entry->d_name, &e))
            continue;
        size_t left = size - (at - buffer), takes;
        takes = plus ? fuse_add_direntry_plus(req, at, left, entry->d_name, &e, entry->d_off)
                     : fuse_add_direntry(req, at, left, entry->d_name, &e.attr, entry->d_off);
        if (takes > left) {
            if (plus && !is_dot)
                drop(e.ino, 1);
            break;
        }
        at += takes;
    }
    fuse_reply_buf(req, buffer, at - buffer);
    free(buffer);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    read_entries(req, ino, size, offset, (DIR *)fi->fh, 0);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    read_entries(req, ino, size, offset, (DIR *)fi->fh, 1);
}

static void do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    closedir((DIR *)fi->fh);
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = do_lookup,         .forget = do_forget,           .forget_multi = do_forget_multi,
    .getattr = do_getattr,       .setattr = do_setattr,         .mkdir = do_mkdir,
    .unlink = do_unlink,         .rmdir = do_rmdir,             .rename = do_rename,
    .create = do_create,         .open = do_open,               .release = do_release,
    .opendir = do_opendir,       .readdir = do_readdir,         .readdirplus = do_readdirplus,
    .releasedir = do_releasedir, .fallocate = do_fallocate,
};

int main(int argc, char **argv)
{
    char *options[] = {argv[0], "-o", "fsname=bench-passthrough,default_permissions,allow_other"};
    struct fuse_args args = FUSE_ARGS_INIT(3, options);
    if (argc != 3)
        return fprintf(stderr, "usage: %s SOURCE MOUNTPOINT\n", argv[0]), 2;
    root.fd = open(argv[1], O_PATH | O_CLOEXEC);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (root.fd < 0 || !session || fuse_session_mount(session, argv[2]))
        return perror(argv[1]), 1;
    puts("serving");
    fflush(stdout);
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    int failed = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return failed ? 1 : 0;
}
