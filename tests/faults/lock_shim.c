/* lock_shim.c: stands before libc (LD_PRELOAD) and is a file system with other file locks.  AM_LOCK_SHIM says
 * which: an errno by name (ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL, EIO): every lock and question is answered with
 * it; "node": who asks is told that nobody holds a lock, as where locks stay within a node. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int error;
} errors[] = {
    {"ENOLCK", ENOLCK}, {"ENOSYS", ENOSYS}, {"EOPNOTSUPP", EOPNOTSUPP}, {"EINVAL", EINVAL}, {"EIO", EIO}};

static int answer(int command, void *argument)
{
    const char *what = getenv("AM_LOCK_SHIM");
    for (size_t i = 0; what && i < sizeof errors / sizeof *errors; i++)
        if (strcmp(what, errors[i].name) == 0) {
            errno = errors[i].error;
            return -1;
        }
    if (!what || command != F_OFD_GETLK) return 1;
    ((struct flock *)argument)->l_type = F_UNLCK;
    return 0;
}

int fcntl(int fd, int command, ...)
{
    static int (*real)(int, int, ...);
    va_list ap;
    va_start(ap, command);
    void *argument = va_arg(ap, void *); /* an int comes through in its lower half */
    va_end(ap);
    int done = command == F_OFD_SETLK || command == F_OFD_GETLK ? answer(command, argument) : 1;
    if (done <= 0) return done;
    void *p = real ? NULL : dlsym(RTLD_NEXT, "fcntl64");
    if (p) memcpy(&real, &p, sizeof p);
    return real(fd, command, argument);
}

int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));
