/* Makes one call of the C library fail: the n-th one, of all or of one function, that concerns a path below a folder. After a failed write all writes
   to that file fail. For LD_PRELOAD on Linux. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096], only[16];
static int fail_at, error_number, calls;
static char failed[8400];

/* Count calls of `function` from now on; call number `n` fails with `error`. n = 0: none. "": all functions. */
void faults_arm(const char *prefix, const char *function, int n, int error) {
    snprintf(only, sizeof only, "%s", function);
    snprintf(folder, sizeof folder, "%s/", prefix);
    fail_at = n;
    error_number = error;
    failed[0] = 0;
    __atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
}

/* Stop counting; return the number of calls. */
int faults_disarm(void) {
    folder[0] = 0;
    return calls;
}

/* The call that failed and its path; empty: none. */
const char *faults_failed(void) { return failed; }

static int fails(const char *call, const char *path) {
    char absolute[8192];
    if (!folder[0] || !path || (only[0] && strcmp(call, only))) return 0;
    if (path[0] != '/') {
        if (!getcwd(absolute, 4096)) return 0;
        strcat(absolute, "/");
        strncat(absolute, path, 4000);
        path = absolute;
    }
    if (strncmp(path, folder, strlen(folder))) return 0;
    char this[8400];
    snprintf(this, sizeof this, "%s %s", call, path);
    if (!strcmp(call, "write") && !strcmp(this, failed)) { /* the disk is still full when the buffer is written again */
        errno = error_number;
        return 1;
    }
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) != fail_at) return 0;
    strcpy(failed, this);
    errno = error_number;
    return 1;
}

static int fails_on_file(const char *call, int file) {
    if (!folder[0]) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int saved = errno;
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (size < 0) return 0;
    path[size] = 0;
    return fails(call, path);
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return fails("open", path) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return fails("open", path) ? -1 : real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    return fails_on_file("write", file) ? -1 : real(file, data, size);
}

ssize_t read(int file, void *data, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    return fails_on_file("read", file) ? -1 : real(file, data, size);
}

int fsync(int file) {
    REAL(int, fsync, int);
    return fails_on_file("fsync", file) ? -1 : real(file);
}

int rename(const char *old, const char *new) {
    REAL(int, rename, const char *, const char *);
    return fails("rename", new) ? -1 : real(old, new);
}

int link(const char *old, const char *new) {
    REAL(int, link, const char *, const char *);
    return fails("link", new) ? -1 : real(old, new);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return fails("mkdir", path) ? -1 : real(path, mode);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    return fails("unlink", path) ? -1 : real(path);
}
