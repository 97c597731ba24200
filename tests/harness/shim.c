/* Counts the storage calls of this process below one directory, and at the N-th of them kills the
 * process group or lets the call fail. Loaded with LD_PRELOAD; does nothing until it is fired.
 *
 *   shim_plan(prefix, at, action, error, trace)   what to do, and where calls are noted
 *   shim_only(name, path)                         count only such calls, with this in the path
 *   shim_fire() / shim_stop()                     begin and end to count
 *   shim_count()                                  calls counted so far
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FAIL_ONCE, FAIL_ON };
/* What needs room on the disk is refused by a full one; the rest is not. */
enum { NEEDS_ROOM, NEEDS_NONE };

static char prefix[PATH_MAX];
static size_t prefix_length;
static char only_name[32], only_path[PATH_MAX];
static long at, counted;
static int action, error_number, fired, trace = -1;

void shim_plan(const char *below, long number, int what, int error, const char *trace_path) {
    snprintf(prefix, sizeof prefix, "%s", below);
    prefix_length = strlen(prefix);
    at = number;
    action = what;
    error_number = error;
    counted = 0;
    fired = 0;
    trace = trace_path && *trace_path
                ? (int)syscall(SYS_openat, AT_FDCWD, trace_path,
                               O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600)
                : -1;
}

void shim_only(const char *name, const char *path) {
    snprintf(only_name, sizeof only_name, "%s", name);
    snprintf(only_path, sizeof only_path, "%s", path);
}

void shim_fire(void) { fired = 1; }
void shim_stop(void) { fired = 0; }
long shim_count(void) { return counted; }

static void die(void) {
    kill(0, SIGKILL);
    raise(SIGKILL);
    for (;;) pause();
}

static int of_descriptor(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    if (length < 0) return -1;
    out[length] = 0;
    return 0;
}

static int of_path(int dir, const char *path, char *out) {
    if (path[0] == '/') return snprintf(out, PATH_MAX, "%s", path) < 0 ? -1 : 0;
    char base[PATH_MAX];
    if (dir == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return -1;
    } else if (of_descriptor(dir, base) < 0) {
        return -1;
    }
    return snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX ? -1 : 0;
}

/* 0: go on; -1: fail with errno; 1: write half of it, then die. */
static int gate(const char *name, int need, const char *path) {
    if (strncmp(path, prefix, prefix_length)) return 0;
    if (*only_name && strcmp(name, only_name)) return 0;
    if (!strstr(path, only_path)) return 0;
    long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    if (trace >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld\t%s\t%s\n", number, name, path + prefix_length);
        syscall(SYS_write, trace, line, (size_t)length);
    }
    if (action == COUNT || number < at) return 0;
    if (action == KILL && number == at) die();
    if (action == TEAR && number == at) {
        if (strstr(name, "write")) return 1;
        die();
    }
    if ((action == FAIL_ONCE && number == at) || (action == FAIL_ON && need == NEEDS_ROOM)) {
        errno = error_number;
        return -1;
    }
    return 0;
}

static int gate_fd(const char *name, int need, int fd) {
    char path[PATH_MAX];
    if (!fired || of_descriptor(fd, path) < 0) return 0;
    return gate(name, need, path);
}

static int gate_path(const char *name, int need, int dir, const char *given) {
    char path[PATH_MAX];
    if (!fired || of_path(dir, given, path) < 0) return 0;
    return gate(name, need, path);
}

#define REAL(result, name, ...)                                       \
    static result (*real_##name)(__VA_ARGS__);                        \
    if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    int gated = gate_fd("write", NEEDS_ROOM, fd);
    if (gated < 0) return -1;
    if (gated) {
        real_write(fd, data, size / 2);
        die();
    }
    return real_write(fd, data, size);
}

