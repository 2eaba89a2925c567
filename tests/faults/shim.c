/* Counts what a process does to the files below a folder; kills it, or fails, at the
 * N-th operation. Preloaded; without shim_arm() it does nothing.
 *
 * An operation is a letter of shim_log: o open for writing, w write, f fsync,
 * r rename, u unlink or rmdir, m mkdir or link, t truncate or allocate. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define LOG 100000

EXPORT char shim_log[LOG + 1];
static char folder[4096];
static long count, chosen;
static int failure, lasting;

/* failure: an errno, or 0 to be killed. lasting: later operations that need space fail
 * too, as on a full disk. */
EXPORT void shim_arm(const char *path, long number, int error, int stays) {
    snprintf(folder, sizeof folder, "%s/", path);
    memset(shim_log, 0, sizeof shim_log);
    count = 0, chosen = number, failure = error, lasting = stays;
}

static int below(int at, const char *path) {
    char whole[8192], base[64];
    size_t length = 0;
    if (!*folder)
        return 0;
    if (!path || *path != '/') {
        snprintf(base, sizeof base, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d",
                 at);
        ssize_t size = readlink(base, whole, 4096);
        if (size < 0)
            return 0;
        length = size;
    }
    snprintf(whole + length, sizeof whole - length, "/%s", path ? path : "");
    return !strncmp(*whole == '/' && whole[1] == '/' ? whole + 1 : whole, folder,
                    strlen(folder));
}

/* Whether the operation must fail; errno is set. */
static int fails(char kind, int at, const char *path) {
    int before = errno;
    if (!below(at, path)) {
        errno = before;
        return 0;
    }
    if (count < LOG)
        shim_log[count] = kind;
    int now = ++count == chosen;
    if (now && !failure)
        kill(getpid(), SIGKILL);
    if (now || (chosen && lasting && count > chosen && strchr("owmt", kind))) {
        errno = failure;
        return 1;
    }
    errno = before;
    return 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(type, name, parameters, kind, at, path, arguments) \
    EXPORT type name parameters { \
        return fails(kind, at, path) ? (type)-1 : NEXT(name) arguments; \
    }
#define OPEN(name, parameters, at, arguments) \
    EXPORT int name parameters { \
        int mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list list; \
            va_start(list, flags); \
            mode = va_arg(list, int); \
            va_end(list); \
        } \
        if (flags & (O_WRONLY | O_RDWR) && fails('o', at, path)) \
            return -1; \
        return NEXT(name) arguments; \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))

#define FOPEN(name) \
    EXPORT FILE *name(const char *path, const char *mode) { \
        int writes = strpbrk(mode, "wa+") != NULL; \
        return writes && fails('o', AT_FDCWD, path) ? NULL : NEXT(name)(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

WRAP(ssize_t, write, (int fd, const void *data, size_t size), 'w', fd, NULL,
     (fd, data, size))
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), 'w', fd, NULL,
     (fd, data, size, at))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), 'w', fd,
     NULL, (fd, data, size, at))
WRAP(ssize_t, writev, (int fd, const struct iovec *parts, int number), 'w', fd, NULL,
     (fd, parts, number))
WRAP(ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), 'w', fd, NULL,
     (fd, from, at, size))
WRAP(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), 'w', fd, NULL,
     (fd, from, at, size))
WRAP(ssize_t, copy_file_range,
     (int from, off64_t *there, int fd, off64_t *here, size_t size, unsigned flags), 'w',
     fd, NULL, (from, there, fd, here, size, flags))
WRAP(int, fsync, (int fd), 'f', fd, NULL, (fd))
WRAP(int, fdatasync, (int fd), 'f', fd, NULL, (fd))
WRAP(int, rename, (const char *from, const char *to), 'r', AT_FDCWD, to, (from, to))
WRAP(int, renameat, (int at, const char *from, int there, const char *to), 'r', there,
     to, (at, from, there, to))
WRAP(int, renameat2,
     (int at, const char *from, int there, const char *to, unsigned flags), 'r', there,
     to, (at, from, there, to, flags))
WRAP(int, unlink, (const char *path), 'u', AT_FDCWD, path, (path))
WRAP(int, unlinkat, (int at, const char *path, int flags), 'u', at, path,
     (at, path, flags))
WRAP(int, rmdir, (const char *path), 'u', AT_FDCWD, path, (path))
WRAP(int, mkdir, (const char *path, mode_t mode), 'm', AT_FDCWD, path, (path, mode))
WRAP(int, mkdirat, (int at, const char *path, mode_t mode), 'm', at, path,
     (at, path, mode))
WRAP(int, link, (const char *from, const char *path), 'm', AT_FDCWD, path, (from, path))
WRAP(int, linkat, (int at, const char *from, int there, const char *path, int flags),
     'm', there, path, (at, from, there, path, flags))
WRAP(int, symlink, (const char *from, const char *path), 'm', AT_FDCWD, path,
     (from, path))
WRAP(int, ftruncate, (int fd, off_t size), 't', fd, NULL, (fd, size))
WRAP(int, ftruncate64, (int fd, off64_t size), 't', fd, NULL, (fd, size))
WRAP(int, truncate, (const char *path, off_t size), 't', AT_FDCWD, path, (path, size))