#define PWRITE(NAME, OFFSET)                                          \
    ssize_t NAME(int fd, const void *data, size_t size, OFFSET place) { \
        REAL(ssize_t, NAME, int, const void *, size_t, OFFSET);       \
        int gated = gate_fd("pwrite", NEEDS_ROOM, fd);                \
        if (gated < 0) return -1;                                     \
        if (gated) {                                                  \
            real_##NAME(fd, data, size / 2, place);                   \
            die();                                                    \
        }                                                             \
        return real_##NAME(fd, data, size, place);                    \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ON_FD(NAME, NEED, TYPE, ARGUMENTS, NAMES)                     \
    int NAME ARGUMENTS {                                              \
        REAL(int, NAME, TYPE);                                        \
        if (gate_fd(#NAME, NEED, fd)) return -1;                      \
        return real_##NAME NAMES;                                     \
    }
#define TWO(a, b) a, b
ON_FD(fsync, NEEDS_NONE, int, (int fd), (fd))
ON_FD(fdatasync, NEEDS_NONE, int, (int fd), (fd))
ON_FD(ftruncate, NEEDS_NONE, TWO(int, off_t), (int fd, off_t size), (fd, size))
ON_FD(ftruncate64, NEEDS_NONE, TWO(int, off64_t), (int fd, off64_t size), (fd, size))
ON_FD(fchmod, NEEDS_NONE, TWO(int, mode_t), (int fd, mode_t mode), (fd, mode))
ON_FD(futimens, NEEDS_NONE, TWO(int, const struct timespec *),
      (int fd, const struct timespec times[2]), (fd, times))

#define OPEN(NAME)                                                    \
    int NAME(const char *path, int flags, ...) {                      \
        REAL(int, NAME, const char *, int, ...);                      \
        mode_t mode = 0;                                              \
        if (flags & (O_CREAT | O_TMPFILE)) {                          \
            va_list rest;                                             \
            va_start(rest, flags);                                    \
            mode = va_arg(rest, mode_t);                              \
            va_end(rest);                                             \
        }                                                             \
        if (flags & (O_CREAT | O_TRUNC))                              \
            if (gate_path("open", NEEDS_ROOM, AT_FDCWD, path)) return -1; \
        return real_##NAME(path, flags, mode);                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(NAME)                                                  \
    int NAME(int dir, const char *path, int flags, ...) {             \
        REAL(int, NAME, int, const char *, int, ...);                 \
        mode_t mode = 0;                                              \
        if (flags & (O_CREAT | O_TMPFILE)) {                          \
            va_list rest;                                             \
            va_start(rest, flags);                                    \
            mode = va_arg(rest, mode_t);                              \
            va_end(rest);                                             \
        }                                                             \
        if (flags & (O_CREAT | O_TRUNC))                              \
            if (gate_path("open", NEEDS_ROOM, dir, path)) return -1;  \
        return real_##NAME(dir, path, flags, mode);                   \
    }
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    if (gate_path("mkdir", NEEDS_ROOM, AT_FDCWD, path)) return -1;
    return real_mkdir(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    if (gate_path("mkdir", NEEDS_ROOM, dir, path)) return -1;
    return real_mkdirat(dir, path, mode);
}

int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    if (gate_path("rmdir", NEEDS_NONE, AT_FDCWD, path)) return -1;
    return real_rmdir(path);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    if (gate_path("unlink", NEEDS_NONE, AT_FDCWD, path)) return -1;
    return real_unlink(path);
}

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    if (gate_path(flags & AT_REMOVEDIR ? "rmdir" : "unlink", NEEDS_NONE, dir, path)) return -1;
    return real_unlinkat(dir, path, flags);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    if (gate_path("rename", NEEDS_ROOM, AT_FDCWD, to)) return -1;
    return real_rename(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    if (gate_path("rename", NEEDS_ROOM, to_dir, to)) return -1;
    return real_renameat(from_dir, from, to_dir, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned int);
    if (gate_path("rename", NEEDS_ROOM, to_dir, to)) return -1;
    return real_renameat2(from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    if (gate_path("link", NEEDS_ROOM, AT_FDCWD, to)) return -1;
    return real_link(from, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    if (gate_path("link", NEEDS_ROOM, to_dir, to)) return -1;
    return real_linkat(from_dir, from, to_dir, to, flags);
}

int symlink(const char *target, const char *path) {
    REAL(int, symlink, const char *, const char *);
    if (gate_path("symlink", NEEDS_ROOM, AT_FDCWD, path)) return -1;
    return real_symlink(target, path);
}

int symlinkat(const char *target, int dir, const char *path) {
    REAL(int, symlinkat, const char *, int, const char *);
    if (gate_path("symlink", NEEDS_ROOM, dir, path)) return -1;
    return real_symlinkat(target, dir, path);
}

int chmod(const char *path, mode_t mode) {
    REAL(int, chmod, const char *, mode_t);
    if (gate_path("chmod", NEEDS_NONE, AT_FDCWD, path)) return -1;
    return real_chmod(path, mode);
}
